"""Requests meant to harm: one test an advisory of a peer, and the shapes behind them.

Slow heads and slow bodies are in test_limits.py.
"""

from __future__ import annotations

import http.client
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.spec.conftest import Running
from tests.spec.hostile import HARMLESS, NAMES, REFERENCES, SESSIONS, mutations
from tests.support.api import ABSENT, EMPTY, OCTET_STREAM, Answer, Api, descriptor, image, noise
from tests.support.images import OCI_INDEX, OCI_MANIFEST, digest_of
from tests.support.server import descendants

MIB = 1024 * 1024


def peak_memory(pid: int) -> int:
    """Bytes: the sum of the peaks of a process and those it started."""
    total = 0
    for each in (pid, *descendants(pid)):
        status = Path(f"/proc/{each}/status").read_text()
        total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return total * 1024


def flood(send: Callable[[bytes], None], *, megabytes: int) -> None:
    for _ in range(megabytes):
        send(b" " * MIB)


def files_below(folder: Path) -> set[str]:
    return {os.path.join(at, name) for at, _, names in os.walk(folder) for name in names}


def raw(api: Api, request: bytes, *, method: str = "GET") -> Answer:
    """The answer to a request that no client library would send."""
    with api.wire(timeout=10) as wire:
        wire.send(request)
        return wire.answer(method)


def raw_path(api: Api, path: bytes, *, method: bytes = b"GET") -> Answer:
    head = b"%s %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % (method, path)
    return raw(api, head, method=method.decode())


# Bodies


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_cve_2017_11468_huge_manifest_is_refused_in_flat_memory(chunked: bool, strict: Running) -> None:
    before = peak_memory(strict.server.process.pid)
    with strict.api.wire() as wire:
        length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(1 << 40)}
        wire.begin("PUT", "/v2/a/manifests/v1", length)
        send = wire.chunk if chunked else wire.send
        with pytest.raises(ConnectionError):  # It is not read to its end.
            flood(send, megabytes=200)
    assert peak_memory(strict.server.process.pid) - before < 32 * MIB
    assert strict.api.get("/v2/").status == 200


def test_ghsa_qq97_vm5h_rrhg_manifest_of_both_kinds_is_refused(api: Api, repository: str) -> None:
    api.push_blob(repository, EMPTY)
    child = api.push_image(repository, "child")
    for media_type in (OCI_MANIFEST, OCI_INDEX, "application/vnd.acme.thing+json"):
        body = image(mediaType=media_type, manifests=[descriptor(child, OCI_MANIFEST)])
        answer = api.push_manifest(repository, "both", body, media_type)
        assert answer.error() == (400, "MANIFEST_INVALID"), media_type
    assert api.get(f"/v2/{repository}/manifests/both").status == 404


def test_manifest_of_a_hundred_thousand_children_is_answered_in_bounded_time(api: Api, repository: str) -> None:
    entry = '{"mediaType":"%s","digest":"sha256:%064x","size":1}'
    count = (4 * MIB - 200) // (len(entry % (OCI_MANIFEST, 0)) + 1)
    body = '{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' % (  # noqa: UP031 (braces)
        OCI_INDEX,
        ",".join(entry % (OCI_MANIFEST, number) for number in range(count)),
    )
    began = time.monotonic()
    answer = api.push_manifest(repository, "wide", body.encode(), OCI_INDEX)
    assert answer.status in (400, 404), answer
    assert len(answer.body) < 64 * 1024
    assert time.monotonic() - began < 20


# Numbers and ranges


@pytest.mark.parametrize("path", ["/v2/_catalog", "/v2/huge/tags/list", "/v2/huge/referrers/" + ABSENT])
def test_cve_2023_2253_huge_n_reserves_nothing(path: str, strict: Running, api: Api) -> None:
    strict.api.push_image("huge", "v1")
    before = peak_memory(strict.server.process.pid)
    for n in (2**31, 2**63 - 1, 10**18):
        answer = strict.api.get(f"{path}?n={n}")
        assert answer.status in (200, 404)
        assert "Link" not in answer.headers
    assert peak_memory(strict.server.process.pid) - before < 16 * MIB


