"""Hostile registries, buckets and token services: one row a trick. None gets a secret, none costs memory or time.

The registry is always one that the person has logged in to; ``stranger`` is another host, the attacker's.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import msgspec
import pytest
from aiohttp import web
from tests.unit.transfer.remote.conftest import PASSWORD
from tests.unit.transfer.remote.samples import BASIC, BODY, MANIFEST, TYPE, manifest
from tests.unit.transfer.remote.scripted import Asked, Scripted, challenge, error, redirect
from yarl import URL

from bucketry.oci import MAX_MANIFEST, Descriptor, Digest
from bucketry.transfer.contract import RawManifest
from bucketry.transfer.errors import (
    ContentMismatch,
    NotAuthenticated,
    NotPermitted,
    Refused,
    TransferError,
    Unreachable,
)
from bucketry.transfer.remote import RemoteRepository, Session, paging
from bucketry.transfer.remote.answer import MAX_TEXT
from bucketry.transfer.remote.auth import Purpose
from bucketry.transfer.remote.credentials import Credentials

Act: TypeAlias = Callable[[RemoteRepository], Awaitable[object]]

LAYER = b"layer" * 1000
BLOB = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=str(Digest.of(LAYER)), size=len(LAYER))
BLOB_PATH = f"/v2/team/app/blobs/{BLOB.digest}"
UPLOADS = "/v2/team/app/blobs/uploads/"
TOKEN = "canary-token-c0ffee"
SECRETS = (PASSWORD, BASIC.removeprefix("Basic "), TOKEN)


async def layer() -> AsyncIterator[bytes]:
    yield LAYER


async def read(repository: RemoteRepository) -> bytes:
    return b"".join([piece async for piece in repository.blob(BLOB).read()])


async def refused(action: Awaitable[object], *kinds: type[TransferError], words: str = "") -> TransferError:
    """The error of an action, which shows no secret, in its causes neither."""
    with pytest.raises(kinds or TransferError) as caught:
        await action
    error: BaseException | None = caught.value
    while error is not None:
        assert not [secret for secret in SECRETS if secret in f"{error!s} {error!r}"]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert words in str(caught.value)
    assert isinstance(caught.value, TransferError)
    return caught.value


def assert_no_secrets(stranger: Scripted) -> None:
    for asked in stranger.asked:
        assert asked.authorization is None
        assert not [secret for secret in SECRETS if secret in asked.everything()]


def asks_for(value: str) -> Callable[[Asked], web.Response]:
    """Lets in those with credentials, and asks others for them."""
    return lambda asked: manifest() if asked.authorization else challenge(value)


@pytest.fixture(autouse=True)
def logged_in(login: Credentials) -> None:
    """In all of these there is something to steal."""


@pytest.mark.parametrize(
    "realm",
    [
        "http://token.attacker.example/token",
        "ftp://attacker.example/",
        "javascript:alert(1)",
        "http://",
        "http://[::1",
        "http://attacker.example\t/x",
        "http://" + "a" * 20_000,
    ],
    ids=lambda realm: realm[:30],
)
async def test_a_token_service_that_must_not_be_gets_nothing(
    server: Scripted, repository: RemoteRepository, realm: str
) -> None:
    server.on("GET", MANIFEST, asks_for(f'Bearer realm="{realm}",service="s"'))

    await refused(repository.manifest(), Refused, NotAuthenticated)

    assert [asked.authorization for asked in server.asked] == [None]


async def test_a_registry_over_plain_http_cannot_name_a_token_service_elsewhere(
    stranger: Scripted, login: Credentials, known: object
) -> None:
    """Who sits on the way to such a registry could name his own."""

    class Knows:
        async def find(self, host: str, repository: str = "") -> Credentials | None:
            return login

    class Wire(Session):
        async def send(self, method: str, url: URL, **rest: object) -> object:  # type: ignore[override]
            # reg.example is played by a server of this test.
            there = url if url.host == "127.0.0.1" else URL(f"{stranger.url}{url.raw_path_qs}", encoded=True)
            return await super().send(method, there, **rest)  # type: ignore[arg-type]

    stranger.on("GET", "/v2/", lambda: challenge('Bearer realm="https://token.attacker.example/t",service="s"'))
    session = Wire(Knows(), insecure=True)
    try:
        await refused(session.registry("reg.example").check(), Refused, words="it was named over plain http")
    finally:
        await session.close()
    assert_no_secrets(stranger)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_token_service_that_sends_on_gets_no_further(
    server: Scripted, stranger: Scripted, repository: RemoteRepository, status: int
) -> None:
    server.on("GET", MANIFEST, asks_for(f'Bearer realm="{server.url}/token"'))
    server.on("GET", "/token", lambda: redirect(f"{stranger.url}/token", status))

    await refused(repository.manifest(), Refused, words="sends on to another address")

    assert stranger.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_goes_without_credentials(
    server: Scripted, stranger: Scripted, repository: RemoteRepository, status: int
) -> None:
    to = f"{stranger.url}/bucket/key?X-Amz-Signature=presigned"
    server.on(
        "GET", BLOB_PATH, lambda asked: redirect(to, status) if asked.authorization else challenge('Basic realm="x"')
    )
    stranger.on("GET", "/bucket/key", lambda: web.Response(body=LAYER))

    assert await read(repository) == LAYER

    assert [asked.target for asked in stranger.asked] == ["/bucket/key?X-Amz-Signature=presigned"]
    assert_no_secrets(stranger)


@pytest.mark.parametrize("value", ['Basic realm="come on"', 'Bearer realm="STRANGER/token"', "Negotiate"])
async def test_the_challenge_of_another_host_is_not_answered(
    server: Scripted, stranger: Scripted, repository: RemoteRepository, value: str
) -> None:
    server.on("GET", MANIFEST, lambda asked: redirect(f"{stranger.url}/key?secret=presigned"))
    stranger.on("GET", "/key", lambda: challenge(value.replace("STRANGER", stranger.url)))

    caught = await refused(repository.manifest(), Refused)

    assert "presigned" not in str(caught)
    assert {asked.path for asked in stranger.asked} == {"/key"}
    assert_no_secrets(stranger)


async def test_a_redirect_that_comes_back_has_no_credentials_any_more(
    server: Scripted, stranger: Scripted, repository: RemoteRepository
) -> None:
    server.on(
        "GET",
        MANIFEST,
        lambda asked: redirect(f"{stranger.url}/hop") if asked.authorization else challenge('Basic realm="x"'),
    )
    stranger.on("GET", "/hop", lambda: redirect(f"{server.url}/v2/secret/manifests/v1"))
    server.on("GET", "/v2/secret/manifests/v1", lambda asked: manifest() if asked.authorization else error(401, "", ""))

    await refused(repository.manifest(), Refused)

    assert [asked.authorization for asked in server.requests("GET", "/v2/secret/manifests/v1")] == [None]


async def test_a_redirect_with_a_user_in_it_is_refused(
    server: Scripted, stranger: Scripted, repository: RemoteRepository
) -> None:
    server.on("GET", MANIFEST, lambda: redirect(f"http://user:password@{stranger.host}/key"))

    await refused(repository.manifest(), Refused, words="it names a user")

    assert stranger.asked == []


@pytest.mark.parametrize("to", ["file:///etc/passwd", "", "ftp://x/", "http://[", "/a b", "/" + "x" * 20_000])
async def test_a_redirect_that_cannot_be_is_refused(server: Scripted, repository: RemoteRepository, to: str) -> None:
    server.on("GET", MANIFEST, lambda: redirect(to))

    await refused(repository.manifest(), Refused)


async def test_redirects_end(server: Scripted, stranger: Scripted, repository: RemoteRepository) -> None:
    server.on("GET", MANIFEST, lambda: redirect(f"{stranger.url}/a"))
    stranger.on("GET", "/a", lambda: redirect("/a"))
    server.on("HEAD", BLOB_PATH, lambda: redirect(BLOB_PATH))

    await refused(repository.manifest(), Refused, words="redirects without end")
    await refused(repository.has_blob(BLOB), Refused, words="redirects without end")

    assert len(stranger.asked) <= 6


async def test_a_foreign_location_gets_the_upload_without_credentials(
    server: Scripted, stranger: Scripted, repository: RemoteRepository
) -> None:
    def begin(asked: Asked) -> web.Response:
        if not asked.authorization:
            return challenge('Basic realm="x"')
        return web.Response(status=202, headers={"Location": f"{stranger.url}/put?signed=yes"})

    server.on("POST", UPLOADS, begin)
    stranger.on("PUT", "/put", lambda: web.Response(status=201))

    await repository.put_blob(BLOB, layer())

    assert [asked.body for asked in stranger.asked] == [LAYER]
    assert_no_secrets(stranger)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_foreign_location_that_wants_credentials_gets_none(
    server: Scripted, stranger: Scripted, repository: RemoteRepository, status: int
) -> None:
    server.on("POST", UPLOADS, lambda: web.Response(status=202, headers={"Location": f"{stranger.url}/put"}))
    stranger.on(
        "PUT", "/put", lambda: error(status, "UNAUTHORIZED", "log in", headers={"WWW-Authenticate": "Basic realm=x"})
    )

    caught = await refused(repository.put_blob(BLOB, layer()), Refused, words="are not sent there")

    assert stranger.url in str(caught)
    assert len(stranger.asked) == 1
    assert_no_secrets(stranger)


async def test_an_upload_is_not_sent_on(server: Scripted, stranger: Scripted, repository: RemoteRepository) -> None:
    server.on("POST", UPLOADS, lambda: web.Response(status=202, headers={"Location": "/put"}))
    server.on("PUT", "/put", lambda: redirect(f"{stranger.url}/put"))

    await refused(repository.put_blob(BLOB, layer()), Refused, words="sends a PUT on")
    server.on("POST", UPLOADS, lambda: redirect(f"{stranger.url}/put"))
    await refused(repository.put_blob(BLOB, layer()), Refused, words="sends a POST on")

    assert stranger.asked == []


async def test_a_mount_that_opens_an_upload_elsewhere_is_left_alone(
    server: Scripted, stranger: Scripted, repository: RemoteRepository
) -> None:
    server.on("POST", UPLOADS, lambda: web.Response(status=202, headers={"Location": f"{stranger.url}/session"}))

    assert not await repository.has_blob(BLOB, mount_from="other/app")

    assert stranger.asked == []


@pytest.mark.parametrize("path", ["/v2/team/app/tags/list", f"/v2/team/app/referrers/{BLOB.digest}"])
@pytest.mark.parametrize("form", ['<{}/next>; rel="next"', "<//{}/next>; rel=next"])
async def test_pages_are_not_asked_for_at_another_host(
    server: Scripted, stranger: Scripted, repository: RemoteRepository, path: str, form: str
) -> None:
    link = form.format(stranger.host if "//" in form else stranger.url)
    server.on("GET", path, lambda: page({"Link": link}))
    action = repository.tags() if "tags" in path else repository.referrers(BLOB.parsed)

    await refused(action, Refused, words="where none is asked for")

    assert stranger.asked == []


def page(headers: dict[str, str] | None = None, tags: tuple[str, ...] = ("a",)) -> web.Response:
    body = msgspec.json.encode({"tags": tags, "schemaVersion": 2, "manifests": [msgspec.to_builtins(BLOB)]})
    return web.Response(body=body, headers={"Content-Type": TYPE, **(headers or {})})


@pytest.mark.parametrize("path", ["/v2/team/app/tags/list", f"/v2/team/app/referrers/{BLOB.digest}"])
async def test_pages_that_come_back_end(server: Scripted, repository: RemoteRepository, path: str) -> None:
    server.on("GET", path, lambda: page({"Link": f'<{path}?last=a>; rel="next"'}))
    action = repository.tags() if "tags" in path else repository.referrers(BLOB.parsed)

    await refused(action, Refused, words="the list has no end")

    assert len(server.requests("GET", path)) == 2


@pytest.mark.parametrize("path", ["/v2/team/app/tags/list", f"/v2/team/app/referrers/{BLOB.digest}"])
async def test_pages_that_are_always_new_end(
    server: Scripted, repository: RemoteRepository, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_PAGES", 20)
    server.on("GET", path, lambda: page({"Link": f'<{path}?last={len(server.asked)}>; rel="next"'}))
    action = repository.tags() if "tags" in path else repository.referrers(BLOB.parsed)

    await refused(action, Refused, words="the list has no end")

    assert len(server.requests("GET", path)) == 20


async def test_tags_that_are_none_are_left_out(server: Scripted, repository: RemoteRepository) -> None:
    server.on("GET", "/v2/team/app/tags/list", lambda: page(tags=("v1", "\x1b[2J", "../x", "a b", "", "v2", "v1")))

    assert await repository.tags() == ("v1", "v2")


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    """Bytes until the reader leaves."""
    response = web.StreamResponse(headers={"Content-Type": TYPE})
    response.enable_chunked_encoding()
    await response.prepare(request)
    try:
        while True:
            await response.write(bytes(256 * 1024))
    except ConnectionError:
        return response


@pytest.mark.parametrize(
    ("path", "act"),
    [
        (MANIFEST, lambda repository: repository.manifest()),
        ("/v2/team/app/tags/list", lambda repository: repository.tags()),
        (f"/v2/team/app/referrers/{BLOB.digest}", lambda repository: repository.referrers(BLOB.parsed)),
    ],
)
async def test_a_body_without_end_is_read_no_further_than_its_limit(
    server: Scripted, repository: RemoteRepository, path: str, act: Act
) -> None:
    server.raw("GET", path, endless)
    tracemalloc.start()
    try:
        await refused(act(repository), ContentMismatch, Refused)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 64 * 1024 * 1024


@pytest.mark.parametrize("size", [MAX_MANIFEST + 1, 20 * MAX_MANIFEST])
async def test_a_manifest_above_the_limit_is_refused(server: Scripted, repository: RemoteRepository, size: int) -> None:
    server.on("GET", MANIFEST, lambda: web.Response(body=bytes(size), content_type=TYPE))

    await refused(repository.manifest(), ContentMismatch, words="no manifest has more than")


async def test_a_manifest_of_another_digest_is_refused_whatever_its_header_says(
    server: Scripted, repository: RemoteRepository
) -> None:
    wanted = Digest.of(b"another")
    headers = {"Docker-Content-Digest": str(wanted)}
    server.on(
        "GET", f"/v2/team/app/manifests/{wanted}", lambda: web.Response(body=BODY, content_type=TYPE, headers=headers)
    )
    server.on("GET", MANIFEST, lambda: web.Response(body=BODY, content_type=TYPE, headers=headers))

    await refused(repository.manifest(wanted), ContentMismatch, words=str(Digest.of(BODY)))
    await refused(repository.manifest("v1"), ContentMismatch)


@pytest.mark.parametrize(
    "value",
    [
        "Bearer " + "a=b," * 250_000,
        'Bearer realm="' + "\\" * 1_000_000,
        "Basic " * 170_000,
    ],
    ids=lambda value: value[:16],
)
async def test_a_challenge_of_a_megabyte_is_refused(server: Scripted, repository: RemoteRepository, value: str) -> None:
    server.on("GET", MANIFEST, lambda: challenge(value))

    await refused(repository.manifest(), Refused)


def echo(asked: Asked, status: int, before: int = 0) -> web.Response:
    """What was sent, as an error's message, so that it lands on a screen or in a log."""
    said = f"{'x' * before}{asked.authorization} {PASSWORD} {asked.body!r}"
    return error(status, asked.authorization or "", said)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 429, 500, 503])
