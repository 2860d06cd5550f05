"""Requests to the parallel extension that are meant to harm."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.spec.conftest import Running
from tests.spec.hostile import HARMLESS, NAMES, REFERENCES, SESSIONS, extension_mutations, words
from tests.spec.test_hostile import files_below, flood, peak_memory, raw, raw_path
from tests.store.seaweed import Seaweed
from tests.support.api import ABSENT, Api, noise
from tests.support.extension import SEGMENT, UPLOAD_TYPE, Extension
from tests.support.images import digest_of
from tests.support.server import bucketry

MIB = 1024 * 1024
MOST_JSON = 4 * MIB
ENDPOINTS = ("uploads", "uploads/{session}/urls", "uploads/{session}/complete")
"""Those that take JSON."""

DEEP = b"[" * 10_000 + b"]" * 10_000
ZEROS = b"0" * 5000


@pytest.fixture
def extension(api: Api, repository: str) -> Extension:
    return Extension(api, repository)


# Names, sessions, numbers


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:40] for name in NAMES])
def test_name_that_is_none_reaches_no_file(name: str, strict: Running) -> None:
    before = files_below(strict.folder.parent)
    for end, method in (
        ("uploads/x", b"GET"),
        ("uploads/x", b"DELETE"),
        ("uploads/x/urls", b"POST"),
        ("uploads/x/parts/1", b"PUT"),
        ("uploads/x/complete", b"POST"),
        (f"checkpoints/{ABSENT}", b"GET"),
    ):
        answer = raw_path(strict.api, f"/v2/{name}/_bucketry/{end}".encode(), method=method)
        assert 400 <= answer.status < 406, (end, answer)
        assert "X-Evil" not in answer.headers
    if name not in HARMLESS:
        answer = raw_path(strict.api, f"/v2/{name}/_bucketry/uploads".encode(), method=b"POST")
        assert 400 <= answer.status < 406, answer
    assert files_below(strict.folder.parent) == before


@pytest.mark.parametrize("session", SESSIONS, ids=[ascii(session)[:40] for session in SESSIONS])
def test_session_that_was_made_up_is_unknown(session: str, strict: Running) -> None:
    before = files_below(strict.folder.parent)
    for end, method in (
        ("", b"GET"),
        ("", b"DELETE"),
        ("/parts/1", b"PUT"),
        ("/complete", b"POST"),
        ("/urls", b"POST"),
    ):
        answer = raw_path(strict.api, f"/v2/a/_bucketry/uploads/{session}{end}".encode(), method=method)
        assert answer.status in (400, 404, 405), (method, answer)
        assert "X-Evil" not in answer.headers
    assert files_below(strict.folder.parent) == before


@pytest.mark.parametrize("reference", REFERENCES, ids=[ascii(reference)[:40] for reference in REFERENCES])
def test_digest_that_is_none_reaches_no_file(reference: str, strict: Running) -> None:
    before = files_below(strict.folder.parent)
    answer = raw_path(strict.api, f"/v2/a/_bucketry/checkpoints/{reference}".encode())
    assert answer.status in (400, 404), answer
    assert "X-Evil" not in answer.headers
    assert files_below(strict.folder.parent) == before
    body = json.dumps({"digest": reference}).encode()
    if not reference.isascii() or "%" in reference or reference.partition(":")[0] not in ("sha256", "sha512"):
        assert strict.api.request("POST", "/v2/a/_bucketry/uploads", body).error() == (400, "DIGEST_INVALID")
        assert files_below(strict.folder.parent) == before


@pytest.mark.parametrize(
    "number",
    [
        *words("../1 1%2f.. %2e%2e 1%00 %00 +1 -1 0x1 1e3 1_000 ¹ ١ １ 1; 1%20 %201 00000001/2"),
        "9" * 8,
        "9" * 9,
        "9" * 5000,
        "0" * 3000 + "1",
    ],
    ids=lambda number: ascii(number)[:30],
)
def test_part_number_that_is_none_is_refused(number: str, strict: Running) -> None:
    upload = Extension(strict.api, "hostile/numbers").open(size=1000)
    before = files_below(strict.folder.parent)
    path = f"{upload.path}/parts/{number}".encode()
    answer = raw(strict.api, b"PUT %s HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" % path + b"a" * 1000)
    assert answer.status in (400, 404, 431), answer
    assert upload.sent() == {}
    assert files_below(strict.folder.parent) == before


def test_encoded_slash_makes_no_other_path_of_a_session(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 1000)
    upload = extension.open(size=len(data))
    upload.put_own(1, data)
    for path in (
        f"{extension.base}/uploads/..%2fuploads%2f{upload.session}",
        f"{extension.base}/uploads/x%2f..%2f{upload.session}",
        f"{extension.base}/uploads/{upload.session}%00",
        f"{extension.base}/uploads/{upload.session}.more",
        f"{extension.base}/uploads/{upload.session.upper()}",
        f"/v2/{extension.repository}/b/../_bucketry/uploads/{upload.session}",
        f"/v2/{extension.repository}/b%2f..%2f_bucketry/uploads/{upload.session}",
    ):
        for method in (b"GET", b"DELETE"):
            assert raw_path(api, path.encode(), method=method).status in (400, 404, 405), path
    assert upload.finish(digest_of(data), len(data)).status == 201


def test_session_of_a_longer_life_or_another_algorithm_cannot_be_made_of_ones_own(strict: Running) -> None:
    extension = Extension(strict.api, "hostile/forged")
    session = extension.open(size=1000).session
    unique, created, algorithm, mac = session.split(".")
    other = "0" if unique[-1] != "0" else "1"
    for forged in (
        f"{unique}.{int(created, 16) + 1000:x}.{algorithm}.{mac}",
        f"{unique}.{created}.sha512.{mac}",
        f"{unique[:-1]}{other}.{created}.{algorithm}.{mac}",
        f"{unique}.{created}.{algorithm}.{mac[:-1]}",
        f"{unique}.0{created}.{algorithm}.{mac}",
    ):
        upload = extension.upload(forged)
        for answer in (upload.status(), upload.urls([1]), upload.put_own(1, b"a"), upload.cancel()):
            assert answer.error() == (404, "BLOB_UPLOAD_UNKNOWN"), forged
    assert extension.upload(session).status().status == 200


# JSON

BODIES = {
    "deep list": DEEP,
    "deep list in a field": b'{"x":' + DEEP + b"}",
    "deep object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "half of a deep list": b"[" * 60_000,
    "list": b"[]",
    "null": b"null",
    "text": b'"a"',
    "number": b"1",
    "two values": b"{} {}",
    "not closed": b'{"size":1',
    "blank": b" ",
    "no JSON": b"hello",
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"size":1}'.encode("utf-16"),
    "no UTF-8": b'{"digest":"\xff","parts":["\xff"]}',
    "half a surrogate": b'{"digest":"\\ud800"}',
    "digest is a number": b'{"digest":1,"size":1,"parts":"1"}',
    "digest is long": b'{"digest":"sha256:' + ZEROS + b'","size":1}',
    "digest has a path": b'{"digest":"sha256:../../../etc/passwd","size":1}',
    "digest has a nul": b'{"digest":"sha256:\\u0000","size":1}',
    "digest ends a line": b'{"digest":"sha256:a\\r\\nX-Evil: 1","size":1}',
    "digest of no algorithm": b'{"digest":"md5:0123","size":1}',
    "size is negative": b'{"digest":"","size":-1,"parts":[-1]}',
    "size is text": b'{"digest":"","size":"1","parts":["1"]}',
    "size is a boolean": b'{"digest":"","size":true,"parts":[true]}',
    "size is a fraction": b'{"digest":"","size":1.5,"parts":[1.5]}',
    "size is infinite": b'{"digest":"","size":1e999,"parts":[1e999]}',
    "size is NaN": b'{"digest":"","size":NaN,"parts":[NaN]}',
    "size has 5,000 digits": b'{"digest":"","size":1' + ZEROS + b',"parts":[1' + ZEROS + b"]}",
    "size is 2^63": b'{"digest":"","size":9223372036854775808,"parts":[9223372036854775808]}',
    "size is an object": b'{"digest":"","size":{},"parts":{}}',
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("name", BODIES)
def test_json_that_is_none_of_these_is_400(strict: Running, endpoint: str, name: str) -> None:
    extension = Extension(strict.api, "hostile/json")
    session = extension.open(size=1000).session
    before = files_below(strict.folder.parent)
    target = f"{extension.base}/{endpoint.format(session=session)}"
    answer = strict.api.request("POST", target, BODIES[name])
    assert answer.error()[0] == 400, answer
    assert len(answer.body) < 2000
    assert "X-Evil" not in answer.headers
    assert files_below(strict.folder.parent) == before


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_request_without_a_body(strict: Running, endpoint: str) -> None:
    extension = Extension(strict.api, "hostile/empty")
    target = f"{extension.base}/{endpoint.format(session=extension.open(size=1000).session)}"
    bodies: tuple[bytes | list[bytes] | None, ...] = (None, b"", [])
    for body in bodies:
        answer = strict.api.request("POST", target, body)
        assert answer.status == (201 if endpoint == "uploads" else 400), answer
    assert strict.api.request("POST", f"{extension.base}/uploads", b"{}", {"Content-Type": "text/html"}).status == 201


def test_huge_numbers_that_are_numbers(strict: Running) -> None:
    extension = Extension(strict.api, "hostile/huge")
    for size in (5 * 1024**4 + 1, 2**63 - 1, 4 * 1024**4):
        # The last would fit into a bucket, and in parts that this server would have to buffer into nothing.
        assert extension.begin(size=size).error() == (400, "SIZE_INVALID")
    for wish in (0, 1, 2**63 - 1):
        opened = extension.open(partSize=wish)
        assert SEGMENT <= opened.part_size <= 64 * MIB
    upload = extension.open()
    assert upload.complete(ABSENT, 2**63 - 1).error() == (400, "SIZE_INVALID")
    assert upload.complete(ABSENT, 10_000 * upload.part_size).error() == (400, "BLOB_UPLOAD_INVALID")


def test_of_a_key_that_is_there_twice_one_counts(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 1000)
    upload = extension.open()
    upload.send(data)
    twice = b'{"digest":"%s","size":7,"digest":"%s","size":1000}' % (ABSENT.encode(), digest_of(data).encode())
    answer = api.request("POST", f"{upload.path}/complete", twice)
    assert answer.status == 201, answer
    assert answer.header("Docker-Content-Digest") == answer.json()["digest"] == digest_of(data)
    assert api.head(f"/v2/{extension.repository}/blobs/{digest_of(data)}").status == 200
    assert api.head(f"/v2/{extension.repository}/blobs/{ABSENT}").status == 404


def test_members_that_are_unknown_are_skipped(extension: Extension, api: Api) -> None:
    body = b'{"size":1000,"future":[1,{"a":null}],"":1,"state":"done","segment":-1}'
    answer = api.request("POST", f"{extension.base}/uploads", body)
    assert (answer.status, answer.json()["state"], answer.json()["maxParts"]) == (201, "open", 1)


@pytest.mark.parametrize("count", [0, 1001, 50_000, 400_000])
def test_more_than_1000_part_numbers_at_once_are_refused(strict: Running, count: int) -> None:
    upload = Extension(strict.api, "hostile/urls").open()
    before = peak_memory(strict.server.process.pid)
    assert upload.urls(range(1, 1001)).status == 200
    assert upload.urls([1] * count).error() == (400, "UNSUPPORTED")
    assert peak_memory(strict.server.process.pid) - before < 48 * MIB


def test_same_part_number_a_thousand_times_is_one_url(extension: Extension) -> None:
    upload = extension.open()
    assert list(upload.urls([3] * 1000).json()["urls"]) == ["3"]


# Much


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker with the usual limits, but for the patience with bodies."""
    folder = tmp_path_factory.mktemp("roomy")
    config = "[limits]\nbody_idle_timeout = 2\n"
    with bucketry(str(folder / "store"), folder, config=config, options=["--workers", "1"]) as server:
        yield Running(Api(server.port), server, folder / "store")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_json_above_the_limit_is_refused_in_flat_memory(roomy: Running, endpoint: str, chunked: bool) -> None:
    extension = Extension(roomy.api, "hostile/large")
    target = f"{extension.base}/{endpoint.format(session=extension.open(size=1000).session)}"
    before = peak_memory(roomy.server.process.pid)
    with roomy.api.wire() as wire:
        length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(1 << 40)}
        wire.begin("POST", target, length)
        with pytest.raises(ConnectionError):  # It is not read to its end.
            flood(wire.chunk if chunked else wire.send, megabytes=100)
    for body in (b" " * (MOST_JSON + 1), [b" " * MOST_JSON, b" "]):
        answer = roomy.api.request("POST", target, body)
        assert answer.error() == (400, "SIZE_INVALID"), answer
    assert peak_memory(roomy.server.process.pid) - before < 32 * MIB


