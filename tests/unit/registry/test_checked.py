"""Small blobs by one PUT that the store checks: what is asked of it, and what becomes of a session at any point."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from base64 import b64encode
from dataclasses import dataclass

import msgspec
import pytest
from tests.unit.registry.helpers import (
    ALICE,
    DAY,
    LONG,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    bytes_of,
    noted,
    open_registry,
    pulled,
    push,
    sized,
    truth,
)

from bucketry.oci import Digest
from bucketry.oci.errors import (
    BlobUnknown,
    DigestMismatch,
    ParameterInvalid,
    SizeInvalid,
    UploadInvalid,
    UploadUnknown,
)
from bucketry.registry import Blob, Opened, Registry, Stage, layout
from bucketry.registry.checked import MOST_EXPIRES, SignedPut
from bucketry.registry.records import BlobRecord, BlobState, decode, encode
from bucketry.registry.sweep import MARGIN
from bucketry.store.contract import IF_ABSENT, Capabilities, PreconditionFailed, PresignedPut
from bucketry.store.faults import CrashAfter, CrashBefore, Crashed, FaultyStore, Rule
from bucketry.store.memory import MemoryStore

DATA = blob_bytes(PART)
DIGEST = Digest.of(DATA)
HOUR = 3600.0


class CheckingStore(MemoryStore):
    """A store that checks presigned PUTs; `client_puts` is what a client does with one."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(presign=True, presign_part=True, checked_put=True)

    async def presign_put(self, key: str, *, size: int, sha256: bytes, expires: float) -> PresignedPut:
        headers = {"content-length": str(size), "x-sha256": b64encode(sha256).decode(), "if-none-match": "*"}
        return PresignedPut(f"https://store.test/{key}?expires={expires:g}", headers)

    async def client_puts(self, put: SignedPut, body: bytes) -> int:
        """The status."""
        key = put.url.removeprefix("https://store.test/").partition("?")[0]
        if put.headers["content-length"] != str(len(body)):
            return 403
        if put.headers["x-sha256"] != b64encode(hashlib.sha256(body).digest()).decode():
            return 400
        try:
            await self.put(key, body, condition=IF_ABSENT)
        except PreconditionFailed:
            return 412
        return 200


@pytest.fixture
def inner(clock: FakeClock) -> CheckingStore:
    return CheckingStore(clock=clock.now, min_part=1)


@dataclass
class Upload:
    """One blob on its way, by any replica."""

    bucket: CheckingStore
    opened: Opened
    data: bytes = DATA

    @property
    def put(self) -> SignedPut:
        assert self.opened.put is not None
        return self.opened.put

    async def send(self) -> None:
        assert await self.bucket.client_puts(self.put, self.data) == 200

    async def complete(self, registry: Registry, *, digest: Digest | None = None, size: int | None = None) -> Blob:
        done = await registry.parallel.complete(
            REPO,
            ALICE,
            self.opened.session_id,
            digest or Digest.of(self.data),
            len(self.data) if size is None else size,
            None,
            wait=5.0,
        )
        assert isinstance(done, Blob)
        return done

    async def status(self, registry: Registry) -> dict[int, int]:
        found = await registry.parallel.status(REPO, ALICE, self.opened.session_id)
        assert found.state is Stage.OPEN
        return {part.number: part.size for part in found.parts}

    async def cancel(self, registry: Registry) -> None:
        await registry.parallel.cancel(REPO, ALICE, self.opened.session_id)


async def begin(registry: Registry, bucket: CheckingStore, data: bytes = DATA, *, expires: float = 600) -> Upload:
    opened = await registry.parallel.begin(REPO, ALICE, digest=Digest.of(data), size=len(data), expires=expires)
    assert isinstance(opened, Opened)
    assert opened.put is not None
    assert (opened.max_parts, opened.direct) == (1, True)
    return Upload(bucket, opened, data)


async def nothing_left(inner: CheckingStore) -> None:
    after = await truth(inner)
    assert after.problems == []
    assert (after.sessions, after.multiparts, after.orphans) == (set(), 0, [])


@pytest.mark.parametrize("size", [1, PART - 1, PART])
async def test_a_small_blob_is_one_put(registry: Registry, inner: CheckingStore, size: int) -> None:
    data = blob_bytes(size)
    upload = await begin(registry, inner, data)
    await upload.send()

    blob = await upload.complete(registry)

    assert (blob.digest, blob.size) == (Digest.of(data), size)
    assert await pulled(registry, REPO, blob.digest) == data
    await registry.close()
    await nothing_left(inner)


