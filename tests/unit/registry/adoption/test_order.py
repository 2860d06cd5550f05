"""In whatever order a store lists the old tree: the same is taken over, and nothing twice."""

from __future__ import annotations

import hashlib

import pytest
from tests.unit.registry.adoption.helpers import Heard, OldRegistry, adopt, state
from tests.unit.registry.helpers import FakeClock, blob_bytes, image, index, memory_store, open_registry

from bucketry.oci import Digest
from bucketry.registry.adoption import tree
from bucketry.registry.adoption.notes import Cursor, Note
from bucketry.store.contract import ListedObject, ListPage
from bucketry.store.faults import FaultyStore
from bucketry.store.memory import MemoryStore

NAMES = ("a", "a/b", "a-b", "a/b/c", "b")
PAGE = 7


class Disordered(FaultyStore):
    """Lists names with a ``/`` in an order of its own, the same on every page, and few on each."""

    def __init__(self, inner: MemoryStore, seed: int) -> None:
        super().__init__(inner)
        self._seed = seed

    def _place(self, listed: ListedObject) -> bytes:
        return hashlib.sha256(f"{self._seed} {listed.key}".encode()).digest()

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        if not prefix.startswith(tree.REPOSITORIES):
            return await super().list(prefix, after=after, limit=min(limit, PAGE))
        found: list[ListedObject] = []
        last: str | None = None
        while True:
            page = await super().list(prefix, after=last)
            found += page.objects
            if not page.more:
                break
            last = page.objects[-1].key
        found.sort(key=self._place)
        begin = 0 if after is None else [listed.key for listed in found].index(after) + 1
        objects = found[begin : begin + PAGE]
        return ListPage(tuple(objects), begin + PAGE < len(found))


def fill(store: MemoryStore) -> dict[tuple[str, str], Digest]:
    old, tags = OldRegistry(store), dict[tuple[str, str], Digest]()
    for name in NAMES:
        for number in range(4):
            config, layer = b'{"n": %d}' % number, blob_bytes(90, number)
            old.blob(name, config)
            old.blob(name, layer)
            body = image(config, layer)
            tags[name, f"v{number}"] = old.manifest(name, body, f"v{number}")
            tags[name, f"all-{number}"] = old.manifest(name, index(body), f"all-{number}")
    return tags


@pytest.mark.parametrize("remembered", [1, 1000])
@pytest.mark.parametrize("seed", range(4))
async def test_the_same_is_taken_over(clock: FakeClock, seed: int, remembered: int) -> None:
    store = memory_store(clock)
    tags = fill(store)

    heard = Heard()
    report = await adopt(Disordered(store, seed), clock, heard=heard, parallel=4, remembered=remembered)

    assert heard.problems == []
    assert heard.kept == []
    found = await state(store)
    assert found.problems == found.lost == []
    assert found.tags == tags
    assert (report.manifests, report.tags) == (len(NAMES) * 8, len(NAMES) * 8)

    registry = await open_registry(store, clock)
    gone = tags["a", "all-1"]
    await registry.manifests.delete("a", gone)
    await registry.manifests.delete("b", "v2")
    again = await adopt(Disordered(store, seed + 100), clock, replica=8, remembered=remembered)

    assert (again.manifests, again.tags, again.blobs, again.problems) == (0, 0, 0, 0)
    found = await state(store)
    assert ("a", gone) not in found.manifests
    assert ("b", "v2") not in found.tags


async def test_notes_are_found_in_order_by_lists_and_out_of_order_by_themselves(clock: FakeClock) -> None:
    store = memory_store(clock)
    for number in range(0, 3000, 2):
        await store.put(f"notes/{number:05}", b"x" * (number % 3))
    view = FaultyStore(store)
    cursor = Cursor(view, "notes/")

    for number in range(3000):
        note = await cursor.find(f"{number:05}")
        assert note == (None if number % 2 else Note(number % 3, (await store.head(f"notes/{number:05}")).etag))
    assert (view.calls["list"], view.calls["head"]) == (2, 0)

    assert await cursor.find("00001") is None
    assert (await cursor.find("00004")) == Note(1, (await store.head("notes/00004")).etag)
    assert view.calls["head"] == 2
