"""What is refused before a site is written to. Each says what is there, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from bucketry.oci import media_types, parse_repository, parse_tag
from bucketry.oci.errors import OCIError
from bucketry.registry.layout import FORMAT_KEY
from bucketry.store.contract import NotFound
from bucketry.store.site import SiteStore
from bucketry.transfer.bucket import translated
from bucketry.transfer.crew import closing
from bucketry.transfer.errors import NameUnusable, Refused
from bucketry.transfer.selection import parsed
from bucketry.transfer.site import paths
from bucketry.transfer.site.gathering import ImageToPublish, Wanted
from bucketry.transfer.site.state import Held, State, StateFile
from bucketry.transfer.work import Work

_REGISTRY: Final = FORMAT_KEY


def check_names(images: Iterable[ImageToPublish]) -> None:
    """Raises `NameUnusable`."""
    count = 0
    for image in images:
        count += 1
        try:
            parse_repository(image.name)
            if image.tag is not None:
                parse_tag(image.tag)
        except OCIError as error:
            raise NameUnusable(error.message) from error
    if not count:
        raise NameUnusable("nothing is named that could be published: name at least one image")


async def check_destination(work: Work, site: SiteStore, state: StateFile) -> Held | None:
    """What is published there; None where nothing is there at all. Raises `Refused`."""
    held = await work.first(site.url, state.read)
    if held is not None:
        return held
    if await work.patiently(site.url, partial(_has, site, _REGISTRY)):
        raise Refused(
            f"{site.url} holds a registry ({_REGISTRY}), which a public site must not be mixed with: "
            "publish to another bucket, prefix or folder"
        )
    there = await work.patiently(site.url, partial(_any, site))
    if there is None:
        return None
    held = await work.patiently(site.url, state.read)
    if held is None:
        raise Refused(
            f"{site.url} is not empty and no site of bucketry: there is {there}; "
            "publish to an empty bucket, prefix or folder"
        )
    return held  # Another publish has just begun it.


async def _has(site: SiteStore, path: str) -> bool:
    with translated():
        try:
            await site.head(path)
        except NotFound:
            return False
    return True


async def _any(site: SiteStore) -> str | None:
    with translated():
        async with closing(site.list("")) as files:
            async for file in files:
                return file.path
    return None


def check_manifests(wanted: Iterable[Wanted], *, keeps_headers: bool) -> None:
    """Raises `Refused`."""
    for repository in wanted:
        for manifest in repository.manifests.values():
            for layer in parsed(manifest).layers:
                if layer.media_type in media_types.NONDISTRIBUTABLE:
                    raise Refused(
                        f"{repository.name}@{manifest.digest} names layers that are elsewhere ({layer.digest} is "
                        f"{layer.media_type}), so a site could not give all of it: push it with all its layers first"
                    )
            if not keeps_headers and manifest.media_type not in paths.KINDS:
                raise Refused(
                    f"{repository.name}@{manifest.digest} is {manifest.media_type}, and web servers on a folder "
                    f"tell manifests apart by their names only, of {len(paths.KINDS)} kinds: publish it to a bucket"
                )


def check_collisions(state: State, wanted: Iterable[Wanted], others: Iterable[str], *, keeps_headers: bool) -> None:
    """That in a folder no path would be a file and a folder at once. Raises `NameUnusable`.

    ``others``: files that belong to no repository. What leaves counts, too: it is there until it was deleted, which
    is last.
    """
    if keeps_headers:
        return
    tags: dict[str, set[str]] = {}
    for repository in wanted:
        tags.setdefault(repository.name, set()).update(repository.tags)
    for name, published in state.repositories.items():
        tags.setdefault(name, set()).update(published.tags)
    for path in (*state.leaving, *state.going):
        found = paths.parse(path)
        if found is not None:
            tags.setdefault(found.name, set())
    collision = find_collision(tags, others)
    if collision is not None:
        raise NameUnusable(
            f"in a folder {collision} would have to be a file and a folder at once: give the repository or the tag "
            "another name, prune what is there first (--prune, and again after the grace), or publish to a bucket"
        )


def find_collision(tags: Mapping[str, Iterable[str]], others: Iterable[str] = ()) -> str | None:
    """The first path that would be a file and a folder, of repositories with these tags."""
    files = {paths.CATALOG, *others}
    folders: set[str] = set()
    for name, names in tags.items():
        files.add(paths.tags(name))
        files.update(path for tag in names for path in paths.of_tag(name, tag, twins=True))
        folders.update(paths.folders(name))
    return min(files & folders, default=None)