def test_checkpoints_as_long_as_json_may_be_are_refused_in_flat_memory(roomy: Running) -> None:
    """Many at once, all of them lies: nothing is read for them, and nothing kept."""
    extension = Extension(roomy.api, "hostile/checkpoints")
    data = noise("checkpoints", 1000)
    upload = extension.open(size=len(data))
    upload.send(data)
    lies = b"SHA256C\1" + noise("lies", 3 * MIB - 1000)
    body = json.dumps(
        {"digest": digest_of(data), "size": len(data), "checkpoints": base64.b64encode(lies).decode()}
    ).encode()
    assert MOST_JSON - 10_000 < len(body) < MOST_JSON
    before = peak_memory(roomy.server.process.pid)
    with ThreadPoolExecutor(24) as threads:
        tries = [threads.submit(roomy.api.request, "POST", f"{upload.path}/complete", body) for _ in range(24)]
        for each in tries:
            assert each.result().error() == (400, "UNSUPPORTED")
    assert peak_memory(roomy.server.process.pid) - before < 100 * MIB
    assert upload.finish(digest_of(data), len(data)).status == 201


def test_part_that_never_ends_is_refused_in_flat_memory(roomy: Running) -> None:
    upload = Extension(roomy.api, "hostile/parts").open()
    before = peak_memory(roomy.server.process.pid)
    for chunked in (False, True):
        with roomy.api.wire() as wire:
            length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(1 << 40)}
            wire.begin("PUT", f"{upload.path}/parts/1", length)
            with pytest.raises(ConnectionError):
                flood(wire.chunk if chunked else wire.send, megabytes=200)
    assert upload.sent() == {}
    assert peak_memory(roomy.server.process.pid) - before < upload.part_size + 32 * MIB


