"""bucketry's client is killed, or interrupted, at half of a push or a pull: the next run does the other half.

The way is slow while the first run is on it, so that there is a half. What travelled is counted twice: by the client's
own events, and by the proxy on the way.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.chaos.conftest import CONFIG
from tests.chaos.tcp import Trouble, trouble
from tests.store.seaweed import Seaweed
from tests.support.fixtures import Registry
from tests.support.images import MIB, Image, blob_path, make_image, write_docker_archive, write_layout
from tests.support.moving import Mover, Outcome, Running, moved, mover
from tests.support.server import assert_no_fault, bucketry
from tests.support.tools import run, tool
from tests.transfer.peers import peer

SIZE = 40 * MIB
HALF = SIZE // 2
MOST = 0.6 * SIZE
SLOW = 0.006
"""Seconds a piece of 64 KiB: about 10 MiB a second and connection."""
AT_ONCE = ("--parallel", "2", "--part-size", "5MiB")
AT_ONCE_SECONDS = 2.0
"""Within which Ctrl-C ends a command."""

SIGNALS = {"kill": signal.SIGKILL, "ctrl-c": signal.SIGINT}


@dataclass(frozen=True)
class Ground:
    """Where images go to, over a way that can be slow. ``registry`` is the same by a way that is not."""

    store: str
    """What names begin with, the repository comes next."""
    registry: Registry
    way: Trouble
    client_env: dict[str, str]

    def name(self, repository: str) -> str:
        return f"{self.store}/{repository}:v1"

    def mover(self, folder: Path, **env: str) -> Mover:
        return mover(folder, **self.client_env, **env)


@pytest.fixture(scope="module")
def image() -> Image:
    return make_image(seed=41, sizes=(300, SIZE))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, image: Image) -> str:
    """Its layers are compressed while they are pushed: nobody knows their digests before."""
    return f"docker-archive:{write_docker_archive(tmp_path_factory.mktemp('saved') / 'image.tar', image, 'app:v1')}"


@pytest.fixture(scope="module")
def engine(docker_host: str) -> Callable[..., str]:
    """The docker command."""
    return lambda *arguments: run([tool("docker"), "--host", docker_host, *arguments])


@pytest.fixture
def daemon(archive: str, engine: Callable[..., str]) -> Iterator[str]:
    engine("load", "--input", archive.removeprefix("docker-archive:"))
    yield "docker-daemon:app:v1"
    engine("rmi", "app:v1")


@pytest.fixture(scope="module")
def pulled() -> Image:
    """Another one: whoever pushes an image to a bucket that has its layers sends nothing."""
    return make_image(seed=42, sizes=(300, SIZE))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, image: Image) -> str:
    return f"oci:{write_layout(tmp_path_factory.mktemp('built'), image, 'v1')}:v1"


@pytest.fixture(scope="module")
def folder_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """The bytes go through the server."""
    folder = tmp_path_factory.mktemp("folder")
    with bucketry(str(folder / "store"), folder, config=CONFIG) as server, trouble(server.port) as way:
        yield Ground(f"127.0.0.1:{way.port}", Registry(server.host, "local"), way, {})
        assert_no_fault(server)


@pytest.fixture(scope="module")
def peer_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A registry without the extension, and so without checkpoints."""
    with peer(tmp_path_factory.mktemp("peer")) as registry, trouble(int(registry.host.rpartition(":")[2])) as way:
        yield Ground(f"127.0.0.1:{way.port}", registry, way, {})


@pytest.fixture(scope="module")
def s3_ground(tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed) -> Iterator[Ground]:
    """The bytes go to the bucket, by URLs of the server."""
    store = f"s3://{seaweed.bucket}/transfer-kill"
    with trouble(seaweed.port) as way:
        config = f'{CONFIG}[store]\npublic_endpoint = "http://127.0.0.1:{way.port}"\n'
        with bucketry(store, tmp_path_factory.mktemp("s3"), config=config, env=seaweed.environ()) as server:
            yield Ground(server.host, Registry(server.host, "s3"), way, {})
            assert_no_fault(server)


@pytest.fixture(scope="module")
def bucket_ground(tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed) -> Iterator[Ground]:
    """The client is on the bucket by itself. The server only tells what is in it."""
    store = f"s3://{seaweed.bucket}/transfer-kill-direct"
    folder = tmp_path_factory.mktemp("bucket")
    with trouble(seaweed.port) as way, bucketry(store, folder, env=seaweed.environ()) as server:
        env = {**seaweed.environ(), "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{way.port}"}
        env["XDG_CACHE_HOME"] = str(folder / "cache")  # Where it is noted that the bucket was looked at.
        yield Ground(f"{store}/", Registry(server.host, "s3"), way, env)
        assert_no_fault(server)


@pytest.fixture
def ground(request: pytest.FixtureRequest) -> Ground:
    found: Ground = request.getfixturevalue(f"{request.param}_ground")
    return found


def stopped_at_half(running: Running, by: signal.Signals) -> Outcome:
    """The command, ended when half of the bytes arrived."""
    already = running.wait_moved(HALF)
    # Two parts may have arrived at once.
    assert already < 0.9 * SIZE, "there was nothing left to stop it at"
    if by is signal.SIGKILL:
        outcome = running.kill()
        assert outcome.status == -signal.SIGKILL
        return outcome
    outcome, seconds = running.interrupt()
    assert outcome.status == 130
    assert seconds < AT_ONCE_SECONDS
    assert "stopped. The same command goes on where it was stopped." in outcome.said
    assert "Traceback" not in outcome.said
    assert not outcome.of("ended")
    return outcome


