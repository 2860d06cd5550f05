"""Tags that are not to be moved, or not to be deleted: by any way, and against any other push or delete at once."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.registry.helpers import REPO, FakeClock, blob_bytes, image, memory_store, open_registry, push

from bucketry.oci import Digest
from bucketry.oci.errors import Denied, ManifestUnknown
from bucketry.registry import Registry, layout
from bucketry.registry.guards import TagGuard
from bucketry.store.faults import Delay, FaultyStore, Rule

CONFIG, ONE, TWO = b"{}", blob_bytes(100), blob_bytes(200)
FIRST, SECOND = image(CONFIG, ONE), image(CONFIG, TWO)
NO_MOVES = TagGuard(moves=lambda tag: f"bob may not overwrite {tag}")
FIXED = TagGuard(
    moves=lambda tag: f"{tag} is immutable" if tag.startswith("v") else None,
    deletes=lambda tag: f"{tag} is immutable" if tag.startswith("v") else None,
)


@pytest.fixture
async def registry(registry: Registry, store: FaultyStore) -> Registry:
    """With the blobs of both images in REPO."""
    for blob in (CONFIG, ONE, TWO):
        await push(registry, REPO, blob)
    return registry


async def at(registry: Registry, reference: Digest | str) -> Digest | None:
    try:
        return (await registry.manifests.get(REPO, reference)).digest
    except ManifestUnknown:
        return None


async def test_a_tag_that_is_not_there_is_made_and_one_that_is_is_not_moved(registry: Registry) -> None:
    await registry.manifests.push(REPO, "latest", FIRST, None, guard=NO_MOVES)
    with pytest.raises(Denied, match="bob may not overwrite latest"):
        await registry.manifests.push(REPO, "latest", SECOND, None, guard=NO_MOVES)
    assert await at(registry, "latest") == Digest.of(FIRST)
    assert await at(registry, Digest.of(SECOND)) is None, "nothing is written where it is known before"


async def test_the_very_manifest_again_is_a_success(registry: Registry) -> None:
    for _ in range(2):
        pushed = await registry.manifests.push(REPO, "v1", FIRST, None, guard=FIXED)
    assert pushed.digest == Digest.of(FIRST)


@pytest.mark.parametrize("reference", ["other", "digest"])
async def test_further_tags_are_held_as_well(registry: Registry, reference: str) -> None:
    await registry.manifests.push(REPO, "v1", FIRST, None)
    wanted: Digest | str = Digest.of(SECOND) if reference == "digest" else reference
    with pytest.raises(Denied, match="v1 is immutable"):
        await registry.manifests.push(REPO, wanted, SECOND, None, tags=["fresh", "v1"], guard=FIXED)
    assert await at(registry, "v1") == Digest.of(FIRST)
    assert await at(registry, "fresh") is None
    assert await at(registry, "other") is None


async def test_of_two_pushes_at_once_one_is_refused(registry: Registry) -> None:
    pushes = [registry.manifests.push(REPO, "v1", body, None, guard=FIXED) for body in (FIRST, SECOND)]
    ends = await asyncio.gather(*pushes, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["Denied", "Pushed"]
    winner = FIRST if not isinstance(ends[0], Denied) else SECOND
    assert await at(registry, "v1") == Digest.of(winner)


async def test_a_tag_that_is_deleted_while_it_is_pushed_is_written_again(
    registry: Registry, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.manifests.push(REPO, "latest", FIRST, None)
    looked = registry.manifests._require_same
    looks = 0

    async def look(repository: str, tag: str, why: str, digest: Digest) -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            await registry.manifests.delete(REPO, "latest")
        return await looked(repository, tag, why, digest)

    monkeypatch.setattr(registry.manifests, "_require_same", look)
    await registry.manifests.push(REPO, "latest", FIRST, None, guard=NO_MOVES)
    assert looks == 2
    assert await at(registry, "latest") == Digest.of(FIRST)


async def test_an_immutable_tag_is_deleted_neither_alone_nor_with_its_manifest(registry: Registry) -> None:
    await registry.manifests.push(REPO, "v1", FIRST, None, tags=["edge"])
    for reference in ("v1", Digest.of(FIRST)):
        with pytest.raises(Denied, match="v1 is immutable"):
            await registry.manifests.delete(REPO, reference, guard=FIXED)
    assert await at(registry, "v1") == await at(registry, "edge") == await at(registry, Digest.of(FIRST))
    await registry.manifests.delete(REPO, "edge", guard=FIXED)
    assert await at(registry, "edge") is None


async def test_a_tag_that_has_moved_away_keeps_nothing(registry: Registry) -> None:
    await registry.manifests.push(REPO, "v1", FIRST, None)
    await registry.manifests.push(REPO, "v1", SECOND, None)
    await registry.manifests.delete(REPO, Digest.of(FIRST), guard=FIXED)
    assert await at(registry, Digest.of(FIRST)) is None
    assert await at(registry, "v1") == Digest.of(SECOND)


async def test_what_is_not_there_is_not_told_as_immutable(registry: Registry) -> None:
    with pytest.raises(ManifestUnknown):
        await registry.manifests.delete(REPO, "v9", guard=FIXED)


async def test_immutable_tag_pushed_at_any_moment_of_a_delete_by_digest_stays_and_so_does_the_manifest(
    clock: FakeClock,
) -> None:
    """Whichever comes first: what was acknowledged is not undone, and its tag can be given to nothing else."""
    at_call, calls = 0, 1
    while at_call < calls:
        inner = memory_store(clock)
        pushing = await open_registry(FaultyStore(inner), clock)
        for blob in (CONFIG, ONE, TWO):
            await push(pushing, REPO, blob)
        await pushing.manifests.push(REPO, "edge", FIRST, None)
        store, pushed = FaultyStore(inner), asyncio.Event()
        deleting = await open_registry(store, clock, replica=2)
        first = len(store.log)
        store.add(Rule(Delay(until=pushed), at=first + at_call))
        delete = asyncio.create_task(deleting.manifests.delete(REPO, Digest.of(FIRST), guard=FIXED))
        while len(store.log) <= first + at_call and not delete.done():
            await asyncio.sleep(0)
        await pushing.manifests.push(REPO, "v1", FIRST, None, guard=FIXED)
        pushed.set()
        (end,) = await asyncio.gather(delete, return_exceptions=True)
        assert end is None or isinstance(end, Denied), end
        assert await at(pushing, "v1") == Digest.of(FIRST), at_call
        assert await at(pushing, Digest.of(FIRST)) == Digest.of(FIRST), at_call
        calls = len(store.log) - first
        at_call += 1
    assert calls > 5


async def test_delete_that_died_before_it_could_put_back_what_an_immutable_tag_points_to(
    clock: FakeClock,
) -> None:
    inner = memory_store(clock)
    registry = await open_registry(FaultyStore(inner), clock)
    for blob in (CONFIG, ONE):
        await push(registry, REPO, blob)
    await registry.manifests.push(REPO, "v1", FIRST, None, guard=FIXED)
    await inner.delete(layout.manifest(REPO, Digest.of(FIRST)))
    with pytest.raises(Denied, match="v1 is immutable"):
        await registry.manifests.delete(REPO, Digest.of(FIRST), guard=FIXED)
    assert await at(registry, "v1") == await at(registry, Digest.of(FIRST)) == Digest.of(FIRST)