@pytest.fixture(scope="module")
def small_on_s3(tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("small-on-s3")
    store = f"s3://{seaweed.bucket}/hostile"
    config = '[upload]\nmemory = "16MiB"\n'
    with bucketry(store, folder, config=config, options=["--workers", "1"], env=seaweed.environ()) as server:
        yield Running(Api(server.port), server, folder)


def test_parts_for_the_bucket_that_memory_has_no_room_for_are_not_taken_in(small_on_s3: Running) -> None:
    """Where parts go to the bucket their length is no matter of this server's memory."""
    upload = Extension(small_on_s3.api, "hostile/memory").open(size=5 * 1024**4)
    assert upload.part_size > 500 * MIB
    before = peak_memory(small_on_s3.server.process.pid)
    for chunked in (False, True):
        with small_on_s3.api.wire() as wire:
            length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(upload.part_size)}
            wire.begin("PUT", f"{upload.path}/parts/1", length)
            with pytest.raises(ConnectionError):
                flood(wire.chunk if chunked else wire.send, megabytes=200)
    answer = upload.put_own(1, bytes(20 * MIB))
    assert answer.error() == (400, "SIZE_INVALID")
    assert peak_memory(small_on_s3.server.process.pid) - before < 48 * MIB
    assert upload.sent() == {}


