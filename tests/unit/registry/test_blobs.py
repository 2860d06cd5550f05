from __future__ import annotations

import asyncio

import pytest
from tests.unit.registry.helpers import (
    OTHER,
    REPO,
    Collector,
    FakeClock,
    blob_bytes,
    image,
    open_registry,
    pulled,
    push,
    standstill,
    truth,
)

from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, ManifestBlobUnknown, Unsupported
from bucketry.registry import Registry, layout
from bucketry.registry.records import BlobState
from bucketry.store.contract import ReadOnly, Unavailable
from bucketry.store.contract import Unsupported as StoreUnsupported
from bucketry.store.faults import CrashAfter, CrashBefore, Crashed, Delay, FaultyStore, LoseAnswer, Refuse, Rule
from bucketry.store.memory import MemoryStore

HOUR = 3600.0
DATA = blob_bytes(50)
DIGEST = Digest.of(DATA)
LINK = layout.link(REPO, DIGEST)


# ---- invariant 5: no link, no bytes


async def test_a_blob_of_another_repository_is_unknown_on_every_path(registry: Registry) -> None:
    await push(registry, OTHER, DATA)

    with pytest.raises(BlobUnknown):
        await registry.blobs.find(REPO, DIGEST)
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)
    with pytest.raises(BlobUnknown):
        await registry.blobs.delete(REPO, DIGEST)
    with pytest.raises(ManifestBlobUnknown):
        await registry.manifests.push(REPO, "v1", image(DATA), None)
    assert await registry.blobs.mount("third/repo", DIGEST, REPO) is None
    assert await pulled(registry, OTHER, DIGEST) == DATA


async def test_a_blob_deleted_here_stays_unknown_here_while_others_read_it(registry: Registry) -> None:
    await push(registry, REPO, DATA)
    await push(registry, OTHER, DATA)

    await registry.blobs.delete(REPO, DIGEST)

    assert await pulled(registry, OTHER, DIGEST) == DATA
    with pytest.raises(BlobUnknown):
        await registry.blobs.find(REPO, DIGEST)
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)


async def test_delete_needs_the_blob_and_the_owners_leave(store: FaultyStore, clock: FakeClock) -> None:
    registry = await open_registry(store, clock, delete=False)
    await push(registry, REPO, DATA)

    with pytest.raises(Unsupported, match=r"delete\.enabled"):
        await registry.blobs.delete(REPO, DIGEST)

    assert await pulled(registry, REPO, DIGEST) == DATA


# ---- existence that lets a client skip work (invariant 4)


async def test_a_fresh_link_is_not_written_anew(registry: Registry, store: FaultyStore, clock: FakeClock) -> None:
    await push(registry, REPO, DATA)
    clock.advance(HOUR - 1)
    store.calls.clear()

    assert (await registry.blobs.stat(REPO, DIGEST)).size == len(DATA)

    assert store.calls["put"] == 0