def engine_env(kind: str, request: pytest.FixtureRequest) -> dict[str, str]:
    return {"DOCKER_HOST": request.getfixturevalue("docker_host")} if kind.endswith("daemon") else {}


@pytest.mark.parametrize(
    ("ground", "source", "by"),
    [
        ("folder", "archive", "kill"),
        ("folder", "layout", "ctrl-c"),
        ("s3", "daemon", "ctrl-c"),
        ("s3", "layout", "kill"),
        ("bucket", "archive", "kill"),
        ("bucket", "layout", "ctrl-c"),
    ],
    indirect=["ground"],
)
def test_push_that_was_stopped_at_half_sends_the_other_half(
    ground: Ground,
    source: str,
    by: str,
    image: Image,
    request: pytest.FixtureRequest,
    repository: str,
    tmp_path: Path,
) -> None:
    command = ("push", request.getfixturevalue(source), ground.name(repository), *AT_ONCE)
    client = ground.mover(tmp_path / "client", **engine_env(source, request))
    ground.way.slow(SLOW)
    try:
        with client.start(*command) as running:
            first = stopped_at_half(running, SIGNALS[by])
    finally:
        ground.way.slow(0)
    assert not list(client.scratch.iterdir())
    assert ground.registry.reader.request(f"/v2/{repository}/manifests/v1").status == 404

    before = ground.way.sent
    second = client(*command)
    travelled = ground.way.sent - before

    assert second.ended["moved"] == moved(second.events)
    assert second.ended["moved"] < MOST
    assert travelled < MOST + MIB
    resumed = sum(event["size"] for event in second.of("resumed"))
    # A part may have arrived whose acknowledgement did not.
    assert resumed >= moved(first.events) - MIB
    assert resumed + second.ended["moved"] > SIZE
    ground.registry.reader.assert_same_image(repository, "v1", image)
    assert not list((client.cache / "pushes").iterdir())
    assert not list(client.scratch.iterdir())


@pytest.mark.parametrize(
    ("ground", "form", "by"),
    [
        ("folder", "docker-archive", "kill"),
        ("s3", "docker-daemon", "ctrl-c"),
        ("bucket", "oci", "ctrl-c"),
        ("peer", "oci-archive", "kill"),
    ],
    indirect=["ground"],
)
def test_pull_that_was_stopped_at_half_fetches_the_other_half(
    ground: Ground,
    form: str,
    by: str,
    pulled: Image,
    request: pytest.FixtureRequest,
    repository: str,
    tmp_path: Path,
) -> None:
    client = ground.mover(tmp_path / "client", **engine_env(form, request))
    name = ground.name(repository)
    client("push", f"oci:{write_layout(tmp_path / 'built', pulled, 'v1')}:v1", name)
    target = tmp_path / "target" / "image"
    target.parent.mkdir()
    whither = {
        "docker-daemon": "docker-daemon:half/pulled:v1",
        "docker-archive": f"docker-archive:{target}:app:v1",
        "oci-archive": f"oci-archive:{target}:v1",
        "oci": f"oci:{target}:v1",
    }[form]
    command = ("pull", name, whither, *AT_ONCE)
    ground.way.slow(SLOW)
    try:
        with client.start(*command) as running:
            first = stopped_at_half(running, SIGNALS[by])
    finally:
        ground.way.slow(0)
    assert not list(client.scratch.iterdir())
    if form == "docker-daemon":
        (partial,) = (client.cache / "images").iterdir()
        assert partial.name.endswith(".partial")
        assert not list(target.parent.iterdir())
        assert not request.getfixturevalue("engine")("images", "--quiet", "half/pulled")
    else:
        assert_nothing_looks_whole(target, form, pulled, client)

    before = ground.way.received
    second = client(*command)
    travelled = ground.way.received - before

    assert second.ended["moved"] < MOST
    assert travelled < MOST + MIB
    resumed = sum(event["size"] for event in second.of("resumed"))
    assert resumed >= moved(first.events) - MIB
    assert resumed + second.ended["moved"] > SIZE
    assert [path.name for path in target.parent.iterdir()] == ([] if form == "docker-daemon" else [target.name])
    for folder in (target.parent, client.cache):
        assert not list(folder.rglob("*.partial"))
    assert not list((client.cache / "pulls").iterdir())
    # All of it is as it was pushed: who pushes it again verifies each digest.
    again = f"{ground.registry.host}/{repository}/again:v1"
    client("push", whither, again)
    ground.registry.reader.assert_same_image(f"{repository}/again", "v1", pulled)
    if form == "docker-daemon":
        request.getfixturevalue("engine")("rmi", "half/pulled:v1")


def assert_nothing_looks_whole(target: Path, form: str, image: Image, client: Mover) -> None:
    """No file has a name under which anything but all of it may lie."""
    large = image.layers[-1]
    if form != "oci":
        partial = target.with_name(f"{target.name}.partial")
        assert [path.name for path in target.parent.iterdir()] == [partial.name]
        # Who takes it nevertheless is told.
        tag = "" if form == "docker-archive" else ":v1"
        refused = client.fails("push", f"{form}:{partial}{tag}", f"file:{client.folder}/elsewhere/app:v1")
        assert "damaged" in refused.said or "is not what docker save" in refused.said
        return
    assert not blob_path(target, large.digest).exists()
    assert not (target / "index.json").exists() or not json.loads((target / "index.json").read_text())["manifests"]
    for path in target.glob("blobs/sha256/[0-9a-f]*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


LOADING = """
import signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell starts what runs in the background without one.

class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "bucketry.cli.app":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupted())
from bucketry.cli import main
sys.exit(main(["push"]))
"""


def test_ctrl_c_while_the_program_is_loaded_ends_it_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