def test_cve_2025_62727_thousands_of_ranges_cost_no_quadratic_time(api: Api, repository: str) -> None:
    data = noise("ranges", 100_000)
    path = f"/v2/{repository}/blobs/{api.push_blob(repository, data)}"
    for separator, spec in ((",", "{0}-{0}"), (",", "0-"), (",", "-1"), (", \t", "5-4"), (",,,,", "{0}-")):
        asked = "bytes="
        number = 0
        while len(asked) < 30_000:
            asked += spec.format(number * 3) + separator
            number += 1
        began = time.monotonic()
        answer = api.get(path, range=asked)
        assert answer.status in (200, 206, 416)
        assert len(answer.body) <= len(data) + 1024 * 200
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "asked", ["bytes=" + "9" * 400 + "-", "bytes=-" + "9" * 4000, "bytes=" + "0" * 5000 + "-1", "bytes=٣-٤"]
)
def test_numbers_of_a_range_may_be_of_any_length(asked: str, api: Api, repository: str) -> None:
    path = f"/v2/{repository}/blobs/{api.push_blob(repository, b'0123456789')}"
    answer = raw(api, f"GET {path} HTTP/1.1\r\nHost: a\r\nRange: {asked}\r\n\r\n".encode())
    assert answer.status in (200, 206, 416)


@pytest.mark.parametrize(
    "value", ["9" * 30 + "-" + "9" * 31, "0-" + "9" * 25, "-1-5", "0-9/" + "9" * 4000, "٠-٩", "0-9\t"]
)
def test_numbers_of_a_content_range_may_be_anything(value: str, api: Api, repository: str) -> None:
    location = api.begin(repository)
    head = f"PATCH {location} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nContent-Range: {value}\r\n\r\n0123456789"
    answer = raw(api, head.encode(), method="PATCH")
    assert answer.status in (202, 400, 416), answer


# What one repository has to do with another


def test_cve_2026_35172_blob_deleted_in_one_stays_deleted_whoever_reads_it_elsewhere(api: Api, repository: str) -> None:
    data = noise("35172", 400_000)
    digest = api.push_blob(f"{repository}/a", data)
    api.push_blob(f"{repository}/b", data)
    path = f"/v2/{repository}/a/blobs/{digest}"
    assert api.delete(path).status == 202
    for _ in range(4):
        assert api.blob(f"{repository}/b", digest).body == data
        assert api.head(f"/v2/{repository}/b/blobs/{digest}").status == 200
        for answer in (
            api.get(path),
            api.head(path),
            api.get(path, range="bytes=0-0"),
            api.get(path, range="bytes=0-1,5-6"),
        ):
            assert answer.status == 404
    # A manifest cannot bring it back either.
    assert api.push_manifest(f"{repository}/a", "v1", image(config=descriptor(data))).error()[0] == 404


def test_cve_2026_32589_session_of_another_repository_is_unknown(api: Api, repository: str) -> None:
    data = b"0123456789"
    location = api.patch(api.begin(f"{repository}/a"), data).header("Location")
    foreign = location.replace(f"/v2/{repository}/a/", f"/v2/{repository}/b/")
    assert foreign != location
    for answer in (
        api.get(foreign),
        api.patch(foreign, b"more", content_range="10-13"),
        api.commit(foreign, digest_of(data)),
        api.commit(foreign, digest_of(b"more"), b"more"),
        api.delete(foreign),
    ):
        assert answer.error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert api.get(location).header("Range") == "0-9"
    assert api.commit(location, digest_of(data)).status == 201
    assert api.get(f"/v2/{repository}/b/blobs/{digest_of(data)}").status == 404
    # Nor is it told apart from one that never was when it has ended.
    assert api.commit(foreign, digest_of(data)).error() == (404, "BLOB_UPLOAD_UNKNOWN")


def test_blob_of_another_repository_is_not_referred_to(api: Api, repository: str) -> None:
    """No link, no bytes: a manifest may not name what its own repository does not have."""
    api.push_blob(f"{repository}/secret", b"the secret layer")
    api.push_blob(repository, EMPTY)
    answer = api.push_manifest(repository, "v1", image(layers=[b"the secret layer"]))
    assert answer.error() == (404, "MANIFEST_BLOB_UNKNOWN")
    assert api.get(f"/v2/{repository}/blobs/{digest_of(b'the secret layer')}").status == 404