# Slowly


@pytest.mark.parametrize("endpoint", [*ENDPOINTS, "uploads/{session}/parts/1"])
def test_body_that_stops_coming_is_408(strict: Running, endpoint: str) -> None:
    extension = Extension(strict.api, "hostile/slow")
    upload = extension.open(size=1000)
    method = "PUT" if "parts" in endpoint else "POST"
    for headers in ({"Content-Length": "1000"}, {"Transfer-Encoding": "chunked"}):
        with strict.api.wire() as wire:
            wire.begin(method, f"{extension.base}/{endpoint.format(session=upload.session)}", headers)
            wire.send(b'{"' if "Content-Length" in headers else b'2\r\n{"\r\n')
            began = time.monotonic()
            answer = wire.answer(method)
            assert answer.error() == (408, "UNSUPPORTED")
            assert "send it again" in answer.message
            assert 1 < time.monotonic() - began < 8
    assert upload.sent() == {}


def test_bodies_that_stall_keep_nobody_from_beginning_a_push(roomy: Running) -> None:
    extension = Extension(roomy.api, "hostile/stalled")
    wires = []
    try:
        for _ in range(20):
            wire = roomy.api.wire()
            opened = wire.__enter__()
            wires.append(wire)
            opened.begin("POST", f"{extension.base}/uploads", {"Content-Length": str(MOST_JSON)})
            opened.send(b"{")
        time.sleep(0.2)
        began = time.monotonic()
        data = noise("stalled", 1000)
        extension.push(data, digest_of(data))
        assert time.monotonic() - began < 2
    finally:
        for wire in wires:
            wire.__exit__(None, None, None)


