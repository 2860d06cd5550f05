"""What a folder is beyond the contract: its files, who else is in it, and when they reach the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest
from tests.store.helpers import keys_of, read_all

from bucketry.store.contract import (
    IF_ABSENT,
    BucketMissing,
    Corrupt,
    IfMatch,
    LocalFiles,
    NotFound,
    Part,
    PreconditionFailed,
    Store,
    StoreError,
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


def test_it_is_a_store_of_plain_files(root: Path) -> None:
    store: Store = LocalStore(root)
    assert isinstance(store, LocalFiles)


# Names


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/a/b", "/a/b"),
        ("file:/a/b", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("file://localhost/a/b", "/a/b"),
        ("file:/a%20b", "/a b"),
        ("/a%20b/", "/a%20b"),
        (Path("/a/../b"), "/b"),
        (Path("file:x"), "{cwd}/file:x"),
        ("file:a", "{cwd}/a"),
        ("./a", "{cwd}/a"),
    ],
)
def test_a_folder_is_named_by_path_or_url(given: str | Path, path: str) -> None:
    path = path.format(cwd=os.getcwd())
    store = LocalStore(given)
    assert store.file_path("data/x") == f"{path}/data/x"
    assert LocalStore(store.url).file_path("data/x") == f"{path}/data/x"
    assert store.url.startswith("file:/")


@pytest.mark.parametrize("url", ["file:", "file://elsewhere/a", "file://", "file://host"])
def test_a_url_of_another_machine_or_of_nothing_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="file:/path"):
        LocalStore(url)


async def test_the_file_of_a_bulk_object_holds_exactly_its_bytes(store: LocalStore, root: Path) -> None:
    await store.put("data/aa/X.y", b"bytes")
    assert Path(store.file_path("data/aa/X.y")) == root / "data/aa/^x.y"
    assert Path(store.file_path("data/aa/X.y")).read_bytes() == b"bytes"
    upload_id = await store.create_multipart("data/m", part_size=4)
    etag = await store.put_part("data/m", upload_id, 1, b"more", offset=0)
    await store.complete_multipart("data/m", upload_id, [Part(1, 4, etag)])
    assert Path(store.file_path("data/m")).read_bytes() == b"more"
    for key in ("a", "data", "data/../a", "repos/x"):
        with pytest.raises(ValueError):
            store.file_path(key)


async def test_a_folder_cannot_hold_an_object_and_objects_below_it(store: LocalStore) -> None:
    await store.put("a/b", b"x")
    await store.put("data/a/b", b"x")
    for key in ("a", "a/b/c", "a/b/c/d", "data/a", "data/a/b/c"):
        for condition in (None, IF_ABSENT):
            with pytest.raises(Unsupported, match="cannot"):
                await store.put(key, b"y", condition=condition)
        with pytest.raises(PreconditionFailed):
            await store.put(key, b"y", condition=IfMatch("x"))
    upload_id = await store.create_multipart("data/a", part_size=4)
    part = Part(1, 1, await store.put_part("data/a", upload_id, 1, b"y", offset=0))
    with pytest.raises(Unsupported, match="cannot"):
        await store.complete_multipart("data/a", upload_id, [part])
    assert await keys_of(store, "") == ["a/b", "data/a/b"]
    assert (await store.get("a/b")).body == b"x"


# Others in the folder


async def test_foreign_files_are_not_listed(store: LocalStore, root: Path) -> None:
    await store.put("a/object", b"x")
    await store.put("data/bulk", b"x")
    for name in ("a/.DS_Store", "a/notes.txt", "a/UPPER", "a/a^", "a/b c", "README", "data/.nfs0001", "data/Upper"):
        (root / name).write_bytes(b"foreign\n")
    for name in ("a/empty-folder", "a/.git", "a/x^", "data/bulky", "Up", "data/.d"):
        (root / name).mkdir()
    (root / "a/.git/config").write_bytes(b"")
    (root / "data/.d/file").write_bytes(b"")
    (root / "Up/file").write_bytes(b"")
    (root / "a/link").symlink_to(root / "a/object")
    (root / "data/link").symlink_to(root / "data/bulk")
    (root / "linked").symlink_to(root / "a")
    os.mkfifo(root / "a/fifo")
    assert await keys_of(store, "") == ["a/object", "data/bulk"]
    assert await keys_of(store, "", limit=1) == ["a/object", "data/bulk"]
    page = await store.list("a/", limit=1)
    assert not page.more, "a foreign file must not count as more"


async def test_private_files_are_no_objects(store: LocalStore, root: Path) -> None:
    await store.create_multipart("data/a", part_size=4)
    (root / ".bucketry-tmp/left").write_bytes(b"x")
    assert await keys_of(store, "") == []
    (private,) = {path.name for path in (root / ".bucketry-uploads").iterdir()}
    for key in (".bucketry-tmp/left", f".bucketry-uploads/{private}/bytes"):
        with pytest.raises(NotFound):
            await store.get(key)
        await store.put(key, b"an object of that name")
    assert (root / ".bucketry-tmp/left").read_bytes() == b"x"
    assert len(await store.list_multiparts()) == 1


async def test_a_damaged_object_is_corrupt_and_says_which_file(store: LocalStore, root: Path) -> None:
    body = os.urandom(100_000)
    for key in ("foreign", "short", "long", "header"):
        await store.put(key, body)
    whole = (root / "short").read_bytes()
    (root / "foreign").write_bytes(b"hello")
    (root / "short").write_bytes(whole[:-1])
    (root / "long").write_bytes(whole + b"x")
    (root / "header").write_bytes(whole.replace(b'"size"', b'"siz"', 1))
    for key in ("foreign", "short", "long", "header"):
        with pytest.raises(Corrupt, match=key):
            await store.get(key)
    for key in ("foreign", "header"):
        with pytest.raises(Corrupt, match=str(root / key)):
            await store.head(key)
    with pytest.raises(Corrupt, match="1 bytes early"):
        await read_all(store, "short")


async def test_a_bulk_file_cut_while_it_is_read_is_corrupt(store: LocalStore, root: Path) -> None:
    await store.put("data/a", bytes(3 * 1024 * 1024))
    pieces = cast("AsyncGenerator[bytes, None]", store.read("data/a"))
    async with aclosing(pieces):
        await anext(pieces)
        os.truncate(root / "data/a", 1024 * 1024)
        with pytest.raises(Corrupt):
            await anext(pieces)


async def test_folders_removed_by_hand_are_made_again(store: LocalStore, root: Path) -> None:
    await store.put("a/b/c", b"x")
    shutil.rmtree(root / "a")
    await store.put("a/b/c", b"y")
    assert (await store.get("a/b/c")).body == b"y"
    for name in (".bucketry-tmp", ".bucketry-locks", ".bucketry-uploads"):
        shutil.rmtree(root / name)
    await store.put("a/b/c", b"z", condition=IfMatch((await store.head("a/b/c")).etag))
    shutil.rmtree(root / ".bucketry-uploads")
    assert await store.list_multiparts() == ()
    await store.create_multipart("data/a", part_size=4)
    assert len(await store.list_multiparts()) == 1


async def test_a_root_that_is_gone_is_no_empty_store(store: LocalStore, root: Path) -> None:
    """It may be a disk that is not mounted: nothing may be taken for missing, or written where it belongs."""
    await store.put("a/b", b"x")
    root.rename(root.with_name("away"))
    upload = "0" * 32
    for call in (
        store.get("a/b"),
        store.head("a/b"),
        anext(store.read("a/b")),
        store.list("a/"),
        store.put("a/b", b"y"),
        store.put("a/c", b"y", condition=IF_ABSENT),
        store.delete("a/b"),
        store.create_multipart("data/a", part_size=4),
        store.put_part("data/a", upload, 1, b"x", offset=0),
        store.complete_multipart("data/a", upload, [Part(1, 1, "x")]),
        store.abort_multipart("data/a", upload),
        store.list_multiparts(),
    ):
        with pytest.raises(BucketMissing, match=str(root)):
            await call
    assert not root.exists()


# Start


async def test_start_makes_a_missing_folder_with_its_parents(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "x/y z/store")
    await store.start()
    await store.put("a", b"x")
    await store.start()
    assert (await store.get("a")).body == b"x"
    await store.close()


async def test_start_refuses_a_file_in_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/below", "dangling"):
        store = LocalStore(tmp_path / name)
        with pytest.raises(StoreError) as caught:
            await store.start()
        assert str(tmp_path / "file") in str(caught.value) or name == "dangling"
        assert "\n" not in str(caught.value)
        await store.close()


async def test_start_removes_what_was_left_more_than_a_day_ago(root: Path) -> None:
    now = 1_000_000_000.0
    store = LocalStore(root, min_part=4, clock=lambda: now)
    await store.start()
    pending = await store.create_multipart("data/a", part_size=4)
    temporary = root / ".bucketry-tmp"
    for name, age in (("old", 86_500), ("new", 86_300), ("old-folder", 86_500)):
        path = temporary / name
        if name == "old-folder":
            path.mkdir()
            (path / "bytes").write_bytes(b"")
        else:
            path.write_bytes(b"")
        os.utime(path, (now - age, now - age))
    done = root / ".bucketry-uploads" / ("1" * 32)
    done.mkdir()
    (done / "upload.json").write_bytes(b"{}")
    await store.start()
    assert [path.name for path in temporary.iterdir()] == ["new"]
    assert [path.name for path in done.parent.iterdir()] == [pending]
    await store.close()


async def test_times_are_of_the_given_clock(root: Path) -> None:
    now = 1_234_567_890.25
    store = LocalStore(root, min_part=4, clock=lambda: now)
    await store.start()
    await store.put("a", b"x")
    await store.put("data/a", b"x")
    upload_id = await store.create_multipart("data/b", part_size=4)
    assert (await store.list_multiparts())[0].initiated == now
    etag = await store.put_part("data/b", upload_id, 1, b"x", offset=0)
    await store.complete_multipart("data/b", upload_id, [Part(1, 1, etag)])
    for key in ("a", "data/a", "data/b"):
        assert (await store.head(key)).modified == now
    assert {listed.modified for listed in (await store.list("")).objects} == {now}
    await store.close()


# Durability


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """What reaches the disk, in order: flushed files and folders, links, renames."""
    seen: list[str] = []

    def name(path: str) -> str:
        relative = os.path.relpath(path, root)
        return "temporary" if relative.startswith(".bucketry-tmp/") else relative

    fsync, link, replace = os.fsync, os.link, os.replace

    def recorded_fsync(fd: int) -> None:
        seen.append(f"flush {name(os.readlink(f'/proc/self/fd/{fd}'))}")
        fsync(fd)

    def recorded_link(source: str, target: str) -> None:
        seen.append(f"link {name(target)}")
        link(source, target)

    def recorded_replace(source: str, target: str) -> None:
        seen.append(f"replace {name(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "link", recorded_link)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return seen


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")


@needs_proc
async def test_an_object_is_flushed_before_it_appears_and_its_folders_before_the_answer(
    store: LocalStore, calls: list[str]
) -> None:
    calls.clear()
    await store.put("a/b/c", b"x", condition=IF_ABSENT)
    assert calls == ["flush temporary", "flush .", "flush a", "link a/b/c", "flush a/b"]
    calls.clear()
    await store.put("a/b/c", b"y")
    assert calls == ["flush temporary", "replace a/b/c", "flush a/b"]
    calls.clear()
    with pytest.raises(PreconditionFailed):
        await store.put("a/b/c", b"z", condition=IF_ABSENT)
    assert calls == ["flush a/b"], "the caller relies on an object that another process may not have flushed"
    calls.clear()
    await store.delete("a/b/c")
    assert calls == ["flush a/b"]
    calls.clear()
    await store.delete_many(["a/b/d", "a/b/e", "a/f"])
    assert sorted(calls) == ["flush a", "flush a/b"]


@needs_proc
async def test_a_part_is_flushed_before_its_record_and_marked_before_it_is_overwritten(
    store: LocalStore, calls: list[str]
) -> None:
    upload_id = await store.create_multipart("data/a", part_size=4)
    folder = f".bucketry-uploads/{upload_id}"
    calls.clear()
    await store.put_part("data/a", upload_id, 1, b"1111", offset=0)
    assert calls == [f"flush {folder}/bytes", f"flush {folder}/parts"]
    calls.clear()
    etag = await store.put_part("data/a", upload_id, 2, b"2222", offset=0)
    assert calls == [f"flush {folder}/parts", f"flush {folder}/bytes", f"flush {folder}/parts"]
    calls.clear()
    await store.complete_multipart("data/a", upload_id, [Part(2, 4, etag)])
    assert calls == [f"flush {folder}/bytes", "flush .", "replace data/a", "flush data"]


@needs_proc
async def test_nothing_is_flushed_where_that_is_not_wanted(root: Path, calls: list[str]) -> None:
    store = LocalStore(root, fsync=False)
    await store.start()
    await store.put("a/b", b"x", condition=IF_ABSENT)
    await store.delete("a/b")
    assert calls == ["link a/b"]
    await store.close()


@needs_proc
async def test_no_call_leaves_a_file_open(store: LocalStore) -> None:
    async def work() -> None:
        await store.put("data/a", bytes(3 * 1024 * 1024))
        await store.put("a", b"x")
        await store.get("a")
        await read_all(store, "a", 0, 0)
        await keys_of(store, "", limit=1)
        pieces = cast("AsyncGenerator[bytes, None]", store.read("data/a"))
        async with aclosing(pieces):
            await anext(pieces)
        for call in (store.get("none"), store.put("a", b"", condition=IF_ABSENT), store.put("a/b", b"")):
            with pytest.raises(StoreError):
                await call
        upload_id = await store.create_multipart("data/b", part_size=4)
        await store.put_part("data/b", upload_id, 2, b"x", offset=0)
        with pytest.raises(StoreError):
            await store.put_part("data/b", upload_id, 1, b"x", offset=0)
        with pytest.raises(ValueError):
            await store.put_part("data/b", upload_id, 1, b"x" * 9, offset=0)
        await store.abort_multipart("data/b", upload_id)

    await work()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await work()
    assert len(os.listdir("/proc/self/fd")) == before
