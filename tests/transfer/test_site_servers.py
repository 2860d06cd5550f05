"""What nginx and Caddy answer on a published folder: media types, digests, caching, what is hidden."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.images import Blob, Image, Index, make_image, make_index, to_json, write_layout
from tests.support.tls import Tls, make_tls
from tests.support.tools import search_path, tool
from tests.support.web import WebServer, caddy, nginx
from tests.transfer.command import Person

from bucketry.store.site_folder import FolderSite

FOREVER = "public, max-age=31536000, immutable"
SHORTLY = "public, max-age=60"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

SERVERS: dict[str, Callable[[Path, Path, Tls], AbstractContextManager[WebServer]]] = {"nginx": nginx, "caddy": caddy}


def docker_image() -> Image:
    made = make_image(7, (300,))
    config = Blob(made.config.data, "application/vnd.docker.container.image.v1+json")
    layers = tuple(Blob(each.data, "application/vnd.docker.image.rootfs.diff.tar.gzip") for each in made.layers)
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": config.descriptor(),
        "layers": [each.descriptor() for each in layers],
    }
    return Image(to_json(document, DOCKER_MANIFEST), config, layers, made.tars, "amd64")


def docker_list() -> Index:
    image = docker_image()
    entry = {**image.manifest.descriptor(), "platform": {"os": "linux", "architecture": "amd64"}}
    document = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [entry]}
    return Index(to_json(document, DOCKER_LIST), (image,))


@dataclass(frozen=True)
class Published:
    """Images by tag, in the repository ``team/app`` of a folder."""

    folder: Path
    person: Person
    images: dict[str, Image | Index]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def tells(self, *names: str) -> tuple[str | None, ...]:
        return tuple(self.headers.get(name) for name in names)


@dataclass(frozen=True)
class Host:
    host: str

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            reply = connection.getresponse()
            return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("served") / "site"
    person = Person.at(tmp_path_factory.mktemp("published") / "person")
    images: dict[str, Image | Index] = {
        "oci": make_image(1, (300, 5000)),
        "multi": make_index([make_image(2, (300,)), make_image(3, (300,), "arm64")]),
        "docker": docker_image(),
        "list": docker_list(),
    }
    for tag, image in images.items():
        write_layout(person.work / tag, image, tag)
        done = person.types("publish", f"oci:{tag}:{tag}", "--name", "team/app", "--to", folder)
        assert done.code == 0, done.err
    return Published(folder, person, images)


@pytest.fixture(scope="module", params=SERVERS)
def host(
    request: pytest.FixtureRequest, published: Published, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("server")
    with SERVERS[request.param](published.folder, folder, make_tls(folder / "tls")) as server:
        # nginx names the file that it has something against.
        assert "bucketry-nginx.conf" not in server.daemon.log()
        yield Host(f"127.0.0.1:{server.http}")


def test_caddy_has_nothing_against_its_file(published: Published, tmp_path: Path) -> None:
    command = [tool("caddy"), "validate", "--config", str(published.folder / "Caddyfile")]
    env = {"PATH": search_path(), "HOME": str(tmp_path), "SITE": "http://127.0.0.1:8080"}
    said = subprocess.run(command, env=env, cwd=published.folder, capture_output=True, text=True, timeout=30)
    assert said.returncode == 0, said.stderr
    assert '"level":"warn"' not in said.stderr, said.stderr


@pytest.mark.parametrize(
    ("tag", "media_type"),
    [("oci", OCI_MANIFEST), ("multi", OCI_INDEX), ("docker", DOCKER_MANIFEST), ("list", DOCKER_LIST)],
)
def test_a_manifest_has_its_media_type_by_tag_and_by_digest(
    host: Host, published: Published, tag: str, media_type: str
) -> None:
    manifest = published.images[tag].manifest
    for reference in (tag, manifest.digest, manifest.digest.replace(":", "%3A")):
        for method in ("GET", "HEAD"):
            answer = host.get(f"/v2/team/app/manifests/{reference}", method)
            assert answer.status == 200
            assert answer.headers["content-type"] == media_type
            assert answer.headers["content-length"] == str(len(manifest.data))
            assert answer.body == (manifest.data if method == "GET" else b"")


def test_a_tag_says_which_digest_it_is_of(host: Host, published: Published) -> None:
    for tag, image in published.images.items():
        for method in ("GET", "HEAD"):
            answer = host.get(f"/v2/team/app/manifests/{tag}", method)
            assert answer.tells("docker-content-digest", "cache-control") == (image.manifest.digest, SHORTLY)
    assert host.get("/v2/team/app/manifests/nothing").tells("docker-content-digest") == (None,)
    digest = published.images["oci"].manifest.digest
    for path in (f"~/{digest}", f"~/tagged/{digest}", f"tagged/{digest}", f"~/{digest}/{digest}.oci-manifest", "~/oci"):
        assert host.get(f"/v2/team/app/manifests/{path}").status == 404, path


def test_digest_type_and_bytes_belong_together_while_a_tag_moves(host: Host, published: Published) -> None:
    types = {"oci": OCI_MANIFEST, "multi": OCI_INDEX, "docker": DOCKER_MANIFEST, "list": DOCKER_LIST}
    told = {image.manifest.digest: (image.manifest.data, types[tag]) for tag, image in published.images.items()}
    over = threading.Event()
    moves = 0

    async def move() -> None:
        nonlocal moves
        site = FolderSite(published.folder, fsync=False)
        path = "v2/team/app/manifests/~/racing"
        current: str | None = None
        while not over.is_set():
            for digest in told:
                await site.point(path, digest, current=current)
                current, moves = digest, moves + 1
                # Caddy looks four times: it takes thousands of moves a second for all of them to be in vain.
                await asyncio.sleep(0.005)
        await site.delete_many([path])
        await site.close()

    mover = threading.Thread(target=lambda: asyncio.run(move()))
    mover.start()
    try:
        seen = set()
        while not moves:
            time.sleep(0.001)
        for _ in range(400):
            answer = host.get("/v2/team/app/manifests/racing")
            assert answer.status == 200
            digest = answer.headers["docker-content-digest"]
            assert (answer.body, answer.headers["content-type"]) == told[digest]
            seen.add(digest)
    finally:
        over.set()
        mover.join()
    assert len(seen) > 1
    assert moves > 10


def test_what_is_named_by_its_digest_is_kept_for_ever_and_says_so(host: Host, published: Published) -> None:
    image = published.images["oci"]
    assert isinstance(image, Image)
    for path, data in (
        (f"manifests/{image.digest}", image.manifest.data),
        (f"blobs/{image.config.digest}", image.config.data),
        (f"blobs/{image.layers[1].digest}", image.layers[1].data),
    ):
        answer = host.get(f"/v2/team/app/{path}")
        assert answer.body == data
        assert answer.tells("docker-content-digest", "cache-control") == (path.partition("/")[2], FOREVER)
    assert host.get(f"/v2/team/app/blobs/{image.config.digest}").headers["content-type"] == "application/octet-stream"


def test_a_part_of_a_blob_can_be_asked_for(host: Host, published: Published) -> None:
    image = published.images["oci"]
    assert isinstance(image, Image)
    layer = image.layers[1]
    answer = host.get(f"/v2/team/app/blobs/{layer.digest}", Range="bytes=100-199")

    assert answer.status == 206
    assert answer.body == layer.data[100:200]


def test_what_changes_is_kept_for_a_minute(host: Host, published: Published) -> None:
    digest = published.images["oci"].manifest.digest
    for path, media_type in (
        ("/v2/team/app/manifests/oci", OCI_MANIFEST),
        (f"/v2/team/app/referrers/{digest}", OCI_INDEX),
        ("/v2/team/app/tags/list", "application/json"),
        ("/v2/_catalog", "application/json"),
        ("/v2/_oci/ext/discover", "application/json"),
    ):
        answer = host.get(path)
        assert (answer.status, *answer.tells("content-type", "cache-control")) == (200, media_type, SHORTLY), path
        json.loads(answer.body)


def test_nothing_is_compressed_though_the_server_does_that(host: Host, published: Published) -> None:
    """Some clients need ``Content-Length``."""
    digest = published.images["multi"].manifest.digest
    for path in ("manifests/multi", f"manifests/{digest}", f"referrers/{digest}", "tags/list"):
        plain = host.get(f"/v2/team/app/{path}")
        answer = host.get(f"/v2/team/app/{path}", **{"Accept-Encoding": "gzip"})
        assert answer.tells("content-encoding", "content-length") == (None, str(len(plain.body))), path


def test_a_filter_of_referrers_is_not_said_to_be_applied(host: Host, published: Published) -> None:
    digest = published.images["oci"].manifest.digest
    answer = host.get(f"/v2/team/app/referrers/{digest}?artifactType=application%2Fx")

    assert answer.status == 200
    assert "oci-filters-applied" not in answer.headers


def test_the_ground_of_the_api_answers(host: Host) -> None:
    answer = host.get("/v2/")

    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.tells("content-type", "docker-distribution-api-version") == ("application/json", "registry/2.0")


@pytest.mark.parametrize("reference", ["none", "sha256:" + "0" * 64])
def test_what_is_not_there_is_told_in_the_words_of_the_spec_and_not_kept(host: Host, reference: str) -> None:
    answer = host.get(f"/v2/team/app/manifests/{reference}")

    assert answer.status == 404
    assert json.loads(answer.body)["errors"][0]["code"] == "MANIFEST_UNKNOWN"
    assert answer.tells("docker-content-digest", "cache-control") == (None, None)
    assert host.get("/v2/team/app/blobs/sha256:" + "0" * 64).tells("cache-control") == (None,)


@pytest.mark.parametrize(
    "path",
    [
        "/bucketry-site.json",
        "/bucketry-nginx.conf",
        "/Caddyfile",
        "/.bucketry-locks",
        "/v2/team/app/manifests/~/oci.oci-manifest",
        "/v2/team/app/manifests/~",
        "/v2/../bucketry-site.json",
        "/v2/%2e%2e/bucketry-site.json",
        "//bucketry-site.json",
    ],
)
def test_what_is_nobodys_business_is_not_there(host: Host, published: Published, path: str) -> None:
    assert host.get(path).status in (400, 403, 404)


def test_nothing_can_be_written(host: Host, published: Published) -> None:
    for method, path in (("PUT", "/v2/team/app/manifests/oci"), ("POST", "/v2/team/app/blobs/uploads/")):
        assert host.get(path, method).status in (403, 404, 405)
    digest = published.images["oci"].manifest.digest
    assert host.get(f"/v2/team/app/manifests/{digest}", "DELETE").status == 405


def test_the_page_is_served_at_the_root(host: Host) -> None:
    answer = host.get("/")

    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == SHORTLY
    assert b"<h2>team/app</h2>" in answer.body


def test_a_tag_that_moves_to_another_kind_of_manifest_is_served_as_that(host: Host, published: Published) -> None:
    path = "/v2/team/app/manifests/moving"
    for tag, media_type in (("multi", OCI_INDEX), ("docker", DOCKER_MANIFEST), ("oci", OCI_MANIFEST)):
        done = published.person.types(
            "publish", f"oci:{tag}:{tag}", "--name", "team/app:moving", "--to", published.folder
        )
        assert done.code == 0, done.err
        answer = host.get(path)
        assert answer.headers["content-type"] == media_type
        assert answer.body == published.images[tag].manifest.data