async def test_the_lease_of_an_old_link_is_renewed(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    await push(registry, REPO, DATA)
    clock.advance(HOUR)

    await registry.blobs.stat(REPO, DIGEST)

    assert (await inner.head(LINK)).modified == clock.now()


async def test_a_manifest_renews_the_leases_of_its_blobs(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    layer = blob_bytes(30, 1)
    await push(registry, REPO, DATA)
    await push(registry, REPO, layer)
    clock.advance(2 * HOUR)

    await registry.manifests.push(REPO, "v1", image(DATA, layer), None)

    for digest in (DIGEST, Digest.of(layer)):
        assert (await inner.head(layout.link(REPO, digest))).modified == clock.now()


async def test_reading_a_blob_renews_nothing(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    await push(registry, REPO, DATA)
    clock.advance(2 * HOUR)
    store.calls.clear()

    await pulled(registry, REPO, DIGEST)

    assert dict(store.calls) == {"get": 1, "read": 1}


async def test_a_store_that_takes_no_writes_tells_of_blobs_however_old(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    await push(registry, REPO, DATA)
    clock.advance(2 * HOUR)
    for operation in ("put", "delete"):
        store.add(Rule(Refuse(ReadOnly("it can only be pulled from")), operation=operation, times=None))

    assert (await registry.blobs.stat(REPO, DIGEST)).size == len(DATA)

    await inner.delete(layout.record(DIGEST))
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)


async def test_a_herd_of_pulls_costs_a_few_requests_and_sees_a_delete_that_was_acknowledged(
    registry: Registry, store: FaultyStore
) -> None:
    await push(registry, REPO, DATA)
    store.calls.clear()
    early = [asyncio.create_task(registry.blobs.find(REPO, DIGEST)) for _ in range(100)]
    await asyncio.sleep(0)
    await registry.blobs.delete(REPO, DIGEST)
    late = [asyncio.create_task(registry.blobs.find(REPO, DIGEST)) for _ in range(100)]

    await asyncio.gather(*early, return_exceptions=True)
    outcomes = await asyncio.gather(*late, return_exceptions=True)

    assert all(isinstance(outcome, BlobUnknown) for outcome in outcomes)
    assert store.calls["get"] <= 5


async def test_existence_is_asked_of_the_store_every_time(registry: Registry, inner: MemoryStore) -> None:
    await push(registry, REPO, DATA)
    await registry.blobs.stat(REPO, DIGEST)
    await inner.delete(LINK)

    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)


async def test_a_delete_that_comes_between_a_renewals_read_and_write_wins(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    await push(registry, REPO, DATA)
    clock.advance(2 * HOUR)
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="put", prefix=LINK))
    asked = asyncio.create_task(registry.blobs.stat(REPO, DIGEST))
    await standstill()
    await inner.delete(LINK)
    gate.set()

    with pytest.raises(BlobUnknown):
        await asked
    assert (await truth(inner)).links == {}


# ---- the collector's protocol (invariant 3)


async def condemned(registry: Registry, inner: MemoryStore, clock: FakeClock) -> Collector:
    """The blob has no link any more, and the collector has seen that once."""
    await push(registry, OTHER, DATA)
    await registry.blobs.delete(OTHER, DIGEST)
    clock.advance(2 * HOUR)
    collector = Collector(inner, clock)
    assert await collector.condemn(DIGEST) is not None
    return collector


async def test_a_mount_rescues_a_condemned_blob(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    collector = await condemned(registry, inner, clock)

    assert await registry.blobs.mount(REPO, DIGEST, None) is not None

    assert not await collector.finish(DIGEST)
    assert await pulled(registry, REPO, DIGEST) == DATA
    assert (await truth(inner)).problems == []


async def test_a_push_rescues_a_condemned_blob(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    collector = await condemned(registry, inner, clock)

    await push(registry, REPO, DATA)

    assert not await collector.finish(DIGEST)
    assert await pulled(registry, REPO, DIGEST) == DATA
    assert (await truth(inner)).orphans == []


async def test_a_head_rescues_a_blob_that_was_condemned_with_a_link_in_place(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    await push(registry, REPO, DATA)
    clock.advance(2 * HOUR)
    await Collector(inner, clock).condemn(DIGEST)

    await registry.blobs.stat(REPO, DIGEST)

    assert (await truth(inner)).records[DIGEST].state is BlobState.LIVE


async def test_gone_counts_as_absent(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    collector = await condemned(registry, inner, clock)
    assert await collector.finish(DIGEST)

    assert await registry.blobs.mount(REPO, DIGEST, None) is None
    assert (await truth(inner)).links == {}

    await push(registry, REPO, DATA)
    assert await pulled(registry, REPO, DIGEST) == DATA
    assert (await truth(inner)).problems == []


@pytest.mark.parametrize("source", [None, OTHER])
async def test_a_mount_that_loses_to_the_collector_leaves_no_link(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock, source: str | None
) -> None:
    await push(registry, OTHER, DATA)
    clock.advance(2 * HOUR)
    collector = Collector(inner, clock)
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="put", prefix=LINK))
    mounting = asyncio.create_task(registry.blobs.mount(REPO, DIGEST, source))
    await standstill()
    await inner.delete(layout.link(OTHER, DIGEST))
    assert await collector.collect(DIGEST)
    gate.set()

    assert await mounting is None
    assert (await truth(inner)).links == {}


@pytest.mark.parametrize("source", [None, OTHER])
async def test_a_mount_whose_bytes_were_collected_and_pushed_anew_meanwhile_links_none_or_the_new_ones(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock, source: str | None
) -> None:
    """The digest has a live record again when the mount looks, but not of the bytes it linked."""
    await push(registry, OTHER, DATA)
    clock.advance(2 * HOUR)
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="put", prefix=LINK))
    mounting = asyncio.create_task(registry.blobs.mount(REPO, DIGEST, source))
    await standstill()
    await inner.delete(layout.link(OTHER, DIGEST))
    assert await Collector(inner, clock).collect(DIGEST)
    await push(await open_registry(inner, clock, replica=2), "third/repo", DATA)
    gate.set()

    mounted = await mounting

    assert (await truth(inner)).problems == []
    if mounted is not None:
        assert await pulled(registry, REPO, DIGEST) == DATA


async def test_a_mount_that_fails_takes_no_link_away_that_another_push_made_meanwhile(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    await push(registry, OTHER, DATA)
    clock.advance(2 * HOUR)
    written, undone = asyncio.Event(), asyncio.Event()
    store.add(Rule(Delay(until=written), operation="put", prefix=LINK))
    store.add(Rule(Delay(until=undone), operation="delete", prefix=LINK))
    mounting = asyncio.create_task(registry.blobs.mount(REPO, DIGEST, None))
    await standstill()
    await registry.blobs.delete(OTHER, DIGEST)
    assert await Collector(inner, clock).collect(DIGEST)
    written.set()
    await standstill()
    await push(await open_registry(inner, clock, replica=2), REPO, DATA)
    undone.set()

    await mounting

    assert await pulled(registry, REPO, DIGEST) == DATA


async def test_a_head_that_fails_takes_no_link_away_that_another_push_made_meanwhile(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    """The link was left by a process that died between its link and its look at the record."""
    replica = await open_registry(inner, clock, replica=2)
    await leave_a_dangling_link(inner, clock)
    clock.advance(2 * HOUR)
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="delete", prefix=LINK))
    asking = asyncio.create_task(registry.blobs.stat(REPO, DIGEST))
    await standstill()
    await push(replica, REPO, DATA)
    gate.set()

    with pytest.raises(BlobUnknown):
        await asking
    assert await pulled(registry, REPO, DIGEST) == DATA


async def leave_a_dangling_link(inner: MemoryStore, clock: FakeClock) -> None:
    """A mount writes its link after the collector listed links, and dies before it looks at the record."""
    view = FaultyStore(inner)
    dying = await open_registry(view, clock, replica=9)
    await push(dying, OTHER, DATA)
    clock.advance(2 * HOUR)
    gate = asyncio.Event()
    view.add(Rule(Delay(until=gate), operation="put", prefix=LINK))
    view.add(Rule(CrashAfter(), operation="put", prefix=LINK))
    mounting = asyncio.create_task(dying.blobs.mount(REPO, DIGEST, None))
    await standstill()
    await inner.delete(layout.link(OTHER, DIGEST))
    assert await Collector(inner, clock).collect(DIGEST)
    gate.set()
    with pytest.raises(Crashed):
        await mounting


async def test_a_link_without_bytes_that_a_crash_left_is_no_blob(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    """Else a client skips the upload, and its manifest is acknowledged without a child (invariant 2)."""
    await leave_a_dangling_link(inner, clock)

    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)
    with pytest.raises(ManifestBlobUnknown):
        await registry.manifests.push(REPO, "v1", image(DATA), None)
    assert await registry.blobs.mount("third/repo", DIGEST, REPO) is None
    await push(registry, REPO, DATA)
    assert await pulled(registry, REPO, DIGEST) == DATA
    assert (await truth(inner)).problems == []


async def test_a_link_to_collected_bytes_is_no_blob_when_the_digest_was_pushed_elsewhere_since(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    await leave_a_dangling_link(inner, clock)
    await push(registry, OTHER, DATA)

    assert await registry.blobs.mount("third/repo", DIGEST, REPO) is None
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)

    assert (await truth(inner)).problems == []


async def test_a_link_without_bytes_needs_no_conditional_delete_to_be_no_blob(
    inner: MemoryStore, clock: FakeClock
) -> None:
    """Some stores have none: then the link stays, and is still no blob."""
    await leave_a_dangling_link(inner, clock)
    view = FaultyStore(inner, [Rule(Refuse(StoreUnsupported("no conditional delete")), operation="delete", times=None)])
    registry = await open_registry(view, clock)

    for _ in range(2):
        with pytest.raises(BlobUnknown):
            await registry.blobs.stat(REPO, DIGEST)
        assert await registry.blobs.mount(OTHER, DIGEST, None) is None


# ---- publishing


async def test_the_second_push_of_the_same_bytes_keeps_the_first_ones(registry: Registry, inner: MemoryStore) -> None:
    await push(registry, REPO, DATA)
    first = (await truth(inner)).records[DIGEST].data

    await push(registry, OTHER, DATA)

    after = await truth(inner)
    assert after.records[DIGEST].data == first
    assert after.orphans == []
    assert after.problems == []


async def test_two_algorithms_are_two_blobs(registry: Registry, inner: MemoryStore) -> None:
    other = await push(registry, REPO, DATA, "sha512")

    with pytest.raises(BlobUnknown):
        await registry.blobs.find(REPO, DIGEST)
    assert await pulled(registry, REPO, other) == DATA


async def test_a_record_that_took_too_long_to_link_is_looked_at_again(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    """Nobody linked it for hours, so the collector may have ended it: then the push is not acknowledged."""
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="put", prefix=LINK))
    pushing = asyncio.create_task(push(registry, REPO, DATA))
    await standstill()
    clock.advance(2 * HOUR)
    assert await Collector(inner, clock).collect(DIGEST)
    gate.set()

    outcome = (await asyncio.gather(pushing, return_exceptions=True))[0]

    assert isinstance(outcome, Exception)
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)
    await push(registry, REPO, DATA)
    assert await pulled(registry, REPO, DIGEST) == DATA


