"""A registry in memory under rules that the oracle knows, too, and everybody who may ask something of it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.spec.access_oracle import ANYBODY, Credentials, Oracle, Rule, Rules, Who, rule_sets
from tests.support.access import basic, htpasswd
from tests.support.api import image, noise
from tests.support.images import OCI_MANIFEST, digest_of
from tests.unit.server.auth.forging import ED, jwk, key_set, signed
from tests.unit.server.test_app import Running, running

from bucketry.access import Action, RobotRecord, make_token
from bucketry.access.robots import token_digest
from bucketry.oci import Digest
from bucketry.registry import Chunk
from bucketry.registry.robots import Robots
from bucketry.registry.settings import SystemClock
from bucketry.server.config import AccessConfig, Config, LogConfig, StoreConfig
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


def id_token(**claims: Any) -> str:
    now = time.time()
    return signed(ED, {"iss": ISSUER, "aud": "me", "sub": "job", "iat": now, "exp": _UNTIL, **CLAIMS, **claims})


def write_rules(folder: Path, rules: Rules) -> Path:
    (folder / "htpasswd").write_text(htpasswd(PASSWORDS))
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