@pytest.mark.parametrize("endpoint", [*ENDPOINTS, "uploads/{session}/parts/1"])
def test_expect_100_continue_is_answered(extension: Extension, api: Api, endpoint: str) -> None:
    """With a go-ahead before the body is sent, or with the refusal at once."""
    upload = extension.open(size=2)
    method = "PUT" if "parts" in endpoint else "POST"
    target = f"{extension.base}/{endpoint.format(session=upload.session)}"
    with api.wire() as wire:
        wire.begin(method, target, {"Content-Length": "2", "Expect": "100-continue", "Content-Type": UPLOAD_TYPE})
        received = wire.socket.recv(1000)
        assert received.startswith(b"HTTP/1.1 100 "), received
        wire.send(b"{}")
        answer = wire.answer(method)
        assert answer.status == (400 if endpoint in ENDPOINTS[1:] else 201), answer
    with api.wire() as wire:
        wire.begin(method, target, {"Content-Length": str(1 << 40), "Expect": "100-continue"})
        assert wire.answer(method).error() == (400, "SIZE_INVALID")


# Anything


@pytest.mark.parametrize("seed", range(4))
def test_nothing_near_a_request_is_an_error_of_the_server(seed: int, strict: Running) -> None:
    session = Extension(strict.api, "a").open(size=1000).session
    for request in extension_mutations(seed, 150, session):
        answer = raw(strict.api, request, method=request.partition(b" ")[0].decode())
        assert answer.status < 500, request
    log = strict.server.log()
    assert "Traceback" not in log
    assert "unexpected error" not in log


def test_log_has_no_part_urls(small_on_s3: Running) -> None:
    """They are keys to the bucket for as long as they last."""
    upload = Extension(small_on_s3.api, "hostile/log").open(size=1000)
    url = upload.url(1)
    assert "X-Amz-Signature" in url
    upload.put(1, bytes(1000))
    assert upload.complete(ABSENT, 1000).status == 400
    assert "X-Amz-Signature" not in Path(small_on_s3.server.log_path).read_text()
