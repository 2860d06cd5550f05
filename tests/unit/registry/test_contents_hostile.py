"""Looks at what tags hold, where somebody pushed to make them slow or wrong, or the store fails in between."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
)
from tests.unit.registry.test_contents import FIXED, UNTYPED, VENDOR, Replica, blob, manifest

from bucketry.oci import Digest
from bucketry.oci.errors import Denied
from bucketry.oci.media_types import OCI_MANIFEST
from bucketry.registry import Registry, contents, layout
from bucketry.registry.guards import FREE
from bucketry.store.contract import ListPage, Store, Unavailable
from bucketry.store.faults import FaultyStore, Refuse, Rule

CONFIG, LAYER, DEEP = b"{}", blob_bytes(100), blob_bytes(300)


def numbered(body: bytes, number: int) -> bytes:
    return json.dumps({**json.loads(body), "annotations": {"number": str(number)}}).encode()


async def test_manifests_that_many_tags_share_are_looked_through_once(
    registry: Registry, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (CONFIG, LAYER, DEEP):
        await push(registry, REPO, data)
    bodies = [numbered(image(CONFIG, LAYER), number) for number in range(50)]
    for body in (*bodies, shared := index(*bodies)):
        await registry.manifests.push(REPO, Digest.of(body), body, None, guard=FIXED)
    for number in range(60):
        await registry.manifests.push(REPO, f"v{number}", numbered(index(shared), number), None, guard=FIXED)
    looked = 0
    note = contents._Look.note

    def counted(look: contents._Look, one: Digest, named: contents._Named) -> bool:
        nonlocal looked
        looked += 1
        return note(look, one, named)

    monkeypatch.setattr(contents._Look, "note", counted)
    store.calls.clear()
    await registry.blobs.delete(REPO, Digest.of(DEEP), guard=FIXED)
    assert store.calls == {"list": 2, "get": 1 + 60 + 1 + 50, "delete": 1}
    assert looked == 2 * (60 + 1 + 50)


@settings(max_examples=60, deadline=None)
@given(
    graph=st.lists(
        st.tuples(st.sets(st.integers(0, 11), max_size=4), st.booleans(), st.sampled_from(["none", "kept", "stale"])),
        min_size=1,
        max_size=12,
    ),
    remembered=st.sampled_from([0, 7, 1000]),
)
def test_what_is_held_is_what_can_be_reached_from_a_tag_that_is_there(
    graph: list[tuple[set[int], bool, str]], remembered: int
) -> None:
    """Against a search of each tag by itself. ``graph``: of each manifest those below it, whether it names the blob
    that is sought, and whether it has a tag, or a marker of one that never came."""

    async def check() -> None:
        clock = FakeClock()
        registry = await open_registry(memory_store(clock), clock)
        for data in (CONFIG, LAYER, DEEP):
            await push(registry, REPO, data)
        bodies: list[bytes] = []
        reaches: list[bool] = []
        for number, (below, names, tagged) in enumerate(graph):
            children = sorted(child for child in below if child < number)
            plain = index(*(bodies[child] for child in children)) if children else image(CONFIG, LAYER)
            # The blob that is sought is a layer of an image, or listed by an index.
            document = json.loads(numbered(plain, number))
            if names:
                layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(Digest.of(DEEP))}
                document["manifests" if children else "layers"].append({**layer, "size": len(DEEP)})
            bodies.append(json.dumps(document).encode())
            reaches.append(names or any(reaches[child] for child in children))
            digest = Digest.of(bodies[-1])
            await registry.manifests.push(REPO, digest, bodies[-1], None, guard=FIXED)
            if tagged == "kept":
                await registry.manifests.push(REPO, f"v{number}", bodies[-1], None, guard=FIXED)
            elif tagged == "stale":
                await registry.manifests._mark(REPO, digest, f"v{number}", bodies[-1], OCI_MANIFEST)
        clock.advance(2 * contents.UNDER_WAY)
        held = {f"v{number}" for number, (_, _, tagged) in enumerate(graph) if reaches[number] and tagged == "kept"}
        refusal = await registry.blobs._contents.refusal(REPO, Digest.of(DEEP), FIXED)
        assert (refusal is not None) == bool(held)
        if refusal is not None:
            assert json.loads(json.dumps(refusal.detail))["tag"] in held

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "REMEMBERED", remembered)
        asyncio.run(check())


@pytest.mark.parametrize("what", ["blob", "manifest"])
async def test_what_was_removed_is_put_back_where_the_second_look_fails(
    registry: Registry, store: FaultyStore, what: str
) -> None:
    """A tag that came in between may hold it, and nobody could see that."""
    subject = image(CONFIG, DEEP)
    child = image(CONFIG, LAYER, subject=subject)
    for data in (CONFIG, LAYER, DEEP):
        await push(registry, REPO, data)
    for body in (subject, child):
        await registry.manifests.push(REPO, Digest.of(body), body, None, guard=FIXED)
    looks = Rule(Refuse(), operation="list", prefix=layout.markers(REPO), skip=1 if what == "blob" else 2)
    store.add(looks)
    with pytest.raises(Unavailable):
        await (blob(LAYER) if what == "blob" else manifest(child))(registry, FIXED)
    assert (await registry.blobs.stat(REPO, Digest.of(LAYER))).size == len(LAYER)
    assert (await registry.manifests.get(REPO, Digest.of(child))).body == child
    page = await registry.referrers.page(REPO, Digest.of(subject))
    assert [entry.parsed for entry in page.descriptors] == [Digest.of(child)]
    await registry.manifests.delete(REPO, Digest.of(child), guard=FIXED)
    await registry.blobs.delete(REPO, Digest.of(LAYER), guard=FIXED)


async def test_what_is_put_back_gives_no_manifest_another_media_type(clock: FakeClock) -> None:
    """It was deleted, and pushed anew under a tag that is kept before the delete looked again."""
    inner = memory_store(clock)
    pushing, deleting = await Replica.make(inner, clock, 1), await Replica.make(inner, clock, 2)
    for data in (CONFIG, blob_bytes(100), blob_bytes(200)):
        await push(pushing.registry, REPO, data)
    digest = Digest.of(UNTYPED)
    await pushing.registry.manifests.push(REPO, digest, UNTYPED, OCI_MANIFEST, guard=FIXED)
    # It has read the manifest, looked, listed its markers and removed it.
    deleted = await deleting.until(4, deleting.registry.manifests.delete(REPO, digest, guard=FIXED))
    await pushing.registry.manifests.push(REPO, "v1", UNTYPED, VENDOR, guard=FIXED)
    deleting.gate.set()
    with pytest.raises(Denied, match="v1 is immutable"):
        await deleted
    by_tag = await pushing.registry.manifests.get(REPO, "v1")
    assert by_tag == await pushing.registry.manifests.get(REPO, digest)
    assert by_tag.media_type == VENDOR


async def test_few_deletes_look_at_once_and_one_repository_keeps_no_other_waiting(clock: FakeClock) -> None:
    class Counting(FaultyStore):
        def __init__(self, inner: Store) -> None:
            super().__init__(inner)
            self.open = asyncio.Event()
            self.now: Counter[str] = Counter()
            self.most: Counter[str] = Counter()

        async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
            self.now[prefix] += 1
            self.most[prefix] = max(self.most[prefix], self.now[prefix])
            if prefix == layout.markers(REPO):
                await self.open.wait()
            page = await super().list(prefix, after=after, limit=limit)
            self.now[prefix] -= 1
            return page

    store = Counting(memory_store(clock))
    registry = await open_registry(store, clock)
    layers = [blob_bytes(500 + number) for number in range(40)]
    for layer in layers:
        await push(registry, REPO, layer)
    for layer in layers[:3]:
        await push(registry, OTHER, layer)
    running = [asyncio.ensure_future(blob(layer)(registry, FIXED)) for layer in layers]
    async with asyncio.timeout(10):
        for layer in layers[:2]:
            await blob(layer, OTHER)(registry, FIXED)
        await blob(layers[2], OTHER)(registry, FREE)
        store.open.set()
        await asyncio.gather(*running)
    assert store.most[layout.markers(REPO)] == contents.LOOKS_OF_ONE < contents.LOOKS_AT_ONCE
