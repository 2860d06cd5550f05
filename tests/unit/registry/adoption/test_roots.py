"""A store without a tree: what was looked for is said, and where it is instead, if it is near."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.registry.helpers import FakeClock, memory_store

from bucketry.registry.adoption import TreeMissing
from bucketry.registry.adoption.roots import DATABASE, TreeIncomplete, has_tree, require_tree
from bucketry.store.contract import ListPage, Unavailable
from bucketry.store.faults import FaultyStore, Refuse, Rule
from bucketry.store.memory import MemoryStore

LINK = "docker/registry/v2/repositories/app/_manifests/tags/v1/current/link"
NEVER = "name the bucket"


class Rooted(FaultyStore):
    """The part of a bucket below a root."""

    def __init__(self, inner: MemoryStore, root: str) -> None:
        super().__init__(inner)
        self._root = f"{root}/" if root else ""

    @property
    def url(self) -> str:
        return f"s3://bucket/{self._root}".rstrip("/")

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        page = await super().list(self._root + prefix, after=None if after is None else self._root + after, limit=limit)
        return ListPage(tuple(replace(each, key=each.key.removeprefix(self._root)) for each in page.objects), page.more)


def bucket(clock: FakeClock, *keys: str, directory_order: bool = False) -> MemoryStore:
    store = memory_store(clock, directory_order=directory_order)
    for key in keys:
        store._set(key, b"", "application/octet-stream", {})
    return store


@pytest.mark.parametrize("directory_order", [False, True])
@pytest.mark.parametrize(
    ("at", "root", "hint"),
    [
        ("", "docker", None),
        ("prod", "", "there is one in s3://bucket/prod: did you mean that?"),
        ("prod/registry", "", "there is one in s3://bucket/prod/registry: did you mean that?"),
        ("prod/a/registry", "", NEVER),
        ("prod", "prod/docker", "there is one in s3://bucket/prod: did you mean that?"),
        ("prod", "prod/docker/registry/v2", "there is one in s3://bucket/prod: did you mean that?"),
        ("prod", "test", NEVER),
        ("prod", "other/docker", NEVER),
    ],
)
async def test_the_right_root_is_named(
    clock: FakeClock, at: str, root: str, hint: str | None, directory_order: bool
) -> None:
    others = [f"folder-{number}/file" for number in range(5)] + [f"prod/more-{number}/x" for number in range(5)]
    tree = f"{at}/{LINK}" if at else LINK
    store = Rooted(bucket(clock, tree, "file", *others, directory_order=directory_order), root)

    assert not await has_tree(store)
    expected = "there is one in s3://bucket: did you mean that?" if hint is None else hint
    with pytest.raises(TreeMissing) as caught:
        await require_tree(store)

    assert str(caught.value).startswith(f"{store.url}: there is no docker/registry/v2/ below it")
    assert expected in str(caught.value)
    assert len(store.log) < 60


async def test_where_there_is_one_it_is_found(clock: FakeClock) -> None:
    assert await has_tree(bucket(clock, LINK))
    await require_tree(bucket(clock, LINK))


async def test_a_tree_that_is_not_all_of_a_registry_is_refused(clock: FakeClock) -> None:
    with pytest.raises(TreeIncomplete, match="copy the registry instead"):
        await require_tree(bucket(clock, LINK, DATABASE))


async def test_a_look_that_fails_gives_no_hint(clock: FakeClock) -> None:
    store = Rooted(bucket(clock, f"prod/{LINK}"), "")
    store.add(Rule(Refuse(Unavailable("busy")), operation="list", skip=1, times=None))
    with pytest.raises(TreeMissing, match=NEVER):
        await require_tree(store)


async def test_a_bucket_of_many_folders_costs_few_looks(clock: FakeClock) -> None:
    store = Rooted(bucket(clock, *(f"{number:04}/{deep}/file" for number in range(300) for deep in range(3))), "")
    with pytest.raises(TreeMissing):
        await require_tree(store)
    assert len(store.log) < 60
