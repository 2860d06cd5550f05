"""A site in a folder: what web servers and other programs find there, and how it comes there."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.store.site_suite import BLOB, MANIFEST, paths_of, read

from bucketry.store import site_files
from bucketry.store.contract import (
    FOREIGN_PREFIX,
    IF_ABSENT,
    AccessDenied,
    NotFound,
    ReadOnly,
    StoreError,
    StoreFull,
    Unsupported,
)
from bucketry.store.local import LocalStore
from bucketry.store.site import PathTaken
from bucketry.store.site_folder import FolderSite

DAY = 24 * 3600.0
BODY = bytes(range(256)) * 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
async def site(root: Path) -> AsyncIterator[FolderSite]:
    site = FolderSite(root)
    await site.start()
    yield site
    await site.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    await store.start()
    await store.put("data/7f/x", BODY)
    yield store
    await store.close()


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda mask: (os.umask(mask), None)[1]
    os.umask(before)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder of another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK) or os.stat(memory).st_dev == os.stat("/tmp").st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(prefix="bucketry-site-", dir=memory) as name:
        yield Path(name)


def files(root: Path) -> dict[str, bytes]:
    """Everything below, but for the locks."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".bucketry-locks" not in path.parts
    }


# What is there


async def test_files_are_plain_and_have_just_their_paths(site: FolderSite, root: Path) -> None:
    await site.put("v2/Lib/manifests/~/v1.0@sha256:Ab.oci-index", b"{}", served=MANIFEST)
    await site.put("index.html", b"<html>", served=MANIFEST)
    assert files(root) == {"v2/Lib/manifests/~/v1.0@sha256:Ab.oci-index": b"{}", "index.html": b"<html>"}
    assert {name for name in os.listdir(root) if name.startswith(".")} == {".bucketry-tmp", ".bucketry-locks"}


async def test_nothing_is_made_before_the_first_write(tmp_path: Path) -> None:
    site = FolderSite(f"file:{tmp_path}/a%20b/site")
    await site.start()
    assert await paths_of(site) == []
    await site.delete_many(["x"])
    with pytest.raises(NotFound):
        await site.get("x")
    assert os.listdir(tmp_path) == []
    assert site.url == f"file:{tmp_path}/a%20b/site"
    await site.put("x", b"1", served=BLOB)
    assert (tmp_path / "a b/site/x").read_bytes() == b"1"
    await site.close()


