"""Challenges answered, tokens fetched, kept and renewed, and what a person reads where that fails."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, parse_qsl

import pytest
from aiohttp import web
from tests.unit.transfer.remote.conftest import USER, Clock, Known
from tests.unit.transfer.remote.samples import BASIC, BODY, MANIFEST, TokenRegistry, manifest
from tests.unit.transfer.remote.scripted import Asked, Scripted, challenge, error
from yarl import URL

from bucketry.oci import Digest
from bucketry.transfer.errors import NotAuthenticated, NotPermitted, Refused, Unreachable
from bucketry.transfer.remote import RemoteRepository
from bucketry.transfer.remote.auth import refusal
from bucketry.transfer.remote.credentials import Credentials

ORIGIN = "/home/alice/.docker/config.json"


async def test_nothing_is_sent_where_nothing_is_asked_for(
    server: Scripted, repository: RemoteRepository, known: Known, login: Credentials
) -> None:
    server.on("GET", MANIFEST, manifest)

    await repository.manifest()

    assert [asked.authorization for asked in server.asked] == [None]
    assert known.looked == []


async def test_basic_is_answered_and_then_sent_at_once(
    server: Scripted, repository: RemoteRepository, known: Known, login: Credentials
) -> None:
    server.on(
        "GET",
        MANIFEST,
        lambda asked: manifest() if asked.authorization == BASIC else challenge('Basic realm="a registry"'),
    )

    await repository.manifest()
    await repository.manifest()

    assert [asked.authorization for asked in server.asked] == [None, BASIC, BASIC]
    assert known.looked == [(server.host, "team/app")]


async def test_a_token_is_fetched_for_the_scope_and_kept(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    registry = TokenRegistry(server)

    for _ in range(3):
        await repository.manifest()

    [token] = server.requests("GET", "/token")
    query = token.target.partition("?")[2]
    assert parse_qsl(query) == [
        ("service", "the service"),
        ("scope", "repository:team/app:pull"),
        ("account", USER),
    ]
    assert token.authorization == BASIC
    assert registry.count == 1
    assert [asked.authorization for asked in server.requests("GET", MANIFEST)] == [None, *["Bearer token-1"] * 3]


async def test_many_tasks_share_one_token(server: Scripted, repository: RemoteRepository, login: Credentials) -> None:
    registry = TokenRegistry(server)

    await asyncio.gather(*(repository.manifest() for _ in range(20)))

    assert registry.count == 1


@pytest.mark.parametrize(("expires", "after"), [(300, 291), (60, 51), (5, 2.6), (0, 51), (10**400, 86400)])
async def test_a_token_is_renewed_before_it_ends(
    server: Scripted, repository: RemoteRepository, login: Credentials, clock: Clock, expires: float, after: float
) -> None:
    registry = TokenRegistry(server, expires=expires)
    await repository.manifest()

    clock.now += after
    await repository.manifest()

    assert [asked.authorization for asked in server.requests("GET", MANIFEST)][1:] == [
        "Bearer token-1",
        "Bearer token-2",
    ]
    assert registry.count == 2


async def test_a_token_that_is_not_taken_any_more_is_renewed_once(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    registry = TokenRegistry(server)
    await repository.manifest()

    registry.good.clear()
    await asyncio.gather(*(repository.manifest() for _ in range(5)))

    assert registry.count == 2


async def test_a_registry_that_takes_no_token_is_asked_twice_and_no_more(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    registry = TokenRegistry(server)
    server.on("GET", MANIFEST, lambda: challenge(registry.challenge))

    with pytest.raises(NotPermitted, match=f"the credentials from {ORIGIN} do not allow this in team/app"):
        await repository.manifest()

    assert len(server.requests("GET", MANIFEST)) == 2


async def test_more_scopes_are_asked_for_where_the_registry_names_them(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    registry = TokenRegistry(server)
    wanted = f'{registry.challenge[:-1]} repository:base/image:pull",error="insufficient_scope"'

    def guarded(asked: Asked) -> web.Response:
        if asked.authorization is None:
            return challenge(registry.challenge)
        return manifest() if asked.authorization in ("Bearer token-2", "Bearer token-3") else challenge(wanted)

    server.on("GET", MANIFEST, guarded)

    await repository.manifest()
    await repository.manifest()

    first, second = (parse_qs(asked.target.partition("?")[2])["scope"] for asked in server.requests("GET", "/token"))
    assert first == ["repository:team/app:pull"]
    assert second == ["repository:team/app:pull", "repository:base/image:pull"]


async def test_pushing_asks_for_the_right_to_push(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    registry = TokenRegistry(server)
    digest = Digest.of(BODY)
    server.on("HEAD", f"/v2/team/app/manifests/{digest}", registry.guarded)

    assert await repository.has_manifest(digest)

    [token] = server.requests("GET", "/token")
    assert parse_qs(token.target.partition("?")[2])["scope"] == ["repository:team/app:pull,push"]


async def test_an_anonymous_token_is_enough_where_the_service_gives_one(
    server: Scripted, repository: RemoteRepository
) -> None:
    registry = TokenRegistry(server)
    registry.users = (None,)

    await repository.manifest()

    [token] = server.requests("GET", "/token")
    assert token.authorization is None
    assert "account" not in token.target


async def test_an_identity_token_is_exchanged_by_post(
    server: Scripted, repository: RemoteRepository, known: Known
) -> None:
    known.credentials = Credentials("helper", identity_token="canary-identity")
    registry = TokenRegistry(server)
    registry.good.add("exchanged")
    server.on("POST", "/token", lambda: web.json_response({"access_token": "exchanged"}))

    await repository.manifest()

    [token] = server.requests("POST", "/token")
    assert dict(parse_qsl(token.body.decode())) == {
        "grant_type": "refresh_token",
        "service": "the service",
        "client_id": "bucketry",
        "scope": "repository:team/app:pull",
        "refresh_token": "canary-identity",
    }
    assert token.authorization is None
    assert "canary" not in token.target


async def test_a_registry_token_is_sent_as_it_is(server: Scripted, repository: RemoteRepository, known: Known) -> None:
    known.credentials = Credentials("helper", registry_token="ready")
    registry = TokenRegistry(server)
    registry.good.add("ready")

    await repository.manifest()

    assert server.requests("GET", "/token") == []


async def test_bearer_is_preferred_to_basic(server: Scripted, repository: RemoteRepository, login: Credentials) -> None:
    registry = TokenRegistry(server)

    def guarded(asked: Asked) -> web.Response:
        return registry.guarded(asked) if asked.authorization else challenge(f'Basic realm="x", {registry.challenge}')

    server.on("GET", MANIFEST, guarded)

    await repository.manifest()

    assert all(asked.authorization != BASIC for asked in server.requests("GET", MANIFEST))


async def test_what_is_hidden_from_strangers_is_asked_for_with_credentials(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    server.on("GET", "/v2/", lambda: challenge('Basic realm="x"'))
    server.on(
        "GET",
        MANIFEST,
        lambda asked: manifest() if asked.authorization == BASIC else error(404, "NAME_UNKNOWN", "no such thing"),
    )

    assert (await repository.manifest()).body == BODY


async def test_the_door_is_looked_at_once(server: Scripted, repository: RemoteRepository, login: Credentials) -> None:
    server.on("GET", "/v2/", lambda: web.Response())

    for _ in range(3):
        assert not await repository.has_manifest(Digest.of(BODY))

    assert len(server.requests("GET", "/v2/")) == 1


async def test_tasks_that_are_refused_at_once_all_wait_for_the_door(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    async def door() -> web.Response:
        await asyncio.sleep(0.05)
        return challenge('Basic realm="x"')

    server.on("GET", "/v2/", lambda asked: door())
    server.on(
        "GET",
        MANIFEST,
        lambda asked: manifest() if asked.authorization == BASIC else error(404, "NAME_UNKNOWN", "no such thing"),
    )

    found = await asyncio.gather(*(repository.manifest() for _ in range(5)))

    assert {each.body for each in found} == {BODY}
    assert len(server.requests("GET", "/v2/")) == 1


async def test_credentials_that_nobody_asked_for_are_not_looked_up(
    server: Scripted, repository: RemoteRepository, known: Known, login: Credentials
) -> None:
    """Whoever keeps them may be broken, which is nobody's business here."""
    server.on("GET", "/v2/", lambda: web.Response())

    assert not await repository.has_manifest(Digest.of(BODY))

    assert known.looked == []


