"""What ``bucketry publish`` says at its end: what was done, or would be, and what to type next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from bucketry.cli.tally import time_text
from bucketry.transfer.wording import size_text

if TYPE_CHECKING:
    from bucketry.cli.progress import Style
    from bucketry.store.site import SiteStore
    from bucketry.transfer.site.counting import Count
    from bucketry.transfer.site.gathering import ImageToPublish
    from bucketry.transfer.site.publishing import Published

PATHS_SHOWN: Final = 20
"""Of what leaves, to a person; programs get all."""

_KINDS: Final = (
    "blobs",
    "checkpoints",
    "manifests",
    "twins",
    "referrers",
    "tags",
    "pointers",
    "lists",
    "pages",
    "state",
)
_REQUESTS: Final = ("PUT", "COPY", "LIST", "GET", "DELETE")


@dataclass(frozen=True, slots=True)
class Reached:
    """How others get at a site. ``folder``: its path, of one in a folder; all else is of a bucket.

    ``page``: the URL of the page. ``host``: what stands before an image's name, None where the site is not at the root
    of a host. ``public``: whether anyone may read, None where that was not found out. ``policy``: what makes it so.
    """

    folder: str | None = None
    page: str | None = None
    host: str | None = None
    public: bool | None = None
    policy: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    published: Published
    images: Sequence[ImageToPublish]
    reached: Reached
    url: str
    """Of the site."""


async def reach(site: SiteStore, published: Published) -> Reached:
    """Asks the service, as a stranger, for the page that was published; of a dry run nothing."""
    from bucketry.store.contract import StoreError
    from bucketry.store.s3.site import S3Site
    from bucketry.transfer.site import paths

    if not isinstance(site, S3Site):
        return Reached(folder=site.url)
    page = site.address(paths.PAGE)
    parts = urlsplit(page)
    public = None
    if not published.dry_run:
        try:
            public = await site.is_public(paths.PAGE)
        except StoreError:
            # It is published, whoever can be asked about that from here.
            public = None
    host = parts.netloc if parts.path == f"/{paths.PAGE}" else None
    return Reached(page=page, host=host, public=public, policy=read_policy(site.url))


def read_policy(url: str) -> dict[str, Any]:
    """The bucket policy by which anyone may read what a site publishes, and nothing else."""
    from bucketry.transfer.site import paths

    root = f"arn:aws:s3:::{url.removeprefix('s3://').rstrip('/')}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "PublicImages",
                "Effect": "Allow",
                "Principal": "*",
                "Action": ["s3:GetObject"],
                "Resource": [f"{root}/{paths.API}*", f"{root}/{paths.PAGE}"],
            }
        ],
    }


def report(outcome: Outcome, style: Style) -> list[str]:
    """Lines for standard output."""
    if style == "json":
        return [json.dumps(_document(outcome), ensure_ascii=False)]
    if outcome.published.dry_run:
        return _plan(outcome)
    lines = [_done(outcome), *_left(outcome.published)]
    return lines if style == "quiet" else [*lines, *_next(outcome)]


def _document(outcome: Outcome) -> dict[str, Any]:
    published, reached = outcome.published, outcome.reached
    document: dict[str, Any] = {
        "event": "published",
        "dryRun": published.dry_run,
        "site": outcome.url,
        "images": [
            f"{image.name}:{image.tag}" if image.tag else f"{image.name}@{image.reference}" for image in outcome.images
        ],
        "digest": published.ended.digest,
        "seconds": published.ended.seconds,
        "ways": _counts(published.ways),
        "written": _counts(published.written),
        "requests": dict(published.requests),
        "leaving": list(published.leaving),
        "removed": dict(published.removed),
    }
    if published.storage is not None:
        document["storage"] = {"before": published.storage[0], "after": published.storage[1]}
    for key, value in (("page", reached.page), ("host", reached.host), ("public", reached.public)):
        if value is not None:
            document[key] = value
    if reached.public is False:
        document["policy"] = reached.policy
    return document


def _counts(counts: Mapping[Any, Count]) -> dict[str, Any]:
    return {str(kind): {"files": count.files, "bytes": count.bytes} for kind, count in counts.items()}


def _done(outcome: Outcome) -> str:
    published = outcome.published
    ways = [f"{size_text(count.bytes)} {way}" for way, count in published.ways.items() if count.files]
    files = sum(count.files for count in published.written.values())
    requests = sum(published.requests.values())
    return (
        f"published {_what(outcome)}: {', '.join(ways) or 'no blobs'}; {_count(files, 'file')} written, "
        f"{_count(requests, 'request')}, {_seconds(published.ended.seconds)}"
    )


def _what(outcome: Outcome) -> str:
    names = {image.name for image in outcome.images}
    of = f"of {next(iter(names))}" if len(names) == 1 else f"of {_count(len(names), 'repository', 'repositories')}"
    return f"{_count(len(outcome.images), 'image')} {of}"


def _left(published: Published) -> list[str]:
    lines = []
    if published.removed:
        size = size_text(sum(published.removed.values()))
        lines.append(f"deleted {_count(len(published.removed), 'file')}, {size}, that nobody needed any more")
    if published.leaving:
        lines.append(
            f"{_count(len(published.leaving), 'file')} that nobody needs any more: a prune after the grace deletes them"
        )
    return lines


def _next(outcome: Outcome) -> list[str]:
    reached, image = outcome.reached, outcome.images[-1]
    ending = f"{image.name}:{image.tag}" if image.tag else f"{image.name}@{outcome.published.ended.digest}"
    if reached.folder is not None:
        from bucketry.transfer.site import paths

        folder = _folder(outcome.url)
        return [
            "To serve it over https, as a host of its own:",
            f'  nginx: server {{ root "{folder}"; include "{folder}/{paths.NGINX}"; … }}',
            f"  Caddy: cd {shlex.quote(folder)} && SITE=images.example.com caddy run",
            f"docker pull images.example.com/{ending}",
        ]
    lines = []
    if reached.public is False:
        lines += [
            f"Nobody but you may read it yet. A bucket policy that lets anyone read what {outcome.url} publishes:",
            *json.dumps(reached.policy, indent=2).splitlines(),
        ]
    elif reached.public is None:
        lines.append(f"Whether anyone may read it could not be found out: try {reached.page}")
    if reached.host is None:
        lines += [
            f"Clients ask for /v2/ at the root of a host, and this is not at one: {reached.page}",
            "Serve it by a host that has these files at its root, such as a CDN's.",
        ]
    elif reached.public is not False:
        lines += [str(reached.page), f"docker pull {reached.host}/{ending}"]
    else:
        lines.append(f"Then: docker pull {reached.host}/{ending}")
    return lines


def _folder(url: str) -> str:
    from urllib.parse import unquote

    return unquote(url.removeprefix("file:"))


def _plan(outcome: Outcome) -> list[str]:
    from bucketry.transfer.site.paths import parse, tag_of

    published = outcome.published
    lines = [f"Nothing was written. {outcome.url} would get {_what(outcome)}:", ""]
    rows: list[tuple[str, str, str]] = [("blobs", "files", "bytes")]
    rows += [(f"  {way}", f"{count.files:,}", size_text(count.bytes)) for way, count in published.ways.items()]
    rows += [("", "", ""), ("written", "files", "bytes")]
    rows += [
        (f"  {kind}", f"{count.files:,}", size_text(count.bytes))
        for kind in _KINDS
        if (count := published.written.get(kind)) is not None
    ]
    rows += [("", "", ""), ("requests", "", "")]
    rows += [(f"  {verb}", f"{published.requests[verb]:,}", "") for verb in _REQUESTS if published.requests.get(verb)]
    if published.storage is not None:
        before, after = published.storage
        rows += [
            ("", "", ""),
            ("storage", "", "bytes"),
            ("  now", "", size_text(before)),
            ("  then", "", size_text(after)),
        ]
    lines += _table(rows)
    tags = [
        f"{known.name}:{tag_of(path)}" for path in published.removed if (known := parse(path)) and known.kind == "tags"
    ]
    if tags:
        lines += ["", f"no longer published: {', '.join(tags[:PATHS_SHOWN])}{_more(tags)}"]
    for title, found in (("deleted", published.removed), ("needed by nobody, deleted later", published.leaving)):
        if found:
            lines += ["", f"{title}: {_count(len(found), 'file')}", *_some(found)]
    return lines


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{name:<{widths[0]}}  {files:>{widths[1]}}  {size:>{widths[2]}}".rstrip() for name, files, size in rows]


def _some(found: Iterable[str]) -> list[str]:
    paths = list(found)
    shown = [f"  {path}" for path in paths[:PATHS_SHOWN]]
    return [*shown, f" {_more(paths)}"] if len(paths) > PATHS_SHOWN else shown


def _more(found: Sequence[str]) -> str:
    return f" and {len(found) - PATHS_SHOWN:,} more" if len(found) > PATHS_SHOWN else ""


def _count(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def _seconds(seconds: float) -> str:
    return time_text(seconds) if seconds >= 10 else f"{seconds:.1f} s"
