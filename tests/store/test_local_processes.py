"""Several processes on one folder, and processes that are killed at any moment."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.store.helpers import keys_of, list_all, read_all
from tests.store.local_worker import PART, is_whole

from bucketry.store.contract import NotFound, Part
from bucketry.store.local import LocalStore

WORKER = str(Path(__file__).with_name("local_worker.py"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[LocalStore]:
    store = LocalStore(root, min_part=PART)
    await store.start()
    yield store
    await store.close()


@contextmanager
def worker(mode: str, root: Path, name: str, argument: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has opened the store and waits for a line before it begins."""
    command = [sys.executable, WORKER, mode, str(root), name, str(argument)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def say(process: subprocess.Popen[str]) -> str:
    """The next line it says."""
    assert process.stdout is not None
    return process.stdout.readline()


def finish(process: subprocess.Popen[str]) -> list[str]:
    """The lines it says until it ends, which it must do by itself and well."""
    assert process.stdout is not None
    lines = process.stdout.read().split("\n")
    assert process.wait(timeout=60) == 0
    return lines[:-1]


def run_together(mode: str, root: Path, arguments: dict[str, int]) -> list[list[str]]:
    """What each of the processes said, which began at the same time."""
    with ExitStack() as stack:
        processes = [stack.enter_context(worker(mode, root, name, argument)) for name, argument in arguments.items()]
        for process in processes:
            assert say(process) == "ready\n"
        for process in processes:
            begin(process)
        return [finish(process) for process in processes]


async def test_processes_that_count_by_compare_and_swap_lose_no_increment(store: LocalStore, root: Path) -> None:
    await store.put("counter", b"0 start")
    run_together("count", root, {"a": 150, "b": 150, "c": 150})
    assert int((await store.get("counter")).body.split()[0]) == 450


async def test_one_of_several_processes_creates_an_object(store: LocalStore, root: Path) -> None:
    names = ["a", "b", "c"]
    said = run_together("create", root, dict.fromkeys(names, 300))
    won = {int(line): name for name, lines in zip(names, said, strict=True) for line in lines}
    assert sum(len(lines) for lines in said) == 300
    for round_, name in won.items():
        assert (await store.get(f"race/{round_}")).body == name.encode()
    assert list((root / ".bucketry-tmp").iterdir()) == []


async def test_an_object_is_a_lock_between_processes(store: LocalStore, root: Path) -> None:
    await store.put("sum", b"0")
    run_together("lock", root, {"a": 60, "b": 60, "c": 60})
    assert (await store.get("sum")).body == b"180"
    with pytest.raises(NotFound):
        await store.head("lock")


async def test_a_superseded_process_cannot_change_the_bytes(store: LocalStore, root: Path) -> None:
    upload_id = await store.create_multipart("data/raced", part_size=PART)
    with worker("parts", root, upload_id, 1) as low, worker("parts", root, upload_id, 2) as high:
        for process in (low, high):
            assert say(process) == "ready\n"
        for process in (low, high):
            begin(process)
            assert len(say(process)) == 33, "an etag: it was there first, or superseded the one before"
        # High writes as fast as it can, low may just have woken up. This one has the last word.
        etag = await store.put_part("data/raced", upload_id, 3, b"\x03" * PART, offset=0)
        await store.complete_multipart("data/raced", upload_id, [Part(3, PART, etag)])
        for process in (low, high):
            assert finish(process)[-1] in ("InvalidPart", "UploadNotFound")
    assert await read_all(store, "data/raced") == b"\x03" * PART
    assert await store.list_multiparts() == ()


async def test_a_killed_writer_leaves_whole_objects_and_all_that_it_acknowledged(store: LocalStore, root: Path) -> None:
    chance = random.Random(7)
    acknowledged: dict[str, int | None] = {}
    keys: set[str] = set()
    for life in range(8):
        with worker("write", root, f"life{life}", life * 100_000) as process:
            assert say(process) == "ready\n"
            begin(process)
            # Any moment, but not before it got somewhere.
            lines = [say(process) for _ in range(chance.randrange(10, 40))]
            time.sleep(chance.random() * 0.02)
            process.kill()
            assert process.stdout is not None
            lines += process.stdout.readlines()
        for line in lines:
            assert line.endswith("\n")
            operation, key, step = line.split()
            acknowledged[key] = int(step) if operation == "put" else None

        listed = await list_all(store, "")
        keys = {each.key for each in listed}
        for each in listed:
            body = (await store.get(each.key)).body
            assert is_whole(body), each.key
            assert len(body) == each.size
        missing = []
        for key, last in acknowledged.items():
            if last is None:
                assert key not in keys
            elif key not in keys:
                missing.append(key)
            elif key.startswith("objects/"):
                body = (await store.get(key)).body
                assert int(body[64:].split(b"\n")[0].split()[1]) >= last
        # Each life may have been killed while it removed one, after the effect.
        assert len(missing) <= life + 1
        assert all(key.startswith("once/") for key in missing)
    assert sum(key.startswith("data/") for key in keys) > 16

    # What the dead left behind goes after a day, and not before.
    left = list((root / ".bucketry-tmp").iterdir())
    await store.start()
    assert list((root / ".bucketry-tmp").iterdir()) == left
    later = LocalStore(root, clock=lambda: time.time() + 2 * 24 * 3600)
    await later.start()
    assert list((root / ".bucketry-tmp").iterdir()) == []
    for upload in await later.list_multiparts():
        await later.abort_multipart(upload.key, upload.upload_id)
    assert list((root / ".bucketry-uploads").iterdir()) == []
    assert set(await keys_of(later, "")) == keys
    await later.close()