async def test_a_file_is_no_folder_for_a_site(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    site = FolderSite(tmp_path / "file")
    with pytest.raises(StoreError, match="is a file, not a folder"):
        await site.start()
    await site.close()
    below = FolderSite(tmp_path / "file/site")
    with pytest.raises(StoreError, match="would be below a file"):
        await below.start()
    await below.close()


async def test_one_path_is_not_a_file_and_a_folder(site: FolderSite, store: LocalStore) -> None:
    await site.put("v2/a/x", b"1", served=BLOB)
    for path in ("v2/a/x/y", "v2/a/x/y/z", "v2/a", "v2"):
        with pytest.raises(PathTaken, match="one path cannot be a file and a folder"):
            await site.put(path, b"2", served=BLOB)
        with pytest.raises(PathTaken):
            await site.put(path, b"2", served=BLOB, condition=IF_ABSENT)
        with pytest.raises(PathTaken):
            await site.copy("v2/a/x", path, size=1, served=BLOB)
        with pytest.raises(PathTaken):
            await site.copy_from(store, "data/7f/x", path, size=len(BODY), served=BLOB)
        with pytest.raises(PathTaken):
            await site.twin("v2/a/x", path)
        upload = await site.begin(path, size=1, served=BLOB)
        await upload.put(1, b"2")
        with pytest.raises(PathTaken):
            await upload.complete()
        await upload.abort()
    await site.delete_many(["v2/a/x/y", "v2/a", "v2"])
    assert await paths_of(site) == ["v2/a/x"]


async def test_a_folder_that_somebody_makes_a_file_is_noticed(site: FolderSite, root: Path) -> None:
    await site.put("v2/a/x", b"1", served=BLOB)
    shutil.rmtree(root / "v2/a")
    (root / "v2/a").write_bytes(b"a file")
    with pytest.raises(PathTaken):
        await site.put("v2/a/x", b"1", served=BLOB)


async def test_folders_that_somebody_removes_are_made_again(site: FolderSite, root: Path) -> None:
    await site.put("v2/a/b/x", b"1", served=BLOB)
    shutil.rmtree(root / "v2")
    await site.put("v2/a/b/x", b"2", served=BLOB)
    assert (await site.get("v2/a/b/x")).body == b"2"


async def test_what_others_put_there_is_listed_and_left(site: FolderSite, root: Path) -> None:
    await site.put("v2/a/x", b"1", served=BLOB)
    (root / "v2/a/My Photo.jpg").write_bytes(b"22")
    (root / ".htaccess").write_bytes(b"333")
    (root / "linked").symlink_to(root / ".htaccess")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe")
    (root / "empty").mkdir()
    listed = [file async for file in site.list("")]
    found = {file.path: file.size for file in listed if file.etag}
    assert found == {"v2/a/x": 1, "v2/a/My Photo.jpg": 2, ".htaccess": 3, "linked": 3}
    assert {file.path: file.size for file in listed if not file.etag} == {"dangling": 0, "loop": 0, "pipe": 0}
    await site.delete_many(["v2/a/x"])
    assert (root / "v2/a/My Photo.jpg").exists()
    for path in ("pipe", "dangling", "empty"):
        with pytest.raises(NotFound):
            await site.get(path)


@pytest.mark.parametrize("target", ["/etc", "nowhere/else", "../../outside"])
async def test_links_that_others_put_there_are_said_and_stay(site: FolderSite, root: Path, target: str) -> None:
    await site.put("v2/a/x", b"1", served=BLOB)
    (root / "v2/a/link").symlink_to(target)
    with pytest.raises(PathTaken, match=r"v2/a/link is a symbolic link to elsewhere.*remove it"):
        await site.point("v2/a/link", "x", current=None)
    with pytest.raises(PathTaken, match="v2/a/link"):
        await site.put("v2/a/link", b"2", served=BLOB, condition=IF_ABSENT)
    assert os.readlink(root / "v2/a/link") == target


async def test_empty_folders_go_up_to_the_root(site: FolderSite, root: Path) -> None:
    await site.put("v2/a/b/c/x", b"1", served=BLOB)
    await site.put("v2/a/y", b"1", served=BLOB)
    (root / "v2/a/b/kept").mkdir()
    await site.delete_many(["v2/a/b/c/x"])
    assert sorted(os.listdir(root / "v2/a/b")) == ["kept"], "nobody asked for the other one"
    (root / "v2/a/b/kept").rmdir()
    await site.delete_many(["v2/a/b/nothing"])
    assert os.listdir(root / "v2/a") == ["y"]
    await site.delete_many(["v2/a/y"])
    assert root.is_dir()
    assert not (root / "v2").exists()


# Links and copies


async def test_copies_and_twins_are_links(site: FolderSite, store: LocalStore, root: Path) -> None:
    assert await site.copy_from(store, "data/7f/x", "v2/a/blobs/x", size=len(BODY), served=BLOB)
    assert await site.copy("v2/a/blobs/x", "v2/b/blobs/x", size=len(BODY), served=BLOB)
    await site.twin("v2/b/blobs/x", "v2/b/blobs/~/x")
    assert os.stat(store.file_path("data/7f/x")).st_nlink == 4
    for path in ("v2/a/blobs/x", "v2/b/blobs/x", "v2/b/blobs/~/x"):
        assert os.path.samefile(root / path, store.file_path("data/7f/x"))
    assert os.listdir(root / ".bucketry-tmp") == []
    # Neither side writes in place.
    await site.put("v2/a/blobs/x", b"replaced", served=BLOB)
    assert (await store.get("data/7f/x")).body == BODY
    assert await read(site, "v2/b/blobs/x") == BODY


@pytest.mark.parametrize("fails", ["no links", "no links, no ranges", "short ranges", "nothing from ranges"])
async def test_where_there_are_no_links_it_is_a_copy(
    site: FolderSite, store: LocalStore, root: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "another file system")

    def no_range(*_: Any) -> int:
        raise OSError(errno.EXDEV, "another file system")

    real = os.copy_file_range
    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(site_files, "_SLICE", 1000)
    if "no ranges" in fails:
        monkeypatch.setattr(os, "copy_file_range", no_range)
    if fails == "short ranges":
        monkeypatch.setattr(os, "copy_file_range", lambda a, b, count, *at: real(a, b, min(count, 7), *at))
    if fails == "nothing from ranges":
        monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    assert await site.copy_from(store, "data/7f/x", "a:1", size=len(BODY), served=BLOB)
    await site.twin("a:1", "b")
    assert files(root) == {"a:1": BODY, "b": BODY}
    assert os.stat(root / "a:1").st_nlink == os.stat(root / "b").st_nlink == 1


async def test_from_another_file_system_it_is_a_copy(elsewhere: Path, store: LocalStore) -> None:
    site = FolderSite(elsewhere / "site")
    await site.start()
    assert await site.copy_from(store, "data/7f/x", "a", size=len(BODY), served=BLOB)
    assert files(elsewhere / "site") == {"a": BODY}
    assert os.stat(elsewhere / "site/a").st_dev != os.stat(store.file_path("data/7f/x")).st_dev
    await site.close()


async def test_a_source_that_ends_early_is_not_copied(
    site: FolderSite, store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.put("a", BODY, served=BLOB)
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EMLINK, "too many links")))
    monkeypatch.setattr(site_files, "_copy_range", lambda *_: 0)
    assert not await site.copy_from(store, "data/7f/x", "b", size=len(BODY), served=BLOB)
    assert files(root) == {"a": BODY}