@pytest.mark.parametrize("prefix", ["blobs/", "repos/"])
@pytest.mark.parametrize("fault", [LoseAnswer(), Refuse(), CrashBefore(), CrashAfter()])
async def test_a_push_that_failed_in_the_middle_is_repeated_by_a_push(
    inner: MemoryStore, clock: FakeClock, prefix: str, fault: LoseAnswer | Refuse | CrashBefore | CrashAfter
) -> None:
    failing = await open_registry(FaultyStore(inner, [Rule(fault, operation="put", prefix=prefix)]), clock, replica=2)
    with pytest.raises((Unavailable, Crashed)):
        await push(failing, REPO, DATA)

    healthy = await open_registry(inner, clock)
    await push(healthy, REPO, DATA)

    assert await pulled(healthy, REPO, DIGEST) == DATA
    assert (await truth(inner)).problems == []


# ---- mounting


async def test_a_mount_with_its_source_needs_the_link_there(registry: Registry) -> None:
    await push(registry, OTHER, DATA)

    assert await registry.blobs.mount(REPO, DIGEST, "no/such") is None
    assert await registry.blobs.mount(REPO, DIGEST, OTHER) is not None
    assert await pulled(registry, REPO, DIGEST) == DATA


async def test_a_mount_without_source_is_the_owners_to_allow(store: FaultyStore, clock: FakeClock) -> None:
    registry = await open_registry(store, clock, mount_without_source=False)
    await push(registry, OTHER, DATA)

    assert await registry.blobs.mount(REPO, DIGEST, None) is None
    assert await registry.blobs.mount(REPO, DIGEST, OTHER) is not None


