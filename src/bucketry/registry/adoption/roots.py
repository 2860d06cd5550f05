"""Whether there is a tree to adopt, and where it may be instead."""

from __future__ import annotations

from bucketry.registry.adoption import tree
from bucketry.store.contract import NotFound, Store, StoreError

DATABASE = "docker/registry/lockfiles/database-in-use"
"""A file that GitLab's registry makes when it keeps tags and manifests in a database, and no longer in the tree."""

_LOOKS = 40
"""List requests, at most, for a hint."""
_LAST = "~~~~"
"""After every name that people give to folders."""


class TreeMissing(NotFound):
    """There is no tree of another registry below the root of the store."""


class TreeIncomplete(StoreError):
    """There is a tree, but it is not all that the other registry has."""


async def require_tree(store: Store) -> None:
    """Raises `TreeMissing`, which names the right root where that was found, and `TreeIncomplete`."""
    if not await has_tree(store):
        raise missing(store.url, await _find(store))
    page = await store.list(f"{DATABASE.rpartition('/')[0]}/", limit=10)
    if any(listed.key == DATABASE for listed in page.objects):
        raise incomplete(store.url)


async def has_tree(store: Store) -> bool:
    return bool((await store.list(tree.ROOT, limit=1)).objects)


def incomplete(url: str) -> TreeIncomplete:
    return TreeIncomplete(
        f"{url}: GitLab's registry keeps its tags and manifests in a database here ({DATABASE} is there), so the tree "
        "has only some of them; copy the registry instead: bucketry copy --all HOST STORE"
    )


def missing(url: str, root: str | None) -> TreeMissing:
    """``root``: where there is one, as a person names that store."""
    hint = "name the bucket (or folder) and root directory that the old registry was configured with"
    if root is not None:
        hint = f"there is one in {root}: did you mean that?"
    return TreeMissing(f"{url}: there is no {tree.ROOT} below it, so there is nothing to take over; {hint}")


async def _find(store: Store) -> str | None:
    try:
        return await _above(store) or await _below(store)
    except StoreError:
        return None  # It is only a hint.


async def _above(store: Store) -> str | None:
    """Where the store's root is inside of a tree."""
    parts = tree.ROOT.rstrip("/").split("/")
    url = store.url.rstrip("/")
    for count in range(len(parts), 0, -1):
        inside, rest = "/".join(parts[:count]), "/".join([*parts[count:], "repositories"])
        root = url.removesuffix(f"/{inside}")
        # Of a bucket that has the name of a folder of the tree, nothing would be left.
        if root not in (url, "", "s3:/", "file:") and (await store.list(f"{rest}/", limit=1)).objects:
            return root
    return None


async def _below(store: Store) -> str | None:
    """One or two folders deeper, among the first ones that there are."""
    looks = 0
    folders = [""]
    for _ in range(2):
        deeper: list[str] = []
        for folder in folders:
            after: str | None = None
            while looks < _LOOKS:
                looks += 1
                page = await store.list(folder, after=after, limit=1)
                if not page.objects:
                    break
                name, slash, _rest = page.objects[0].key.removeprefix(folder).partition("/")
                after = f"{folder}{name}/{_LAST}" if slash else page.objects[0].key
                if not slash:
                    continue
                looks += 1
                if (await store.list(f"{folder}{name}/{tree.ROOT}", limit=1)).objects:
                    return f"{store.url.rstrip('/')}/{folder}{name}"
                deeper.append(f"{folder}{name}/")
        folders = deeper
    return None
