"""Tries: when there is another one, how long it waits, and what the observer hears."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from tests.store.helpers import read_all
from tests.store.s3.fake import (
    FakeS3,
    answers,
    document,
    fails_after,
    loses_answer,
    loses_request,
    says,
    stays_silent,
)
from tests.support.tools import run, tool

from bucketry.store.contract import (
    IF_ABSENT,
    AccessDenied,
    BucketMissing,
    Corrupt,
    NotFound,
    StoreError,
    Unavailable,
)
from bucketry.store.s3.client import LONGEST_DELAY


async def test_what_passes_is_tried_again_and_every_try_is_reported(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.extend([says(503, "SlowDown"), says(500, "InternalError"), loses_request()])
    assert await store.put("a", b"body") == (await store.head("a")).etag
    assert fake.observer.outcomes("put") == ["unavailable", "unavailable", "unavailable", "ok"]
    assert [seen.sent for seen in fake.observer.seen if seen.operation == "put"] == [4, 4, 4, 4]
    assert all(seen.seconds >= 0 for seen in fake.observer.seen)


async def test_waits_double_and_are_cut_by_chance(fake: FakeS3) -> None:
    store = await fake.started(retries=9, deadline=1000)
    fake.script.extend([says(503, "SlowDown")] * 9)
    await store.put("a", b"")
    assert fake.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_DELAY, LONGEST_DELAY, LONGEST_DELAY]
    fake.chance = iter([0.5, 0.25]).__next__
    fake.slept.clear()
    fake.script.extend([says(503, "SlowDown")] * 2)
    await store.put("a", b"")
    assert fake.slept == [0.05, 0.05]


async def test_after_all_tries_it_is_unavailable_and_says_how_often_it_tried(fake: FakeS3) -> None:
    store = await fake.started(retries=2)
    fake.script.extend([says(503, "SlowDown", headers={"Retry-After": "3"})] * 3)
    with pytest.raises(Unavailable, match=r"get a: SlowDown.*\(3 tries\)") as raised:
        await store.get("a")
    assert raised.value.retry_after == 3.0
    assert len(fake.asked) == 3
    assert fake.slept == [3.0, 3.0]


async def test_no_try_begins_after_the_deadline(fake: FakeS3) -> None:
    store = await fake.started(retries=100, deadline=0.05)
    fake.script.extend([says(503, "SlowDown")] * 100)
    with pytest.raises(Unavailable):
        await store.get("a")
    assert len(fake.asked) == 1, "the first wait would be 0.1 s"


async def test_a_store_that_wants_a_long_pause_is_left_to_the_caller(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.append(says(503, "SlowDown", headers={"Retry-After": "30"}))
    with pytest.raises(Unavailable) as raised:
        await store.get("a")
    assert (raised.value.retry_after, fake.slept) == (30.0, [])


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(403, "AccessDenied", AccessDenied), (404, "NoSuchKey", NotFound), (400, "InvalidArgument", StoreError)],
)
async def test_what_stays_wrong_is_not_tried_again(
    fake: FakeS3, status: int, code: str, error: type[StoreError]
) -> None:
    store = await fake.started()
    fake.script.append(says(status, code))
    with pytest.raises(error):
        await store.get("a")
    assert len(fake.asked) == 1
    assert fake.observer.outcomes("get") == [error.__name__.lower()]


@pytest.mark.parametrize("method", ["put", "delete", "get"])
async def test_aiohttp_sends_nothing_twice_behind_our_back(fake: FakeS3, method: str) -> None:
    """On a connection that was kept it would repeat a PUT or DELETE by itself, and hide that the first may count."""
    store = await fake.started(retries=0)
    await store.put("warm", b"")  # a connection to keep
    fake.asked.clear()
    fake.script.append(loses_answer())
    with pytest.raises(Unavailable, match="broke"):
        await (store.put("a", b"x") if method == "put" else getattr(store, method)("a"))
    assert len(fake.asked) == 1


async def test_a_silent_store_is_given_up(fake: FakeS3) -> None:
    store = await fake.started(retries=0, read_timeout=0.05)
    fake.script.append(stays_silent(0.4))
    with pytest.raises(Unavailable, match="silent"):
        await store.get("a")


async def test_a_refused_connection_names_the_host(fake: FakeS3) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    store = fake.store(endpoint=endpoint, retries=1)
    with pytest.raises(Unavailable, match=f"cannot connect to {endpoint}: .*refused"):
        await store.start()
    assert len(fake.slept) == 1, "it may be about to start"


async def test_an_unknown_host_is_named(fake: FakeS3) -> None:
    store = fake.store(endpoint="http://no-such-host.invalid", retries=0)
    with pytest.raises(Unavailable, match=r"no-such-host\.invalid cannot be resolved"):
        await store.start()


async def test_plain_http_on_an_https_endpoint_is_told(fake: FakeS3) -> None:
    store = fake.store(endpoint=fake.endpoint.replace("http:", "https:"))
    with pytest.raises(Unavailable, match="speak http, not https"):
        await store.start()
    assert fake.slept == []


async def test_a_certificate_is_trusted_by_the_bundle_that_is_given(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run([tool("openssl"), "req", *kind, "-keyout", key, "-out", certificate, *subject])
    fake = FakeS3()
    fake.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    fake.tls.load_cert_chain(certificate, key)
    await fake.start()
    with pytest.raises(Unavailable, match="AWS_CA_BUNDLE"):
        await fake.store().start()
    assert fake.slept == [], "it will not be trusted later"
    store = await fake.started(ca_bundle=str(certificate))
    body = os.urandom(3 * 1024 * 1024 + 1)
    await store.put("data/a", memoryview(body))
    assert await read_all(store, "data/a") == body
    await fake.close()


async def test_requests_go_through_the_environments_proxy(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, fake.endpoint)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    store = await fake.started(endpoint="http://s3.invalid")
    await store.put("a", b"body")
    assert fake.asked[0].target == "http://s3.invalid/bucket/a"
    assert fake.asked[0].headers["host"] == "s3.invalid"
    assert fake.objects["a"][0] == b"body"


async def test_an_answer_that_is_not_http_is_corrupt(fake: FakeS3) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = fake.store(endpoint=f"http://127.0.0.1:{port}", retries=1)
    with pytest.raises(Corrupt, match="does not answer in HTTP"):
        await store.start()
    server.close()
    await server.wait_closed()


async def test_another_web_server_is_no_store_and_has_no_missing_keys(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.append(answers(lambda: web.Response(status=404, text="<html>nothing here</html>")))
    with pytest.raises(Corrupt, match="is it an S3 endpoint"):
        await store.get("a")


async def test_a_redirect_is_not_followed_and_sees_no_credentials(fake: FakeS3) -> None:
    other = FakeS3()
    await other.start()
    store = await fake.started()
    for status in (301, 302, 303, 307, 308):
        target = f"{other.endpoint}/bucket/a"
        fake.script.append(answers(lambda s=status, t=target: web.Response(status=s, headers={"Location": t})))  # type: ignore[misc]
        with pytest.raises(BucketMissing, match=f"redirects to {other.endpoint}"):
            await store.get("a")
    assert other.asked == []
    await store.close()
    await other.close()


async def test_every_request_is_signed_and_says_who_it_is(fake: FakeS3) -> None:
    store = await fake.started(session_token="TOKEN")
    await store.put("a", b"body", metadata={"x": "y"}, condition=IF_ABSENT)
    headers = fake.asked[0].headers
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/20270115/us-east-1/s3/aws4_request")
    for name in ("host", "if-none-match", "x-amz-security-token", "x-amz-meta-x", "content-md5", "x-amz-date"):
        assert name in headers["authorization"]
    assert headers["x-amz-security-token"] == "TOKEN"
    assert headers["user-agent"].startswith("bucketry/")
    assert headers["accept-encoding"] == "identity"
    assert headers["content-length"] == "4"
    assert "transfer-encoding" not in headers
    assert "cookie" not in headers


async def test_anonymous_requests_are_not_signed(fake: FakeS3) -> None:
    store = await fake.started(anonymous=True, access_key=None, secret_key=None)
    fake.objects["a"] = (b"body", {})
    assert (await store.get("a")).body == b"body"
    assert not any(name.startswith("x-amz") or name == "authorization" for name in fake.asked[0].headers)


async def test_bodies_are_covered_by_the_signature_where_they_are_small_or_it_is_asked_for(fake: FakeS3) -> None:
    small, large = b"x" * 1000, b"x" * 100_000
    for sign_payload, body, covered in [(False, small, True), (False, large, False), (True, large, True)]:
        store = await fake.started(sign_payload=sign_payload)
        await store.put("data/a", body)
        assert (fake.asked[0].headers["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD") == covered
        await store.close()


async def test_an_answer_over_the_limit_is_corrupt_and_not_read(fake: FakeS3) -> None:
    store = await fake.started()
    fake.objects["a"] = (bytes(8 * 1024 * 1024), {})
    with pytest.raises(Corrupt, match="more than the 1000 bytes"):
        await store.get("a", limit=1000)
    assert fake.observer.outcomes("get") == ["corrupt"]
    assert fake.observer.seen[-1].received < 4 * 1024 * 1024


async def test_cancelling_frees_the_connection(fake: FakeS3) -> None:
    store = await fake.started(max_connections=1)
    fake.script.append(stays_silent(0.3))
    task = asyncio.create_task(store.get("a"))
    while len(fake.asked) < 1:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(store.put("a", b"x"), 2)
    assert fake.observer.outcomes("get") == ["unavailable"]


async def test_connections_are_kept_and_bounded(fake: FakeS3) -> None:
    store = await fake.started(max_connections=3)
    fake.script.extend([stays_silent(0.02)] * 12)
    await asyncio.gather(*(store.put(f"k{index}", b"x") for index in range(12)))
    peers = {asked.request.transport.get_extra_info("peername") for asked in fake.asked if asked.request.transport}
    assert len(peers) <= 3


async def test_error_bodies_keep_the_connection(fake: FakeS3) -> None:
    store = await fake.started(max_connections=1)
    ports = []
    for _ in range(5):
        with pytest.raises(NotFound):
            await store.get("a")
        transport = fake.asked[-1].request.transport
        assert transport is not None
        ports.append(transport.get_extra_info("peername"))
    assert len(set(ports)) == 1


async def test_garbage_in_a_document_is_asked_for_again(fake: FakeS3) -> None:
    store = await fake.started(retries=1)
    garbage = answers(lambda: document("<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>"))
    fake.script.extend([garbage])
    assert (await store.list("")).objects == ()
    fake.script.extend([garbage] * 2)
    with pytest.raises(Corrupt, match="something else than S3"):
        await store.list("")
    assert fake.observer.outcomes("list") == ["corrupt", "ok", "corrupt", "corrupt"]


async def test_stale_credentials_are_renewed_once(fake: FakeS3) -> None:
    store = await fake.started()
    credentials = store._connection.credentials
    renewals = []

    async def renew() -> bool:
        renewals.append(len(fake.asked))
        return True

    credentials.renew = renew  # type: ignore[method-assign]
    fake.objects["a"] = (b"x", {})
    fake.script.append(says(400, "ExpiredToken"))
    assert (await store.get("a")).body == b"x"
    assert renewals == [1]
    fake.script.extend([says(400, "ExpiredToken")] * 2)
    with pytest.raises(AccessDenied, match="credentials from the settings have expired"):
        await store.get("a")
    assert len(renewals) == 2
    fake.script.append(answers(lambda: web.Response(status=400)))
    assert (await store.head("a")).size == 1
    assert len(renewals) == 3
    assert fake.slept == []


async def test_a_write_that_took_effect_and_failed_is_repeated(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.append(fails_after(500, "InternalError"))
    await store.put("a", b"x")
    assert fake.objects["a"][0] == b"x"
    assert len(fake.asked) == 2