async def test_it_costs_six_requests_and_reads_nothing_back(
    registry: Registry, inner: CheckingStore, store: FaultyStore
) -> None:
    upload = await begin(registry, inner)
    await upload.send()

    await upload.complete(registry)

    # The link and the record that are not there; session; object; record, link. A signature asks nobody.
    assert dict(store.calls) == {"get": 2, "put": 3, "head": 1, "presign_put": 1}


async def test_what_is_not_so_small_or_not_known_goes_in_parts(registry: Registry, inner: CheckingStore) -> None:
    long = blob_bytes(PART + 1)
    for digest, size, expires in (
        (Digest.of(long), PART + 1, 60.0),
        (Digest.of(b""), 0, 60.0),
        (Digest.of(DATA, "sha512"), PART, 60.0),
        (DIGEST, None, 60.0),
        (None, PART, 60.0),
        (DIGEST, PART, None),
    ):
        opened = await registry.parallel.begin(REPO, ALICE, digest=digest, size=size, expires=expires)
        assert isinstance(opened, Opened)
        assert opened.put is None
    assert (await truth(inner)).multiparts == 6


async def test_a_store_that_was_not_found_to_check_gets_no_such_put(clock: FakeClock) -> None:
    registry = await open_registry(MemoryStore(clock=clock.now, min_part=1), clock)
    opened = await registry.parallel.begin(REPO, ALICE, digest=DIGEST, size=PART, expires=60)
    assert isinstance(opened, Opened)
    assert opened.put is None
    assert registry.parallel.put_up_to == 0


async def test_a_blob_that_is_there_needs_no_put(registry: Registry) -> None:
    await push(registry, OTHER, DATA)
    found = await registry.parallel.begin(REPO, ALICE, digest=DIGEST, size=PART, expires=60)
    assert isinstance(found, Blob)


async def test_a_completion_before_the_bytes_says_that_they_are_missing(
    registry: Registry, inner: CheckingStore
) -> None:
    upload = await begin(registry, inner)
    with pytest.raises(UploadInvalid) as raised:
        await upload.complete(registry)
    assert raised.value.detail == {"missing": [1]}
    assert await upload.status(registry) == {}
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)

    await upload.send()

    assert await upload.status(registry) == {1: PART}
    await upload.complete(registry)
    assert await pulled(registry, REPO, DIGEST) == DATA


async def test_nobody_sees_the_bytes_before_they_are_published(registry: Registry, inner: CheckingStore) -> None:
    await (await begin(registry, inner)).send()
    for repository in (REPO, OTHER):
        with pytest.raises(BlobUnknown):
            await registry.blobs.find(repository, DIGEST)
        assert await registry.blobs.mount(repository, DIGEST, None) is None


async def test_a_completion_is_answered_the_same_each_time(
    registry: Registry, inner: CheckingStore, clock: FakeClock
) -> None:
    other = await open_registry(inner, clock, replica=2)
    upload = await begin(registry, inner)
    await upload.send()
    first = await upload.complete(other)
    assert await upload.complete(registry) == first
    await other.close()
    assert await upload.complete(other) == first
    third = await open_registry(inner, clock, replica=3)
    assert await upload.complete(third) == first
    await registry.close()
    await nothing_left(inner)


async def test_all_who_complete_at_once_get_the_same_blob(
    registry: Registry, inner: CheckingStore, clock: FakeClock
) -> None:
    other = await open_registry(inner, clock, replica=2)
    upload = await begin(registry, inner)
    await upload.send()

    blobs = await asyncio.gather(*(upload.complete(each) for each in (registry, other) * 4))

    assert len(set(blobs)) == 1
    assert await pulled(other, REPO, DIGEST) == DATA
    await registry.close()
    await other.close()
    await nothing_left(inner)


async def test_the_blob_must_be_the_one_that_was_announced(registry: Registry, inner: CheckingStore) -> None:
    upload = await begin(registry, inner)
    await upload.send()
    with pytest.raises(UploadInvalid):
        await upload.complete(registry, digest=Digest.of(b"other"))
    with pytest.raises(SizeInvalid):
        await upload.complete(registry, size=PART - 1)
    with pytest.raises(DigestMismatch):
        await registry.parallel.complete(
            REPO, ALICE, upload.opened.session_id, DIGEST, PART, noted(blob_bytes(PART, 1)).encode(), wait=0
        )
    await upload.complete(registry)


async def test_of_a_store_that_lies_at_least_the_length_is_seen(registry: Registry, inner: CheckingStore) -> None:
    upload = await begin(registry, inner)
    await inner.put(upload.put.url.removeprefix("https://store.test/").partition("?")[0], DATA + b"more")
    assert await upload.status(registry) == {}
    with pytest.raises(DigestMismatch, match=r"store\.checked_put"):
        await upload.complete(registry)
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)


