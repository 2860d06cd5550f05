"""Rights that end (CVE-2025-23208): whoever had a token a moment ago has none of them when the rules, the users, the
robots or the keys say so. In process, with a clock of the test's own where time is what matters."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import bcrypt
import msgspec
import pytest
from tests.support.access import basic as basic_value
from tests.support.api import image
from tests.support.images import OCI_MANIFEST, digest_of
from tests.unit.server.auth.forging import ED, jwk, key_set, signed
from tests.unit.server.test_app import Running, running

from bucketry.access import Action, RobotRecord, make_token
from bucketry.access.robots import token_digest
from bucketry.registry.robots import Robots
from bucketry.registry.settings import SystemClock
from bucketry.server.config import AccessConfig, Config, LogConfig, StoreConfig

RELOAD = 0.1
ISSUER = "https://issuer.example"
RULES = """
users = "htpasswd"

[[rule]]
who = ["user:alice", "robot:ci", "oidc:ci", "group:dev"]
repositories = ["team/*"]
allow = ["pull"]

[groups]
dev = ["user:bob"]

[[issuer]]
name = "ci"
url = "https://issuer.example"
audience = "me"
keys = "jwks.json"
"""
TAGS = "/v2/team/app/tags/list"
"""Nothing is there: 404 NAME_UNKNOWN for whoever may look, and that message says so."""
SCOPE = "repository:team/app:pull"


def users(**names: str) -> str:
    lines = (f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n" for name, word in names.items())
    return "".join(lines)


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Running]:
    (folder / "access.toml").write_text(RULES)
    (folder / "htpasswd").write_text(users(alice="pw", bob="pw-bob"))
    (folder / "jwks.json").write_bytes(key_set(jwk(ED)))
    access = AccessConfig(file=str(folder / "access.toml"), reload=RELOAD)
    config = Config(store=StoreConfig(url="memory:"), access=access, log=LogConfig(access=False))
    async with running(config) as app:
        yield app


def robots(app: Running) -> Robots:
    assert app.lifetime._store is not None
    return Robots(app.lifetime._store, clock=SystemClock(), reload=1)


async def robot(app: Running, number: int = 1, **changes: object) -> str:
    token = make_token("ci", bytes([number]) * 32)
    record = RobotRecord(
        name="ci", repositories=("team/*",), actions=(Action.PULL,), created=time.time(), digest=token_digest(token)
    )
    await robots(app).create(msgspec.structs.replace(record, **changes))
    return token


def basic(name: str, password: str) -> dict[str, str]:
    return {"authorization": basic_value(name, password)}


async def bearer(app: Running, headers: Mapping[str, str], *scopes: str) -> dict[str, str]:
    query = urlencode([("scope", scope) for scope in scopes or (SCOPE,)])
    answer = await app.ask("GET", f"/token?{query}", dict(headers))
    assert answer.status == 200, answer
    return {"authorization": f"Bearer {json.loads(answer.body)['token']}"}


def id_token(**claims: object) -> str:
    now = time.time()
    return signed(ED, {"iss": ISSUER, "aud": "me", "sub": "job", "iat": now, "exp": now + 600, **claims})


async def looks(app: Running, headers: dict[str, str]) -> str:
    """``in``: the repository was looked for; else the status that kept the visitor out."""
    answer = await app.ask("GET", TAGS, headers)
    if answer.status == 404 and answer.error["message"] == "there is no repository team/app":
        return "in"
    return f"{answer.status} {answer.error['code']}"


async def test_password_that_was_changed_ends_what_was_given_out_for_it(tmp_path: Path) -> None:
    async with served(tmp_path) as app:
        old = basic("alice", "pw")
        held = await bearer(app, old)
        assert (await looks(app, old), await looks(app, held)) == ("in", "in")
        (tmp_path / "htpasswd").write_text(users(alice="new", bob="pw-bob"))
        await asyncio.sleep(3 * RELOAD)
        assert (await looks(app, old), await looks(app, held)) == ("401 UNAUTHORIZED",) * 2
        assert await looks(app, await bearer(app, basic("alice", "new"))) == "in"


async def test_user_who_was_removed_and_one_of_that_name_who_came_after(tmp_path: Path) -> None:
    async with served(tmp_path) as app:
        held = await bearer(app, basic("alice", "pw"))
        (tmp_path / "htpasswd").write_text(users(bob="pw-bob"))
        await asyncio.sleep(3 * RELOAD)
        assert await looks(app, held) == "401 UNAUTHORIZED"
        assert await looks(app, basic("alice", "pw")) == "401 UNAUTHORIZED"
        (tmp_path / "htpasswd").write_text(users(alice="other", bob="pw-bob"))
        await asyncio.sleep(3 * RELOAD)
        assert await looks(app, held) == "401 UNAUTHORIZED"


async def test_rule_and_group_that_were_removed(tmp_path: Path) -> None:
    async with served(tmp_path) as app:
        alice, bob = await bearer(app, basic("alice", "pw")), await bearer(app, basic("bob", "pw-bob"))
        assert (await looks(app, alice), await looks(app, bob)) == ("in", "in")
        (tmp_path / "access.toml").write_text(RULES.replace('"user:alice", ', "").replace('"user:bob"', '"user:eve"'))
        await asyncio.sleep(3 * RELOAD)
        for headers in (alice, bob, basic("alice", "pw"), basic("bob", "pw-bob")):
            assert await looks(app, headers) == "404 NAME_UNKNOWN"
        (tmp_path / "access.toml").write_text(RULES)
        await asyncio.sleep(3 * RELOAD)
        assert (await looks(app, alice), await looks(app, bob)) == ("in", "in")


async def test_robot_that_was_revoked_and_one_of_that_name_that_was_made_after(tmp_path: Path) -> None:
    async with served(tmp_path) as app:
        first = await robot(app)
        held = await bearer(app, basic("x", first))
        presented = (basic("x", first), {"authorization": f"Bearer {first}"}, held)
        assert [await looks(app, each) for each in presented] == ["in"] * 3
        await robots(app).revoke("ci")
        await asyncio.sleep(2 * RELOAD)
        assert [await looks(app, each) for each in presented] == ["401 UNAUTHORIZED"] * 3
        second = await robot(app, 2, actions=(Action.ADMIN,))
        await asyncio.sleep(2 * RELOAD)
        assert [await looks(app, each) for each in presented] == ["401 UNAUTHORIZED"] * 3
        assert await looks(app, basic("x", second)) == "in"


async def test_robot_that_expires_takes_what_was_given_out_for_it_along(tmp_path: Path) -> None:
    async with served(tmp_path) as app:
        token = await robot(app, expires=time.time() + 0.6)
        held = await bearer(app, basic("x", token))
        assert [await looks(app, each) for each in (basic("x", token), held)] == ["in"] * 2
        await asyncio.sleep(0.7)
        assert [await looks(app, each) for each in (basic("x", token), held)] == ["401 UNAUTHORIZED"] * 2


async def test_robot_whose_list_was_cut_in_the_store(tmp_path: Path) -> None:
    """Its rights are those of its record now, not those that its tokens were given out with."""
    async with served(tmp_path) as app:
        (tmp_path / "access.toml").write_text(RULES.replace('"robot:ci", ', ""))
        token = await robot(app)
        await asyncio.sleep(3 * RELOAD)
        held = await bearer(app, basic("x", token))
        assert await looks(app, held) == "in"
        await robots(app).revoke("ci")
        record = RobotRecord(
            name="ci", repositories=("b/*",), actions=(Action.PULL,), created=0, digest=token_digest(token)
        )
        await robots(app).create(record)
        await asyncio.sleep(2 * RELOAD)
        assert await looks(app, held) == "404 NAME_UNKNOWN"


async def test_token_moves_no_tags_where_that_was_allowed_only_after_it_was_given_out(tmp_path: Path) -> None:
    """It is for what it was asked for and was allowed."""
    async with served(tmp_path) as app:
        moves = RULES.replace('allow = ["pull"]', 'allow = ["pull", "push", "overwrite"]')
        (tmp_path / "access.toml").write_text(moves.replace(', "overwrite"', ""))
        await asyncio.sleep(3 * RELOAD)
        headers = {"content-type": OCI_MANIFEST}
        held = await bearer(app, basic("alice", "pw"), "repository:team/app:pull,push")
        answer = await app.ask("POST", f"/v2/team/app/blobs/uploads/?digest={digest_of(b'{}')}", held, b"{}")
        assert answer.status == 201
        first, second = image(), image(annotations={"n": "2"})
        assert (await app.ask("PUT", "/v2/team/app/manifests/x", {**held, **headers}, first)).status == 201
        (tmp_path / "access.toml").write_text(moves)
        await asyncio.sleep(3 * RELOAD)
        assert (await app.ask("PUT", "/v2/team/app/manifests/x", {**held, **headers}, second)).status == 403
        fresh = await bearer(app, basic("alice", "pw"), "repository:team/app:pull,push")
        assert (await app.ask("PUT", "/v2/team/app/manifests/x", {**fresh, **headers}, second)).status == 201


async def test_cve_2026_32589_jobs_of_one_issuer_have_uploads_of_their_own(tmp_path: Path) -> None:
    async with served(tmp_path) as app:
        (tmp_path / "access.toml").write_text(RULES.replace('allow = ["pull"]', 'allow = ["push"]'))
        await asyncio.sleep(3 * RELOAD)
        scope = "repository:team/app:push"
        ways = []
        for subject in ("repo:acme/one:ref:refs/heads/main", "repo:acme/two:ref:refs/heads/main"):
            token = id_token(sub=subject)
            ways.append([basic("x", token), {"authorization": f"Bearer {token}"}])
            ways[-1].append(await bearer(app, basic("x", id_token(sub=subject, jti="again")), scope))
        for own, others in (ways, reversed(ways)):
            for began in own:
                where = (await app.ask("POST", "/v2/team/app/blobs/uploads/", began)).headers["location"]
                for headers in own:
                    assert (await app.ask("GET", where, headers)).status == 204
                for headers in others:
                    answer = await app.ask("GET", where, headers)
                    assert (answer.status, answer.error["code"]) == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("how", ["gone", "elsewhere", "renamed"])
async def test_issuer_that_is_not_trusted_any_more(tmp_path: Path, how: str) -> None:
    async with served(tmp_path) as app:
        token = id_token()
        held = await bearer(app, basic("x", token))
        presented = (basic("x", token), {"authorization": f"Bearer {token}"}, held)
        assert [await looks(app, each) for each in presented] == ["in"] * 3
        before, _, issuer = RULES.partition("[[issuer]]")
        changed = {
            "gone": before.replace('"oidc:ci", ', ""),
            "elsewhere": RULES.replace(ISSUER, "https://other.example"),
            "renamed": before.replace("oidc:ci", "oidc:new") + "[[issuer]]" + issuer.replace('"ci"', '"new"'),
        }
        (tmp_path / "access.toml").write_text(changed[how])
        await asyncio.sleep(3 * RELOAD)
        assert await looks(app, held) == "401 UNAUTHORIZED"
        expected = "in" if how == "renamed" else "401 UNAUTHORIZED"
        assert [await looks(app, each) for each in presented[:2]] == [expected] * 2


async def test_audience_that_is_not_pinned_any_more(tmp_path: Path) -> None:
    async with served(tmp_path) as app:
        token = basic("x", id_token())
        assert await looks(app, token) == "in"
        (tmp_path / "access.toml").write_text(RULES.replace('audience = "me"', 'audience = "another"'))
        await asyncio.sleep(3 * RELOAD)
        assert await looks(app, token) == "401 UNAUTHORIZED"


async def test_token_gives_out_no_other_token(tmp_path: Path) -> None:
    """Else whoever took one could go on for ever."""
    async with served(tmp_path) as app:
        held = await bearer(app, basic("alice", "pw"))
        answer = await app.ask("GET", f"/token?scope={SCOPE}", held)
        assert answer.status == 401


async def test_what_stands_for_credentials_in_a_token_tells_nothing_of_them(tmp_path: Path) -> None:
    async with served(tmp_path) as app:
        robot_token = await robot(app)
        digest = token_digest(robot_token)
        stored = (tmp_path / "htpasswd").read_text().split(":")[1].split("\n")[0]
        for headers in (basic("alice", "pw"), basic("x", robot_token)):
            token = (await bearer(app, headers))["authorization"].split(".")[1]
            payload = base64.urlsafe_b64decode(token + "===").decode()
            assert '"bound":' in payload
            for secret in (stored, stored[-31:], digest, digest[:16], robot_token[-20:]):
                assert secret not in payload


async def test_nobody_keeps_a_robot_out_by_failing_in_its_name(tmp_path: Path) -> None:
    async with served(tmp_path) as app:
        token = await robot(app)
        statuses = set()
        for number in range(10, 100):
            answer = await app.ask("GET", TAGS, basic("x", make_token("ci", bytes([number]) * 32)), peer="192.0.2.1")
            statuses.add(answer.status)
        assert statuses == {401, 429}
        answer = await app.ask("GET", TAGS, basic("x", token), peer="192.0.2.2")
        assert answer.status == 404
