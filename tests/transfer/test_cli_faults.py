"""What can go wrong, as a person sees it: an exit code, one line that says what, where and what to do, no litter."""

from __future__ import annotations

import http.server
import io
import json
import tarfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.store.rclone import run_rclone
from tests.store.seaweed import Seaweed
from tests.support.images import KIB, MIB, Image, blob_path, digest_of, make_image, write_docker_archive, write_layout
from tests.support.ports import free_port
from tests.support.tools import tool
from tests.transfer.command import Person
from tests.transfer.peers import PASSWORD, USER, peer

WRONG = "canary-wrong-password-5b1d"
KEY, SECRET = "CANARYKEY00000000001", "canary-secret-key-91c2"
SECRETS = (PASSWORD, WRONG, SECRET, b64encode(f"{USER}:{WRONG}".encode()).decode())

SIZES = (5 * KIB, 12 * MIB)


@pytest.fixture(scope="module")
def content() -> Image:
    return make_image(seed=31, sizes=SIZES)


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person.at(tmp_path / "person")


# What the names in the table stand for


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def layout(shared: Path, content: Image) -> Path:
    return write_layout(shared / "layout", content, "v1")


@pytest.fixture(scope="module")
def archive(shared: Path, content: Image) -> Path:
    return write_docker_archive(shared / "app.tar", content, "app:v1")


def cut(source: Path, path: Path) -> Path:
    data = source.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.fixture(scope="module")
def cut_archive(shared: Path, archive: Path) -> Path:
    return cut(archive, shared / "cut.tar")


@pytest.fixture(scope="module")
def cut_oci_archive(shared: Path, layout: Path) -> Path:
    whole = shared / "layout.tar"
    with tarfile.open(whole, "w") as tar:
        tar.add(layout, arcname=".")
    return cut(whole, shared / "cut-layout.tar")