async def test_a_mount_of_what_nobody_has_writes_nothing(registry: Registry, store: FaultyStore) -> None:
    assert await registry.blobs.mount(REPO, DIGEST, None) is None
    assert await registry.blobs.mount(REPO, DIGEST, OTHER) is None

    assert store.calls["put"] == 0


async def test_a_mounted_blob_outlives_its_source(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    await push(registry, OTHER, DATA)
    await registry.blobs.mount(REPO, DIGEST, OTHER)
    await registry.blobs.delete(OTHER, DIGEST)
    clock.advance(2 * HOUR)

    assert not await Collector(inner, clock).collect(DIGEST)
    assert await pulled(registry, REPO, DIGEST) == DATA


# ---- what a manifest requires


async def test_all_missing_blobs_are_named_at_once(registry: Registry) -> None:
    missing = [Digest.of(bytes([seed])) for seed in range(7)]
    await push(registry, REPO, DATA)

    assert await registry.blobs.missing(REPO, [DIGEST, *missing]) == missing


async def test_a_store_that_is_down_is_not_a_missing_blob(registry: Registry, store: FaultyStore) -> None:
    await push(registry, REPO, DATA)
    store.add(Rule(Refuse(), operation="get"))

    with pytest.raises(Unavailable):
        await registry.blobs.missing(REPO, [DIGEST])
