"""The verbs of the parallel extension: begin, status, urls, parts, complete, cancel; and who may use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

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
    interrupted,
    noted,
    open_registry,
    placed,
    pulled,
    push,
    sized,
    streamed,
    truth,
)
from tests.unit.registry.parallel import Client, presigning_store

from bucketry.oci import Digest
from bucketry.oci.errors import (
    BlobUnknown,
    DigestMismatch,
    ParameterInvalid,
    SizeInvalid,
    UploadInvalid,
    UploadUnknown,
)
from bucketry.registry import Blob, BodyInterrupted, Opened, Registry, Stage
from bucketry.registry.parallel import MAX_URLS
from bucketry.registry.sweep import MARGIN
from bucketry.store.contract import MAX_PARTS
from bucketry.store.faults import FaultyStore
from bucketry.store.memory import MemoryStore

DATA = blob_bytes(5 * PART + 9)
DIGEST = Digest.of(DATA)
SIZES = [0, 1, PART - 1, PART, PART + 1, 4 * PART, len(DATA)]


@pytest.fixture
def client(registry: Registry) -> Client:
    return Client(registry, DATA)


# ---- a blob in parts


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("with_list", [True, False])
@pytest.mark.parametrize("size", SIZES)
async def test_a_blob_in_parts(registry: Registry, inner: MemoryStore, size: int, with_list: bool, known: bool) -> None:
    client = Client(registry, blob_bytes(size))
    await client.begin(known=known)
    await client.put()

    blob = await client.complete(with_list=with_list)

    assert isinstance(blob, Blob)
    assert (blob.digest, blob.size) == (client.digest, size)
    assert await pulled(registry, REPO, client.digest) == client.data
    await registry.close()
    after = await truth(inner)
    assert after.problems == []
    assert (after.sessions, after.multiparts, after.orphans, after.stray) == (set(), 0, [], [])
    if size > PART:
        assert after.checkpoints[client.digest].digest == client.digest.hex


async def test_a_blob_with_a_sha512(registry: Registry, inner: MemoryStore) -> None:
    digest = Digest.of(DATA, "sha512")
    begun = await registry.parallel.begin(REPO, ALICE, digest=digest, size=len(DATA))
    assert isinstance(begun, Opened)
    client = Client(registry, DATA)
    client.opened = begun
    await client.put()

    with pytest.raises(ParameterInvalid):
        await client.complete(digest=digest)
    await client.complete(digest=digest, checkpoints=None)

    assert await pulled(registry, REPO, digest) == DATA
    assert (await truth(inner)).problems == []


async def test_every_request_on_another_replica(inner: MemoryStore, clock: FakeClock) -> None:
    replicas = [await open_registry(inner, clock, replica=number) for number in range(1, 8)]
    client = Client(replicas[0], DATA)
    await client.begin()
    for number in client.parts:
        client.registry = replicas[number]
        await client.put([number])

    client.registry = replicas[3]
    await client.complete()

    assert await pulled(replicas[5], REPO, DIGEST) == DATA
    assert (await truth(inner)).problems == []


async def test_a_part_may_be_sent_twice(client: Client) -> None:
    await client.begin()
    await client.put()
    await client.put([2, 3])

    assert isinstance(await client.complete(), Blob)


async def test_what_a_blob_costs_the_store(client: Client, store: FaultyStore) -> None:
    """Link and record are looked for; the upload and its session begin; each part looks at the session where another
    replica began it; then session, parts, claim, completion, head, reads; checkpoints, record, link, session."""
    await client.begin()
    await client.put()
    await client.complete()

    calls = dict(store.calls)
    parts = len(client.parts)
    assert (calls.pop("put_part"), calls.pop("read")) == (parts, parts)
    assert calls == {
        "get": 3,
        "create_multipart": 1,
        "put": 6,
        "list_parts": 1,
        "complete_multipart": 1,
        "head": 1,
    }


# ---- begin


async def test_what_the_repository_has_is_not_sent_and_its_lease_is_renewed(
    registry: Registry, store: FaultyStore, clock: FakeClock
) -> None:
    await push(registry, REPO, DATA)
    clock.advance(DAY)
    store.calls.clear()

    found = await registry.parallel.begin(REPO, ALICE, digest=DIGEST, size=len(DATA))

    assert isinstance(found, Blob)
    assert store.calls == {"get": 2, "put": 1}


async def test_what_another_repository_has_is_mounted_where_that_is_allowed(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    await push(registry, OTHER, DATA)
    strict = await open_registry(inner, clock, replica=2, mount_without_source=False)

    assert isinstance(await strict.parallel.begin(REPO, ALICE, digest=DIGEST), Opened)
    with pytest.raises(BlobUnknown):
        await registry.blobs.find(REPO, DIGEST)
    assert isinstance(await registry.parallel.begin(REPO, ALICE, digest=DIGEST), Blob)
    assert await pulled(registry, REPO, DIGEST) == DATA


async def test_a_session_says_how_to_use_it(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    known = await registry.parallel.begin(REPO, ALICE, digest=DIGEST, size=len(DATA), part_size=1)
    unknown = await registry.parallel.begin(REPO, ALICE, part_size=3 * PART)
    direct = await (await open_registry(presigning_store(clock), clock)).parallel.begin(REPO, ALICE)

    assert isinstance(known, Opened)
    assert isinstance(unknown, Opened)
    assert isinstance(direct, Opened)
    assert (known.part_size, known.max_parts, known.segment, known.direct) == (PART, 6, PART, False)
    assert (unknown.part_size, unknown.max_parts, unknown.direct) == (3 * PART, MAX_PARTS, False)
    assert direct.direct
    assert (await truth(inner)).multiparts == 2


async def test_an_impossible_size_begins_nothing(registry: Registry, store: FaultyStore) -> None:
    for size in (-1, 2**60):
        with pytest.raises(SizeInvalid):
            await registry.parallel.begin(REPO, ALICE, size=size)

    assert store.log == []


# ---- status


async def test_status_says_which_parts_are_there(client: Client) -> None:
    await client.begin()
    await client.put([1, 3, 6])

    found = await client.registry.parallel.status(REPO, ALICE, client.session)

    assert (found.state, found.part_size, found.digest, found.size) == (Stage.OPEN, PART, DIGEST, len(DATA))
    assert [(part.number, part.size) for part in found.parts] == [(1, PART), (3, PART), (6, 9)]
    assert (found.verified, found.error) == (0, None)


async def test_status_of_what_was_not_announced_and_of_what_is_done(
    client: Client, inner: MemoryStore, clock: FakeClock
) -> None:
    await client.begin(known=False)
    found = await client.registry.parallel.status(REPO, ALICE, client.session)
    assert (found.digest, found.size, found.parts) == (None, None, ())
    await client.put()
    await client.complete()

    other = await open_registry(inner, clock, replica=2)
    found = await other.parallel.status(REPO, ALICE, client.session)
    assert (found.state, found.digest, found.size, found.verified) == (Stage.DONE, DIGEST, len(DATA), len(DATA))
    await client.registry.close()
    with pytest.raises(UploadUnknown):
        await other.parallel.status(REPO, ALICE, client.session)


async def test_status_of_a_session_whose_upload_the_store_ended(client: Client, inner: MemoryStore) -> None:
    """R2 does so after seven days."""
    await client.begin()
    session = await client.stored(inner)
    assert session.data is not None
    assert session.upload is not None
    await inner.abort_multipart(session.data, session.upload)

    for verb in VERBS.values():
        with pytest.raises(UploadUnknown):
            await verb(client)


# ---- urls


async def test_urls_of_a_store_that_has_them(clock: FakeClock) -> None:
    registry = await open_registry(presigning_store(clock), clock)
    client = Client(registry, DATA)
    await client.begin()

    urls = await registry.parallel.urls(REPO, ALICE, client.session, [3, 1, 3], expires=60)

    assert urls is not None
    assert sorted(urls) == [1, 3]
    assert "part=3&expires=60" in urls[3]
    for numbers in ([0], [7], [1, -1], [MAX_PARTS + 1]):
        with pytest.raises(ParameterInvalid, match="1 to 6"):
            await registry.parallel.urls(REPO, ALICE, client.session, numbers, expires=60)


async def test_urls_of_a_store_that_has_none(client: Client) -> None:
    await client.begin()

    assert await client.registry.parallel.urls(REPO, ALICE, client.session, [1], expires=60) is None


async def test_a_thousand_urls_at_a_time(clock: FakeClock) -> None:
    registry = await open_registry(presigning_store(clock), clock)
    client = Client(registry, DATA)
    await client.begin(known=False)

    found = await registry.parallel.urls(REPO, ALICE, client.session, range(1, MAX_URLS + 1), expires=60)
    assert found is not None
    assert len(found) == MAX_URLS
    with pytest.raises(ParameterInvalid, match=str(MAX_URLS)):
        await registry.parallel.urls(REPO, ALICE, client.session, range(1, MAX_URLS + 2), expires=60)


# ---- parts


@pytest.mark.parametrize("number", [0, -1, 7, MAX_PARTS + 1])
async def test_a_part_that_the_blob_does_not_have(client: Client, number: int) -> None:
    await client.begin()

    with pytest.raises(ParameterInvalid):
        await client.registry.parallel.put_part(REPO, ALICE, client.session, number, sized(DATA[:PART]))


@pytest.mark.parametrize(
    ("number", "size"), [(1, PART - 1), (1, PART + 1), (6, 8), (6, 10), (6, PART), (1, 0), (1, 100 * PART)]
)
@pytest.mark.parametrize("make", [sized, streamed])
async def test_a_part_of_another_size_than_its_place(
    client: Client, store: FaultyStore, number: int, size: int, make: Callable[[bytes], Any]
) -> None:
    await client.begin()

    with pytest.raises(SizeInvalid):
        await client.registry.parallel.put_part(REPO, ALICE, client.session, number, make(blob_bytes(size)))

    assert store.calls["put_part"] == 0
    assert client.registry.uploads.budget.used == 0


async def test_a_part_is_at_most_as_long_as_parts_are_where_the_size_is_not_known(client: Client) -> None:
    opened = await client.begin(known=False)
    put_part = client.registry.parallel.put_part

    for size in (0, opened.part_size + 1):
        with pytest.raises(SizeInvalid):
            await put_part(REPO, ALICE, client.session, 1, sized(blob_bytes(size)))
    part = await put_part(REPO, ALICE, client.session, 9, sized(blob_bytes(opened.part_size)))

    assert (part.number, part.size) == (9, opened.part_size)


async def test_nothing_is_kept_of_a_part_that_is_interrupted(client: Client) -> None:
    await client.begin()
    chunk = sized(DATA[:PART])
    body = type(chunk)(interrupted(DATA[:20]), PART)

    with pytest.raises(BodyInterrupted):
        await client.registry.parallel.put_part(REPO, ALICE, client.session, 1, body)

    assert (await client.registry.parallel.status(REPO, ALICE, client.session)).parts == ()
    assert client.registry.uploads.budget.used == 0


async def test_a_session_of_this_process_is_not_read_for_each_part(
    client: Client, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    await client.begin()
    store.calls.clear()
    await client.put()
    assert set(store.calls) == {"put_part"}

    client.registry = await open_registry(inner, clock, replica=2)
    await client.put()


# ---- complete: what is refused, and leaves the session open


async def test_missing_parts_are_told_and_can_be_sent(client: Client) -> None:
    await client.begin()
    await client.put([1, 2, 5])

    with pytest.raises(UploadInvalid) as caught:
        await client.complete()

    assert caught.value.detail == {"missing": [3, 4, 6]}
    await client.put([3, 4, 6])
    assert isinstance(await client.complete(), Blob)


async def test_a_short_part_in_the_middle_is_told_and_can_be_sent(clock: FakeClock) -> None:
    """By a URL anything may come."""
    store = presigning_store(clock)
    registry = await open_registry(store, clock)
    client = Client(registry, DATA)
    await client.begin()
    await client.put()
    session = await client.stored(store)
    assert session.data is not None
    assert session.upload is not None
    await store.put_part(session.data, session.upload, 3, DATA[: PART - 1], offset=2 * PART)

    with pytest.raises(SizeInvalid) as caught:
        await client.complete()

    assert caught.value.detail == {"parts": [{"number": 3, "size": PART - 1, "expected": PART}]}
    await client.put([3])
    assert isinstance(await client.complete(), Blob)


@pytest.mark.parametrize("size", [0, PART, len(DATA) - 1, len(DATA) + 1, len(DATA) + PART, -1, 2**60])
async def test_another_size_than_the_parts_make(client: Client, size: int) -> None:
    await client.begin(known=False, part_size=PART)
    await client.put()

    with pytest.raises((SizeInvalid, UploadInvalid)):
        await client.complete(size=size, with_list=False)

    assert isinstance(await client.complete(), Blob)


async def test_another_blob_than_was_announced(client: Client) -> None:
    await client.begin()
    await client.put()

    with pytest.raises(UploadInvalid, match="cannot become"):
        await client.complete(digest=Digest.of(b"other"), with_list=False)
    with pytest.raises(SizeInvalid, match="cannot become"):
        await client.complete(size=len(DATA) - PART, with_list=False)

    assert isinstance(await client.complete(), Blob)


async def test_checkpoints_of_another_blob_are_refused_before_anything_is_done(
    client: Client, store: FaultyStore
) -> None:
    await client.begin()
    await client.put()
    store.log.clear()

    for body, error in (
        (noted(blob_bytes(len(DATA), seed=1)).encode(), DigestMismatch),
        (noted(DATA).encode()[:-1], ParameterInvalid),
        (b"", ParameterInvalid),
    ):
        with pytest.raises(error):
            await client.complete(checkpoints=body)

    assert store.log == []
    assert isinstance(await client.complete(), Blob)


# ---- cancel, expiry


async def test_a_cancelled_upload_frees_its_parts_and_is_over(client: Client, inner: MemoryStore) -> None:
    await client.begin()
    await client.put()

    await client.registry.parallel.cancel(REPO, ALICE, client.session)

    assert (await truth(inner)).multiparts == 0
    for verb in VERBS.values():
        with pytest.raises(UploadUnknown):
            await verb(client)
    await client.registry.close()
    after = await truth(inner)
    assert (after.sessions, after.data, after.records) == (set(), {}, {})


async def test_a_cancelled_upload_is_over_for_every_replica(
    client: Client, inner: MemoryStore, clock: FakeClock
) -> None:
    await client.begin()
    await client.put()
    other = await open_registry(inner, clock, replica=2)
    await other.parallel.cancel(REPO, ALICE, client.session)

    for verb in VERBS.values():
        with pytest.raises(UploadUnknown):
            await verb(client)


async def test_what_is_done_cannot_be_cancelled(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    await client.begin()
    await client.put()
    await client.complete()

    for registry in (client.registry, await open_registry(inner, clock, replica=2)):
        with pytest.raises(UploadUnknown):
            await registry.parallel.cancel(REPO, ALICE, client.session)
    assert await pulled(client.registry, REPO, DIGEST) == DATA


async def test_an_abandoned_upload_leaves_nothing(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    await client.begin()
    await client.put([1, 2])
    clock.advance(DAY + MARGIN - 1)
    assert (await client.registry.sweeper.sweep()).sessions == 0
    for verb in VERBS.values():
        with pytest.raises(UploadUnknown, match="expired"):
            await verb(client)
    clock.advance(2)

    await client.registry.sweeper.sweep()

    after = await truth(inner)
    assert (after.sessions, after.multiparts, after.data) == (set(), 0, {})


async def test_what_is_done_outlives_its_session(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    await client.begin()
    await client.put()
    await client.complete()
    clock.advance(LONG)

    other = await open_registry(inner, clock, replica=2)
    await other.sweeper.sweep()

    assert await pulled(other, REPO, DIGEST) == DATA
    assert (await truth(inner)).sessions == set()


# ---- who may


Verb: TypeAlias = Callable[[Client], Awaitable[object]]

VERBS: dict[str, Verb] = {
    "status": lambda it: it.registry.parallel.status(it.repository, it.principal, it.session),
    "put_part": lambda it: it.registry.parallel.put_part(
        it.repository, it.principal, it.session, 1, sized(it.parts[1])
    ),
    "complete": lambda it: it.complete(),
}
ALL_VERBS: dict[str, Verb] = {
    **VERBS,
    "urls": lambda it: it.registry.parallel.urls(it.repository, it.principal, it.session, [1], expires=60),
    "cancel": lambda it: it.registry.parallel.cancel(it.repository, it.principal, it.session),
}


@pytest.mark.parametrize("verb", ALL_VERBS)
@pytest.mark.parametrize(("repository", "principal"), [(OTHER, ALICE), (REPO, "bob"), (REPO, "")])
async def test_a_session_of_another_repository_or_principal_is_unknown(
    registry: Registry, store: FaultyStore, client: Client, verb: str, repository: str, principal: str
) -> None:
    await client.begin()
    await client.put()
    stranger = Client(registry, DATA, repository=repository, principal=principal)
    stranger.opened = client.opened
    store.log.clear()

    with pytest.raises(UploadUnknown):
        await ALL_VERBS[verb](stranger)

    assert store.log == []


@pytest.mark.parametrize("verb", ALL_VERBS)
async def test_a_session_of_the_other_kind_is_unknown(client: Client, store: FaultyStore, verb: str) -> None:
    opened = await client.begin()
    stream = client.registry.uploads.begin(REPO, ALICE).session_id
    await client.registry.uploads.append(REPO, ALICE, stream, placed(DATA[:20], 0), continued=False)
    client.opened = Opened(stream, opened.part_size, opened.max_parts, opened.segment, opened.direct)
    store.log.clear()

    with pytest.raises(UploadUnknown, match="_bucketry"):
        await ALL_VERBS[verb](client)

    assert store.log == []


async def test_a_parallel_session_is_unknown_to_the_specs_requests(client: Client, store: FaultyStore) -> None:
    await client.begin()
    await client.put()
    uploads, session = client.registry.uploads, client.session
    store.log.clear()

    with pytest.raises(UploadUnknown):
        await uploads.status(REPO, ALICE, session, continued=True)
    with pytest.raises(UploadUnknown):
        await uploads.append(REPO, ALICE, session, placed(DATA, 0), continued=False)
    with pytest.raises(UploadUnknown):
        await uploads.commit(REPO, ALICE, session, DIGEST, None, continued=True)
    with pytest.raises(UploadUnknown):
        await uploads.cancel(REPO, ALICE, session)

    assert store.log == []
