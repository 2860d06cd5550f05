"""Another program's tree in a folder: its names, what does not belong there, and files that change under a reader."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.helpers import keys_of, read_all

from bucketry.store.checks import is_key
from bucketry.store.contract import FOREIGN_PREFIX, NotFound, ObjectInfo, StoredObject, Unavailable
from bucketry.store.folder import Folder
from bucketry.store.local import LocalStore
from bucketry.store.paths import key_to_path

LINK = f"{FOREIGN_PREFIX}repositories/a/_manifests/tags/V1.0/current/link"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def tree(root: Path) -> Path:
    tree = root / FOREIGN_PREFIX
    tree.mkdir(parents=True)
    return tree


@pytest.fixture
async def store(root: Path) -> AsyncIterator[LocalStore]:
    store = LocalStore(root, min_part=4)
    await store.start()
    yield store
    await store.close()


def write(root: Path, key: str, body: bytes = b"x") -> None:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


@given(st.lists(st.text("aAz0._~-", min_size=1, max_size=200), min_size=1, max_size=4).map("/".join))
def test_the_path_of_a_foreign_key_is_the_key(below: str) -> None:
    key = FOREIGN_PREFIX + below
    if is_key(key):
        assert key_to_path(key) == key


async def test_the_file_is_where_its_program_put_it(store: LocalStore, root: Path) -> None:
    write(root, LINK, b"sha256:0")
    assert store.file_path(LINK) == str(root / LINK)
    assert (await store.get(LINK)).body == b"sha256:0"
    for key in ("docker/registry/v2", "docker/x", f"{FOREIGN_PREFIX}../x"):
        with pytest.raises(ValueError):
            store.file_path(key)


async def test_what_has_no_key_is_not_listed(store: LocalStore, root: Path, tree: Path) -> None:
    write(root, LINK)
    for name in ("b c", "ü", "a^", "^a", "x%2f", "new\nline"):
        (tree / name).write_bytes(b"x")
        (tree / f"{name}-folder").mkdir()
        (tree / f"{name}-folder/file").write_bytes(b"x")
    (tree / os.fsdecode(b"\xff")).write_bytes(b"x")
    os.mkfifo(tree / "fifo")
    (tree / "empty").mkdir()
    deep = "/".join(["d" * 200] * 5)  # A key of it would be too long.
    (tree / deep).mkdir(parents=True)
    (tree / deep / "file").write_bytes(b"x")
    for prefix in ("", "docker/", FOREIGN_PREFIX):
        assert await keys_of(store, prefix, limit=1) == [LINK]
    with pytest.raises(NotFound):
        await store.get(f"{FOREIGN_PREFIX}fifo")


async def test_symbolic_links_are_not_followed(store: LocalStore, root: Path, tree: Path, tmp_path: Path) -> None:
    write(root, LINK)
    outside = tmp_path / "outside"
    write(outside, "folder/secret")
    (tree / "file").symlink_to(outside / "folder/secret")
    (tree / "folder").symlink_to(outside / "folder")
    (tree / "inside").symlink_to(tree / "repositories")
    (tree / "loop").symlink_to(tree / "loop")
    assert await keys_of(store, "") == [LINK]
    for key in ("file", "folder", "folder/secret", "inside/a/_manifests/tags/V1.0/current/link", "loop", "loop/x"):
        for call in (store.get(FOREIGN_PREFIX + key), store.head(FOREIGN_PREFIX + key)):
            with pytest.raises(NotFound):
                await call
        with pytest.raises(NotFound):
            await read_all(store, FOREIGN_PREFIX + key)
    for prefix in ("folder/", "inside/", "inside/a/", "loop/", "file/"):
        assert await keys_of(store, FOREIGN_PREFIX + prefix) == []


async def test_the_tree_itself_may_be_elsewhere(store: LocalStore, root: Path, tmp_path: Path) -> None:
    """The folder of the old registry, in which nobody has to write, linked into one of bucketry's own."""
    old = tmp_path / "old"
    write(old, LINK, b"sha256:0")
    (root / "docker").symlink_to(old / "docker")
    assert await keys_of(store, FOREIGN_PREFIX) == [LINK]
    assert await keys_of(store, f"{FOREIGN_PREFIX}repositories/") == [LINK]
    assert (await store.get(LINK)).body == b"sha256:0"
    assert Path(store.file_path(LINK)).read_bytes() == b"sha256:0"


async def test_names_that_look_escaped_are_escaped_elsewhere_only(store: LocalStore, root: Path, tree: Path) -> None:
    await store.put("docker/registry/X", b"own")
    (tree / "^x").write_bytes(b"theirs")
    (tree / "X").write_bytes(b"theirs too")
    assert await keys_of(store, "docker/") == ["docker/registry/X", f"{FOREIGN_PREFIX}X"]
    assert (root / "docker/registry/^x").is_file()


class RewrittenFolder(Folder):
    """Somebody writes a file just after it was opened, as often as there are bodies."""

    bodies: list[bytes]

    def _open(self, key: str, size: int) -> tuple[int, ObjectInfo, int, bytes]:
        opened = super()._open(key, size)
        if self.bodies:
            Path(self.path(key)).write_bytes(self.bodies.pop(0))
        return opened


@pytest.fixture
def read_while(root: Path, tree: Path) -> Callable[[list[bytes]], StoredObject]:
    def read(bodies: list[bytes]) -> StoredObject:
        write(root, LINK, b"first")
        folder = RewrittenFolder(str(root), fsync=False, clock=lambda: 0.0, random=os.urandom)
        folder.bodies = bodies
        return folder.get(LINK, 100)

    return read


async def test_a_file_that_is_written_meanwhile_is_read_again(
    read_while: Callable[[list[bytes]], StoredObject],
) -> None:
    for bodies in ([b""], [b"longer than it was"], [b"", b"and longer"]):
        last = bodies[-1]
        found = read_while(list(bodies))
        assert (found.body, found.info.size) == (last, len(last))


async def test_a_file_that_is_written_all_the_time_is_unavailable(
    read_while: Callable[[list[bytes]], StoredObject],
) -> None:
    with pytest.raises(Unavailable, match=r"V1\.0"):
        read_while([b"x" * size for size in range(10, 40)])