async def test_a_blob_that_a_web_server_could_not_read_is_copied(
    site: FolderSite, store: LocalStore, root: Path, umask: Callable[[int], None]
) -> None:
    source = store.file_path("data/7f/x")
    os.chmod(source, 0o600)
    assert await site.copy_from(store, "data/7f/x", "a", size=len(BODY), served=BLOB)
    assert stat.S_IMODE(os.stat(root / "a").st_mode) == 0o644
    assert stat.S_IMODE(os.stat(source).st_mode) == 0o600
    assert not os.path.samefile(root / "a", source)
    os.chmod(source, 0o444)
    assert await site.copy_from(store, "data/7f/x", "a", size=len(BODY), served=BLOB)
    assert os.path.samefile(root / "a", source)


async def test_a_private_site_takes_private_blobs_as_links(
    tmp_path: Path, store: LocalStore, umask: Callable[[int], None]
) -> None:
    umask(0o077)
    site = FolderSite(tmp_path / "private")
    os.chmod(store.file_path("data/7f/x"), 0o600)
    assert await site.copy_from(store, "data/7f/x", "a", size=len(BODY), served=BLOB)
    assert os.path.samefile(tmp_path / "private/a", store.file_path("data/7f/x"))
    await site.close()


async def test_what_may_not_be_read_is_told(
    site: FolderSite, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, whom no mode keeps from reading."""
    source, real = store.file_path("data/7f/x"), os.open

    def refuses(path: str, *rest: Any) -> int:
        if path == source:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refuses)
    monkeypatch.setattr(os, "access", lambda path, mode: path != source)
    assert not await site.copy_from(store, "data/7f/x", "a", size=len(BODY), served=BLOB)
    assert site.refusal is not None
    assert source in site.refusal


async def test_files_of_another_program_are_copied_and_links_among_them_are_nothing(
    site: FolderSite, store: LocalStore, root: Path, tmp_path: Path
) -> None:
    """It writes in place, and a link there may lead to what is nobody's business."""
    key = f"{FOREIGN_PREFIX}blobs/sha256/00/0/data"
    file = tmp_path / "store" / key
    file.parent.mkdir(parents=True)
    file.write_bytes(b"theirs")
    assert await site.copy_from(store, key, "a", size=6, served=BLOB)
    assert (root / "a").read_bytes() == b"theirs"
    assert not os.path.samefile(root / "a", file)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/data").write_bytes(b"secret")
    shutil.rmtree(file.parent)
    file.parent.symlink_to(tmp_path / "secret")
    assert not await site.copy_from(store, key, "b", size=6, served=BLOB)
    file.parent.unlink()
    file.parent.mkdir()
    file.symlink_to(tmp_path / "secret/data")
    assert not await site.copy_from(store, key, "b", size=6, served=BLOB)
    assert await paths_of(site) == ["a"]


async def test_a_cancelled_copy_leaves_nothing(
    site: FolderSite, store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.put("a", b"x", served=BLOB)
    loop, reached = asyncio.get_running_loop(), asyncio.Event()
    go = threading.Event()
    take = site._files.take

    def slowly(*args: Any, **how: Any) -> Any:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EXDEV, "elsewhere")))
        taken = take(*args, **how)
        loop.call_soon_threadsafe(reached.set)
        go.wait(5)
        return taken

    monkeypatch.setattr(site._files, "take", slowly)
    open_before = len(os.listdir("/proc/self/fd"))
    task = asyncio.create_task(site.copy_from(store, "data/7f/x", "b", size=len(BODY), served=BLOB))
    await reached.wait()
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(root) == {"a": b"x"}
    assert len(os.listdir("/proc/self/fd")) <= open_before


