"""``verify``: every adopted byte is hashed once, what is wrong is told and not linked, checkpoints are kept."""

from __future__ import annotations

import pytest
from tests.unit.registry.adoption.helpers import Heard, OldRegistry, adopt, notes, state
from tests.unit.registry.helpers import PART, FakeClock, blob_bytes, image, memory_store, noted, open_registry, push

from bucketry.oci import Digest
from bucketry.registry import layout
from bucketry.registry.adoption import tree
from bucketry.registry.adoption.notes import VERIFIED
from bucketry.store.faults import FaultyStore
from bucketry.store.memory import MemoryStore

REPO = "team/app"
CONFIG, LARGE = b'{"config": 1}', blob_bytes(5 * PART + 7)
BODY = image(CONFIG, LARGE)
DATA = tree.data(Digest.of(LARGE))


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return memory_store(clock)


@pytest.fixture
def old(store: MemoryStore) -> OldRegistry:
    old = OldRegistry(store)
    for blob in (CONFIG, LARGE):
        old.blob(REPO, blob)
    old.manifest(REPO, BODY, "v1")
    return old


def spoil(store: MemoryStore) -> None:
    """Other bytes of the same length, as a failing disk makes them."""
    store.plant(DATA, LARGE[:-1] + bytes([LARGE[-1] ^ 1]))


async def test_what_is_right_leaves_checkpoints(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    heard = Heard()
    report = await adopt(store, clock, heard=heard, verify=True)

    assert heard.problems == []
    assert report.verified == len(CONFIG) + len(LARGE)
    found = await state(store)
    assert found.problems == found.lost == []
    assert found.checkpoints == {Digest.of(LARGE): noted(LARGE)}
    assert found.records[Digest.of(LARGE)].segment == PART
    assert (await notes(store))[layout.adopted_manifest(REPO, Digest.of(BODY))] == VERIFIED


async def test_what_is_wrong_is_told_by_its_path_and_not_linked(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    spoil(store)

    heard = Heard()
    await adopt(store, clock, heard=heard, verify=True)

    assert [path for path, _ in heard.problems] == [DATA, tree.tag_link(REPO, "v1")]
    assert f"the data of blob {Digest.of(LARGE)} has other bytes" in heard.problems[0][1]
    found = await state(store)
    assert (REPO, Digest.of(LARGE)) not in found.links
    assert not found.manifests
    assert not found.tags
    assert not found.checkpoints


async def test_a_later_run_verifies_what_was_taken_over_without(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    await adopt(store, clock)
    assert (await state(store)).checkpoints == {}

    heard = Heard()
    report = await adopt(store, clock, heard=heard, verify=True, replica=8)

    assert (report.manifests, report.problems, report.verified) == (0, 0, len(CONFIG) + len(LARGE))
    found = await state(store)
    assert found.problems == []
    assert found.checkpoints == {Digest.of(LARGE): noted(LARGE)}


async def test_what_was_verified_is_not_read_again(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    await adopt(store, clock, verify=True)
    view = FaultyStore(store)

    report = await adopt(view, clock, verify=True, replica=8)

    assert report.verified == 0
    assert view.calls["read"] == view.calls["put"] == 0


async def test_a_later_run_tells_what_is_wrong_each_time(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    await adopt(store, clock)
    spoil(store)

    for replica in (8, 9):
        heard = Heard()
        await adopt(store, clock, heard=heard, verify=True, replica=replica)
        ((path, reason),) = heard.problems
        assert path == DATA
        assert f"manifest {Digest.of(BODY)}, which was taken over" in reason
        assert f"the data of blob {Digest.of(LARGE)} has other bytes" in reason
    old.blob(REPO, LARGE)
    mended = Heard()
    report = await adopt(store, clock, heard=mended, verify=True, replica=10)
    assert (mended.problems, report.verified > 0) == ([], True)
    last = await adopt(store, clock, verify=True, replica=11)
    assert last.verified == 0


async def test_what_is_broken_leaves_no_checkpoints(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    await adopt(store, clock)
    spoil(store)
    await adopt(store, clock, verify=True, replica=8)
    assert (await state(store)).checkpoints == {}


async def test_a_blob_in_many_repositories_is_hashed_once(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    for number in range(5):
        for blob in (CONFIG, LARGE):
            old.blob(f"other/{number}", blob)
        old.manifest(f"other/{number}", BODY)

    report = await adopt(store, clock, verify=True)

    assert report.verified == len(CONFIG) + len(LARGE)
    found = await state(store)
    assert found.problems == []
    assert found.records[Digest.of(LARGE)].segment == PART


async def test_what_was_pushed_here_was_hashed_then(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    registry = await open_registry(store, clock)
    await push(registry, REPO, LARGE)
    await push(registry, REPO, CONFIG)

    report = await adopt(store, clock, verify=True)

    assert report.verified == 0
    assert report.manifests == 1


async def test_what_was_deleted_here_is_left_alone(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    await adopt(store, clock)
    registry = await open_registry(store, clock)
    await registry.manifests.delete(REPO, Digest.of(BODY))
    await registry.blobs.delete(REPO, Digest.of(LARGE))

    heard = Heard()
    report = await adopt(store, clock, heard=heard, verify=True, replica=8)

    assert (report.verified, heard.problems) == (0, [])
    found = await state(store)
    assert found.manifests == {}
    assert (REPO, Digest.of(LARGE)) not in found.links


async def test_a_dry_run_hashes_and_writes_nothing(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    await adopt(store, clock)
    spoil(store)
    view = FaultyStore(store)

    heard = Heard()
    await adopt(view, clock, heard=heard, verify=True, dry_run=True, replica=8)

    assert [path for path, _ in heard.problems] == [DATA]
    assert view.calls["put"] == 0