# Deletes


def test_cve_2026_41888_delete_that_is_disabled_is_so_on_every_method(strict: Running) -> None:
    api = strict.api
    body = api.push_image("undeletable", "v1", layers=[b"a layer"])
    paths = [
        f"/v2/undeletable/{end}"
        for end in (
            "manifests/v1",
            f"manifests/{digest_of(body)}",
            f"blobs/{digest_of(EMPTY)}",
            f"blobs/{digest_of(b'a layer')}",
        )
    ]
    for path in paths:
        assert api.delete(path).error() == (405, "UNSUPPORTED")
        assert api.delete(f"{path}?force=true").error() == (405, "UNSUPPORTED")
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH"):
            api.request(method, path, headers={"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE"})
            api.request(method, f"{path}?_method=DELETE")
        assert raw_path(api, path.encode(), method=b"delete").status in (400, 405)
        assert raw_path(api, path.replace("/v2/", "/v2/x/../").encode(), method=b"DELETE").status in (400, 405)
        assert raw_path(api, path.replace("b", "%62").encode(), method=b"DELETE").status == 405
    for path in paths:
        assert api.get(path).status == 200


# Names, digests, session ids


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:40] for name in NAMES])
def test_cve_2024_3727_name_that_is_none_reaches_no_file(name: str, strict: Running) -> None:
    before = files_below(strict.folder.parent)
    for path, method in (
        (f"/v2/{name}/manifests/v1", b"GET"),
        (f"/v2/{name}/manifests/v1", b"PUT"),
        (f"/v2/{name}/blobs/{ABSENT}", b"GET"),
        (f"/v2/{name}/blobs/{ABSENT}", b"DELETE"),
        (f"/v2/{name}/blobs/uploads/", b"POST"),
        (f"/v2/{name}/tags/list", b"GET"),
        (f"/v2/{name}/referrers/{ABSENT}", b"GET"),
        (f"/v2/ok/blobs/uploads/?mount={ABSENT}&from={name}", b"POST"),
    ):
        answer = raw_path(strict.api, path.encode(), method=method)
        if name in HARMLESS:
            assert answer.status < 500, path
        elif "?" in path:
            assert answer.status in (202, 400), answer  # Of from, what is before a & or a #.
        elif method == b"DELETE":
            assert answer.status in (400, 404, 405), answer
        else:
            assert 400 <= answer.status < 405, (path, answer)
        assert "X-Evil" not in answer.headers
    assert files_below(strict.folder.parent) == before


@pytest.mark.parametrize("reference", REFERENCES, ids=[ascii(reference)[:40] for reference in REFERENCES])
def test_cve_2024_3727_digest_or_tag_that_is_none_reaches_no_file(reference: str, strict: Running) -> None:
    api = strict.api
    before = files_below(strict.folder.parent)
    for path, method in (
        (f"/v2/a/manifests/{reference}", b"GET"),
        (f"/v2/a/manifests/{reference}", b"HEAD"),
        (f"/v2/a/manifests/{reference}", b"PUT"),
        (f"/v2/a/manifests/{reference}", b"DELETE"),
        (f"/v2/a/blobs/{reference}", b"GET"),
        (f"/v2/a/blobs/{reference}", b"HEAD"),
        (f"/v2/a/blobs/{reference}", b"DELETE"),
        (f"/v2/a/referrers/{reference}", b"GET"),
        (f"/v2/a/blobs/uploads/?digest={reference}", b"POST"),
        (f"/v2/a/blobs/uploads/?mount={reference}", b"POST"),
    ):
        answer = raw_path(api, path.encode(), method=method)
        assert 400 <= answer.status < 406 or (reference == "" and "?digest" in path), (path, answer)
        assert "X-Evil" not in answer.headers
    assert files_below(strict.folder.parent) == before


@pytest.mark.parametrize("session", SESSIONS, ids=[ascii(session)[:40] for session in SESSIONS])
def test_session_that_was_made_up_is_unknown(session: str, strict: Running) -> None:
    before = files_below(strict.folder.parent)
    for method in (b"GET", b"PATCH", b"PUT", b"DELETE"):
        path = f"/v2/a/blobs/uploads/{session}?digest={ABSENT}"
        answer = raw_path(strict.api, path.encode(), method=method)
        assert answer.status in (400, 404), (method, answer)
        assert "X-Evil" not in answer.headers
    assert files_below(strict.folder.parent) == before