def changed(shared: Path, content: Image, name: str, digest: str) -> Path:
    """A layout with one bit of a blob that is another."""
    folder = write_layout(shared / name, content, "v1")
    path = blob_path(folder, digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def bad_layer(shared: Path, content: Image) -> Path:
    return changed(shared, content, "bad-layer", content.layers[1].digest)


@pytest.fixture(scope="module")
def bad_small_layer(shared: Path, content: Image) -> Path:
    return changed(shared, content, "bad-small-layer", content.layers[0].digest)


@pytest.fixture(scope="module")
def bad_manifest(shared: Path, content: Image) -> Path:
    return changed(shared, content, "bad-manifest", content.digest)


@pytest.fixture(scope="module")
def linked_layout(shared: Path, content: Image) -> Path:
    """A layer that is a link to somebody's file."""
    folder = write_layout(shared / "linked", content, "v1")
    path = blob_path(folder, content.layers[0].digest)
    path.unlink()
    path.symlink_to("/etc/passwd")
    return folder


@pytest.fixture(scope="module")
def absurd_layout(shared: Path, content: Image) -> Path:
    """A manifest that gives a layer more bytes than any disk has."""
    folder = write_layout(shared / "absurd", content, "v1")
    document = json.loads(content.manifest.data)
    document["layers"][0]["size"] = 1 << 70
    body = json.dumps(document).encode()
    blob_path(folder, digest_of(body)).write_bytes(body)
    index = json.loads((folder / "index.json").read_text())
    index["manifests"][0] |= {"digest": digest_of(body), "size": len(body)}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def hostile(path: Path, members: Mapping[str, bytes], *, layers: Sequence[str], links: Mapping[str, str]) -> Path:
    config = b'{"rootfs":{"type":"layers","diff_ids":["%s"]}}' % digest_of(b"x").encode()
    listing = json.dumps([{"Config": "config.json", "RepoTags": ["app:v1"], "Layers": list(layers)}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in {**members, "config.json": config, "manifest.json": listing}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return path


@pytest.fixture(scope="module")
def escaping_archive(shared: Path) -> Path:
    return hostile(shared / "escaping.tar", {}, layers=["../../../../etc/passwd"], links={})


@pytest.fixture(scope="module")
def linking_archive(shared: Path) -> Path:
    return hostile(shared / "linking.tar", {}, layers=["l/layer.tar"], links={"l/layer.tar": "/etc/passwd"})


@pytest.fixture(scope="module")
def linking_oci_archive(shared: Path, linked_layout: Path) -> Path:
    path = shared / "linked-layout.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(linked_layout, arcname=".")
    return path


@pytest.fixture(scope="module")
def absurd_archive(shared: Path) -> Path:
    """A member that says of itself that it has 2**62 bytes."""
    entry = tarfile.TarInfo("0/layer.tar")
    entry.size = 1 << 62
    path = shared / "absurd.tar"
    path.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048)
    return path


@pytest.fixture(scope="module")
def empty_file(shared: Path) -> Path:
    path = shared / "empty.tar"
    path.write_bytes(b"")
    return path


@pytest.fixture(scope="module")
def no_archive(shared: Path) -> Path:
    path = shared / "no-archive.tar"
    path.write_bytes(b"this is no tar\n" * 100)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Path:
    """A registry in a folder that has ``app:v1``."""
    folder = tmp_path_factory.mktemp("store")
    done = Person.at(folder / "person").types("push", f"oci:{layout}:v1", f"file:{folder}/registry/app:v1")
    assert done.code == 0, done.err
    return folder / "registry"


@pytest.fixture(scope="module")
def open_peer(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[str]:
    """A registry of the plain protocol that has ``app:v1``; its host."""
    folder = tmp_path_factory.mktemp("open")
    with peer(folder / ".") as registry:
        done = Person.at(folder / "person").types("push", f"oci:{layout}:v1", f"{registry.host}/app:v1")
        assert done.code == 0, done.err
        yield registry.host


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants a password; its host."""
    with peer(tmp_path_factory.mktemp("guarded"), users=True) as registry:
        yield registry.host


@pytest.fixture(scope="module")
def nobody() -> str:
    return f"127.0.0.1:{free_port()}"


@contextmanager
def answering(status: int, body: bytes, headers: Mapping[str, str]) -> Iterator[str]:
    """A server that has one answer; its host."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            self.send_response_only(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def denying() -> Iterator[str]:
    """A registry that denies everything, and repeats what it was told in its answer."""
    body = json.dumps({"errors": [{"code": "DENIED", "message": "this project is read-only"}]}).encode()
    with answering(403, body, {"Content-Type": "application/json"}) as host:
        yield host


@pytest.fixture(scope="module")
def skewed() -> Iterator[str]:
    """An S3 that finds the clock of its clients wrong; its own is an hour behind."""
    body = b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>"
    date = formatdate(time.time() - 3600, usegmt=True)
    with answering(403, body, {"Content-Type": "application/xml", "Date": date}) as host:
        yield host


@pytest.fixture(scope="module")
def ignorant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment for an S3 that ignores the conditions of writes; its bucket is ``ignorant``."""
    with run_rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server.environ()


@pytest.fixture(scope="module")
def s3(seaweed: Seaweed) -> Mapping[str, str]:
    return seaweed.environ()


@pytest.fixture(scope="module")
def s3_reader(seaweed: Seaweed) -> Mapping[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": seaweed.reader_access_key, "AWS_SECRET_ACCESS_KEY": seaweed.reader_secret_key}
    return {**seaweed.environ(), **keys}


@pytest.fixture(scope="module")
def s3_bucket(seaweed: Seaweed) -> str:
    return seaweed.bucket


@dataclass(frozen=True)
class Row:
    """``{name}`` in arguments and words is the fixture of that name."""

    arguments: Sequence[str]
    words: Sequence[str]
    code: int = 1
    keeps: bool = False
    """Whether a later run can go on with what is there."""
    env: Mapping[str, str] = field(default_factory=dict)
    bucket: str = ""
    """The fixture with the environment of an S3."""


AWS = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
}

PUSH_TO = "file:{empty}/app:v1"

ROWS: Mapping[str, Row] = {
    # The Docker Engine
    "no engine to push from": Row(
        ["push", "app:v1", "{open_peer}/app:v2"], ["no Docker Engine answers at", "DOCKER_HOST", "docker-archive:FILE"]
    ),
    "no engine to pull to": Row(["pull", "{open_peer}/app:v1"], ["no Docker Engine answers at", "DOCKER_HOST"]),
    "an engine over TLS": Row(
        ["push", "app:v1", "{open_peer}/app:v2"],
        ["ssh://somewhere", "from DOCKER_HOST", "unix:///path"],
        code=2,
        env={"DOCKER_HOST": "ssh://somewhere"},
    ),
    # Registries
    "no registry there": Row(["push", "oci:{layout}:v1", "{nobody}/app:v1"], ["{nobody}", "Connection refused"]),
    "no registry to pull from": Row(["pull", "{nobody}/app:v1", "oci:out"], ["{nobody}", "Connection refused"]),
    "no such tag": Row(["pull", "{open_peer}/app:v9", "oci:out"], ["{open_peer}", "app:v9", "not found", "tags: v1"]),
    "no such repository": Row(["pull", "{open_peer}/ap:v1", "oci:out"], ["{open_peer}", "ap:v1", "not found"]),
    "no such digest": Row(
        ["pull", f"{{open_peer}}/app@{digest_of(b'')}", "oci:out"], ["{open_peer}", digest_of(b""), "not found"]
    ),
    "nothing to inspect": Row(["inspect", "{open_peer}/app:v9"], ["{open_peer}", "app:v9", "not found", "tags: v1"]),
    "no such tag in a folder": Row(["pull", "file:{store}/app:v9", "oci:out"], ["file:{store}", "v9", "tags: v1"]),
    "no such repository in a folder": Row(["pull", "file:{store}/ap:v1", "oci:out"], ["file:{store}", "ap"]),
    "no registry in a folder": Row(["pull", "file:{empty}/app:v1", "oci:out"], ["file:{empty}", "holds no registry"]),
    "no credentials": Row(
        ["push", "oci:{layout}:v1", "{guarded}/app:v1"], ["{guarded}", "credentials", "bucketry login {guarded}"]
    ),
    "no credentials to pull": Row(["pull", "{guarded}/app:v1", "oci:out"], ["{guarded}", "bucketry login {guarded}"]),
    "denied": Row(
        ["push", "oci:{layout}:v1", "{denying}/app:v1"], ["{denying}", "app", "is not allowed without credentials"]
    ),
    "denied to read": Row(
        ["pull", "{denying}/app:v1", "oci:out"], ["{denying}", "app:v1", "not allowed", "this project is read-only"]
    ),
    # Sources
    "no archive there": Row(["push", "docker-archive:nothere.tar", PUSH_TO], ["there is no file nothere.tar"]),
    "no layout there": Row(["push", "oci:nothere", PUSH_TO], ["there is no folder nothere"]),
    "no such image in a layout": Row(["push", "oci:{layout}:v2", PUSH_TO], ["{layout}", "'v2'", "it has 'v1'"]),
    "no such image in an archive": Row(["push", "docker-archive:{archive}:no:v1", PUSH_TO], ["{archive}", "app:v1"]),
    "a truncated archive": Row(["push", "docker-archive:{cut_archive}", PUSH_TO], ["{cut_archive}", "ends too early"]),
    "a truncated layout": Row(
        ["push", "oci-archive:{cut_oci_archive}:v1", PUSH_TO], ["{cut_oci_archive}", "ends too early"]
    ),
    "an empty archive": Row(["push", "docker-archive:{empty_file}", PUSH_TO], ["{empty_file}"]),
    "no archive at all": Row(["push", "docker-archive:{no_archive}", PUSH_TO], ["{no_archive}"]),
    "a changed layer": Row(["push", "oci:{bad_layer}:v1", PUSH_TO], ["oci:{bad_layer}:v1 is damaged", "{layer}"]),
    "a changed small layer": Row(
        ["push", "oci:{bad_small_layer}:v1", PUSH_TO], ["oci:{bad_small_layer}:v1 is damaged", "{small_layer}"]
    ),
    "a changed layer to a peer": Row(
        ["push", "oci:{bad_layer}:v1", "{open_peer}/damaged:v1"], ["oci:{bad_layer}:v1 is damaged", "{layer}"]
    ),
    "a changed layer, pulled": Row(
        ["pull", "oci:{bad_layer}:v1", "oci:out"], ["{bad_layer}", "damaged", "{layer}"], keeps=True
    ),
    "a changed manifest": Row(["push", "oci:{bad_manifest}:v1", PUSH_TO], ["{bad_manifest}", "damaged"]),
    "a layer that links outside": Row(["push", "oci:{linked_layout}:v1", PUSH_TO], ["{linked_layout}", "damaged"]),
    "a layer that links out of an archive": Row(
        ["push", "oci-archive:{linking_oci_archive}:v1", PUSH_TO], ["{linking_oci_archive}", "/etc/passwd"]
    ),
    "a layer of absurd size": Row(["push", "oci:{absurd_layout}:v1", PUSH_TO], ["size"]),
    "a path that escapes": Row(["push", "docker-archive:{escaping_archive}", PUSH_TO], ["{escaping_archive}"]),
    "a link that escapes": Row(["push", "docker-archive:{linking_archive}", PUSH_TO], ["{linking_archive}"]),
    "a member of absurd size": Row(["push", "docker-archive:{absurd_archive}", PUSH_TO], ["{absurd_archive}"]),
    # Destinations
    "a folder where a file should be": Row(
        ["pull", "file:{store}/app:v1", "docker-archive:{empty}:app:v1"], ["{empty}", "is a folder"], code=2
    ),
    "a folder that is not there": Row(
        ["pull", "file:{store}/app:v1", "docker-archive:{empty}/no/app.tar:app:v1"], ["{empty}/no"], code=2
    ),
    "a file where a folder should be": Row(["push", "oci:{layout}:v1", "file:{archive}/app:v1"], ["{archive}"]),
    # Buckets
    "no keys": Row(["push", "oci:{layout}:v1", "s3://some-bucket/app:v1"], ["credentials"]),
    "a clock that is wrong": Row(
        ["push", "oci:{layout}:v1", "s3://some-bucket/app:v1"],
        ["s3://some-bucket", "clock of this machine", "seconds ahead of", "set it right"],
        env={**AWS, "AWS_ENDPOINT_URL_S3": "http://{skewed}"},
    ),
    "no store there": Row(
        ["pull", "s3://some-bucket/app:v1", "oci:out"],
        ["s3://some-bucket", "{nobody}"],
        env={**AWS, "AWS_ENDPOINT_URL_S3": "http://{nobody}"},
    ),
    "a bucket that ignores conditions": Row(
        ["push", "oci:{layout}:v1", "s3://ignorant/p/app:v1"], ["s3://ignorant/p", "If-None-Match"], bucket="ignorant"
    ),
    "no such bucket": Row(
        ["push", "oci:{layout}:v1", "s3://no-such-bucket/app:v1"], ["there is no bucket 'no-such-bucket'"], bucket="s3"
    ),
    "no such bucket to pull from": Row(
        ["pull", "s3://no-such-bucket/app:v1", "oci:out"], ["there is no bucket 'no-such-bucket'"], bucket="s3"
    ),
    "nothing in a bucket": Row(
        ["pull", "s3://{s3_bucket}/no/app:v1", "oci:out"],
        ["s3://{s3_bucket}/no", "holds no registry"],
        bucket="s3",
    ),
    "a key that is not known": Row(
        ["push", "oci:{layout}:v1", "s3://{s3_bucket}/p/app:v1"],
        ["s3://{s3_bucket}", "credentials are from", "AWS_ACCESS_KEY_ID"],
        bucket="s3",
        env=AWS,
    ),
    "a secret that is wrong": Row(
        ["push", "oci:{layout}:v1", "s3://{s3_bucket}/p/app:v1"],
        ["s3://{s3_bucket}", "SignatureDoesNotMatch", "credentials are from", "AWS_ACCESS_KEY_ID"],
        bucket="s3",
        env={"AWS_SECRET_ACCESS_KEY": SECRET},
    ),
    "a key that may only read": Row(
        ["push", "oci:{layout}:v1", "s3://{s3_bucket}/p/app:v1"],
        ["s3://{s3_bucket}", "not allowed", "credentials are from"],
        bucket="s3_reader",
    ),
}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def layer(content: Image) -> str:
    return content.layers[1].digest


@pytest.fixture(scope="module")
def small_layer(content: Image) -> str:
    return content.layers[0].digest


class Filling:
    """Puts fixtures in the place of their names."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def __getitem__(self, name: str) -> Any:
        return self._request.getfixturevalue(name)

    def __call__(self, text: str) -> str:
        return text.format_map(self)


@pytest.fixture
def filled(request: pytest.FixtureRequest) -> Filling:
    return Filling(request)


def published(folder: Path) -> list[str]:
    """Manifests and tags in a registry in a folder."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(str(path) for path in found if {"~manifests", "~tags"} & set(path.parts))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_what_fails_says_what_where_and_what_to_do(row: Row, filled: Filling, person: Person, empty: Path) -> None:
    arguments = [filled(argument) for argument in row.arguments]
    bucket: Mapping[str, str] = filled[row.bucket] if row.bucket else {}
    env = {**bucket, **{name: filled(value) for name, value in row.env.items()}}

    done = person.types(*arguments, env=env)

    done.fails(row.code, *map(filled, row.words), secrets=SECRETS)
    assert done.out == ""
    assert row.keeps or person.left() == []
    assert not (person.work / "out" / "index.json").exists()
    assert published(empty) == []


# What needs more than a row


def test_an_image_that_the_engine_does_not_have(docker_host: str, open_peer: str, person: Person) -> None:
    done = person.types("push", "no-such-image:v1", f"{open_peer}/app:v2", env={"DOCKER_HOST": docker_host})

    done.fails(1, "no-such-image:v1", "Docker Engine")
    assert person.left() == []


@pytest.mark.parametrize("action", ["push", "pull", "inspect"])
def test_credentials_that_are_wrong(action: str, guarded: str, layout: Path, person: Person) -> None:
    file = Path(person.environ["DOCKER_CONFIG"], "config.json")
    file.parent.mkdir()
    file.write_text(json.dumps({"auths": {guarded: {"auth": b64encode(f"{USER}:{WRONG}".encode()).decode()}}}))
    names = {"push": [f"oci:{layout}:v1", f"{guarded}/app:v1"], "pull": [f"{guarded}/app:v1", "oci:out"]}

    arguments = [action, *names.get(action, [f"{guarded}/app:v1"])]

    done = person.types(*arguments)
    done.fails(1, guarded, str(file), "bucketry login", secrets=SECRETS)

    done = person.types(*arguments, "--debug")
    assert "Traceback" in done.err
    assert not [secret for secret in SECRETS if secret in done.err]
    assert person.left() == []


def test_a_file_of_credentials_that_cannot_be_read(guarded: str, person: Person) -> None:
    file = Path(person.environ["DOCKER_CONFIG"], "config.json")
    file.parent.mkdir()
    file.write_text('{"auths": [')

    person.types("inspect", f"{guarded}/app:v1").fails(2, str(file))


def small_files(size: int) -> list[str]:
    """What starts a program that can write no larger files: for it, the disk is full."""
    return [tool("prlimit"), f"--fsize={size}", "--"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "file:{store}/app:v1", "oci:out"], ["out", "make room"]),
        (["pull", "file:{store}/app:v1", "docker-archive:app.tar:app:v1"], ["app.tar", "make room"]),
        (["pull", "{open_peer}/app:v1", "oci-archive:app.tar:v1"], ["app.tar", "make room"]),
        (["push", "docker-archive:{archive}", "{open_peer}/full:v1"], ["a compressed layer", "{tmp}", "make room"]),
        (["push", "oci:{layout}:v1", "file:{empty}/app:v1"], ["file:{empty}"]),
    ],
)
def test_a_disk_that_is_full(
    arguments: list[str], words: list[str], filled: Filling, person: Person, empty: Path
) -> None:
    words = [word.replace("{tmp}", str(person.folder / "tmp")) for word in words]

    done = person.types(*map(filled, arguments), before=small_files(MIB))

    done.fails(1, *map(filled, words))
    assert done.out == ""
    assert not (person.work / "app.tar").exists()
    assert not (person.work / "out" / "index.json").exists()
    assert not list((person.folder / "tmp").iterdir())
    assert published(empty) == []


def powerless() -> list[str]:
    """What starts a program for which the modes of files count, root's too."""
    return [tool("setpriv"), "--inh-caps=-all", "--bounding-set=-all"]


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize(
    "arguments",
    [
        ["push", "oci:{layout}:v1", "file:{read_only}/registry/app:v1"],
        ["pull", "file:{store}/app:v1", "oci:{read_only}/out:v1"],
        ["pull", "file:{store}/app:v1", "docker-archive:{read_only}/app.tar:app:v1"],
        ["pull", "file:{store}/app:v1", "oci-archive:{read_only}/app.tar:v1"],
    ],
)
def test_a_folder_that_takes_no_writes(arguments: list[str], filled: Filling, person: Person, read_only: Path) -> None:
    done = person.types(*map(filled, arguments), before=powerless())

    done.fails(1, str(read_only), "ermission denied")
    assert list(read_only.iterdir()) == []


def test_a_cache_that_takes_no_writes_costs_nothing_but_the_going_on(
    layout: Path, person: Person, read_only: Path, empty: Path
) -> None:
    done = person.types(
        "push", f"oci:{layout}:v1", f"file:{empty}/app:v1", env={"XDG_CACHE_HOME": str(read_only)}, before=powerless()
    )

    assert done.code == 0, done.err
    assert list(read_only.iterdir()) == []
