from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from tests.unit.registry.helpers import (
    OTHER,
    REPO,
    FakeClock,
    blob_bytes,
    image,
    index,
    memory_store,
    open_registry,
    push,
    truth,
)

from bucketry.oci import Digest
from bucketry.oci.errors import (
    DigestMismatch,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    Unsupported,
)
from bucketry.oci.media_types import OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from bucketry.registry import Registry
from bucketry.store.contract import Corrupt, ObjectInfo, StoreError, Unavailable
from bucketry.store.contract import Unsupported as StoreUnsupported
from bucketry.store.faults import CrashAfter, Crashed, Delay, FaultyStore, Refuse, Rule
from bucketry.store.memory import MemoryStore

CONFIG = b"{}"
LAYER = blob_bytes(100)
IMAGE = image(CONFIG, LAYER)
DIGEST = Digest.of(IMAGE)


@pytest.fixture
async def registry(registry: Registry, store: FaultyStore) -> Registry:
    """With the blobs of IMAGE in REPO."""
    await push(registry, REPO, CONFIG)
    await push(registry, REPO, LAYER)
    store.log.clear()
    store.calls.clear()
    return registry


async def tagged(registry: Registry, tag: str, body: bytes = IMAGE) -> Digest:
    return (await registry.manifests.push(REPO, tag, body, None)).digest


async def is_there(registry: Registry, reference: Digest | str) -> bool:
    try:
        await registry.manifests.get(REPO, reference)
    except ManifestUnknown:
        return False
    return True


# ---- pushing and pulling


async def test_a_manifest_is_pulled_as_it_was_pushed_by_tag_and_by_digest(registry: Registry) -> None:
    spaced = json.dumps(json.loads(IMAGE), indent=3).encode()

    pushed = await registry.manifests.push(REPO, "v1", spaced, f"{OCI_MANIFEST}; charset=utf-8")

    assert (pushed.digest, pushed.subject, pushed.tags) == (Digest.of(spaced), None, ("v1",))
    for reference in ("v1", pushed.digest):
        found = await registry.manifests.get(REPO, reference)
        assert (found.digest, found.body, found.media_type) == (pushed.digest, spaced, OCI_MANIFEST)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_push_by_digest_takes_tags_along(registry: Registry, inner: MemoryStore, algorithm: str) -> None:
    digest = Digest.of(IMAGE, algorithm)

    pushed = await registry.manifests.push(REPO, digest, IMAGE, None, tags=["b", "a", "b"])

    assert pushed.tags == ("b", "a")
    for tag in ("a", "b"):
        assert (await registry.manifests.get(REPO, tag)).digest == digest
    assert (await truth(inner)).problems == []


async def test_a_tag_moves(registry: Registry, inner: MemoryStore) -> None:
    other = image(CONFIG)
    await tagged(registry, "v1")

    await tagged(registry, "v1", other)

    assert (await registry.manifests.get(REPO, "v1")).body == other
    assert await is_there(registry, DIGEST)
    assert (await truth(inner)).problems == []


async def test_a_manifest_is_its_repositorys(registry: Registry) -> None:
    await tagged(registry, "v1")

    for reference in ("v1", DIGEST):
        with pytest.raises(ManifestUnknown):
            await registry.manifests.get(OTHER, reference)
        with pytest.raises(ManifestUnknown):
            await registry.manifests.delete(OTHER, reference)


async def test_a_pull_by_tag_costs_one_request(registry: Registry, store: FaultyStore) -> None:
    await tagged(registry, "v1")
    store.calls.clear()

    await registry.manifests.get(REPO, "v1")
    assert dict(store.calls) == {"get": 1}
    await registry.manifests.get(REPO, DIGEST)
    assert dict(store.calls) == {"get": 2}


async def test_a_herd_costs_a_few_requests_and_sees_what_was_acknowledged_before_it_asked(
    registry: Registry, store: FaultyStore
) -> None:
    bodies = [image(CONFIG, annotations={"version": str(version)}) for version in range(5)]
    stale: list[int] = []

    async def pull(at_least: int) -> None:
        body = (await registry.manifests.get(REPO, "v1")).body
        if bodies.index(body) < at_least:
            stale.append(at_least)

    pulls: list[asyncio.Task[None]] = []
    for version, body in enumerate(bodies):
        await tagged(registry, "v1", body)
        store.calls.clear()
        pulls += [asyncio.create_task(pull(version)) for _ in range(100)]
        await asyncio.sleep(0)
    await asyncio.gather(*pulls)

    assert stale == []
    assert store.calls["get"] <= 5


