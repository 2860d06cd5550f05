"""``bucketry adopt``: the bucket of another registry becomes this one's, without a byte of blob data copied."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bucketry.cli.moving import SPEED, OutputOptions, until_signal
from bucketry.cli.options import Common, ConfigOptions, load_config
from bucketry.cli.output import complain, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bucketry.oci.glob import RepositoryGlob
    from bucketry.registry.adoption import Listener, Report, Requests
    from bucketry.server.config import Config
    from bucketry.store.contract import Store

FAILED, BROKEN = 1, 3
PARALLEL = 32
MOST_PARALLEL = 256
RACERS = 16

EXAMPLES = """
The bucket of a registry, and the `rootdirectory` that it is configured with:

    bucketry adopt s3://my-bucket/registry --dry-run
    bucketry adopt s3://my-bucket/registry

A folder (its `filesystem.rootdirectory`), and only what is below `team`, every byte hashed:

    bucketry adopt /var/lib/registry --repository 'team/**' --verify
"""


def adopt(
    store: Annotated[
        str,
        Parameter(
            help="`s3://BUCKET/ROOT` or a folder: where the old registry's `docker/registry/v2/` is, and where "
            "bucketry writes beside it."
        ),
    ],
    /,
    *,
    repository: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="GLOB",
            negative=(),
            help="Only these. `*` stands for any characters but `/`, `**` for any. May be given several times.",
        ),
    ] = (),
    verify: Annotated[
        bool, Parameter(negative=(), help="Read and hash every adopted blob that nobody hashed yet.")
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Tell what would be taken over, and what is broken. Nothing is written.")
    ] = False,
    parallel: Annotated[
        int,
        Parameter(
            group=SPEED,
            metavar="N",
            help=f"Requests to the store at once, 1 to {MOST_PARALLEL}. Default: {PARALLEL}",
        ),
    ] = PARALLEL,
    output: OutputOptions = OutputOptions(),  # noqa: B008 (frozen)
    config: ConfigOptions = ConfigOptions(),  # noqa: B008
    common: Common = Common(),  # noqa: B008
) -> int:
    """Take over what a registry of Docker's kind (distribution, Harbor, GitLab) keeps in a bucket or a folder.

    Blobs stay where they are: only small objects that name them are written, beside the old registry's. It may go on
    running, and each run takes over what is new. Nothing of it is changed or deleted; what is broken in it is told and
    left out, and the exit code is 3 then.
    """
    import asyncio

    from bucketry.cli.adopting import shown, summary
    from bucketry.oci.errors import OCIError
    from bucketry.oci.glob import RepositoryGlob
    from bucketry.registry.adoption import Requests
    from bucketry.transfer.errors import NameUnusable

    if not 1 <= parallel <= MOST_PARALLEL:
        raise NameUnusable(f"--parallel {parallel}: 1 to {MOST_PARALLEL} requests at once")
    try:
        globs = [RepositoryGlob(pattern) for pattern in repository]
    except OCIError as error:
        raise NameUnusable(f"--repository: {error.message}") from error
    settings = load_config(config, {"--store": store}).config
    requests = Requests()
    target = _open(settings, parallel, requests)
    reports: list[Report | None] = []

    async def work(listen: Listener) -> None:
        try:
            reports.append(
                await _adopt(
                    target,
                    settings,
                    globs,
                    requests,
                    listen,
                    verify=verify,
                    dry_run=dry_run,
                    parallel=parallel,
                )
            )
        finally:
            await target.close()

    with shown(output.style) as listen:
        code = asyncio.run(until_signal(work(listen)))
    if code:
        complain("stopped. The same command goes on where it was stopped.")
        return code
    (report,) = reports
    if report is None:
        complain(f"{target.url} has no repository that matches {' or '.join(repository)}")
        return FAILED
    if output.style != "json":
        for line in summary(report, verify=verify):
            write(line)
        write(_next(target.url, config, dry_run=dry_run))
    return BROKEN if report.problems else 0


def _open(settings: Config, parallel: int, requests: Requests) -> Store:
    from bucketry.store.open import open_store

    # What is tried of a store needs that many: a race of one writer has a winner on every store.
    options = replace(settings.store.options(), max_connections=max(parallel, RACERS))
    return open_store(settings.store.url, options, observer=requests)


async def _adopt(
    store: Store,
    settings: Config,
    globs: Sequence[RepositoryGlob],
    requests: Requests,
    listen: Listener,
    *,
    verify: bool,
    dry_run: bool,
    parallel: int,
) -> Report | None:
    """None, and nothing is written, where no repository matches."""
    from bucketry.registry import RegistrySettings
    from bucketry.registry.adoption import Adopter, open_registry
    from bucketry.registry.adoption.events import Note
    from bucketry.registry.adoption.roots import DATABASE, has_tree, incomplete, missing, require_tree
    from bucketry.registry.adoption.walk import has_any
    from bucketry.store.contract import LocalFiles
    from bucketry.transfer.judging import judge

    # A folder is made when it is opened: not before it is known to be the right one.
    if isinstance(store, LocalFiles):
        folder = Path(store.file_path("data/~")).parent.parent
        if not folder.is_dir() or not await has_tree(store):
            raise missing(store.url, _near(folder))
        if (folder / DATABASE).exists():
            raise incomplete(store.url)
    else:
        await store.start()
        await require_tree(store)
    if globs and not await has_any(store, globs):
        return None
    if not dry_run:
        await store.start()
        await judge(store, clock=time.time)
    registry, made = await open_registry(
        store,
        dry_run=dry_run,
        settings=RegistrySettings(max_manifest=settings.manifest.max_size, sparse=settings.manifest.sparse),
    )
    if made:
        done = "would be made a store of bucketry's" if dry_run else "is a store of bucketry's now"
        listen(Note(text=f"{store.url} {done}: bucketry.json was not there"))
    adopter = Adopter(registry, parallel=parallel, verify=verify, dry_run=dry_run, listen=listen, requests=requests)
    return await adopter.run(globs)


def _near(folder: Path) -> str | None:
    """Where a tree is, a few folders above or below."""
    inside = Path("docker/registry/v2")
    for above in islice(folder.parents, len(inside.parts)):
        if (above / inside).is_dir() and (above / inside).is_relative_to(folder):
            return str(above)
    try:
        below = chain(folder.glob(f"*/{inside}"), folder.glob(f"*/*/{inside}"))
        found = next(below, None)
    except OSError:
        return None  # It is only a hint.
    return None if found is None else str(found.parents[len(inside.parts) - 1])


def _next(url: str, config: ConfigOptions, *, dry_run: bool) -> str:
    """What to type next. Secrets that were typed are not shown again."""
    from bucketry.server.config import SETTINGS

    words = ["bucketry", "adopt", url] if dry_run else ["bucketry", "serve", "--store", url]
    does = "take it over" if dry_run else "serve it"
    if config.config is not None:
        words += ["--config", str(config.config)]
    for item in config.set:
        name = item.partition("=")[0].strip()
        words += ["--set", f"{name}=…" if SETTINGS[name].secret else item]
    return f"{does}: {shlex.join(words)}"