async def test_a_put_that_comes_again_changes_nothing(registry: Registry, inner: CheckingStore) -> None:
    upload = await begin(registry, inner)
    await upload.send()
    assert await inner.client_puts(upload.put, DATA) == 412
    await upload.complete(registry)
    assert await inner.client_puts(upload.put, DATA) == 412
    assert await pulled(registry, REPO, DIGEST) == DATA


async def test_a_session_is_its_principals_and_its_repositorys(registry: Registry, inner: CheckingStore) -> None:
    session = (await begin(registry, inner)).opened.session_id
    for repository, principal in ((OTHER, ALICE), (REPO, "mallory")):
        with pytest.raises(UploadUnknown):
            await registry.parallel.signed_put(repository, principal, session, expires=60)
        with pytest.raises(UploadUnknown):
            await registry.parallel.complete(repository, principal, session, DIGEST, PART, None, wait=0)
        with pytest.raises(UploadUnknown):
            await registry.parallel.cancel(repository, principal, session)


async def test_a_session_cannot_pass_for_one_of_parts_nor_the_other_way_round(
    registry: Registry, inner: CheckingStore
) -> None:
    upload = await begin(registry, inner)
    with pytest.raises(ParameterInvalid):
        await registry.parallel.urls(REPO, ALICE, upload.opened.session_id, [1], expires=60)
    with pytest.raises(UploadUnknown):
        await registry.parallel.status(REPO, ALICE, upload.opened.session_id.replace(".checked.", ".sha256."))
    parts = await registry.parallel.begin(REPO, ALICE, digest=DIGEST, size=PART)
    assert isinstance(parts, Opened)
    assert await registry.parallel.signed_put(REPO, ALICE, parts.session_id, expires=60) is None
    with pytest.raises(UploadUnknown):
        await registry.parallel.signed_put(REPO, ALICE, parts.session_id.replace(".sha256.", ".checked."), expires=60)


# ---- where to put it


async def test_where_to_put_it_is_told_again_by_any_replica(
    registry: Registry, inner: CheckingStore, clock: FakeClock
) -> None:
    other = await open_registry(inner, clock, replica=2)
    upload = await begin(registry, inner)
    again = await other.parallel.signed_put(REPO, ALICE, upload.opened.session_id, expires=90)
    assert again is not None
    assert again.expires == 90
    assert again.headers == upload.put.headers
    assert again.url.partition("?")[0] == upload.put.url.partition("?")[0]


async def test_no_put_outlives_its_session_or_the_grace_of_a_collector(
    registry: Registry, inner: CheckingStore, clock: FakeClock
) -> None:
    upload = await begin(registry, inner, expires=7 * DAY)
    assert upload.put.expires == MOST_EXPIRES < HOUR
    clock.advance(DAY - 60)
    again = await registry.parallel.signed_put(REPO, ALICE, upload.opened.session_id, expires=600)
    assert again is not None
    assert again.expires == 60
    clock.advance(61)
    with pytest.raises(UploadUnknown):
        await registry.parallel.signed_put(REPO, ALICE, upload.opened.session_id, expires=600)


# ---- through the registry


async def test_the_registry_takes_the_blob_and_checks_it_as_the_store_does(
    registry: Registry, inner: CheckingStore
) -> None:
    upload = await begin(registry, inner)
    session = upload.opened.session_id
    with pytest.raises(DigestMismatch):
        await registry.parallel.put_part(REPO, ALICE, session, 1, sized(blob_bytes(PART, 1)))
    with pytest.raises(SizeInvalid):
        await registry.parallel.put_part(REPO, ALICE, session, 1, sized(DATA[:-1]))
    with pytest.raises(ParameterInvalid):
        await registry.parallel.put_part(REPO, ALICE, session, 2, sized(DATA))
    assert await upload.status(registry) == {}
    for _ in range(2):
        part = await registry.parallel.put_part(REPO, ALICE, session, 1, sized(DATA))
        assert (part.number, part.size) == (1, PART)
    assert await inner.client_puts(upload.put, DATA) == 412
    await upload.complete(registry)
    assert await pulled(registry, REPO, DIGEST) == DATA


# ---- the end of it


@pytest.mark.parametrize("sent", [True, False])
async def test_an_abandoned_session_is_swept_with_its_bytes(
    registry: Registry, inner: CheckingStore, clock: FakeClock, sent: bool
) -> None:
    upload = await begin(registry, inner)
    if sent:
        await upload.send()
    clock.advance(DAY + MARGIN - 1)
    assert (await registry.sweeper.sweep()).sessions == 0
    clock.advance(2)

    swept = await registry.sweeper.sweep()

    assert (swept.sessions, swept.uploads) == (1, 0)
    await nothing_left(inner)
    with pytest.raises(UploadUnknown):
        await upload.complete(registry)