@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
async def test_a_registry_that_repeats_secrets_is_not_quoted(
    server: Scripted, repository: RemoteRepository, status: int, scheme: str
) -> None:
    value = 'Basic realm="x"' if scheme == "Basic" else f'Bearer realm="{server.url}/token"'
    server.on("GET", "/token", lambda: web.json_response({"token": TOKEN}))
    server.on("GET", MANIFEST, lambda asked: echo(asked, status) if asked.authorization else challenge(value))

    caught = await refused(repository.manifest())

    assert "***" in str(caught)


@pytest.mark.parametrize("before", range(MAX_TEXT - 40, MAX_TEXT + 1, 8))
async def test_a_secret_is_not_shown_in_part_where_a_message_is_cut(
    server: Scripted, repository: RemoteRepository, before: int
) -> None:
    server.on(
        "GET", MANIFEST, lambda asked: echo(asked, 400, before) if asked.authorization else challenge("Basic realm=x")
    )

    caught = await refused(repository.manifest(), Refused)

    assert not [secret for secret in SECRETS if secret[:6] in str(caught)]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
async def test_a_token_service_that_repeats_secrets_is_not_quoted(
    server: Scripted, repository: RemoteRepository, status: int
) -> None:
    server.on("GET", MANIFEST, asks_for(f'Bearer realm="{server.url}/token"'))
    server.on("GET", "/token", lambda asked: echo(asked, status))

    await refused(repository.manifest())


