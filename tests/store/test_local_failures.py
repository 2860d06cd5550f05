"""A folder under which things fail: uploads that were interrupted, and whatever a file system may say."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.store.helpers import keys_of, read_all, winners

from bucketry.store import folder_threads
from bucketry.store.contract import (
    IF_ABSENT,
    AccessDenied,
    Corrupt,
    NotFound,
    Part,
    ReadOnly,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
)
from bucketry.store.local import LocalStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[LocalStore]:
    store = LocalStore(root, min_part=4)
    await store.start()
    yield store
    await store.close()


# Uploads that were interrupted


async def upload(store: LocalStore, key: str = "data/a") -> tuple[str, list[Part]]:
    upload_id = await store.create_multipart(key, part_size=4)
    return upload_id, [Part(1, 4, await store.put_part(key, upload_id, 1, b"body", offset=0))]


async def test_complete_goes_on_where_it_was_killed_after_the_rename(store: LocalStore, root: Path) -> None:
    upload_id, parts = await upload(store)
    (root / "data").mkdir()
    (root / f".bucketry-uploads/{upload_id}/bytes").rename(root / "data/a")
    assert await store.list_multiparts() == ()
    await store.complete_multipart("data/a", upload_id, parts)
    assert (await store.get("data/a")).body == b"body"
    assert list((root / ".bucketry-uploads").iterdir()) == []


async def test_abort_goes_on_where_it_was_killed(store: LocalStore, root: Path) -> None:
    upload_id, _ = await upload(store)
    (root / f".bucketry-uploads/{upload_id}/bytes").unlink()
    assert await store.list_multiparts() == ()
    await store.abort_multipart("data/a", upload_id)
    await store.start()
    assert list((root / ".bucketry-uploads").iterdir()) == []


async def test_a_half_overwritten_part_is_not_taken_for_the_one_before(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id, parts = await upload(store)
    pwrite = os.pwrite

    def torn(fd: int, data: memoryview, offset: int) -> int:
        if len(data) == 4:
            pwrite(fd, data[:2], offset)
            raise OSError(errno.EIO, "Input/output error")
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", torn)
        with pytest.raises(Unavailable):
            await store.put_part("data/a", upload_id, 2, b"2222", offset=0)
    assert (root / f".bucketry-uploads/{upload_id}/bytes").read_bytes() == b"22dy"
    assert await store.list_parts("data/a", upload_id) == ()
    with pytest.raises(StoreError):
        await store.complete_multipart("data/a", upload_id, parts)
    again = Part(3, 4, await store.put_part("data/a", upload_id, 3, b"3333", offset=0))
    await store.complete_multipart("data/a", upload_id, [again])
    assert (await store.get("data/a")).body == b"3333"


async def test_a_record_that_is_read_while_it_is_written_is_read_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id, parts = await upload(store)
    pread, torn = os.pread, [True]

    def tear(fd: int, count: int, offset: int) -> bytes:
        data = pread(fd, count, offset)
        if torn:
            torn.clear()
            return data[:8] + bytes(len(data) - 8)
        return data

    monkeypatch.setattr(os, "pread", tear)
    assert await store.list_parts("data/a", upload_id) == tuple(parts)
    assert not torn


async def test_a_damaged_record_is_corrupt(store: LocalStore, root: Path) -> None:
    upload_id, parts = await upload(store)
    records = root / f".bucketry-uploads/{upload_id}/parts"
    data = bytearray(records.read_bytes())
    data[7] ^= 1
    records.write_bytes(data)
    with pytest.raises(Corrupt, match="parts"):
        await store.complete_multipart("data/a", upload_id, parts)
    with pytest.raises(Corrupt, match="parts"):
        await store.list_parts("data/a", upload_id)
    await store.abort_multipart("data/a", upload_id)
    (root / ".bucketry-uploads" / ("2" * 32)).mkdir()
    (root / ".bucketry-uploads" / ("2" * 32) / "bytes").write_bytes(b"")
    (root / ".bucketry-uploads" / ("2" * 32) / "upload.json").write_bytes(b"{")
    with pytest.raises(Corrupt, match="222"):
        await store.list_multiparts()


async def test_complete_and_abort_wait_for_parts_that_are_being_written(store: LocalStore, root: Path) -> None:
    """Another process may be writing to the file that is about to become the object."""
    for end in ("complete", "abort"):
        upload_id, parts = await upload(store, f"data/{end}")
        with (root / f".bucketry-uploads/{upload_id}/lock").open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            await store.put_part(f"data/{end}", upload_id, 2, b"x", offset=4)
            ending = asyncio.create_task(
                store.complete_multipart(f"data/{end}", upload_id, parts)
                if end == "complete"
                else store.abort_multipart(f"data/{end}", upload_id)
            )
            await asyncio.sleep(0.05)
            assert not ending.done()
            fcntl.flock(lock, fcntl.LOCK_UN)
            await ending
    assert await keys_of(store, "") == ["data/complete"]


async def test_a_cancelled_write_ends_when_its_thread_has_let_go_of_the_buffer(store: LocalStore, root: Path) -> None:
    upload_id, _ = await upload(store)
    body = bytearray(b"mine")
    with (root / f".bucketry-uploads/{upload_id}/lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        task = asyncio.create_task(store.put_part("data/a", upload_id, 2, body, offset=4))
        await asyncio.sleep(0.05)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.02)
            assert not task.done()
        fcntl.flock(lock, fcntl.LOCK_UN)
        with pytest.raises(asyncio.CancelledError):
            await task
    body[:] = b"xxxx"
    assert (root / f".bucketry-uploads/{upload_id}/bytes").read_bytes() == b"bodymine"


async def test_nobody_complains_of_the_error_of_a_cancelled_write(store: LocalStore, root: Path) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    upload_id, _ = await upload(store)
    with (root / f".bucketry-uploads/{upload_id}/lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        task = asyncio.create_task(store.put_part("data/a", upload_id, 0, b"x", offset=0))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.02)
        fcntl.flock(lock, fcntl.LOCK_UN)
        await asyncio.wait([task])
        assert task.cancelled()
    del task
    gc.collect()
    assert complaints == []


async def test_a_queued_write_that_is_cancelled_never_happens(store: LocalStore, root: Path) -> None:
    upload_id, _ = await upload(store)
    with (root / f".bucketry-uploads/{upload_id}/lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = [
            asyncio.create_task(store.put_part("data/a", upload_id, number, b"x", offset=4))
            for number in range(1, folder_threads.THREADS + 1)
        ]
        await asyncio.sleep(0.05)
        queued = asyncio.create_task(store.put("a", b"x"))
        await asyncio.sleep(0.01)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        fcntl.flock(lock, fcntl.LOCK_UN)
    await asyncio.gather(*busy, return_exceptions=True)
    with pytest.raises(NotFound):
        await store.head("a")


# What the file system may say


Fail = Callable[[str, int], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch, root: Path) -> Iterator[Fail]:
    """``fail(function, errno)``: this function of `os` fails from now on, for paths of the store and open files."""
    with monkeypatch.context() as patch:

        def plan(name: str, code: int) -> None:
            real = getattr(os, name)

            def failing(first: Any, *args: Any, **kwargs: Any) -> Any:
                if isinstance(first, int) or str(first).startswith(str(root)):
                    raise OSError(code, os.strerror(code), None if isinstance(first, int) else first)
                return real(first, *args, **kwargs)

            patch.setattr(os, name, failing)

        yield plan


@pytest.mark.parametrize(
    ("code", "expected", "advice"),
    [
        (errno.ENOSPC, StoreFull, "free space"),
        (errno.EDQUOT, StoreFull, "quota"),
        (errno.EROFS, ReadOnly, "mount"),
        (errno.EACCES, AccessDenied, "right"),
        (errno.EPERM, AccessDenied, "right"),
        (errno.EMFILE, Unavailable, "ulimit"),
        (errno.ENFILE, Unavailable, "limit"),
        (errno.EIO, Unavailable, "Input/output"),
        (errno.ESTALE, Unavailable, "failed"),
        (errno.ENAMETOOLONG, Unsupported, "shorter"),
    ],
)
async def test_errors_are_named_and_say_where_and_what_to_do(
    store: LocalStore, root: Path, fail: Fail, code: int, expected: type[StoreError], advice: str
) -> None:
    await store.put("a", b"x")
    upload_id, parts = await upload(store)
    fail("open", code)
    calls = [
        store.put("b", b"x"),
        store.get("a"),
        store.head("a"),
        anext(store.read("a")),
        store.delete("a"),
        store.delete_many(["a"]),
        store.create_multipart("data/b", part_size=4),
        store.put_part("data/a", upload_id, 2, b"x", offset=4),
        store.complete_multipart("data/a", upload_id, parts),
        store.abort_multipart("data/a", upload_id),
        store.list(""),
    ]
    for call in calls:
        with pytest.raises(StoreError) as caught:
            await call
        assert type(caught.value) is expected
        assert str(root) in str(caught.value)
        assert advice in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", ["pwrite", "fsync", "link", "mkdir"])
async def test_a_write_that_fails_at_any_step_leaves_nothing_behind(
    store: LocalStore, root: Path, fail: Fail, function: str
) -> None:
    fail(function, errno.ENOSPC)
    with pytest.raises(StoreFull):
        await store.put("new/a", b"x", condition=IF_ABSENT)
    assert list((root / ".bucketry-tmp").iterdir()) == []
    if function != "fsync":
        assert await keys_of(store, "") == []


async def test_an_unreadable_list_is_an_error_and_not_a_short_list(store: LocalStore, fail: Fail) -> None:
    await store.put("a/b", b"x")
    fail("scandir", errno.EIO)
    with pytest.raises(Unavailable):
        await store.list("")


async def test_a_folder_that_takes_no_writes_can_still_be_read(root: Path, fail: Fail) -> None:
    writer = LocalStore(root)
    await writer.start()
    await writer.put("a/b", b"x")
    await writer.close()
    for name in (".bucketry-tmp", ".bucketry-locks", ".bucketry-uploads"):
        shutil.rmtree(root / name)
    fail("mkdir", errno.EROFS)
    store = LocalStore(root)
    await store.start()
    assert (await store.get("a/b")).body == b"x"
    assert await keys_of(store, "") == ["a/b"]
    assert await store.list_multiparts() == ()
    with pytest.raises(ReadOnly):
        await store.put("a/c", b"x")
    await store.close()


async def test_a_folder_that_cannot_be_made_stops_the_start(root: Path, fail: Fail) -> None:
    fail("mkdir", errno.EACCES)
    store = LocalStore(root)
    with pytest.raises(AccessDenied, match=str(root)):
        await store.start()
    await store.close()


async def test_creators_race_soundly_where_there_are_no_hard_links(store: LocalStore, root: Path, fail: Fail) -> None:
    fail("link", errno.EPERM)
    for round_ in range(10):
        won = await winners(store.put(f"a/{round_}", f"{index}".encode(), condition=IF_ABSENT) for index in range(16))
        assert len(won) == 1
        assert (await store.head(f"a/{round_}")).etag == won[0]
    assert list((root / ".bucketry-tmp").iterdir()) == []


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "tmpfs"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs needs root on Linux")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


async def test_a_full_disk_refuses_writes_and_keeps_what_was_acknowledged(tmpfs: Path) -> None:
    store = LocalStore(tmpfs / "store", min_part=4096)
    await store.start()
    kept: dict[str, bytes] = {}

    async def fill() -> None:
        for index in range(100):
            body = os.urandom(50_000)
            await store.put(f"a/{index}", body, condition=IF_ABSENT)
            kept[f"a/{index}"] = body

    with pytest.raises(StoreFull, match="free space"):
        await fill()
    assert len(kept) > 5
    with pytest.raises(StoreFull):
        await store.put("data/bulk", bytes(500_000))
    assert await keys_of(store, "") == sorted(kept)
    assert list((tmpfs / "store/.bucketry-tmp").iterdir()) == []
    for key, body in kept.items():
        assert (await store.get(key)).body == body

    await store.delete("a/0")
    upload_id = await store.create_multipart("data/a", part_size=40_960)
    first = Part(1, 40_960, await store.put_part("data/a", upload_id, 1, b"1" * 40_960, offset=0))
    with pytest.raises(StoreFull):
        await asyncio.gather(
            *(
                store.put_part("data/a", upload_id, number, bytes(40_960), offset=(number - 1) * 40_960)
                for number in range(2, 20)
            )
        )
    await store.delete_many(["a/1", "a/2"])
    await store.complete_multipart("data/a", upload_id, [first])
    assert await read_all(store, "data/a") == b"1" * 40_960
    await store.close()


async def test_a_read_only_file_system_is_read_and_refuses_writes(tmpfs: Path) -> None:
    store = LocalStore(tmpfs / "store", min_part=4)
    await store.start()
    await store.put("a", b"x")
    await store.close()
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    store = LocalStore(tmpfs / "store", min_part=4)
    await store.start()
    assert (await store.get("a")).body == b"x"
    assert await keys_of(store, "") == ["a"]
    for call in (store.put("b", b""), store.delete("a"), store.create_multipart("data/a", part_size=4)):
        with pytest.raises(ReadOnly, match="for writing"):
            await call
    await store.close()
    other = LocalStore(tmpfs / "other")
    with pytest.raises(ReadOnly):
        await other.start()
    await other.close()