async def test_what_was_published_is_not_swept(registry: Registry, inner: CheckingStore, clock: FakeClock) -> None:
    """Though its session stays, as the process died before it removed it."""
    upload = await begin(registry, inner)
    await upload.send()
    await upload.complete(registry)
    clock.advance(LONG)

    assert (await registry.sweeper.sweep()).data == 0
    assert await pulled(registry, REPO, DIGEST) == DATA


async def test_a_cancelled_session_takes_nothing_and_frees_what_comes_all_the_same(
    registry: Registry, inner: CheckingStore, clock: FakeClock
) -> None:
    other = await open_registry(inner, clock, replica=2)
    upload = await begin(registry, inner)
    await upload.cancel(registry)
    for each in (registry, other):
        with pytest.raises(UploadUnknown):
            await upload.complete(each)
        with pytest.raises(UploadUnknown):
            await each.parallel.signed_put(REPO, ALICE, upload.opened.session_id, expires=60)
        with pytest.raises(UploadUnknown):
            await upload.cancel(each)
    await upload.send()
    await registry.close()
    clock.advance(LONG)

    await registry.sweeper.sweep()

    await nothing_left(inner)


async def test_a_cancel_at_any_moment_of_a_completion_takes_no_bytes_from_a_blob(clock: FakeClock) -> None:
    for number in itertools.count(1):
        inner = CheckingStore(clock=clock.now, min_part=1)
        registry = await open_registry(inner, clock)
        upload = await begin(registry, inner)
        await upload.send()
        store = FaultyStore(inner, [Rule(CrashBefore(), at=number)])
        other = await open_registry(store, clock, replica=2)
        try:
            await upload.complete(other)
        except Crashed:
            await upload.cancel(registry)
        else:
            break
        clock.advance(LONG)
        await registry.sweeper.sweep()
        assert (await truth(inner)).problems == []
    assert number > 4


async def test_the_same_blob_by_another_upload_meanwhile(
    registry: Registry, inner: CheckingStore, clock: FakeClock
) -> None:
    """The bytes that lost stay until they are swept: somebody else may be about to publish them."""
    upload = await begin(registry, inner)
    await upload.send()
    await push(registry, OTHER, DATA)

    blob = await upload.complete(registry)

    assert await bytes_of(registry, blob) == DATA
    await registry.close()
    after = await truth(inner)
    assert after.problems == []
    assert (len(after.orphans), len(after.sessions)) == (1, 1)
    clock.advance(LONG)
    await registry.sweeper.sweep()
    await nothing_left(inner)
    assert await pulled(registry, REPO, DIGEST) == DATA


async def test_bytes_that_a_collector_is_about_to_delete_are_not_published_again(
    registry: Registry, inner: CheckingStore, clock: FakeClock
) -> None:
    other = await open_registry(inner, clock, replica=2)
    upload = await begin(registry, inner)
    await upload.send()
    await upload.complete(other)
    await other.blobs.delete(REPO, DIGEST)
    held = await inner.get(layout.record(DIGEST))
    record = decode(held.body, BlobRecord, held.info.key)
    await inner.put(held.info.key, encode(msgspec.structs.replace(record, state=BlobState.GONE)))

    with pytest.raises(UploadUnknown):
        await upload.complete(registry)

    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, DIGEST)


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()])
async def test_a_process_may_die_at_any_store_call(clock: FakeClock, crash: CrashBefore | CrashAfter) -> None:
    """Another one goes on with the session, or a new one makes the blob; and nothing is left behind."""
    died = 0
    for number in itertools.count(1):
        inner = CheckingStore(clock=clock.now, min_part=1)
        await open_registry(inner, clock)
        store = FaultyStore(inner)
        first = await open_registry(store, clock, replica=2)
        second = await open_registry(inner, clock, replica=3)
        store.add(Rule(crash, at=len(store.log) + number))
        upload: Upload | None = None
        try:
            upload = await begin(first, inner)
            await upload.send()
            await upload.complete(first)
        except Crashed:
            died += 1
        assert (await truth(inner)).problems == []
        if upload is None:
            upload = await begin(second, inner)
        await inner.client_puts(upload.put, DATA)
        await upload.complete(second)
        assert await pulled(second, REPO, DIGEST) == DATA
        if not store.crashed:
            break
        await second.close()
        clock.advance(LONG)
        await second.sweeper.sweep()
        await nothing_left(inner)
    assert died == 6