async def test_a_message_is_short_and_printable(server: Scripted, repository: RemoteRepository) -> None:
    message = "\x1b]0;owned\x07\u202e" + "x" * 10_000 + "\n" * 50
    server.on("GET", MANIFEST, lambda: error(400, "\x1b[31m", message))

    caught = await refused(repository.manifest(), Refused)

    assert str(caught).isprintable()
    assert len(str(caught)) < 500


@pytest.mark.parametrize(
    "body", [b"[" * 60_000, b'{"errors": 7}', b'{"errors": [7, {"code": 1}, {}]}', b"\xff\xfe", b"", b"<html>"]
)
async def test_an_error_outside_the_spec_is_an_error_like_others(
    server: Scripted, repository: RemoteRepository, body: bytes
) -> None:
    server.on("GET", MANIFEST, lambda: web.Response(status=500, body=body))

    await refused(repository.manifest(), Unreachable, words="500 Internal Server Error")


async def test_an_error_without_end_is_read_no_further(server: Scripted, repository: RemoteRepository) -> None:
    async def trouble(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=403)
        await response.prepare(request)
        try:
            while True:
                await response.write(b'{"errors": [{"code": "DENIED", "message": "' + b"x" * 100_000)
        except ConnectionError:
            return response

    server.raw("GET", MANIFEST, trouble)

    await refused(repository.manifest(), NotPermitted, words="403 Forbidden")


async def test_a_manifest_that_was_pushed_is_kept_as_it_is_or_that_is_an_error(
    server: Scripted, repository: RemoteRepository
) -> None:
    other = {"Docker-Content-Digest": str(Digest.of(b"another"))}
    server.on("PUT", MANIFEST, lambda: web.Response(status=201, headers=other))

    await refused(repository.put_manifest(RawManifest(BODY, TYPE, Digest.of(BODY)), "v1"), ContentMismatch)


async def test_credentials_are_bound_to_the_port(server: Scripted, stranger: Scripted, session: Session) -> None:
    """The same machine on another port is another registry."""
    endpoint = session.registry(server.host)
    stranger.on("GET", "/v2/", lambda: challenge('Basic realm="x"'))

    async with await endpoint.request("GET", URL(f"{stranger.url}/v2/"), Purpose()) as answer:
        assert (answer.status, answer.foreign) == (401, True)

    assert_no_secrets(stranger)
