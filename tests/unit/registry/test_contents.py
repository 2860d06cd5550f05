"""What a tag that is kept holds is not deleted: nothing below it, by nobody, and against any push or delete at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import pytest
from tests.unit.registry.helpers import (
    OTHER,
    REPO,
    Collector,
    FakeClock,
    blob_bytes,
    image,
    index,
    keys,
    memory_store,
    open_registry,
    push,
    truth,
)

from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, Denied, ManifestBlobUnknown, OCIError
from bucketry.oci.media_types import OCI_MANIFEST
from bucketry.registry import Registry, contents, layout
from bucketry.registry.contents import IN_TIME, UNDER_WAY
from bucketry.registry.guards import FREE, TagGuard
from bucketry.store.contract import Store, StoredObject
from bucketry.store.faults import CrashBefore, Crashed, Delay, FaultyStore, Rule
from bucketry.store.memory import MemoryStore

FIXED = TagGuard(
    moves=lambda tag: f"{tag} is immutable" if tag.startswith("v") else None,
    deletes=lambda tag: f"{tag} is immutable" if tag.startswith("v") else None,
)
NONE_HERE = TagGuard(holds=False)
CONFIG, LAYER, SHARED, DEEP, LOOSE = b"{}", blob_bytes(100), blob_bytes(200), blob_bytes(300), blob_bytes(400)
BLOBS = (CONFIG, LAYER, SHARED, DEEP, LOOSE)
CHILD, GRANDCHILD = image(CONFIG, LAYER, SHARED), image(CONFIG, DEEP)
INNER = index(GRANDCHILD)
TOP = json.dumps(
    {
        "schemaVersion": 2,
        "manifests": [
            *json.loads(index(CHILD, INNER))["manifests"],
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(Digest.of(LOOSE)), "size": 400},
        ],
    }
).encode()
ALONE = image(CONFIG, SHARED)
Delete: TypeAlias = Callable[[Registry, TagGuard], Awaitable[None]]


def blob(data: bytes, repository: str = REPO) -> Delete:
    return lambda registry, guard: registry.blobs.delete(repository, Digest.of(data), guard=guard)


def manifest(data: bytes, repository: str = REPO) -> Delete:
    return lambda registry, guard: registry.manifests.delete(repository, Digest.of(data), guard=guard)


HELD: dict[str, Delete] = {
    "config": blob(CONFIG),
    "layer of a child": blob(LAYER),
    "layer that a mutable tag holds too": blob(SHARED),
    "layer of a grandchild": blob(DEEP),
    "blob that an index lists": blob(LOOSE),
    "child": manifest(CHILD),
    "index below the index": manifest(INNER),
    "grandchild": manifest(GRANDCHILD),
    "the manifest itself": manifest(TOP),
}


async def fill(registry: Registry, repository: str, tag: str, guard: TagGuard = FIXED) -> None:
    """An index of an image and an index, and an image of its own; nothing is tagged but the index, as ``tag``."""
    for data in BLOBS:
        await push(registry, repository, data)
    for body in (CHILD, GRANDCHILD, INNER, ALONE):
        await registry.manifests.push(repository, Digest.of(body), body, None, guard=guard)
    await registry.manifests.push(repository, tag, TOP, None, guard=guard)


async def whole(store: Store) -> dict[str, tuple[bytes, str]]:
    found = {}
    for key in await keys(store):
        held = await store.get(key)
        found[key] = (held.body, held.info.etag)
    return found


@pytest.mark.parametrize("what", HELD)
async def test_a_refused_delete_has_deleted_and_changed_nothing(
    registry: Registry, inner: MemoryStore, what: str
) -> None:
    await fill(registry, REPO, "v1")
    await registry.manifests.push(REPO, "edge", ALONE, None, guard=FIXED)
    await registry.manifests.push(REPO, "child", CHILD, None, guard=FIXED)
    before = await whole(inner)
    for _ in range(2):
        with pytest.raises(Denied, match="belongs to the tag v1: v1 is immutable") as refusal:
            await HELD[what](registry, FIXED)
        assert isinstance(refusal.value.detail, dict)
        assert refusal.value.detail["tag"] == "v1"
    assert await whole(inner) == before
    assert (await truth(inner)).problems == []


@pytest.mark.parametrize("what", HELD)
async def test_what_no_such_tag_holds_is_deleted(registry: Registry, inner: MemoryStore, what: str) -> None:
    """The same below a tag that is not kept, and in a repository beside one where it is kept."""
    await fill(registry, OTHER, "v1")
    await fill(registry, REPO, "edge")
    await HELD[what](registry, FIXED)
    with pytest.raises(OCIError, match="has no"):
        await HELD[what](registry, FIXED)
    after = await truth(inner)
    assert not [lost for lost in after.lost if OTHER in lost]


async def test_a_subject_is_not_held_by_what_refers_to_it_and_a_refused_referrer_stays_listed(
    registry: Registry, inner: MemoryStore
) -> None:
    signature = image(CONFIG, LAYER, subject=ALONE)
    for data in (CONFIG, LAYER, SHARED):
        await push(registry, REPO, data)
    await registry.manifests.push(REPO, Digest.of(ALONE), ALONE, None)
    await registry.manifests.push(REPO, "edge", signature, None, guard=FIXED)
    await registry.manifests.push(REPO, "v1", index(signature), None, guard=FIXED)
    before = await whole(inner)
    with pytest.raises(Denied):
        await registry.manifests.delete(REPO, Digest.of(signature), guard=FIXED)
    assert await whole(inner) == before
    await registry.manifests.delete(REPO, Digest.of(ALONE), guard=FIXED)
    await registry.blobs.delete(REPO, Digest.of(SHARED), guard=FIXED)


async def test_a_child_that_is_absent_holds_nothing(inner: MemoryStore, clock: FakeClock) -> None:
    registry = await open_registry(inner, clock, sparse=True)
    await push(registry, REPO, LAYER)
    await registry.manifests.push(REPO, "v1", index(CHILD), None, guard=FIXED)
    await registry.blobs.delete(REPO, Digest.of(LAYER), guard=FIXED)


async def test_a_tag_whose_manifest_is_gone_holds_what_it_names_all_the_same(
    registry: Registry, inner: MemoryStore
) -> None:
    await fill(registry, REPO, "v1")
    await inner.delete(layout.manifest(REPO, Digest.of(TOP)))
    with pytest.raises(Denied):
        await registry.blobs.delete(REPO, Digest.of(DEEP), guard=FIXED)


# Markers that prove nothing


async def test_the_marker_of_a_tag_that_is_gone_holds_nothing(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    await fill(registry, REPO, "v1")
    await inner.delete(layout.tag(REPO, "v1"))
    clock.advance(UNDER_WAY)
    await registry.blobs.delete(REPO, Digest.of(LAYER), guard=FIXED)
    await registry.manifests.delete(REPO, Digest.of(TOP), guard=FIXED)
    assert await keys(inner, layout.markers(REPO)) == [], "and goes with the manifest"


async def test_the_marker_of_a_push_that_knew_no_rules_holds_nothing_without_its_tag(
    registry: Registry, inner: MemoryStore
) -> None:
    await fill(registry, REPO, "v1", FREE)
    await inner.delete(layout.tag(REPO, "v1"))
    await registry.blobs.delete(REPO, Digest.of(LAYER), guard=FIXED)


async def test_the_marker_of_a_push_that_lost_its_tag_to_another_holds_nothing(
    registry: Registry, inner: MemoryStore
) -> None:
    await fill(registry, REPO, "other")
    await registry.manifests.push(REPO, "v1", ALONE, None, guard=FIXED)
    await inner.put(layout.tagged(REPO, Digest.of(TOP)) + "v1", TOP)
    await registry.blobs.delete(REPO, Digest.of(LAYER), guard=FIXED)
    with pytest.raises(Denied):
        await registry.blobs.delete(REPO, Digest.of(SHARED), guard=FIXED)


async def test_a_push_that_failed_holds_what_it_names_for_an_hour(
    registry: Registry, store: FaultyStore, clock: FakeClock
) -> None:
    for data in (CONFIG, LAYER, DEEP):
        await push(registry, REPO, data)
    with pytest.raises(ManifestBlobUnknown):
        await registry.manifests.push(REPO, "v1", CHILD, None, guard=FIXED)  # SHARED is missing.
    with pytest.raises(Denied, match="which is being pushed, or was within the last hour"):
        await registry.blobs.delete(REPO, Digest.of(LAYER), guard=FIXED)
    await registry.blobs.delete(REPO, Digest.of(DEEP), guard=FIXED)
    clock.advance(UNDER_WAY)
    await registry.blobs.delete(REPO, Digest.of(LAYER), guard=FIXED)


# What it costs


@pytest.mark.parametrize("guard", [FREE, NONE_HERE])
async def test_where_no_tag_may_be_kept_nobody_looks(registry: Registry, store: FaultyStore, guard: TagGuard) -> None:
    await fill(registry, REPO, "v1", guard)
    store.calls.clear()
    await registry.blobs.delete(REPO, Digest.of(LAYER), guard=guard)
    assert store.calls == {"get": 1, "delete": 1}
    store.calls.clear()
    await registry.manifests.delete(REPO, Digest.of(ALONE), guard=guard)
    # Its own markers, before and after it is gone.
    assert store.calls == {"get": 1, "list": 2, "delete": 1}


async def requests(clock: FakeClock, tags: Sequence[str], guard: TagGuard, body: bytes) -> dict[str, int]:
    store = FaultyStore(memory_store(clock))
    registry = await open_registry(store, clock)
    for data in BLOBS:
        await push(registry, REPO, data)
    for child in (CHILD, GRANDCHILD, INNER):
        await registry.manifests.push(REPO, Digest.of(child), child, None)
    store.calls.clear()
    await registry.manifests.push(REPO, Digest.of(body), body, None, tags=tags, guard=guard)
    return dict(store.calls)


@pytest.mark.parametrize("body", [TOP, CHILD, image(CONFIG, subject=CHILD)], ids=["index", "image", "referrer"])
async def test_a_push_of_a_tag_that_is_kept_costs_no_more_than_one_of_a_tag_that_is_not_moved(
    clock: FakeClock, body: bytes
) -> None:
    no_moves = TagGuard(moves=lambda tag: tag, holds=False)
    for tags in (["v1"], ["v1", "edge"], ["v1", "v2", "v3"]):
        assert await requests(clock, tags, FIXED, body) == await requests(
            clock, tags, no_moves if "edge" not in tags else TagGuard(moves=FIXED.moves, holds=False), body
        )
    assert await requests(clock, ["edge"], FIXED, body) == await requests(clock, ["edge"], FREE, body)
    assert await requests(clock, [], FIXED, body) == await requests(clock, [], FREE, body)


async def test_a_delete_beside_a_thousand_tags_that_are_kept(registry: Registry, store: FaultyStore) -> None:
    for data in (CONFIG, LAYER, DEEP):
        await push(registry, REPO, data)
    for number in range(1000):
        body = image(CONFIG, LAYER, annotations={"number": str(number)})
        await registry.manifests.push(REPO, f"v{number}", body, None, guard=FIXED)
    store.calls.clear()
    await registry.blobs.delete(REPO, Digest.of(DEEP), guard=FIXED)
    assert store.calls == {"list": 2, "get": 1 + 1000, "delete": 1}
    await push(registry, REPO, DEEP)
    store.calls.clear()
    await registry.blobs.delete(REPO, Digest.of(DEEP), guard=FIXED)
    assert store.calls == {"list": 2, "get": 1, "delete": 1}
    store.calls.clear()
    with pytest.raises(Denied):
        await registry.blobs.delete(REPO, Digest.of(LAYER), guard=FIXED)
    assert store.calls["list"] == 1
    assert store.calls["get"] + store.calls["head"] <= 1 + contents.READS_AT_ONCE


async def test_what_is_remembered_of_manifests_is_bounded_and_read_again(
    registry: Registry, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "REMEMBERED", 30)
    for data in (CONFIG, LAYER):
        await push(registry, REPO, data)
    for number in range(40):
        body = image(CONFIG, LAYER, annotations={"number": str(number)})
        await registry.manifests.push(REPO, f"v{number}", body, None, guard=FIXED)
    held = registry.blobs._contents
    for _ in range(2):
        assert await held.refusal(REPO, Digest.of(DEEP), FIXED) is None
        assert held._size == sum(named.size for named in held._remembered.values()) <= 30
        assert len(held._remembered) == 10
    assert await held.refusal(REPO, Digest.of(LAYER), FIXED) is not None


async def test_few_manifests_are_read_at_once_by_all_deletes_together(inner: MemoryStore, clock: FakeClock) -> None:
    class Counting(FaultyStore):
        now = most = 0

        async def get(self, key: str, *, limit: int = 1 << 24) -> StoredObject:
            self.now += "/~manifests/" in key
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            try:
                return await super().get(key, limit=limit)
            finally:
                self.now -= "/~manifests/" in key

    store = Counting(inner)
    registry = await open_registry(store, clock)
    await push(registry, REPO, CONFIG)
    bodies = [image(CONFIG, annotations={"number": str(number)}) for number in range(60)]
    for number, body in enumerate(bodies):
        await registry.manifests.push(REPO, f"v{number}", body, None, guard=FIXED)
    await registry.manifests.push(REPO, "vall", index(*bodies), None, guard=FIXED)
    held = registry.blobs._contents
    await asyncio.gather(*(held.refusal(REPO, Digest.of(DEEP), FIXED) for _ in range(5)))
    assert 1 < store.most <= contents.READS_AT_ONCE


# At once


class Replica:
    """A registry that stops before one of its store calls, until it is let go."""

    def __init__(self, registry: Registry, view: FaultyStore) -> None:
        self.registry, self.view, self.gate = registry, view, asyncio.Event()

    @classmethod
    async def make(cls, inner: Store, clock: FakeClock, number: int) -> Replica:
        view = FaultyStore(inner)
        return cls(await open_registry(view, clock, replica=number), view)

    async def until(self, calls: int, work: Awaitable[object]) -> asyncio.Future[object]:
        """Begins the work, which stops at this call of its own, or ends before."""
        first = len(self.view.log)
        self.view.add(Rule(Delay(until=self.gate), at=first + calls))
        running = asyncio.ensure_future(work)
        async with asyncio.timeout(20):
            while len(self.view.log) <= first + calls and not running.done():
                await asyncio.sleep(0)
        return running


RACES: dict[str, tuple[Delete, bytes]] = {
    "layer": (blob(LAYER), CHILD),
    "config": (blob(CONFIG), CHILD),
    "loose blob": (blob(LOOSE), TOP),
    "child": (manifest(CHILD), TOP),
    "child that refers": (manifest(image(CONFIG, LAYER, subject=CHILD)), index(image(CONFIG, LAYER, subject=CHILD))),
    "the manifest itself": (manifest(CHILD), CHILD),
    "the manifest itself, which is new": (manifest(image(CONFIG, DEEP, LAYER)), image(CONFIG, DEEP, LAYER)),
}


@pytest.mark.parametrize("push_goes_on", ["before", "after"])
@pytest.mark.parametrize("what", RACES)
async def test_push_of_a_kept_tag_and_delete_of_what_it_names_at_any_call_of_both(
    clock: FakeClock, what: str, push_goes_on: str
) -> None:
    """Each stops at each of its calls in turn. In the end the tag holds all that it names, or was not pushed."""
    delete, body = RACES[what]
    ends: set[tuple[str, str]] = set()
    more_pushes, at_push = True, 0
    while more_pushes:
        more_pushes, more_deletes, at_delete = False, True, 0
        while more_deletes:
            inner = memory_store(clock)
            pushing, deleting = await Replica.make(inner, clock, 1), await Replica.make(inner, clock, 2)
            await fill(pushing.registry, REPO, "edge")
            signature = image(CONFIG, LAYER, subject=CHILD)
            await pushing.registry.manifests.push(REPO, "signature", signature, None)
            pushed = await pushing.until(at_push, pushing.registry.manifests.push(REPO, "v1", body, None, guard=FIXED))
            deleted = await deleting.until(at_delete, delete(deleting.registry, FIXED))
            more_pushes, more_deletes = more_pushes or not pushed.done(), not deleted.done()
            first, second = (pushing, deleting) if push_goes_on == "before" else (deleting, pushing)
            first.gate.set()
            await asyncio.wait([pushed if first is pushing else deleted], timeout=20)
            second.gate.set()
            results = await asyncio.gather(pushed, deleted, return_exceptions=True)
            assert not [end for end in results if end is not None and isinstance(end, Crashed)]
            names = tuple("done" if not isinstance(end, BaseException) else type(end).__name__ for end in results)
            ends.add((names[0], names[1]))
            place = (at_push, at_delete, results)
            after = await truth(inner)
            assert after.problems == [], place
            assert ((REPO, "v1") in after.tags) == (names[0] == "done"), place
            if names[0] == "done":
                assert [lost for lost in after.lost if str(Digest.of(body)) in lost.split(" has lost")[0]] == [], place
                assert after.manifests[REPO, Digest.of(body)] == body
            at_delete += 1
        at_push += 1
    assert at_push > 5
    assert ("done", "Denied") in ends
    if what == "the manifest itself, which is new":
        assert ends <= {("done", "Denied"), ("done", "ManifestUnknown")}
    elif what == "the manifest itself":
        assert ends <= {("done", "Denied"), ("done", "done")}, "what is pushed is there again"
    else:
        assert ends >= {("done", "Denied"), ("ManifestBlobUnknown", "done")}
        assert ends <= {("done", "Denied"), ("ManifestBlobUnknown", "done"), ("ManifestBlobUnknown", "Denied")}


async def test_the_link_that_is_put_back_is_one_that_the_collector_sees(clock: FakeClock) -> None:
    """The collector looked for links while it was away: its bytes are rescued, or it counts as gone."""
    inner = memory_store(clock)
    pushing, deleting = await Replica.make(inner, clock, 1), await Replica.make(inner, clock, 2)
    for data in (CONFIG, LAYER):
        await push(pushing.registry, REPO, data)
    clock.advance(2 * 3600)
    body = image(CONFIG, LAYER)
    # Before the link goes: the first look is over.
    deleted = await deleting.until(2, blob(LAYER)(deleting.registry, FIXED))
    pushed = await pushing.until(5, pushing.registry.manifests.push(REPO, "v1", body, None, guard=FIXED))
    collector = Collector(inner, clock)
    assert await collector.condemn(Digest.of(LAYER)) is not None
    deleting.gate.set()
    with pytest.raises(Denied):
        await deleted
    assert not await collector.finish(Digest.of(LAYER))
    pushing.gate.set()
    await asyncio.wait([pushed])
    after = await truth(inner)
    assert after.problems == []
    assert (REPO, Digest.of(LAYER)) in after.links


async def test_a_push_that_stood_still_for_so_long_that_nobody_believes_in_it_begins_again(clock: FakeClock) -> None:
    inner = memory_store(clock)
    pushing, deleting = await Replica.make(inner, clock, 1), await Replica.make(inner, clock, 2)
    for data in (CONFIG, LAYER):
        await push(pushing.registry, REPO, data)
    body = image(CONFIG, LAYER)
    pushing.view.add(Rule(Delay(until=pushing.gate), operation="put", prefix=layout.manifest(REPO, Digest.of(body))))
    pushed = asyncio.ensure_future(pushing.registry.manifests.push(REPO, "v1", body, None, guard=FIXED))
    for _ in range(300):
        await asyncio.sleep(0)
    assert not pushed.done()
    clock.advance(UNDER_WAY)
    await deleting.registry.blobs.delete(REPO, Digest.of(LAYER), guard=FIXED)
    pushing.gate.set()
    with pytest.raises(ManifestBlobUnknown):
        await pushed
    assert (await truth(inner)).tags == {}


async def test_a_slow_push_whose_content_is_there_succeeds(clock: FakeClock) -> None:
    inner = memory_store(clock)
    pushing = await Replica.make(inner, clock, 1)
    for data in (CONFIG, LAYER):
        await push(pushing.registry, REPO, data)
    body = image(CONFIG, LAYER)
    pushing.view.add(Rule(Delay(until=pushing.gate), operation="put", prefix=layout.manifest(REPO, Digest.of(body))))
    pushed = asyncio.ensure_future(pushing.registry.manifests.push(REPO, "v1", body, None, guard=FIXED))
    for _ in range(300):
        await asyncio.sleep(0)
    clock.advance(IN_TIME)
    pushing.gate.set()
    await pushed
    assert (await truth(inner)).tags == {(REPO, "v1"): Digest.of(body)}


async def test_a_delete_that_dies_before_it_removes_anything_leaves_all(inner: MemoryStore, clock: FakeClock) -> None:
    dying = await Replica.make(inner, clock, 1)
    await fill(dying.registry, REPO, "v1")
    before = await whole(inner)
    dying.view.add(Rule(CrashBefore(), operation="head", prefix=layout.tags(REPO)))
    with pytest.raises(Crashed):
        await dying.registry.blobs.delete(REPO, Digest.of(DEEP), guard=FIXED)
    assert await whole(inner) == before


# Other ways


async def test_a_mount_takes_no_link_away_that_holds(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    """The source has a link to bytes that were collected, which is older than what was pushed here."""
    await push(registry, OTHER, LAYER)
    stale = await inner.get(layout.link(OTHER, Digest.of(LAYER)))
    await inner.delete(stale.info.key)
    clock.advance(2 * 3600)
    assert await Collector(inner, clock).collect(Digest.of(LAYER))
    await push(registry, REPO, LAYER)
    await inner.put(stale.info.key, stale.body)
    await registry.blobs.mount(REPO, Digest.of(LAYER), OTHER)
    assert (await registry.blobs.stat(REPO, Digest.of(LAYER))).digest == Digest.of(LAYER)
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(OTHER, Digest.of(LAYER))


UNTYPED = json.dumps({name: value for name, value in json.loads(CHILD).items() if name != "mediaType"}).encode()
VENDOR = "application/vnd.example.thing+json"


@pytest.mark.parametrize("first", [OCI_MANIFEST, VENDOR])
@pytest.mark.parametrize("below", [False, True])
async def test_the_same_bytes_get_no_other_media_type_where_tags_are_kept(
    registry: Registry, inner: MemoryStore, first: str, below: bool
) -> None:
    second = VENDOR if first == OCI_MANIFEST else OCI_MANIFEST
    for data in (CONFIG, LAYER, SHARED):
        await push(registry, REPO, data)
    digest = Digest.of(UNTYPED)
    await registry.manifests.push(REPO, digest if below else "v1", UNTYPED, first, guard=FIXED)
    if below:
        await registry.manifests.push(REPO, "v1", index(UNTYPED), None, guard=FIXED)
    pushes: list[tuple[Digest | str, list[str]]] = [(digest, ["v9"]), (digest, []), ("edge", [])]
    for reference, tags in pushes if below else [*pushes, ("v1", [])]:
        with pytest.raises(Denied, match=f"as {first.replace('+', '.')}") as refusal:
            await registry.manifests.push(REPO, reference, UNTYPED, second, tags=tags, guard=FIXED)
        assert refusal.value.detail == {"digest": str(digest), "mediaType": first}
    assert (await registry.manifests.get(REPO, digest)).media_type == first
    assert {tag for _, tag in (await truth(inner)).tags} == {"v1"}
    await registry.manifests.push(REPO, "edge", UNTYPED, first, guard=FIXED)
    await registry.manifests.push(OTHER, "edge", index(), None, guard=FIXED)


async def test_of_two_pushes_at_once_with_two_media_types_one_is_refused(
    registry: Registry, inner: MemoryStore
) -> None:
    for data in (CONFIG, LAYER, SHARED):
        await push(registry, REPO, data)
    ends = await asyncio.gather(
        *(registry.manifests.push(REPO, "v1", UNTYPED, kind, guard=FIXED) for kind in (OCI_MANIFEST, VENDOR)),
        return_exceptions=True,
    )
    assert sorted(type(end).__name__ for end in ends) == ["Denied", "Pushed"]
    by_tag = await registry.manifests.get(REPO, "v1")
    assert by_tag == await registry.manifests.get(REPO, Digest.of(UNTYPED))


async def test_a_manifest_that_says_its_type_is_written_as_ever(registry: Registry, store: FaultyStore) -> None:
    for data in (CONFIG, LAYER, SHARED):
        await push(registry, REPO, data)
    for _ in range(2):
        store.calls.clear()
        await registry.manifests.push(REPO, Digest.of(CHILD), CHILD, None, guard=FIXED)
        assert (store.calls["put"], store.calls["head"]) in ((2, 0), (1, 0))