# What survives


async def test_a_write_is_on_disk_before_it_is_acknowledged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = root / "below"
    site = FolderSite(root)
    await site.start()
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        events.append("file" if "/.bucketry-tmp/" in path else f"folder {os.path.relpath(path, root)}")
        fsync(fd)

    def recorded_replace(source: str, target: str) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    await site.put("v2/a/x", b"1", served=BLOB)
    assert events == ["folder ../..", "folder ..", "folder .", "file", "folder .", "folder v2", "rename", "folder v2/a"]
    events.clear()
    upload = await site.begin("v2/a/y", size=1, served=BLOB)
    await upload.put(1, b"1")
    await upload.complete()
    assert events == ["file", "rename", "folder v2/a"]
    events.clear()
    await site.delete_many(["v2/a/y"])
    assert events == ["folder v2/a"]
    events.clear()
    await site.delete_many(["v2/a/x"])
    assert events == ["folder ."]
    events.clear()
    # It was removed: whoever relies on it again flushes it again.
    await site.put("v2/a/x", b"1", served=BLOB)
    assert events == ["file", "folder .", "folder v2", "rename", "folder v2/a"]
    await site.close()


async def test_folders_that_another_process_removed_are_not_taken_for_safe(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = FolderSite(root), FolderSite(root)
    await one.put("v2/a/x", b"1", served=BLOB)
    await other.delete_many(["v2/a/x"])
    os.makedirs(root / "v2/a")  # made by somebody who has not flushed it yet
    flushed: list[str] = []
    fsync = os.fsync

    def recorded(fd: int) -> None:
        flushed.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), root))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", recorded)
    await one.put("v2/a/x", b"1", served=BLOB)
    assert flushed[-3:] == [".", "v2", "v2/a"]
    await one.close()
    await other.close()


