"""The probe: it passes stores that keep the contract, and tells of those that fail while it looks."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from tests.store.probing import PRESIGNED, left, seen, statuses
from tests.store.rclone import Rclone, run_rclone
from tests.store.seaweed import Seaweed

from bucketry.store.contract import (
    OCTET_STREAM,
    AccessDenied,
    Buffer,
    Capabilities,
    Condition,
    ObjectInfo,
    Store,
    StoredObject,
    StoreFull,
    Unavailable,
)
from bucketry.store.local import LocalStore
from bucketry.store.memory import MemoryStore
from bucketry.store.open import StoreOptions, open_store
from bucketry.store.probe import probe

# Stores that keep the contract


@pytest.mark.parametrize(
    "store",
    [
        MemoryStore(),
        MemoryStore(accept_stale_parts=True, directory_order=True),
        MemoryStore(one_part_an_offset=True),
    ],
    ids=["memory", "like a filer", "like a folder"],
)
async def test_a_store_that_keeps_the_contract_passes(store: Store, ids: Callable[[], str]) -> None:
    report = await probe(store, ids=ids)
    assert report.refusal() is None
    assert {name for name, status in statuses(report).items() if status != "ok"} <= {"stale part", *PRESIGNED}
    assert not report.checked_put
    assert not report.presigned_parts
    assert await left(store) == []


async def test_a_folder_passes_and_quickly(tmp_path: Path, ids: Callable[[], str]) -> None:
    store = LocalStore(tmp_path / "store")
    await store.start()
    try:
        full = await probe(store, ids=ids)
        before = sorted(path for path in tmp_path.rglob("*") if path.is_dir())
        started = time.monotonic()
        quick = await probe(store, ids=ids, quick=True)
        assert time.monotonic() - started < 5  # it takes 30 ms; machines may be busy
        assert await left(store) == []
    finally:
        await store.close()
    assert full.refusal() is None
    assert {name for name, status in statuses(full).items() if status != "ok"} == PRESIGNED
    assert quick.refusal() is None
    assert set(statuses(quick)) < set(statuses(full))
    # Each start of a server probes: it must not leave folders behind.
    assert sorted(path for path in tmp_path.rglob("*") if path.is_dir()) == before


async def test_what_the_probe_did_not_write_stays(ids: Callable[[], str]) -> None:
    store = MemoryStore()
    others = [
        "bucketry.json",
        "probe/list/other-a",
        "probe/strong/other",
        "probe/many/x",
        "data/~probe/other",
        "data/00/x",
    ]
    for key in others:
        await store.put(key, b"kept")
    report = await probe(store, ids=ids)
    assert report.refusal() is None
    assert sorted(await left(store)) == sorted(others)


async def test_two_probes_do_not_disturb_each_other(ids: Callable[[], str]) -> None:
    store = MemoryStore()
    reports = await asyncio.gather(*(probe(store, ids=ids) for _ in range(4)))
    assert [report.refusal() for report in reports] == [None] * 4
    assert await left(store) == []


async def test_progress_is_told_each_check(ids: Callable[[], str]) -> None:
    names: list[str] = []
    report = await probe(MemoryStore(), ids=ids, progress=names.append)
    assert names == [check.name for check in report.checks]


# Presigned URLs: more of them is in test_probe_presigned


class Presigns(MemoryStore):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._presigned = url

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(presign=True)

    async def presign_get(self, key: str, *, expires: float, response_headers: Mapping[str, str] | None = None) -> str:
        return self._presigned


async def test_a_presigned_url_that_leads_nowhere_is_told_of(ids: Callable[[], str]) -> None:
    report = await probe(Presigns("http://127.0.0.1:1/"), ids=ids)
    assert statuses(report)["presigned GET"] == "broken"
    assert "could not be reached from here" in seen(report, "presigned GET")
    assert report.refusal() is None


async def test_a_presigned_url_that_ignores_ranges_is_told_of(ids: Callable[[], str]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 256\r\nConnection: close\r\n\r\n" + bytes(range(256)))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        report = await probe(Presigns(f"http://127.0.0.1:{port}/x"), ids=ids)
    assert statuses(report)["presigned GET"] == "broken"
    assert "200 and 256 bytes" in seen(report, "presigned GET")


# Stores that fail


class Fails(MemoryStore):
    """Raises ``error`` from the ``first``-th put on, for ``count`` puts."""

    def __init__(self, error: Exception, *, first: int, count: int = 1) -> None:
        super().__init__()
        self._puts = itertools.count(1)
        self._error = error
        self._failing = range(first, first + count)

    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        if next(self._puts) in self._failing:
            raise self._error
        return await super().put(key, body, content_type=content_type, metadata=metadata, condition=condition)


@pytest.mark.parametrize("error", [AccessDenied("no"), Unavailable("down"), StoreFull("full")])
async def test_a_store_that_takes_no_write_at_all_is_an_error(error: Exception, ids: Callable[[], str]) -> None:
    with pytest.raises(type(error)):
        await probe(Fails(error, first=1), ids=ids)


async def test_a_race_whose_losers_are_throttled_is_decided(ids: Callable[[], str]) -> None:
    report = await probe(Fails(Unavailable("slow down"), first=3, count=8), ids=ids)
    assert statuses(report)["write if absent"] == "ok"
    assert report.refusal() is None


async def test_a_race_in_which_all_are_throttled_is_not_called_a_broken_promise(ids: Callable[[], str]) -> None:
    report = await probe(Fails(Unavailable("slow down"), first=2, count=16), ids=ids)
    refusal = report.refusal()
    assert refusal is not None
    assert "slow down" in refusal
    assert "try again" in refusal


async def test_a_write_that_is_forbidden_later_is_told_of(ids: Callable[[], str]) -> None:
    store = Fails(AccessDenied("not below data/"), first=2, count=1000)
    report = await probe(store, ids=ids)
    assert "not below data/" in seen(report, "ranges")
    assert await left(store) == []


class CannotDelete(MemoryStore):
    async def delete_many(self, keys: Sequence[str]) -> None:
        raise AccessDenied("no right to delete")


async def test_what_could_not_be_removed_is_told_of(ids: Callable[[], str]) -> None:
    report = await probe(CannotDelete(), ids=ids, quick=True)
    assert report.checks[-1].name == "clean up"
    assert "no right to delete" in report.checks[-1].seen
    assert f"{1:016x}" in report.checks[-1].means


class Hangs(MemoryStore):
    """Never answers the first read of a range."""

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""


async def test_a_probe_that_is_cancelled_cleans_up(ids: Callable[[], str]) -> None:
    store = Hangs()
    names: list[str] = []
    task = asyncio.create_task(probe(store, ids=ids, progress=names.append))
    while "ranges" not in names:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert await left(store) != []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await left(store) == []


class SaysWhatItHeld(MemoryStore):
    """An object of another size than the one that was written."""

    async def get(self, key: str, *, limit: int = 16 * 1024 * 1024) -> StoredObject:
        found = await super().get(key, limit=limit)
        info = ObjectInfo(key, found.info.size, found.info.etag, found.info.modified)
        return StoredObject(info, found.body + b"\n")


async def test_other_bytes_than_were_written_are_refused_at_once(ids: Callable[[], str]) -> None:
    report = await probe(SaysWhatItHeld(), ids=ids, quick=True)
    assert [check.name for check in report.checks] == ["round trip"]
    assert "other bytes" in (report.refusal() or "")


# Real servers


def options(server: Seaweed | Rclone) -> StoreOptions:
    return StoreOptions(
        endpoint=server.endpoint,
        region="us-east-1",
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
    )


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[Rclone]:
    with run_rclone(tmp_path) as server:
        yield server


async def test_seaweedfs_passes(seaweed: Seaweed, ids: Callable[[], str]) -> None:
    store = open_store(f"s3://{seaweed.bucket}/probed", options(seaweed))
    await store.start()
    try:
        report = await probe(store, ids=ids, quick=True)
        assert report.refusal() is None, report
        assert (report.checked_put, report.presigned_parts) == (True, True), report
        assert await left(store) == []
    finally:
        await store.close()


@pytest.mark.slow  # SeaweedFS lets the losers of a race wait, some seconds each
async def test_seaweedfs_passes_and_is_known_for_what_it_is(seaweed: Seaweed, ids: Callable[[], str]) -> None:
    store = open_store(f"s3://{seaweed.bucket}/probed-in-full", options(seaweed))
    await store.start()
    try:
        report = await probe(store, ids=ids)
        assert report.refusal() is None, report
        assert {name for name, status in statuses(report).items() if status != "ok"} == {"stale part"}, report
        assert "directory order" in seen(report, "list below /")
        assert await left(store) == []
    finally:
        await store.close()


IGNORED = (
    "writers that raced for one key were all told they had won (If-None-Match)",
    "the writer that was told it had won is not the one whose bytes are there (If-None-Match)",
    "an object was overwritten though If-None-Match forbade it",
)
"""What a store is refused for that overwrites: of a race, rclone may also fail all writers but one, when it is busy."""


async def test_a_server_that_ignores_conditions_is_refused(rclone: Rclone, ids: Callable[[], str]) -> None:
    store = open_store(f"s3://{rclone.bucket}", options(rclone))
    await store.start()
    try:
        refusal = (await probe(store, ids=ids, quick=True)).refusal()
        assert refusal is not None
        assert refusal.startswith(f"s3://{rclone.bucket} cannot hold a registry (write if absent): ")
        assert any(words in refusal for words in IGNORED), refusal
        assert (await store.list("")).objects == ()
    finally:
        await store.close()