def test_session_of_a_longer_life_or_another_algorithm_cannot_be_made_of_ones_own(strict: Running) -> None:
    location = strict.api.begin("a")
    head, session = location.rsplit("/", 1)
    unique, created, algorithm, mac = session.split(".")
    later = f"{int(created, 16) + 1000:x}"
    for forged in (
        f"{unique}.{later}.{algorithm}.{mac}",
        f"{unique}.{created}.sha512.{mac}",
        f"{unique[:-1]}{'0' if unique[-1] != '0' else '1'}.{created}.{algorithm}.{mac}",
        f"{unique}.{created}.{algorithm}.{mac[:-1]}",
        f"{unique}.0{created}.{algorithm}.{mac}",
    ):
        assert strict.api.get(f"{head}/{forged}").error() == (404, "BLOB_UPLOAD_UNKNOWN"), forged
    assert strict.api.get(location).status == 204


# Headers


def test_nothing_of_a_stranger_splits_a_header(api: Api, repository: str) -> None:
    subject = image(annotations={"is": "split"})
    kind = "a/b\r\nX-Evil: 1"
    api.push_blob(repository, EMPTY)
    for number in range(2):
        body = image(subject=descriptor(subject, OCI_MANIFEST), artifactType=kind, annotations={"n": str(number)})
        assert api.push_manifest(repository, digest_of(body), body).status in (201, 400)
    evil = "%0d%0aX-Evil:%201%0d%0a%0d%0a"
    for path in (
        f"/v2/{repository}/referrers/{digest_of(subject)}?n=1&artifactType=a/b%0d%0aX-Evil:%201",
        f"/v2/{repository}/referrers/{digest_of(subject)}?n=1&artifactType={evil}",
        f"/v2/{repository}/tags/list?n=1&last={evil}",
        f"/v2/_catalog?n=1&last={evil}",
        f"/v2/{evil}/tags/list",
        f"/{evil}",
        f"/v2/?{evil}",
    ):
        answer = api.get(path)
        assert "X-Evil" not in answer.headers, path
        assert b"X-Evil: 1\r\n" not in answer.body
    answer = api.post(f"/v2/{repository}/blobs/uploads/?digest-algorithm={evil}")
    assert answer.status == 400
    assert "X-Evil" not in answer.headers


def test_host_of_a_stranger_gets_into_no_location(api: Api, repository: str) -> None:
    path = f"/v2/{repository}/blobs/uploads/"
    request = (
        f"POST {path} HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\nContent-Length: 0\r\n\r\n"
    )
    answer = raw(api, request.encode(), method="POST")
    assert answer.header("Location").startswith(path)
    absolute = f"POST http://evil.example{path} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"
    assert raw(api, absolute.encode(), method="POST").header("Location").startswith(path)


def test_type_of_a_manifest_cannot_be_a_web_page(api: Api, repository: str) -> None:
    """A registry on a host that also serves people must not serve them a stranger's page."""
    api.push_blob(repository, EMPTY)
    for media_type in ("text/html", "application/xhtml+xml", "image/svg+xml", "application/vnd.x+json\tx", "a", "*/*"):
        answer = api.push_manifest(repository, "page", image(mediaType=media_type), media_type)
        assert answer.error() == (400, "MANIFEST_INVALID"), media_type
    digest = api.push_blob(repository, b"<script>alert(1)</script>")
    answer = api.get(f"/v2/{repository}/blobs/{digest}")
    assert answer.header("Content-Type") == OCTET_STREAM
    assert answer.header("X-Content-Type-Options") == "nosniff"


