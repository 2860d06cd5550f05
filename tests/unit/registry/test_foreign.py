"""Blobs whose bytes are another program's: served like any other, and never written or deleted, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import pytest
from tests.unit.registry.helpers import (
    ALICE,
    LONG,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    get_or_none,
    image,
    keys,
    noted,
    open_registry,
    placed,
    pulled,
    push,
    push_chunks,
    push_patch_put,
    streamed,
)

from bucketry.oci import Digest
from bucketry.registry import Registry, layout
from bucketry.registry.records import BlobRecord, BlobState, decode, encode
from bucketry.registry.sweep import Swept
from bucketry.store.checks import is_foreign
from bucketry.store.contract import Corrupt, NotFound, PendingUpload, Store
from bucketry.store.faults import FaultyStore
from bucketry.store.memory import MemoryStore

DATA = blob_bytes(3 * PART + 5)
DIGEST = Digest.of(DATA)
THEIRS = f"docker/registry/v2/blobs/sha256/{DIGEST.hex[:2]}/{DIGEST.hex}/data"
READS = {"get", "head", "read", "list", "presign_get"}


@pytest.fixture(autouse=True)
def planted(inner: MemoryStore) -> None:
    inner.plant(THEIRS, DATA)


async def adopt(registry: Registry, repository: str = REPO) -> str:
    """Where the blob's bytes are, once the repository has it."""
    blob = await registry.blobs.publish(repository, DIGEST, len(DATA), THEIRS, exclusive=False, checkpoints=noted(DATA))
    return blob.data


async def record_of(store: Store) -> BlobRecord:
    key = layout.record(DIGEST)
    return decode((await store.get(key)).body, BlobRecord, key)


async def set_state(store: Store, state: BlobState) -> None:
    record = msgspec.structs.replace(await record_of(store), state=state)
    await store.put(layout.record(DIGEST), encode(record))


def check_untouched(store: FaultyStore) -> None:
    """Nobody so much as tried."""
    for call in store.log:
        if any(map(is_foreign, call.keys)):
            assert call.operation in READS, call


async def test_adopted_bytes_are_a_blob_like_any_other(registry: Registry, store: FaultyStore) -> None:
    assert await adopt(registry) == THEIRS
    assert await pulled(registry, REPO, DIGEST) == DATA
    assert (await registry.blobs.stat(REPO, DIGEST)).data == THEIRS
    assert await registry.blobs.missing(REPO, [DIGEST]) == []
    await registry.manifests.push(REPO, "v1", image(DATA), None)
    mounted = await registry.blobs.mount(OTHER, DIGEST, REPO)
    assert mounted is not None
    assert mounted.data == THEIRS
    assert await registry.blobs.checkpoints(OTHER, DIGEST) == noted(DATA).encode()
    check_untouched(store)


async def test_bytes_of_another_program_are_nobodys_to_call_exclusive(registry: Registry, store: FaultyStore) -> None:
    await push(registry, OTHER, DATA)
    before = store.calls.total()
    with pytest.raises(ValueError, match="another program"):
        await registry.blobs.publish(REPO, DIGEST, len(DATA), THEIRS, exclusive=True)
    assert store.calls.total() == before


async def test_what_was_pushed_before_keeps_its_bytes(
    registry: Registry, store: FaultyStore, inner: MemoryStore
) -> None:
    await push(registry, OTHER, DATA)
    [own] = await keys(inner, "data/")

    assert await adopt(registry) == own

    assert await pulled(registry, REPO, DIGEST) == DATA
    assert await keys(inner, "data/") == [own]
    check_untouched(store)


