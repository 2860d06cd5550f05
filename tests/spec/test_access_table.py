"""Principals × credentials × requests × repositories against an oracle that was written from RFC 6 alone.

Every endpoint and every method, each on a registry that is as before the last one: the application over a store in
memory. What changes the store is looked for in the store, too.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from tests.spec.access_oracle import Credentials, names_in
from tests.spec.access_requests import FAMILIES, Case, expected, sessions
from tests.spec.access_world import BLOB, HAND_MADE, REPOSITORIES, ROBOT, SETS, World, id_token, world
from tests.support.access import basic
from tests.support.images import digest_of
from tests.unit.server.test_app import Answer

from bucketry.access import make_token
from bucketry.server.auth.visitor import ACTIONS, FREE
from bucketry.server.routes import Route


def check(
    answer: Answer, credentials: Credentials, case: Case, name: str, wanted: tuple[int, ...], code: str | None
) -> None:
    about = f"{credentials.label}: {case.label} on {name}: {answer}"
    assert answer.status in wanted, f"{about}, not {wanted} {code}"
    if code is not None and case.method != "HEAD":
        assert answer.error["code"] == code, about
    if answer.status == 401:
        told = dict(names_in(answer.headers["www-authenticate"]))
        assert told["realm"].endswith("/token"), about
        assert told["service"] == "bucketry", about
        asked = {"pull": "pull", "push": "pull,push", "delete": "delete"}[case.needs]
        assert told["scope"] == f"repository:{name}:{asked}", about
        assert ("error" in told) == (credentials.scopes is not None), about
    elif code == "DENIED" and not case.moves and not case.deletes:
        message = answer.error["message"]
        assert all(part in message for part in (credentials.who.name, case.needs, name)), about


async def run(found: World, credentials: Credentials, case: Case, name: str) -> None:
    store = found.store
    kept = dict(store._objects), list(store._sorted), dict(store._uploads)
    before = found.images()
    wanted, code = expected(found.oracle, credentials, case, name)
    answer = await found.app.ask(
        case.method, case.target, {**found.headers[credentials.label], **case.headers}, case.body
    )
    check(answer, credentials, case, name, wanted, code)
    if case.method in ("GET", "HEAD") or (code is not None and not case.moves):
        assert found.images() == before, f"{credentials.label}: {case.label} on {name} changed something"
    elif case.moves and code is not None:
        tags = {key: etag for key, etag in before.items() if "/~tags/" in key or "tags/" in key}
        assert {key: found.images().get(key) for key in tags} == tags, f"{case.label} on {name} moved a tag"
    store._objects, store._sorted, store._uploads = kept


@pytest.mark.parametrize("rules", SETS, ids=lambda name: name.replace(" ", "-"))
async def test_every_request_is_let_through_as_the_rules_say_and_no_other(tmp_path: Path, rules: str) -> None:
    async with world(tmp_path, SETS[rules]) as found:
        count = 0
        for credentials in found.credentials:
            for name in REPOSITORIES:
                for family in FAMILIES.values():
                    for case in family(name):
                        await run(found, credentials, case, name)
                        count += 1
                own = credentials.who.name + (" job" if credentials.who.name == "oidc:ci" else "")
                for owner in (own, "user:somebody"):
                    async for case in sessions(found, name, owner, owner == own):
                        await run(found, credentials, case, name)
                        count += 1
        assert count > 5000


@pytest.mark.parametrize("rules", SETS, ids=lambda name: name.replace(" ", "-"))
async def test_the_catalog_has_what_each_may_pull_page_by_page(tmp_path: Path, rules: str) -> None:
    async with world(tmp_path, SETS[rules]) as found:
        for credentials in found.credentials:
            headers = found.headers[credentials.label]
            who, oracle = credentials.who, found.oracle
            visible = sorted(name for name in REPOSITORIES if oracle.may(who, "pull", name))
            for n in ("", "?n=1", "?n=2", "?n=1000"):
                names: list[str] = []
                target: str | None = f"/v2/_catalog{n}"
                while target is not None:
                    answer = await found.app.ask("GET", target, headers)
                    if answer.status != 200:
                        break
                    page = json.loads(answer.body)["repositories"]
                    assert len(page) <= (int(n[3:]) if n else 1000)
                    names += page
                    link = answer.headers.get("link")
                    target = None if link is None else link[1 : link.index(">")]
                if not oracle.may(who, "catalog", None):
                    assert answer.status == (403 if credentials.authenticated else 401), (credentials.label, answer)
                elif not credentials.covers("catalog", ""):
                    assert answer.status == 401, (credentials.label, answer)
                    assert 'scope="registry:catalog:*"' in answer.headers["www-authenticate"]
                else:
                    assert (answer.status, names) == (200, visible), credentials.label


async def test_the_door_itself_and_the_list_of_extensions(tmp_path: Path) -> None:
    async with world(tmp_path, HAND_MADE) as found:
        for credentials in found.credentials:
            headers = found.headers[credentials.label]
            known = bool(headers)
            for method in ("GET", "HEAD"):
                for target in ("/v2/", "/v2"):
                    answer = await found.app.ask(method, target, headers)
                    assert answer.status == (200 if known else 401), credentials.label
            assert (await found.app.ask("GET", "/v2/_oci/ext/discover", headers)).status == 200


async def test_every_method_of_every_endpoint_has_an_action_and_the_others_are_refused_for_all(tmp_path: Path) -> None:
    async with world(tmp_path, HAND_MADE) as found:
        handlers = found.app.lifetime.handlers
        assert handlers is not None
        assert set(handlers.table) == set(Route)
        for route, methods in handlers.table.items():
            if route not in FREE:
                assert set(methods) <= set(ACTIONS[route]), route
        for target in (
            "manifests/edge",
            f"blobs/{digest_of(BLOB)}",
            "tags/list",
            "blobs/uploads/",
            "_bucketry/uploads",
        ):
            for method in ("OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "Get", "GET ", "", "X-PUT"):
                for label in ("stranger none", "alice basic"):
                    answer = await found.app.ask(method, f"/v2/team/app/{target}", found.headers[label])
                    assert answer.status == 405, (method, target, label)


async def test_credentials_that_are_nobodys_are_let_through_nowhere(tmp_path: Path) -> None:
    """Not even to where strangers may pull: who is somebody is told that the password has a mistake."""
    async with world(tmp_path, HAND_MADE) as found:
        app = found.app
        alice = found.headers["alice token"]["authorization"].removeprefix("Bearer ")
        bad = [
            basic("alice", "pw-bob"),
            basic("nobody", "pw-alice"),
            basic("alice", ""),
            basic("", "pw-alice"),
            basic("alice", "pw-alice\0"),
            basic("Alice", "pw-alice"),
            basic("аlice", "pw-alice"),
            basic("alice", ROBOT[:-1] + ("0" if ROBOT[-1] != "0" else "1")),
            basic("alice", ROBOT[:40]),
            basic("alice", make_token("builder", bytes(32))),
            basic("alice", make_token("nobody", bytes(32))),
            basic("x", id_token(aud="another")),
            basic("x", id_token(exp=time.time() - 120)),
            basic("x", id_token(iss="https://evil.example")),
            "Basic",
            "Basic ",
            "Basic !!!",
            "Basic " + base64.b64encode(b"alice").decode(),
            "Basic " + base64.b64encode(b"\xff:\xff").decode(),
            "Bearer",
            "Bearer ",
            f"Bearer {alice}x",
            f"Bearer {alice[:-1]}",
            f"Bearer {alice}.{alice}",
            f"Bearer x {alice}",
            "Digest username=alice",
            "Negotiate abc",
            "",
            " ",
            "pw-alice",
        ]
        for authorization in bad:
            for target in (
                "/v2/",
                "/v2/public/tool/tags/list",
                "/v2/team/app/tags/list",
                "/v2/_catalog",
                "/v2/_oci/ext/discover",
            ):
                answer = await app.ask("GET", target, {"authorization": authorization})
                assert (answer.status, answer.error["code"]) in ((401, "UNAUTHORIZED"), (429, "TOOMANYREQUESTS")), (
                    authorization,
                    answer,
                )
