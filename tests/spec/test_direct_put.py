"""Small blobs straight to the bucket, which checks them itself (docs/rfcs/0003-parallel-extension.md, rule 9).

On S3 servers as they are by default: what they find of the bucket when they start is what makes them offer it.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.spec.conftest import Running
from tests.store.seaweed import Seaweed
from tests.support.api import Answer, Api, noise
from tests.support.extension import DISCOVER, SEGMENT, Extension, Upload
from tests.support.fixtures import Registry
from tests.support.images import digest_of, make_image, write_docker_archive, write_layout
from tests.support.moving import mover
from tests.support.server import assert_no_fault, bucketry

from bucketry import registry as core
from bucketry.store.s3 import S3Store

KIB = 1024
MIB = 1024 * KIB
DAYS = 2 * 24 * 3600.0


@dataclass(frozen=True)
class Two:
    """Two servers on one bucket, of one worker each."""

    first: Running
    second: Running
    seaweed: Seaweed

    @property
    def prefix(self) -> str:
        return "direct-put"

    def objects(self, folder: str) -> set[str]:
        """Keys below a folder of the bucket."""
        found = self.seaweed.client().list_objects_v2(Bucket=self.seaweed.bucket, Prefix=f"{self.prefix}/{folder}/")
        return {each["Key"] for each in found.get("Contents", [])}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed) -> Iterator[Two]:
    with ExitStack() as stack:
        started = []
        for name in ("first", "second"):
            folder = tmp_path_factory.mktemp(name)
            server = stack.enter_context(
                bucketry(f"s3://{seaweed.bucket}/direct-put", folder, options=["--workers", "1"], env=seaweed.environ())
            )
            started.append(Running(Api(server.port), server, folder))
        yield Two(started[0], started[1], seaweed)
        for each in started:
            assert_no_fault(each.server)


@pytest.fixture
def api(servers: Two) -> Api:
    return servers.first.api


@pytest.fixture
def extension(api: Api, repository: str) -> Extension:
    return Extension(api, repository)


@dataclass(frozen=True)
class Direct:
    """A blob on its way, and where it goes."""

    upload: Upload
    url: str
    headers: Mapping[str, str]
    expires: float

    def put(self, body: bytes, **changes: str | None) -> int:
        """The bucket's status; ``changes`` to the headers, with _ for -, None to leave one out."""
        changed = {name.replace("_", "-"): value for name, value in changes.items()}
        headers = {name: value for name, value in {**self.headers, **changed}.items() if value is not None}
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.netloc, timeout=60)
        try:
            connection.request("PUT", f"{where.path}?{where.query}", body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


def told(answer: Mapping[str, Any], upload: Upload) -> Direct:
    assert list(answer["urls"]) == ["1"]
    return Direct(upload, answer["urls"]["1"], answer["headers"], answer["expires"])


def begin(extension: Extension, data: bytes) -> Direct:
    answer = extension.begin(digest=digest_of(data), size=len(data))
    assert answer.status == 201, answer
    assert answer.header("Cache-Control") == "no-store"
    opened = answer.json()
    upload = Upload(extension, opened["session"], opened["partSize"], opened["maxParts"], opened["direct"])
    assert (upload.max_parts, upload.direct) == (1, True)
    return told(opened["put"], upload)


def assert_invisible(api: Api, repository: str, data: bytes) -> None:
    assert api.head(f"/v2/{repository}/blobs/{digest_of(data)}").status == 404


def assert_blob(api: Api, repository: str, data: bytes) -> None:
    answer = api.blob(repository, digest_of(data))
    assert (answer.status, answer.body == data) == (200, True), answer


def put_up_to(api: Api) -> int:
    (found,) = Extension(api, "any").request("GET", DISCOVER).json()["extensions"]
    return int(found["putUpTo"])


def test_the_registry_says_up_to_which_size(api: Api, local_registry: Registry) -> None:
    assert put_up_to(api) == SEGMENT
    assert put_up_to(Api(int(local_registry.host.rpartition(":")[2]))) == 0


@pytest.mark.parametrize("size", [1, 300 * KIB, SEGMENT])
def test_a_small_blob_goes_straight_to_the_bucket(extension: Extension, api: Api, seaweed: Seaweed, size: int) -> None:
    data = noise(f"{extension.repository} {size}", size)
    direct = begin(extension, data)
    assert urlsplit(direct.url).netloc == urlsplit(seaweed.endpoint).netloc
    assert direct.expires >= 60
    assert "content-length" not in direct.headers

    assert direct.put(data) == 200
    assert direct.upload.sent() == {1: size}
    assert_invisible(api, extension.repository, data)
    answer = direct.upload.complete(digest_of(data), size)

    assert answer.status == 201, answer
    assert answer.json() == {"state": "done", "digest": digest_of(data), "size": size, "verified": size}
    assert_blob(api, extension.repository, data)
    assert extension.begin(digest=digest_of(data), size=size).json()["state"] == "present"


def test_it_costs_the_registry_six_requests_to_its_store(extension: Extension, api: Api) -> None:
    def requests() -> float:
        return api.metric("bucketry_store_requests_total")

    data = noise(extension.repository, MIB)
    extension.begin()  # So that what is asked for once has been.
    before, received = requests(), api.metric("bucketry_store_bytes_total", direction="received")
    direct = begin(extension, data)
    assert direct.put(data) == 200
    assert direct.upload.complete(digest_of(data), len(data)).status == 201
    assert requests() - before <= 6
    assert api.metric("bucketry_store_bytes_total", direction="received") - received < 64 * KIB


def test_what_is_longer_or_not_known_goes_in_parts(extension: Extension) -> None:
    digest = digest_of(noise(extension.repository, 10))
    for fields in (
        {"digest": digest, "size": SEGMENT + 1},
        {"digest": digest},
        {"size": 10},
        {"digest": "sha512:" + "0" * 128, "size": 10},
        {"digest": digest, "size": 0},
    ):
        answer = extension.begin(**fields)
        assert answer.status == 201, answer
        assert "put" not in answer.json()


def test_the_bucket_refuses_other_bytes(extension: Extension, api: Api, servers: Two) -> None:
    data = noise(extension.repository, 300 * KIB)
    other = noise("other bytes", len(data))
    direct = begin(extension, data)
    before = servers.objects("data")
    (summed,) = [name for name in direct.headers if "checksum" in name]

    assert direct.put(other) == 400
    assert direct.put(other, **{summed.replace("-", "_"): None}) in (400, 403)
    assert direct.put(data[:-1]) in (400, 403)
    assert direct.put(data + b"x") in (400, 403)

    assert direct.upload.sent() == {}
    assert servers.objects("data") == before
    answer = direct.upload.complete(digest_of(data), len(data))
    assert answer.error() == (400, "BLOB_UPLOAD_INVALID")
    assert_invisible(api, extension.repository, data)
    # And the session still takes the right ones.
    assert direct.put(data) == 200
    assert direct.upload.complete(digest_of(data), len(data)).status == 201
    assert_blob(api, extension.repository, data)


def test_the_bucket_takes_it_once(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 300 * KIB)
    direct = begin(extension, data)
    with ThreadPoolExecutor(6) as threads:
        statuses = sorted(threads.map(lambda _: direct.put(data), range(6)))
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {409, 412}
    assert direct.put(data) == 412
    assert direct.put(data, if_none_match=None) in (400, 403)
    assert direct.upload.complete(digest_of(data), len(data)).status == 201
    assert direct.put(data) == 412
    assert_blob(api, extension.repository, data)


def test_a_completion_before_the_bytes_names_what_is_missing(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 300 * KIB)
    direct = begin(extension, data)
    answer = direct.upload.complete(digest_of(data), len(data))
    assert answer.error() == (400, "BLOB_UPLOAD_INVALID")
    assert answer.json()["errors"][0]["detail"] == {"missing": [1]}
    assert direct.upload.status().json()["state"] == "open"
    assert_invisible(api, extension.repository, data)


def test_a_completion_is_answered_the_same_twice_and_at_once(extension: Extension, api: Api, servers: Two) -> None:
    data = noise(extension.repository, 300 * KIB)
    direct = begin(extension, data)
    assert direct.put(data) == 200
    other = Extension(servers.second.api, extension.repository).upload(direct.upload.session)

    def complete(upload: Upload) -> Answer:
        return upload.complete(digest_of(data), len(data))

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(complete, (direct.upload, other, direct.upload, other)))
    answers += [complete(direct.upload), complete(other)]
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    for each in (api, servers.second.api):
        assert_blob(each, extension.repository, data)