async def test_a_challenge_that_is_no_text_is_answered_all_the_same(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    registry = TokenRegistry(server)

    async def raw(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Authorization"):
            return manifest()
        assert request.transport is not None
        line = registry.challenge.replace("the service", "\xff\xfe").encode("latin-1")
        request.transport.write(
            b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\nWWW-Authenticate: " + line + b"\r\n\r\n"
        )
        request.transport.close()
        return web.Response()

    server.raw("GET", MANIFEST, raw)

    assert (await repository.manifest()).body == BODY


async def test_wrong_credentials_name_their_file(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    server.on("GET", MANIFEST, lambda: challenge('Basic realm="x"'))

    with pytest.raises(NotAuthenticated) as caught:
        await repository.manifest()

    assert str(caught.value) == f"wrong credentials for {server.host}, from {ORIGIN}: bucketry login {server.host}"


@pytest.mark.parametrize("status", [400, 401])
async def test_wrong_credentials_are_known_by_the_token_service_too(
    server: Scripted, repository: RemoteRepository, login: Credentials, status: int
) -> None:
    TokenRegistry(server)
    server.on("GET", "/token", lambda: error(status, "UNAUTHORIZED", "incorrect password"))

    with pytest.raises(NotAuthenticated) as caught:
        await repository.manifest()

    assert str(caught.value) == f"wrong credentials for {server.host}, from {ORIGIN}: bucketry login {server.host}"


@pytest.mark.parametrize("value", ['Basic realm="x"', 'Bearer realm="TOKEN"'])
async def test_missing_credentials_are_asked_for(server: Scripted, repository: RemoteRepository, value: str) -> None:
    server.on("GET", MANIFEST, lambda: challenge(value.replace("TOKEN", f"{server.url}/token")))
    server.on("GET", "/token", lambda: error(401, "UNAUTHORIZED", "no anonymous tokens"))

    with pytest.raises(NotAuthenticated, match=f"asks for credentials.*: bucketry login {server.host}"):
        await repository.manifest()


async def test_denied_says_whose_credentials_are_not_enough(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    server.on(
        "GET",
        MANIFEST,
        lambda asked: error(403, "DENIED", "ask the owner") if asked.authorization else challenge('Basic realm="x"'),
    )

    with pytest.raises(NotPermitted) as caught:
        await repository.manifest()

    assert "reading team/app:v1 is not allowed" in str(caught.value)
    assert f"with the credentials from {ORIGIN}: ask the owner" in str(caught.value)


@pytest.mark.parametrize("value", ["Negotiate abc=", "Digest realm=x", 'Bearer service="no realm"', "garbage=="])
async def test_a_scheme_that_is_not_known_is_named(
    server: Scripted, repository: RemoteRepository, login: Credentials, value: str
) -> None:
    server.on("GET", MANIFEST, lambda: challenge(value))

    with pytest.raises(NotAuthenticated, match="only Basic and Bearer are known here"):
        await repository.manifest()


async def test_a_token_service_that_is_down_may_be_tried_again(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    TokenRegistry(server)
    server.on("GET", "/token", lambda: web.Response(status=503, headers={"Retry-After": "7"}))

    with pytest.raises(Unreachable, match="its token service") as caught:
        await repository.manifest()

    assert caught.value.retry_after == 7


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": ""}',
        b'{"token": 7}',
        b'{"token": "a\\r\\nX-Injected: b"}',
        b'{"token": "' + b"x" * 20_000 + b'"}',
        b'{"token": "' + b"x" * 1_000_000 + b'"}',
        b"[" * 100_000,
        b"\xff",
    ],
    ids=lambda body: f"{len(body)} {body[:20]!r}",
)
async def test_a_token_that_cannot_be_is_refused(
    server: Scripted, repository: RemoteRepository, login: Credentials, body: bytes
) -> None:
    TokenRegistry(server)
    server.on("GET", "/token", lambda: web.Response(body=body, content_type="application/json"))

    with pytest.raises(Refused, match="gives no token that can be used"):
        await repository.manifest()


@pytest.mark.parametrize(
    ("registry", "realm", "allowed"),
    [
        ("https://reg.example", "https://reg.example/token", True),
        ("https://reg.example", "https://auth.other.example/token", True),
        ("https://reg.example", "http://reg.example/token", False),
        ("https://reg.example", "http://auth.example/token", False),
        ("https://reg.example", "http://localhost:8080/token", False),
        ("https://localhost:5000", "http://localhost:5001/token", False),
        ("http://reg.example:5000", "http://reg.example:5000/token", True),
        ("http://reg.example:5000", "http://reg.example:5001/token", False),
        ("http://reg.example:5000", "https://reg.example/token", False),
        ("http://reg.example:5000", "https://attacker.example/token", False),
        ("http://reg.example:5000", "http://localhost/token", False),
        ("http://localhost:5000", "http://localhost:5001/token", True),
        ("http://127.0.0.1:5000", "http://[::1]:5001/token", True),
        ("http://localhost:5000", "https://auth.example/token", True),
        ("http://localhost:5000", "http://auth.example/token", False),
    ],
)
def test_who_may_be_a_token_service(registry: str, realm: str, allowed: bool) -> None:
    assert (refusal(URL(registry), URL(realm)) is None) is allowed