# ---- what is refused, and leaves nothing


@pytest.mark.parametrize(
    ("reference", "body", "error"),
    [
        (Digest.of(b"other"), IMAGE, DigestMismatch),
        (Digest.of(IMAGE[:-1] + b" }", "sha512"), IMAGE, DigestMismatch),
        ("v1", b"{", ManifestInvalid),
        ("v1", image(CONFIG, b"missing"), ManifestBlobUnknown),
        ("v1", image(b"missing", LAYER), ManifestBlobUnknown),
        ("v1", index(b"missing"), ManifestBlobUnknown),
        ("v1", index(IMAGE), ManifestBlobUnknown),
        ("v1", json.dumps({**json.loads(IMAGE), "manifests": []}).encode(), ManifestInvalid),
        ("v1", b'{"a": "' + bytes(5 * 1024 * 1024) + b'"}', ManifestTooLarge),
    ],
)
async def test_what_is_refused_leaves_nothing(
    registry: Registry, store: FaultyStore, reference: Digest | str, body: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await registry.manifests.push(REPO, reference, body, None)

    assert store.calls["put"] == 0


async def test_the_limit_is_the_owners(store: FaultyStore, clock: FakeClock) -> None:
    registry = await open_registry(store, clock, max_manifest=len(IMAGE) - 1)

    with pytest.raises(ManifestTooLarge, match=str(len(IMAGE) - 1)):
        await registry.manifests.push(REPO, "v1", IMAGE, None)


async def test_children_of_an_index_are_asked_for_unless_the_owner_says_otherwise(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    body = index(IMAGE)
    sparse = await open_registry(inner, clock, replica=2, sparse=True)

    with pytest.raises(ManifestBlobUnknown, match=r"manifest\.sparse"):
        await registry.manifests.push(REPO, "all", body, None)
    await sparse.manifests.push(OTHER, "all", body, None)
    await tagged(registry, "v1")
    await registry.manifests.push(REPO, "all", body, None)

    assert (await registry.manifests.get(REPO, "all")).media_type == OCI_INDEX


async def test_an_index_that_lists_a_layer_needs_the_blob(registry: Registry) -> None:
    """Build caches do so."""
    missing = {"mediaType": OCI_LAYER, "digest": str(Digest.of(b"missing")), "size": 7}
    body = json.loads(index())

    with pytest.raises(ManifestBlobUnknown):
        await registry.manifests.push(REPO, "cache", json.dumps({**body, "manifests": [missing]}).encode(), None)
    held = {"mediaType": OCI_LAYER, "digest": str(Digest.of(LAYER)), "size": len(LAYER)}
    await registry.manifests.push(REPO, "cache", json.dumps({**body, "manifests": [held]}).encode(), None)


async def test_a_tag_whose_store_lost_its_metadata_is_not_guessed(registry: Registry, inner: MemoryStore) -> None:
    await inner.put(f"repos/{REPO}/~tags/v1", IMAGE)

    with pytest.raises(Corrupt, match="metadata"):
        await registry.manifests.get(REPO, "v1")


# ---- deleting


async def test_deleting_a_tag_leaves_the_manifest_and_its_other_tags(registry: Registry, inner: MemoryStore) -> None:
    await tagged(registry, "v1")
    await tagged(registry, "v2")

    await registry.manifests.delete(REPO, "v1")

    assert not await is_there(registry, "v1")
    assert await is_there(registry, "v2")
    assert await is_there(registry, DIGEST)
    with pytest.raises(ManifestUnknown):
        await registry.manifests.delete(REPO, "v1")
    assert (await truth(inner)).problems == []


async def test_deleting_a_manifest_takes_its_tags_and_no_others(registry: Registry, inner: MemoryStore) -> None:
    other = image(CONFIG)
    await tagged(registry, "moved")
    await tagged(registry, "moved", other)
    for tag in ("v1", "v2"):
        await tagged(registry, tag)

    await registry.manifests.delete(REPO, DIGEST)

    after = await truth(inner)
    assert after.tags == {(REPO, "moved"): Digest.of(other)}
    assert after.manifests == {(REPO, Digest.of(other)): other}
    assert after.markers == {(REPO, Digest.of(other), "moved")}
    assert after.problems == []
    with pytest.raises(ManifestUnknown):
        await registry.manifests.delete(REPO, DIGEST)


async def test_deleting_a_manifest_with_more_tags_than_a_page(registry: Registry, inner: MemoryStore) -> None:
    names = [f"t{number:04}" for number in range(1203)]
    await registry.manifests.push(REPO, DIGEST, IMAGE, None, tags=names)

    await registry.manifests.delete(REPO, DIGEST)

    after = await truth(inner)
    assert (after.tags, after.markers, after.manifests) == ({}, set(), {})


async def test_a_manifest_can_be_pushed_again_after_it_was_deleted(registry: Registry, inner: MemoryStore) -> None:
    for _ in range(2):
        await tagged(registry, "v1")
        assert await is_there(registry, "v1")
        await registry.manifests.delete(REPO, DIGEST)
        assert not await is_there(registry, "v1")
    assert (await truth(inner)).markers == set()


async def test_delete_is_the_owners_to_allow(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    await tagged(registry, "v1")
    frozen = await open_registry(inner, clock, replica=2, delete=False)

    for reference in ("v1", DIGEST, "no-such"):
        with pytest.raises(Unsupported, match=r"delete\.enabled"):
            await frozen.manifests.delete(REPO, reference)
    assert await is_there(registry, "v1")


# ---- deletes and pushes of one manifest at once: whatever is acknowledged holds


SUBJECT = image(CONFIG, annotations={"is": "subject"})
REFERRER = image(CONFIG, LAYER, subject=SUBJECT)


async def outcome(work: asyncio.Task[object]) -> object:
    return (await asyncio.gather(work, return_exceptions=True))[0]


@pytest.mark.parametrize("held", range(16))
@pytest.mark.parametrize("tags", [(), ("v1",), ("new",), ("v1", "new")])
@pytest.mark.parametrize("body", [IMAGE, REFERRER])
async def test_a_push_that_comes_in_the_middle_of_a_delete_is_whole(
    registry: Registry, inner: MemoryStore, clock: FakeClock, held: int, tags: Sequence[str], body: bytes
) -> None:
    """The delete stops before each of its calls in turn, while another replica pushes the manifest again."""
    digest = Digest.of(body)
    await registry.manifests.push(REPO, digest, body, None, tags=["v1", "old"])
    view, gate = FaultyStore(inner), asyncio.Event()
    deleter = await open_registry(view, clock, replica=2)
    view.add(Rule(Delay(until=gate), at=len(view.log) + held))
    deleting: asyncio.Task[object] = asyncio.create_task(deleter.manifests.delete(REPO, digest))
    await reach(view, len(view.log) + held, deleting)

    await registry.manifests.push(REPO, digest, body, None, tags=tags)
    gate.set()
    await outcome(deleting)

    after = await truth(inner)
    assert after.problems == []
    if (REPO, digest) in after.manifests:
        assert {name for _, name in after.tags} >= set(tags)
    else:
        assert after.tags == {}


@pytest.mark.parametrize("held", range(14))
@pytest.mark.parametrize("tags", [(), ("v1",), ("new",), ("v1", "new")])
@pytest.mark.parametrize("body", [IMAGE, REFERRER])
async def test_a_delete_that_comes_in_the_middle_of_a_push_is_whole(
    registry: Registry, inner: MemoryStore, clock: FakeClock, held: int, tags: Sequence[str], body: bytes
) -> None:
    digest = Digest.of(body)
    await registry.manifests.push(REPO, digest, body, None, tags=["v1", "old"])
    view, gate = FaultyStore(inner), asyncio.Event()
    pusher = await open_registry(view, clock, replica=2)
    view.add(Rule(Delay(until=gate), at=len(view.log) + held))
    pushing: asyncio.Task[object] = asyncio.create_task(pusher.manifests.push(REPO, digest, body, None, tags=tags))
    await reach(view, len(view.log) + held, pushing)

    await registry.manifests.delete(REPO, digest)
    gate.set()
    result = await outcome(pushing)

    assert not isinstance(result, BaseException)
    after = await truth(inner)
    assert after.problems == []
    if (REPO, digest) in after.manifests:
        assert {name for _, name in after.tags} >= set(tags)
    else:
        assert after.tags == {}


async def reach(view: FaultyStore, calls: int, work: asyncio.Task[object]) -> None:
    """Waits until the work has made so many calls and one more, or is done."""
    async with asyncio.timeout(60):
        while len(view.log) <= calls and not work.done():
            await asyncio.sleep(0)


@pytest.mark.parametrize("body", [IMAGE, REFERRER])
async def test_pushes_and_deletes_at_random_end_whole(clock: FakeClock, body: bytes) -> None:
    inner = memory_store(clock)
    digest = Digest.of(body)
    replicas = [await open_registry(inner, clock, replica=replica) for replica in range(1, 5)]
    await push(replicas[0], REPO, CONFIG)
    await push(replicas[0], REPO, LAYER)
    for turn in range(60):
        await replicas[0].manifests.push(REPO, digest, body, None, tags=["v1"])

        async def act(number: int, turn: int) -> None:
            for _ in range((number * 7 + turn * 5) % 13):
                await asyncio.sleep(0)
            registry = replicas[number]
            if (number + turn) % 3:
                await registry.manifests.push(REPO, digest, body, None, tags=["v1", f"t{number}"][: turn % 3])
            else:
                try:
                    await registry.manifests.delete(REPO, digest)
                except ManifestUnknown:
                    pass

        await asyncio.gather(*(act(number, turn) for number in range(4)), return_exceptions=False)
        after = await truth(inner)
        assert after.problems == []


async def test_a_push_whose_manifest_is_deleted_again_and_again_is_not_acknowledged(
    registry: Registry, store: FaultyStore, inner: MemoryStore
) -> None:
    class Deleting(MemoryStore):
        """Someone deletes the manifest each time, before the push looks."""

        async def head(self, key: str) -> ObjectInfo:
            if "/~manifests/" in key:
                await self.delete(key)
            return await super().head(key)

    busy = await open_registry(Deleting(min_part=1), FakeClock())
    await push(busy, REPO, CONFIG)
    await push(busy, REPO, LAYER)

    with pytest.raises(Unavailable, match="again"):
        await busy.manifests.push(REPO, "v1", IMAGE, None)


@pytest.mark.parametrize("body", [IMAGE, REFERRER])
async def test_a_delete_that_died_at_any_call_is_finished_by_the_next(
    registry: Registry, inner: MemoryStore, clock: FakeClock, body: bytes
) -> None:
    digest = Digest.of(body)
    for at in range(100):
        await registry.manifests.push(REPO, digest, body, None, tags=["v1", "v2"])
        view = FaultyStore(inner)
        dying = await open_registry(view, clock, replica=2)
        view.add(Rule(CrashAfter(), at=len(view.log) + at))
        try:
            await dying.manifests.delete(REPO, digest)
        except Crashed:
            pass
        else:
            break
        after = await truth(inner)
        # The referrer goes out of the listing first: then the next delete still finds whose it was.
        assert [each for each in after.problems if "is not among the referrers" not in each] == []

        try:
            await registry.manifests.delete(REPO, digest)
        except ManifestUnknown:
            pass

        after = await truth(inner)
        assert (after.manifests, after.tags, after.referrers, after.problems) == ({}, {}, {}, [])
    assert at > 5


async def test_a_store_without_conditional_delete_deletes_all_the_same(inner: MemoryStore, clock: FakeClock) -> None:
    class Plain(FaultyStore):
        async def delete(self, key: str, *, condition: object = None) -> None:
            if condition is not None:
                raise StoreUnsupported("no conditional delete")
            await super().delete(key)

    registry = await open_registry(Plain(inner), clock)
    for data in (CONFIG, LAYER):
        await push(registry, REPO, data)
    await registry.manifests.push(REPO, "v1", REFERRER, None)

    await registry.manifests.delete(REPO, Digest.of(REFERRER))

    after = await truth(inner)
    assert (after.manifests, after.tags, after.referrers) == ({}, {}, {})


async def test_a_store_that_is_down_is_no_missing_manifest(registry: Registry, store: FaultyStore) -> None:
    await tagged(registry, "v1")
    store.add(Rule(Refuse(), operation="get"))

    with pytest.raises(StoreError):
        await registry.manifests.get(REPO, "v1")