def test_two_servers_in_turn(extension: Extension, servers: Two) -> None:
    """As behind a balancer: none keeps anything to itself."""
    data = noise(extension.repository, 300 * KIB)
    direct = begin(extension, data)
    other = Extension(servers.second.api, extension.repository).upload(direct.upload.session)
    answer = other.urls([1])
    assert answer.header("Cache-Control") == "no-store"
    again = told(answer.json(), other)
    assert again.headers == direct.headers
    assert again.put(data) == 200
    assert direct.put(data) == 412
    assert direct.upload.sent() == other.sent() == {1: len(data)}
    assert other.complete(digest_of(data), len(data)).status == 201
    assert_blob(servers.first.api, extension.repository, data)


def test_there_are_no_other_parts(extension: Extension) -> None:
    data = noise(extension.repository, 300 * KIB)
    direct = begin(extension, data)
    for numbers in ([2], [1, 2]):
        assert direct.upload.urls(numbers).error() == (400, "UNSUPPORTED")
    assert direct.upload.put_own(2, data).status == 400


def test_the_registry_takes_it_too_and_checks_it(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 300 * KIB)
    direct = begin(extension, data)
    assert direct.upload.put_own(1, noise("other bytes", len(data))).error() == (400, "DIGEST_INVALID")
    assert direct.upload.sent() == {}
    for _ in range(2):
        assert direct.upload.put_own(1, data).status == 201
    assert direct.put(data) == 412
    assert direct.upload.complete(digest_of(data), len(data)).status == 201
    assert_blob(api, extension.repository, data)