async def test_without_fsync_nothing_is_flushed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: pytest.fail("flushed"))
    site = FolderSite(root, fsync=False)
    await site.put("v2/a", b"1", served=BLOB)
    await site.twin("v2/a", "v2/b")
    await site.delete_many(["v2/a"])
    await site.close()


async def test_what_a_killed_process_left_is_swept_a_day_later(root: Path) -> None:
    now = 1_800_000_000.0
    site = FolderSite(root, clock=lambda: now)
    upload = await site.begin("x", size=3, served=BLOB)
    await upload.put(1, b"123")
    (left,) = os.listdir(root / ".bucketry-tmp")
    os.utime(root / ".bucketry-tmp" / left, (now, now))
    for later, kept in ((DAY - 1, [left]), (DAY + 1, [])):
        again = FolderSite(root, clock=lambda later=later: now + later)  # type: ignore[misc]
        await again.start()
        assert os.listdir(root / ".bucketry-tmp") == kept
        await again.close()
    await site.close()


WRITER = """
import asyncio, sys
from bucketry.store.site import Served
from bucketry.store.site_folder import FolderSite

async def main(root, name):
    site = FolderSite(root)
    await site.start()
    turn = 0
    while True:
        turn += 1
        body = (f"{name} {turn} " * 20000).encode()
        await site.put(f"v2/{name}/a/{turn % 3}", body, served=Served())
        upload = await site.begin("v2/shared", size=len(body), served=Served(), part_size=65536)
        for number, at in enumerate(range(0, len(body), 65536), start=1):
            await upload.put(number, body[at : at + 65536])
        await upload.complete()
        await site.delete_many([f"v2/{name}/a/{(turn + 1) % 3}"])
        print(turn, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_whoever_is_killed_when_files_are_whole(site: FolderSite, root: Path) -> None:
    for round_ in range(4):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(root), name], stdout=subprocess.PIPE)
            for name in ("one", "two")
        ]
        try:
            for writer in writers:
                assert writer.stdout is not None
                for _ in range(3 + round_):
                    await asyncio.to_thread(writer.stdout.readline)
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
                writer.wait()
                assert writer.stdout is not None
                writer.stdout.close()
        found = await paths_of(site)
        assert "v2/shared" in found
        for path in found:
            words = (await site.get(path)).body.split()
            assert len(words) == 40000
            assert len(set(words[::2])) == len(set(words[1::2])) == 1


# What a file system says


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EROFS, ReadOnly),
        (errno.EACCES, AccessDenied),
        (errno.ENAMETOOLONG, Unsupported),
    ],
)
async def test_errors_of_the_file_system_have_names(
    site: FolderSite, root: Path, number: int, error: type[StoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.put("a", b"1", served=BLOB)
    upload = await site.begin("b", size=1, served=BLOB)

    def fails(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fails)
        with pytest.raises(error, match="put a failed"):
            await site.put("a", b"2", served=BLOB)
        with pytest.raises(error):
            await upload.put(1, b"1")
    await upload.abort()
    assert files(root) == {"a": b"1"}


async def test_a_name_that_the_file_system_cannot_hold_is_unsupported(site: FolderSite, root: Path) -> None:
    with pytest.raises(Unsupported):
        await site.put("a" * 300, b"1", served=BLOB)
    assert files(root) == {}


class Observer:
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def request(self, operation: str, **rest: Any) -> None:
        self.seen.append({"operation": operation, **rest})


async def test_each_call_is_observed(root: Path) -> None:
    observer = Observer()
    site = FolderSite(root, observer=observer)
    await site.put("a", b"12345", served=BLOB)
    assert await read(site, "a") == b"12345"
    with pytest.raises(NotFound):
        await site.head("b")
    seen = [(each["operation"], each["sent"], each["received"], each["outcome"]) for each in observer.seen]
    assert seen == [("put", 5, 0, "ok"), ("read", 0, 5, "ok"), ("head", 0, 0, "notfound")]
    assert json.dumps(observer.seen)
    await site.close()
