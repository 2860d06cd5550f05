"""Principals × credentials × requests × repositories against an oracle that was written from RFC 6 alone.

Every endpoint and every method, each on a registry that is as before the last one: the application over a store in
memory. What changes the store is looked for in the store, too.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import bcrypt
import msgspec
import pytest
from tests.spec.access_oracle import ANYBODY, Credentials, Oracle, Rule, Rules, Who, names_in, rule_sets
from tests.support.api import image, noise
from tests.support.images import OCI_MANIFEST, digest_of
from tests.unit.server.auth.forging import ED, jwk, key_set, signed
from tests.unit.server.test_app import Answer, Running, running

from bucketry.access import Action, RobotRecord, make_token
from bucketry.access.robots import token_digest
from bucketry.oci import Digest
from bucketry.registry import Chunk
from bucketry.registry.robots import Robots
from bucketry.registry.settings import SystemClock
from bucketry.server.auth.visitor import ACTIONS, FREE
from bucketry.server.config import AccessConfig, Config, LogConfig, StoreConfig
from bucketry.server.routes import Route
from bucketry.store.memory import MemoryStore

REPOSITORIES = ("team/app", "team/deep/app", "public/tool", "secret/vault", "solo")
PEOPLE = ("user:alice", "user:bob", "robot:builder")
MISSING = "secret/nil"
PASSWORDS = {"alice": "pw-alice", "bob": "pw-bob"}
ISSUER = "https://issuer.example"
CLAIMS = {"ref": "refs/heads/main", "repository": "acme/app"}
ROBOT = make_token("builder", bytes(range(32)))
ROBOT_LIST = (("pull", "push"), ("team/*", "secret/vault"))

HAND_MADE = Rules(
    (
        Rule(("user:alice",), ("team/**",), ("pull", "push", "overwrite", "delete", "catalog")),
        Rule(("user:alice",), ("public/**",), ("push",)),
        Rule(("group:one",), ("team/app",), ("pull", "push")),
        Rule(("user:bob",), ("secret/*",), ("push", "delete")),
        Rule(("anonymous",), ("public/**",), ("pull",)),
        Rule(("oidc:ci",), ("team/*",), ("pull", "push", "overwrite"), {"ref": "refs/heads/main"}),
        Rule(("oidc:ci",), ("secret/*",), ("pull",), {"ref": "refs/tags/*"}),
        Rule(("oidc:ci",), ("solo",), ("admin",)),
    ),
    {"one": ("user:bob", "robot:builder")},
    (("team/**", "v*"),),
)
OPEN_TO_ALICE = Rules(
    (
        Rule(("user:alice",), ("**",), ("admin",)),
        Rule(("user:bob",), ("**",), ("pull",)),
        Rule(("user:bob", "robot:builder"), ("solo",), ("push",)),
        Rule(("authenticated",), ("public/*",), ("pull", "catalog")),
    ),
    {},
    (("**", "v*"),),
)
SHUT = Rules((), {}, ())
SETS = {
    "hand made": HAND_MADE,
    "open to alice": OPEN_TO_ALICE,
    "shut": SHUT,
    **{f"seed {seed}": rule_sets(seed, REPOSITORIES, PEOPLE) for seed in range(1, 4)},
}

BLOB, OTHER_BLOB, UPLOADED = noise("blob", 200), noise("other", 210), noise("uploaded", 190)
ONLY_IN = {repository: noise(f"only {repository}", 180) for repository in REPOSITORIES}
MANIFEST, TAGGED, NEW = (image(layers=[BLOB], annotations={"n": str(n)}) for n in range(3))
FIXED = image(layers=[BLOB], annotations={"n": "fixed"})
REFERRER = image(layers=[], subject={"mediaType": OCI_MANIFEST, "digest": digest_of(MANIFEST), "size": len(MANIFEST)})

_UNTIL = time.time() + 3000


@dataclass(frozen=True)
class Case:
    """A request on a repository. ``needs``: the action. ``good``: the statuses where it is let through.

    ``moves``: it would move these tags that are there, ``keeps``: it would delete these.
    """

    label: str
    method: str
    target: str
    needs: str
    good: tuple[int, ...]
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    moves: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    mounts: str | None = None
    """A repository that has the blob; ``*``: whichever has it."""


@dataclass
class World:
    app: Running
    oracle: Oracle
    credentials: list[Credentials]
    headers: dict[str, dict[str, str]]
    sessions: dict[tuple[str, str, str], str] = field(default_factory=dict)

    @property
    def store(self) -> MemoryStore:
        store = self.app.lifetime._store
        assert isinstance(store, MemoryStore)
        return store

    def images(self) -> dict[str, object]:
        """What of the store clients can see: manifests, tags, links of blobs, referrers; neither keys nor sessions."""
        return {
            key: held.info.etag
            for key, held in self.store._objects.items()
            if not key.startswith(("access/", "sessions/", "data/"))
        }


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def id_token(**claims: Any) -> str:
    now = time.time()
    return signed(ED, {"iss": ISSUER, "aud": "me", "sub": "job", "iat": now, "exp": _UNTIL, **CLAIMS, **claims})


def write_rules(folder: Path, rules: Rules) -> Path:
    lines = (f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n" for name, word in PASSWORDS.items())
    (folder / "htpasswd").write_text("".join(lines))
    (folder / "jwks.json").write_bytes(key_set(jwk(ED)))
    issuer = f'[[issuer]]\nname = "ci"\nurl = "{ISSUER}"\naudience = "me"\nkeys = "jwks.json"\n'
    file = folder / "access.toml"
    file.write_text(f'users = "htpasswd"\n{rules.toml()}\n{issuer}')
    return file


async def fill(app: Running) -> None:
    """Every repository has the same, past the door."""
    registry = app.lifetime._registry
    assert registry is not None

    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        yield data

    for repository in REPOSITORIES:
        for data in (b"{}", BLOB, OTHER_BLOB, ONLY_IN[repository]):
            await registry.uploads.push(repository, Digest.of(data), Chunk(pieces(data), len(data)))
        for body, tags in ((MANIFEST, ["edge", "same"]), (TAGGED, ["spare"]), (FIXED, ["v1"]), (REFERRER, [])):
            await registry.manifests.push(repository, Digest.of(body), body, OCI_MANIFEST, tags=tags)


async def token(app: Running, headers: Mapping[str, str], scopes: Iterable[str]) -> str:
    query = urlencode([("service", "bucketry"), *(("scope", scope) for scope in scopes)])
    answer = await app.ask("GET", f"/token?{query}", dict(headers))
    assert answer.status == 200, answer
    return f"Bearer {json.loads(answer.body)['token']}"


EVERYTHING = (*(f"repository:{name}:*" for name in (*REPOSITORIES, MISSING)), "registry:catalog:*")
PUSHES = ("repository:team/app:pull,push", "repository:solo:push")


@asynccontextmanager
async def world(folder: Path, rules: Rules) -> AsyncIterator[World]:
    file = write_rules(folder, rules)
    config = Config(
        store=StoreConfig(url="memory:"),
        access=AccessConfig(file=str(file), reload=3600.0),
        log=LogConfig(access=False),
    )
    async with running(config) as app:
        store = app.lifetime._store
        assert store is not None
        record = RobotRecord(
            name="builder",
            repositories=ROBOT_LIST[1],
            actions=tuple(map(Action, ROBOT_LIST[0])),
            created=time.time(),
            digest=token_digest(ROBOT),
        )
        await Robots(store, clock=SystemClock(), reload=1).create(record)
        await fill(app)
        people = {
            "alice": (Who("user:alice"), {"basic": basic("alice", "pw-alice")}),
            "bob": (Who("user:bob"), {"basic": basic("bob", "pw-bob")}),
            "robot": (
                Who("robot:builder", list=ROBOT_LIST),
                {"basic": basic("any", ROBOT), "bearer": f"Bearer {ROBOT}"},
            ),
            "job": (
                Who("oidc:ci", CLAIMS),
                {"basic": basic("any", id_token()), "bearer": f"Bearer {id_token()}"},
            ),
            "other job": (
                Who("oidc:ci", {**CLAIMS, "ref": "refs/tags/v1"}),
                {"basic": basic("any", id_token(ref="refs/tags/v1"))},
            ),
            "stranger": (ANYBODY, {"none": ""}),
        }
        found = World(app, Oracle(rules), [], {})
        for person, (who, ways) in people.items():
            for way, header in ways.items():
                headers = {"authorization": header} if header else {}
                presented: list[tuple[str, tuple[str, ...] | None, dict[str, str]]] = [(way, None, headers)]
                if way in ("basic", "none"):
                    for label, scopes in (("token", EVERYTHING), ("small token", PUSHES), ("empty token", ())):
                        made = {"authorization": await token(app, headers, scopes)}
                        presented.append((label, scopes, made))
                for label, asked, made in presented:
                    credentials = Credentials(f"{person} {label}", who, asked)
                    found.credentials.append(credentials)
                    found.headers[credentials.label] = made
        yield found


# Requests


def reads(name: str) -> Iterator[Case]:
    manifest, absent = digest_of(MANIFEST), "sha256:" + "0" * 64
    for reference, good in (("edge", 200), ("v1", 200), (manifest, 200), ("none", 404), (absent, 404)):
        for method in ("GET", "HEAD"):
            yield Case(f"{method} manifest {reference}", method, f"/v2/{name}/manifests/{reference}", "pull", (good,))
    for digest, good in ((digest_of(BLOB), 200), (absent, 404)):
        for method in ("GET", "HEAD"):
            yield Case(f"{method} blob {digest}", method, f"/v2/{name}/blobs/{digest}", "pull", (good,))
        yield Case(f"checkpoints {digest}", "GET", f"/v2/{name}/_bucketry/checkpoints/{digest}", "pull", (404,))
    yield Case(
        "blob by its etag",
        "GET",
        f"/v2/{name}/blobs/{digest_of(BLOB)}",
        "pull",
        (304,),
        headers={"if-none-match": "*"},
    )
    yield Case(
        "part of a blob", "GET", f"/v2/{name}/blobs/{digest_of(BLOB)}", "pull", (206,), headers={"range": "bytes=0-9"}
    )
    for query in ("", "?n=1", "?n=0", "?last=edge"):
        yield Case(f"tags {query}", "GET", f"/v2/{name}/tags/list{query}", "pull", (200,))
    for query in ("", "?artifactType=x"):
        yield Case(f"referrers {query}", "GET", f"/v2/{name}/referrers/{manifest}{query}", "pull", (200,))
    yield Case("bad digest", "GET", f"/v2/{name}/blobs/sha256:x", "pull", (400,))


TYPE = {"content-type": OCI_MANIFEST}


def pushes(name: str) -> Iterator[Case]:
    def manifest(label: str, reference: str, body: bytes, *moves: str, good: int = 201) -> Case:
        target = f"/v2/{name}/manifests/{reference}"
        return Case(f"PUT manifest {label}", "PUT", target, "push", (good,), body, TYPE, moves=moves)

    new, old = digest_of(NEW), digest_of(MANIFEST)
    yield manifest("by digest", new, NEW)
    yield manifest("by digest again", old, MANIFEST)
    yield manifest("new tag", "fresh", NEW)
    yield manifest("new latest", "latest", NEW)
    yield manifest("new immutable tag", "v2", NEW)
    yield manifest("same tag", "edge", MANIFEST)
    yield manifest("same immutable tag", "v1", FIXED)
    yield manifest("other tag", "edge", NEW, "edge")
    yield manifest("other immutable tag", "v1", NEW, "v1")
    yield manifest("?tag= new", f"{new}?tag=fresh", NEW)
    yield manifest("?tag= moved", f"{new}?tag=edge", NEW, "edge")
    yield manifest("?tag= same", f"{old}?tag=same&tag=edge", MANIFEST)
    yield manifest("?tag= new and moved", f"{new}?tag=fresh&tag=edge", NEW, "edge")
    yield manifest("?tag= new and immutable", f"{new}?tag=fresh&tag=v1", NEW, "v1")
    yield manifest("?tag= escaped", f"{new}?t%61g=%65dge", NEW, "edge")
    yield manifest("referrer", digest_of(REFERRER), REFERRER)
    yield manifest("that is none", "fresh", b"{}", good=400)
    uploads = f"/v2/{name}/blobs/uploads/"
    digest, octets = digest_of(UPLOADED), {"content-type": "application/octet-stream"}
    yield Case("begin", "POST", uploads, "push", (202,))
    yield Case("begin without the slash", "POST", uploads.rstrip("/"), "push", (202,))
    yield Case("whole", "POST", f"{uploads}?digest={digest}", "push", (201,), UPLOADED, octets)
    yield Case("begin parts", "POST", f"/v2/{name}/_bucketry/uploads", "push", (201,), b"{}")
    own = json.dumps({"digest": digest_of(ONLY_IN[name]) if name in ONLY_IN else digest, "size": 180}).encode()
    good = 200 if name in ONLY_IN else 201
    yield Case("begin parts of what is there", "POST", f"/v2/{name}/_bucketry/uploads", "push", (good,), own)


def mounts(name: str) -> Iterator[Case]:
    uploads = f"/v2/{name}/blobs/uploads/"
    for source, data in ONLY_IN.items():
        if source == name:
            continue
        digest = digest_of(data)
        yield Case(
            f"mount from {source}",
            "POST",
            f"{uploads}?mount={digest}&from={source}",
            "push",
            (201,),
            mounts=source,
        )
        yield Case(f"mount what is in {source}", "POST", f"{uploads}?mount={digest}", "push", (201,), mounts="*")
        begin = json.dumps({"digest": digest, "size": len(data)}).encode()
        target = f"/v2/{name}/_bucketry/uploads"
        yield Case(f"begin parts of what is in {source}", "POST", target, "push", (200,), begin, mounts="*")
    yield Case("mount nothing", "POST", f"{uploads}?mount={'sha256:' + '0' * 64}&from=solo", "push", (202,))


def deletes(name: str) -> Iterator[Case]:
    for label, reference, tags in (
        ("tag", "edge", ("edge",)),
        ("immutable tag", "v1", ("v1",)),
        ("by digest", digest_of(MANIFEST), ("edge", "same")),
        ("by digest of an immutable tag", digest_of(FIXED), ("v1",)),
        ("referrer", digest_of(REFERRER), ()),
    ):
        yield Case(f"DELETE {label}", "DELETE", f"/v2/{name}/manifests/{reference}", "delete", (202,), deletes=tags)
    yield Case("DELETE absent", "DELETE", f"/v2/{name}/manifests/none", "delete", (404,))
    yield Case("DELETE blob", "DELETE", f"/v2/{name}/blobs/{digest_of(OTHER_BLOB)}", "delete", (202,))


STREAMS: tuple[tuple[str, str, bytes, int], ...] = (
    ("GET", "", b"", 204),
    ("PATCH", "", UPLOADED, 202),
    ("PUT", f"?digest={digest_of(UPLOADED)}", UPLOADED, 201),
    ("DELETE", "", b"", 204),
)
PARALLELS: tuple[tuple[str, str, bytes, int], ...] = (
    ("GET", "", b"", 200),
    ("POST", "/urls", b'{"parts": [1]}', 200),
    ("PUT", "/parts/1", UPLOADED, 201),
    ("POST", "/complete", json.dumps({"digest": digest_of(UPLOADED), "size": len(UPLOADED)}).encode(), 400),
    ("DELETE", "", b"", 204),
)


async def sessions(found: World, name: str, owner: str, own: bool) -> AsyncIterator[Case]:
    """Those of an upload that ``owner`` began in the repository when that was allowed."""
    registry = found.app.lifetime._registry
    assert registry is not None
    whose = "own" if own else "another's"
    for method, rest, body, good in STREAMS:
        session = registry.uploads.begin(name, owner).session_id
        target = f"/v2/{name}/blobs/uploads/{session}{rest}"
        yield Case(f"{method} {whose} upload", method, target, "push", (good if own else 404,), body)
    for method, rest, body, good in PARALLELS:
        opened = await registry.parallel.begin(name, owner, size=len(UPLOADED))
        target = f"/v2/{name}/_bucketry/uploads/{opened.session_id}{rest}"  # type: ignore[union-attr]
        yield Case(f"{method} {whose} parts{rest}", method, target, "push", (good if own else 404,), body)


# What must come of them


def expected(oracle: Oracle, credentials: Credentials, case: Case, name: str) -> tuple[tuple[int, ...], str | None]:
    """Statuses, and the code of the error where the door, or a guard, is what refuses."""
    who = credentials.who
    if not oracle.may(who, case.needs, name):
        if not credentials.authenticated:
            return (401,), "UNAUTHORIZED"
        return ((404,), "NAME_UNKNOWN") if case.needs == "pull" else ((403,), "DENIED")
    if not credentials.covers(case.needs, name):
        return (401,), "UNAUTHORIZED"
    for tag in case.moves:
        movable = oracle.may(who, "overwrite", name) and credentials.covers("overwrite", name)
        if oracle.immutable(name, tag) or not movable:
            return (403,), "DENIED"
    if any(oracle.immutable(name, tag) for tag in case.deletes):
        return (403,), "DENIED"
    if case.mounts is not None:
        # A token that was asked for by names is for these, and for no more.
        may = (
            oracle.may(who, "pull", None) and credentials.scopes is None
            if case.mounts == "*"
            else oracle.may(who, "pull", case.mounts) and credentials.covers("pull", case.mounts)
        )
        if not may:
            return ((202,) if "blobs/uploads" in case.target else (201,)), None
    return case.good, None


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


FAMILIES: dict[str, Callable[[str], Iterator[Case]]] = {
    "reads": reads,
    "pushes": pushes,
    "mounts": mounts,
    "deletes": deletes,
}


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


# A repository that is there, and one that is not


def answered(answer: Answer, name: str) -> tuple[int, dict[str, str], bytes]:
    kept = {key: value for key, value in answer.headers.items() if key not in ("x-request-id", "date")}
    kept.pop("content-length", None)  # Of a body that has the name in it.
    return (
        answer.status,
        {key: value.replace(name, "NAME") for key, value in kept.items()},
        answer.body.replace(name.encode(), b"NAME"),
    )


@pytest.mark.parametrize("rules", ["hand made", "shut", "open to alice"])
async def test_a_denied_repository_is_answered_as_one_that_is_not_there_and_nothing_is_asked_of_the_store(
    tmp_path: Path, rules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, SETS[rules]) as found:
        asked: list[str] = []
        call = found.store._call

        async def counting(operation: str, *args: Any, **options: Any) -> Any:
            asked.append(operation)
            return await call(operation, *args, **options)

        monkeypatch.setattr(found.store, "_call", counting)
        there, compared = "secret/vault", 0
        for credentials in found.credentials:
            headers = found.headers[credentials.label]
            for family in FAMILIES.values():
                for case, other in zip(family(there), family(MISSING), strict=False):
                    if case.label != other.label or "of what is there" in case.label:
                        continue
                    _, code = expected(found.oracle, credentials, case, there)
                    if code is None or found.oracle.may(credentials.who, case.needs, there):
                        continue
                    if found.oracle.may(credentials.who, case.needs, MISSING):
                        continue
                    asked.clear()
                    pair = [
                        await found.app.ask(each.method, each.target, {**headers, **each.headers}, each.body)
                        for each in (case, other)
                    ]
                    assert answered(pair[0], there) == answered(pair[1], MISSING), (credentials.label, case.label)
                    assert asked == [], (credentials.label, case.label)
                    compared += 1
        assert compared > 300


async def test_a_source_that_may_not_be_pulled_from_is_not_looked_at_by_a_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, HAND_MADE) as found:
        asked: list[str] = []
        call = found.store._call

        async def counting(operation: str, *args: Any, **options: Any) -> Any:
            asked.append(operation)
            return await call(operation, *args, **options)

        monkeypatch.setattr(found.store, "_call", counting)
        digest = digest_of(ONLY_IN["secret/vault"])
        for source in ("&from=secret/vault", "&from=secret/nil", ""):
            target = f"/v2/team/app/blobs/uploads/?mount={digest}{source}"
            answer = await found.app.ask("POST", target, found.headers["alice basic"])
            assert answer.status == 202
            assert asked == [], source
        body = msgspec.json.encode({"digest": digest, "size": 180})
        counts = []
        for wanted in (body, body.replace(digest.encode(), b"sha256:" + b"0" * 64)):
            asked.clear()
            answer = await found.app.ask("POST", "/v2/team/app/_bucketry/uploads", found.headers["alice basic"], wanted)
            assert answer.status == 201
            counts.append(list(asked))
        assert counts[0] == counts[1]