def test_it_must_become_what_was_announced(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 300 * KIB)
    direct = begin(extension, data)
    assert direct.put(data) == 200
    other = digest_of(b"other")
    assert direct.upload.complete(other, len(data)).error() == (400, "BLOB_UPLOAD_INVALID")
    assert direct.upload.complete(digest_of(data), len(data) - 1).error() == (400, "SIZE_INVALID")
    assert_invisible(api, extension.repository, data)


def test_a_session_of_another_repository_is_unknown(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 300 * KIB)
    direct = begin(extension, data)
    stranger = Extension(api, f"{extension.repository}/other").upload(direct.upload.session)
    assert stranger.urls([1]).status == 404
    assert stranger.complete(digest_of(data), len(data)).status == 404
    assert stranger.cancel().status == 404


class Later(core.SystemClock):
    def now(self) -> float:
        return time.time() + DAYS


def sweep(servers: Two) -> None:
    """As a server does it days later."""

    async def run() -> None:
        store = S3Store(servers.seaweed.settings(servers.prefix))
        await store.start()
        registry = await core.Registry.open(store, clock=Later())
        await registry.sweeper.sweep()
        await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_was_abandoned_is_swept(extension: Extension, api: Api, servers: Two, cancelled: bool) -> None:
    kept = noise(f"{extension.repository} kept", 300 * KIB)
    direct = begin(extension, kept)
    assert direct.put(kept) == 200
    assert direct.upload.complete(digest_of(kept), len(kept)).status == 201
    before = servers.objects("data")

    lost = noise(extension.repository, 300 * KIB)
    direct = begin(extension, lost)
    if cancelled:
        assert direct.upload.cancel().status == 204
        assert direct.upload.cancel().error() == (404, "BLOB_UPLOAD_UNKNOWN")
        assert direct.upload.complete(digest_of(lost), len(lost)).error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert direct.put(lost) == 200
    (key,) = servers.objects("data") - before

    sweep(servers)

    assert key not in servers.objects("data")
    assert servers.objects("uploads") == set()
    assert_blob(api, extension.repository, kept)
    assert direct.upload.complete(digest_of(lost), len(lost)).status == 404


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_push_sends_a_small_layer_straight_to_the_bucket(
    api: Api, servers: Two, repository: str, tmp_path: Path, kind: str
) -> None:
    content = make_image(seed=len(kind), sizes=(10 * KIB, MIB))
    if kind == "oci":
        source = f"oci:{write_layout(tmp_path / 'layout', content, 'v1')}:v1"
    else:
        write_docker_archive(tmp_path / "image.tar", content, "small:v1")
        source = f"docker-archive:{tmp_path / 'image.tar'}"
    received = api.metric("bucketry_http_received_bytes_total")

    mover(tmp_path / "mover")("push", source, f"{servers.first.server.host}/{repository}:v1")

    assert api.metric("bucketry_http_received_bytes_total") - received < 200 * KIB
    manifest = api.get(f"/v2/{repository}/manifests/v1").json()
    layers = [api.blob(repository, layer["digest"]) for layer in manifest["layers"]]
    assert [layer.status for layer in layers] == [200, 200]
    assert len(layers[1].body) > MIB // 2
    for layer, told_of in zip(layers, manifest["layers"], strict=True):
        assert digest_of(layer.body) == told_of["digest"]


@pytest.mark.parametrize("said", ["false", "true"])
def test_the_owner_has_the_last_word(seaweed: Seaweed, tmp_path: Path, said: str) -> None:
    store = f"s3://{seaweed.bucket}/direct-put-{said}"
    config = f"[store]\nchecked_put = {said}\n"
    with bucketry(store, tmp_path, config=config, options=["--workers", "1"], env=seaweed.environ()) as server:
        assert put_up_to(Api(server.port)) == (SEGMENT if said == "true" else 0)
        answer = Extension(Api(server.port), "team/app").begin(digest=digest_of(b"x"), size=1)
        assert ("put" in answer.json()) is (said == "true")


def test_a_bucket_that_does_not_answer_the_client_is_no_obstacle(
    seaweed: Seaweed, tmp_path: Path, repository: str
) -> None:
    """The registry takes small blobs itself."""
    store = f"s3://{seaweed.bucket}/direct-put-far"
    config = '[store]\nchecked_put = true\npublic_endpoint = "http://127.0.0.1:1"\n[delivery]\nmode = "proxy"\n'
    with bucketry(store, tmp_path, config=config, options=["--workers", "1"], env=seaweed.environ()) as server:
        layout = write_layout(tmp_path / "layout", make_image(seed=7, sizes=(MIB, 2 * MIB)), "v1")
        mover(tmp_path / "mover")("push", f"oci:{layout}:v1", f"{server.host}/{repository}:v1")
        api = Api(server.port)
        for layer in api.get(f"/v2/{repository}/manifests/v1").json()["layers"]:
            assert digest_of(api.blob(repository, layer["digest"]).body) == layer["digest"]
