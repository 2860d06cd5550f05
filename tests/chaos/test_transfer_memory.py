"""bucketry's client moves a layer of 1 GiB: its memory is what was configured, not what the layer has."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from tests.support.images import MIB
from tests.support.moving import Mover, Outcome, mover
from tests.support.server import assert_no_fault, bucketry
from tests.support.tools import missing

SIZE = 1024 * MIB
MEMORY = 64 * MIB
BESIDE = 150 * MIB
"""The program itself, and what is in the hands of the system's threads."""
CONFIG = """
[store]
fsync = false
"""

# Three times 1 GiB, which is written and hashed by both sides.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Mover:
    return mover(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with bucketry(str(folder / "store"), folder, config=CONFIG) as server:
        yield server.host
        assert_no_fault(server)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``docker save`` writes of an image with one layer, which compression does not make smaller."""
    path = tmp_path_factory.mktemp("saved") / "image.tar"
    block = random.Random(61).randbytes(16 * MIB)
    file = tarfile.TarInfo("data")
    file.size = SIZE
    digest = hashlib.sha256()
    with path.open("wb") as out:
        layer = tarfile.TarInfo("layer.tar")
        head, end = file.tobuf(tarfile.USTAR_FORMAT), bytes(1024)
        layer.size = len(head) + SIZE + len(end)
        out.write(layer.tobuf(tarfile.USTAR_FORMAT))
        for piece in (head, *[block] * (SIZE // len(block)), end):
            out.write(piece)
            digest.update(piece)
        with tarfile.open(fileobj=out, mode="w") as tar:
            diff_ids = [f"sha256:{digest.hexdigest()}"]
            config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
            entry = {"Config": "config.json", "RepoTags": ["large:v1"], "Layers": ["layer.tar"]}
            for name, document in (("config.json", config), ("manifest.json", [entry])):
                body = json.dumps(document).encode()
                member = tarfile.TarInfo(name)
                member.size = len(body)
                tar.addfile(member, BytesIO(body))
    return path


def assert_bounded(outcome: Outcome) -> None:
    if not outcome.peak:
        missing("there is no /proc to tell how much memory a process had")
    assert outcome.ended["moved"] >= SIZE
    assert MEMORY // 2 < outcome.peak < MEMORY + BESIDE


def test_memory_is_bounded_on_all_ways(client: Mover, registry: str, saved: Path, tmp_path: Path) -> None:
    bound = ("--memory", "64MiB")
    name, layout = f"{registry}/tests/large:v1", f"oci:{tmp_path / 'layout'}:v1"
    assert_bounded(client("push", f"docker-archive:{saved}", name, *bound, seconds=100))
    saved.unlink()
    assert_bounded(client("pull", name, layout, *bound, seconds=100))
    # The registry is in the client's own process.
    direct = f"file:{tmp_path / 'store'}/large:v1"
    assert_bounded(client("push", layout, direct, *bound, "--set", "store.fsync=false", seconds=100))