def test_hundreds_of_headers_are_refused(api: Api) -> None:
    fields = "".join(f"X-{number}: a\r\n" for number in range(500))
    assert raw(api, f"GET /v2/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode()).status == 431


def test_header_of_a_megabyte_is_refused_and_the_connection_closed(api: Api) -> None:
    with api.wire() as wire, pytest.raises((ConnectionError, http.client.HTTPException)):
        exchange(wire.send, b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 4 * MIB, wire.answer)
    assert api.get("/v2/").status == 200


def exchange(send: Callable[[bytes], None], data: bytes, answer: Callable[[], Answer]) -> None:
    """Raises where the server resets the connection, and where it answers with a refusal."""
    send(data)
    if answer().status in (400, 431):
        raise ConnectionAbortedError


# Two readers of one request

INNER = b"DELETE /v2/smuggled/manifests/v1 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: 3\r\nContent-Length: 4", b"abcd"),
        (b"Content-Length: 3, 4", b"abcd"),
        (b"Content-Length: +3", b"abc"),
        (b"Content-Length: 0x3", b"abc"),
        (b"Content-Length: -1", b""),
        (b"Content-Length: 3 4", b"abcd"),
        (b"Content-Length: " + b"9" * 40, b""),
        (b"Transfer-Encoding : chunked", b"0\r\n\r\n" + INNER),
        (b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n" + INNER),
        (b"Transfer-Encoding: xchunked", b"0\r\n\r\n" + INNER),
        (b"Transfer-Encoding: \x0bchunked", b"0\r\n\r\n" + INNER),
        (b"Transfer-Encoding: gzip", INNER),
        (b"X: a\nTransfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n" + INNER),
        (b" Content-Length: 3", b"abc"),
    ],
    ids=lambda value: ascii(value)[2:40],
)
def test_smuggling_request_that_two_readers_end_differently_is_refused(headers: bytes, body: bytes, api: Api) -> None:
    api.push_image("smuggled", "v1")
    with api.wire(timeout=5) as wire:
        wire.send(b"PUT /v2/smuggled/manifests/x HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\n" + body)
        received = wire.rest()
    assert received.count(b"HTTP/1.1 ") <= 1, received
    assert not received or re.match(rb"HTTP/1\.1 (400|413|501) ", received), received
    assert api.get("/v2/smuggled/manifests/v1").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked",
    ],
)
def test_smuggling_chunked_body_with_a_length_is_read_by_its_chunks_and_ends_the_connection(
    headers: bytes, api: Api
) -> None:
    """RFC 9112, section 6.1: a server that takes it must close, as another on the way may have gone by the length."""
    api.push_image("smuggled", "v1")
    with api.wire(timeout=5) as wire:
        wire.send(
            b"PUT /v2/smuggled/manifests/x HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\n1\r\n{\r\n0\r\n\r\n" + INNER
        )
        received = wire.rest()
    assert received.count(b"HTTP/1.1 ") == 1, received
    assert received.startswith(b"HTTP/1.1 400 ")
    assert api.get("/v2/smuggled/manifests/v1").status == 200


@pytest.mark.parametrize(
    "chunk", [b"zz\r\nabc\r\n", b"fffffffffffffffff\r\nabc\r\n", b"-3\r\nabc\r\n", b"3\r\nabcd\r\n0\r\n\r\n"]
)
def test_chunk_that_is_none_is_400_and_not_500(chunk: bytes, api: Api, repository: str) -> None:
    head = b"PATCH %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % api.begin(repository).encode()
    with api.wire(timeout=5) as wire:
        wire.send(head + chunk)
        received = wire.rest()
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "request_line", [b"GET /v2/", b"GET  /v2/ HTTP/1.1", b"GET /v2/ HTTP/9.9", b"\x16\x03\x01\x02\x00\x01", b"\0" * 50]
)
def test_what_is_no_http_is_400_and_the_connection_closed(request_line: bytes, api: Api) -> None:
    with api.wire(timeout=5) as wire:
        wire.send(request_line + b"\r\nHost: a\r\n\r\n")
        received = wire.rest()
    assert not received or received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 ")), received


# Anything


@pytest.mark.parametrize("seed", range(4))
def test_nothing_near_a_request_is_an_error_of_the_server(seed: int, strict: Running) -> None:
    for request in mutations(seed, 150):
        answer = raw(strict.api, request, method=request.partition(b" ")[0].decode())
        assert answer.status < 500, request
    log = strict.server.log()
    assert "Traceback" not in log
    assert "unexpected error" not in log