async def test_no_push_delete_or_sweep_touches_adopted_bytes(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    await adopt(registry)
    for repository in (REPO, OTHER):
        await push(registry, repository, DATA)
        await push_patch_put(registry, repository, DATA)
        await push_chunks(registry, repository, DATA, PART)
        session = registry.uploads.begin(repository, ALICE).session_id
        await registry.uploads.append(repository, ALICE, session, streamed(DATA), continued=False)
        assert await pulled(registry, repository, DIGEST) == DATA
        await registry.blobs.delete(repository, DIGEST)
    clock.advance(LONG)
    await registry.sweeper.sweep()

    assert await keys(inner, "data/") == []  # One blob has the bytes of one key, and these came later.
    assert (await record_of(inner)).data == THEIRS
    assert (await inner.get(THEIRS)).body == DATA
    check_untouched(store)


@pytest.mark.parametrize("state", list(BlobState))
async def test_adopting_again_revives_a_record_that_was_given_up(
    registry: Registry, store: FaultyStore, inner: MemoryStore, state: BlobState
) -> None:
    """Own bytes of a record that is gone are about to be deleted; these never are."""
    await adopt(registry)
    await set_state(inner, state)

    assert await adopt(registry, OTHER) == THEIRS

    assert (await record_of(inner)).state is BlobState.LIVE
    assert await pulled(registry, OTHER, DIGEST) == DATA
    assert (await registry.blobs.stat(REPO, DIGEST)).data == THEIRS
    check_untouched(store)


async def test_a_record_is_not_revived_with_bytes_that_the_old_registry_deleted(
    registry: Registry, inner: MemoryStore
) -> None:
    await adopt(registry)
    await set_state(inner, BlobState.GONE)
    inner.uproot(THEIRS)

    with pytest.raises(NotFound):
        await adopt(registry)

    assert (await record_of(inner)).state is BlobState.GONE


async def test_a_push_after_adopted_bytes_were_given_up_brings_its_own(
    registry: Registry, store: FaultyStore, inner: MemoryStore
) -> None:
    await adopt(registry)
    await set_state(inner, BlobState.GONE)

    await push(registry, OTHER, DATA)

    [own] = await keys(inner, "data/")
    assert (await record_of(inner)).data == own
    assert await pulled(registry, OTHER, DIGEST) == DATA
    check_untouched(store)


async def misled(registry: Registry, inner: MemoryStore) -> tuple[str, str]:
    """A session that says that its bytes are those of the other program: its id and its key."""
    session = registry.uploads.begin(REPO, ALICE).session_id
    await registry.uploads.append(REPO, ALICE, session, placed(DATA, 0), continued=False)
    [key] = await keys(inner, layout.UPLOADS_PREFIX)
    line, _, tail = (await inner.get(key)).body.partition(b"\n")
    said = {**json.loads(line), "data": THEIRS}
    await inner.put(key, json.dumps(said).encode() + b"\n" + tail)
    return session, key


async def test_a_session_that_names_foreign_bytes_is_corrupt(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    session, _ = await misled(registry, inner)
    other = await open_registry(store, clock, replica=2)
    with pytest.raises(Corrupt, match="docker/registry/v2"):
        await other.uploads.commit(REPO, ALICE, session, DIGEST, None, continued=True)
    with pytest.raises(Corrupt, match="docker/registry/v2"):
        await other.uploads.cancel(REPO, ALICE, session)
    check_untouched(store)


async def test_a_sweep_ends_such_a_session_and_leaves_the_bytes(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    _, key = await misled(registry, inner)
    clock.advance(LONG)

    swept = await registry.sweeper.sweep()

    assert (swept.sessions, swept.data) == (1, 0)
    assert await get_or_none(inner, key) is None
    assert (await inner.get(THEIRS)).body == DATA
    check_untouched(store)


class TellingAll(MemoryStore):
    """A store that tells of every upload in the bucket."""

    async def list_multiparts(self) -> Sequence[PendingUpload]:
        theirs = PendingUpload("docker/registry/v2/repositories/a/_uploads/1/data", "x", 0.0)
        return (theirs, PendingUpload("elsewhere/y", "y", 0.0), *await super().list_multiparts())


async def test_a_sweep_leaves_the_uploads_of_others_alone(clock: FakeClock) -> None:
    store = FaultyStore(TellingAll(clock=clock.now, min_part=1))
    registry = await open_registry(store, clock)
    await store.create_multipart("data/ab/abc", part_size=PART)
    clock.advance(LONG)

    assert await registry.sweeper.sweep() == Swept(0, 1, 0)

    assert [call.keys for call in store.log if call.operation == "abort_multipart"] == [("data/ab/abc",)]
