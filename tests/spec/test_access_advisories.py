"""Advisories of other registries that are about access: what was broken there, tried here on a server that runs.

Those that are tested elsewhere:

- CVE-2025-23208, revoked rights end: ``test_access_ended.py``, ``test_access_replicas.py``; files that change while
  they are read: ``tests/unit/server/auth/test_rulebook.py``
- CVE-2025-24976, in all forms that a JWT can have: ``tests/unit/server/auth/test_jose.py``, ``test_tokens.py``,
  ``test_oidc.py``
- CVE-2026-33540, the realm of an attacker: ``tests/unit/transfer/remote/test_hostile.py``, ``test_auth.py``
- CVE-2023-2253, huge ``n``: ``test_listing.py``
- CVE-2025-48374, presigned URLs and the store's credentials: ``test_health.py``; values of variables in tracebacks:
  ``tests/unit/server/test_log.py``; the audit log: ``test_audit.py``
- deletes by digest against a push of an immutable tag, at each of their calls: ``tests/unit/registry/test_guards.py``
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import bcrypt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.support.api import ABSENT, Answer, Api, image, noise
from tests.support.images import OCI_MANIFEST, digest_of
from tests.support.ports import wait_until
from tests.support.server import Server, assert_no_fault, bucketry
from tests.unit.server.auth.forging import (
    ED,
    OTHER_RSA,
    RSA,
    b64,
    forged,
    hmac_with,
    jwk,
    key_set,
    signed,
    signer,
    unb64,
)

from bucketry.access import make_token

ISSUER = "https://issuer.example/realm"
PASSWORDS = {"alice": "canary-pw-alice", "bob": "canary-pw-bob", "carol": "canary-pw-carol", "root": "canary-pw-root"}
RULES = f"""
users = "htpasswd"

[[rule]]
who = ["user:root"]
repositories = ["**"]
allow = ["admin"]

[[rule]]
who = ["user:alice"]
repositories = ["a/**"]
allow = ["pull", "push", "overwrite", "delete"]

[[rule]]
who = ["user:bob"]
repositories = ["b/**"]
allow = ["pull", "push", "overwrite", "delete"]

[[rule]]
who = ["user:carol"]
repositories = ["a/**"]
allow = ["pull", "push"]

[[rule]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]

[[rule]]
who = ["oidc:ci"]
claims = {{ ref = "refs/heads/main" }}
repositories = ["ci/**"]
allow = ["pull", "push"]

[[immutable]]
repositories = ["a/fixed/**"]
tags = ["v*"]

[[issuer]]
name = "ci"
url = "{ISSUER}"
audience = "me"
keys = "jwks.json"
"""


def files(folder: Path) -> Path:
    lines = (f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n" for name, word in PASSWORDS.items())
    (folder / "htpasswd").write_text("".join(lines))
    (folder / "jwks.json").write_bytes(key_set(jwk(RSA)))
    (folder / "access.toml").write_text(RULES)
    return folder / "access.toml"


@dataclass(frozen=True)
class World:
    api: Api
    server: Server
    folder: Path

    def __call__(
        self, who: str | None, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """``who``: a user, or credentials as they are in a header."""
        sent = dict(headers or {})
        if who is not None:
            sent["Authorization"] = basic(who, PASSWORDS[who]) if who in PASSWORDS else who
        return self.api.request(method, target, body if method in ("PUT", "POST", "PATCH") else None, sent)

    def blob(self, who: str, repository: str, data: bytes) -> str:
        answer = self(who, "POST", f"/v2/{repository}/blobs/uploads/?digest={digest_of(data)}", data)
        assert answer.status == 201, answer
        return digest_of(data)

    def image(self, who: str, repository: str, reference: str, seed: str, layers: tuple[bytes, ...] = ()) -> Answer:
        for data in (b"{}", *layers):
            self.blob(who, repository, data)
        body = image(layers=layers, annotations={"seed": seed})
        return self.manifest(who, repository, reference, body)

    def manifest(self, who: str, repository: str, reference: str, body: bytes) -> Answer:
        return self(who, "PUT", f"/v2/{repository}/manifests/{reference}", body, {"Content-Type": OCI_MANIFEST})

    def token(self, who: str | None, *scopes: str) -> str:
        answer = self(who, "GET", f"/token?{urlencode([('scope', scope) for scope in scopes])}")
        assert answer.status == 200, answer
        return f"Bearer {answer.json()['token']}"

    def signing_key(self) -> tuple[str, Ed25519PrivateKey]:
        """The registry's own, as who reads the store has it."""
        assert self.token("root")
        (file,) = (self.folder / "store").rglob("access/keys/*")
        seed = json.loads(re.findall(rb'\{.*"seed".*\}', file.read_bytes())[0])["seed"]
        return file.name, Ed25519PrivateKey.from_private_bytes(unb64(seed))


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def seeded(*names: str) -> bytes:
    return noise(" ".join(names), 300)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("advisories")
    options = ("--access", str(files(folder)), "--workers", "2", "--set", f"access.audit={folder / 'audit.log'}")
    config = "[limits]\nheader_timeout = 1.5\nbody_idle_timeout = 1.5\n"
    with bucketry(str(folder / "store"), folder / "server", options=options, config=config) as server:
        found = World(Api(server.port), server, folder)
        assert found.image("root", "public/tool", "latest", "public").status == 201
        yield found
        assert_no_fault(server)
        log = server.log() + (folder / "audit.log").read_text()
        for secret in (*PASSWORDS.values(), *(basic(name, word)[6:] for name, word in PASSWORDS.items())):
            assert secret not in log
        assert "eyJ" not in log.replace("eyJ...", "")


# CVE-2025-24976: the key that verifies a token is not the token's to bring


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, payload, _ = token.removeprefix("Bearer ").split(".")
    return json.loads(unb64(header)), json.loads(unb64(payload))


def smuggled(header: dict[str, Any], payload: dict[str, Any], raw: bytes) -> Iterator[tuple[str, str]]:
    """Tokens that say the same and are signed by somebody else. ``raw``: the public half of the registry's key."""
    mine, own = jwk(ED, header["kid"]), signer(ED)
    certificate = [base64.b64encode(b"0" * 300).decode()]
    extras: tuple[dict[str, Any], ...] = (
        {},
        {"jwk": mine},
        {"jku": "https://evil.example/jwks.json"},
        {"jku": "file:///etc/passwd"},
        {"x5c": certificate},
        {"x5u": "https://evil.example/x"},
        {"x5t": "abc"},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"typ": "JOSE"},
    )
    for extra in extras:
        yield f"signed by another, {extra}", forged({**header, **extra}, payload, own)
    for kid in ("../keys", "", "0", header["kid"] + "0", "../../htpasswd", "/dev/null", "' OR 1=1", "\0", "x" * 5000):
        yield f"kid {kid[:20]!r}", forged({**header, "kid": kid}, payload, own)
    for kid in (None, 1, [], {}, True):
        yield f"kid {kid!r}", forged({**header, "kid": kid}, payload, own)
    nones: tuple[object, ...] = ("none", "None", "NONE", "nOnE", "", None, [], "EdDSA ")
    for none in nones:
        yield f"alg {none!r}", forged({**header, "alg": none}, payload, lambda message: b"")
        yield f"alg {none!r} signed", forged({**header, "alg": none}, payload, own)
    for secret in (raw, b64(raw).encode(), b"", header["kid"].encode(), base64.b64encode(raw)):
        yield "HS256 by the public key", forged({**header, "alg": "HS256"}, payload, hmac_with(secret))
    for algorithm in ("RS256", "PS256", "ES256", "ES512", "Ed25519", "EdDSA", "HS512"):
        yield algorithm, forged({**header, "alg": algorithm}, payload, signer(OTHER_RSA))
    yield "no header", forged(b"", payload, own)
    yield "header twice", forged(json.dumps(header).encode()[:-1] + b',"alg":"none"}', payload, lambda message: b"")


def test_cve_2025_24976_no_token_brings_the_key_that_it_is_verified_by(world: World) -> None:
    repository = "public/tool"
    token = world.token("root", f"repository:{repository}:*")
    header, payload = parts(token)
    assert set(header) == {"alg", "kid", "typ"}
    _, key = world.signing_key()
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    delete = f"/v2/{repository}/manifests/latest"
    tried = 0
    for label, each in smuggled(header, payload, raw):
        for method in ("GET", "DELETE"):
            answer = world(f"Bearer {each}", method, delete)
            assert answer.error() == (401, "UNAUTHORIZED"), (label, answer)
            assert 'error="invalid_token"' in answer.header("WWW-Authenticate"), label
        tried += 1
    assert tried > 50
    assert world(None, "GET", delete).status == 200


def test_cve_2025_24976_no_id_token_brings_the_key_that_it_is_verified_by(world: World) -> None:
    now = time.time()
    payload = {"iss": ISSUER, "aud": "me", "sub": "job", "iat": now, "exp": now + 600, "ref": "refs/heads/main"}
    header = {"alg": "RS256", "kid": "k1", "typ": "JWT"}
    public = json.dumps(jwk(RSA)).encode()
    right = signed(RSA, payload)
    target = "/v2/ci/app/tags/list"
    assert world(f"Bearer {right}", "GET", target).message == "there is no repository ci/app"
    for label, each in smuggled(header, payload, public):
        if label == "RS256":
            continue
        for credentials in (f"Bearer {each}", basic("x", each)):
            if len(credentials) < 8000:
                assert world(credentials, "GET", target).status in (401, 429), label


# Tokens that are right but for one thing


def registry_token(world: World) -> tuple[dict[str, Any], Callable[..., str]]:
    kid, key = world.signing_key()
    _, payload = parts(world.token("root", "repository:public/tool:*"))

    def made(_header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        changed = {name: value for name, value in {**payload, **claims}.items() if value != "ABSENT"}
        return forged({"alg": "EdDSA", "kid": kid, "typ": "JWT", **(_header or {})}, changed, signer(key))

    return payload, made


def test_token_of_another_time_audience_service_or_form_is_refused(world: World) -> None:
    """Signed by the registry's very key, so what it says is all that is looked at."""
    payload, made = registry_token(world)
    now = time.time()
    target = "/v2/public/tool/manifests/latest"
    assert world(f"Bearer {made()}", "GET", target).status == 200
    wrong: dict[str, dict[str, Any]] = {
        "expired": {"exp": int(now) - 1},
        "expired long ago": {"iat": int(now) - 9000, "nbf": int(now) - 9000, "exp": int(now) - 8000},
        "not yet": {"nbf": int(now) + 200, "iat": int(now) + 200, "exp": int(now) + 400},
        "lives too long": {"exp": int(now) + 100_000},
        "lives for ever": {"exp": 10**18},
        "exp as text": {"exp": str(int(now) + 100)},
        "exp infinite": {"exp": 1e308},
        "no exp": {"exp": "ABSENT"},
        "no iat": {"iat": "ABSENT"},
        "no jti": {"jti": "ABSENT"},
        "no sub": {"sub": "ABSENT"},
        "no access": {"access": "ABSENT"},
        "other audience": {"aud": "other"},
        "audience with more": {"aud": "bucketry2"},
        "audience in capitals": {"aud": "BUCKETRY"},
        "no audience": {"aud": "ABSENT"},
        "other issuer": {"iss": "bucketry:other"},
        "issuer of jobs": {"iss": ISSUER},
        "sub that is none": {"sub": "root"},
        "sub of a group": {"sub": "group:dev"},
        "sub that looks alike": {"sub": "user:r\u043eot"},
        "sub everybody": {"sub": "authenticated"},
        "sub as a list": {"sub": ["user:root"]},
        "user who is not there": {"sub": "user:nobody"},
        "robot that is not there": {"sub": "robot:nobody"},
        "issuer that is not there": {"sub": "oidc:nobody"},
        "user with claims": {"claims": {"ref": "x"}},
        "user of another password": {"bound": "0" * 32},
        "not bound": {"bound": "ABSENT"},
        "bound to nothing": {"bound": ""},
        "certificate of nobody": {"method": "certificate"},
        "no method": {"method": "ABSENT"},
        "method made up": {"method": "magic"},
        "access as text": {"access": "repository:public/tool:*"},
        "access of another type": {"access": [{"type": "everything", "name": "", "actions": ["pull"]}]},
        "action made up": {"access": [{"type": "repository", "name": "public/tool", "actions": ["*"]}]},
        "too much access": {"access": [{"type": "repository", "name": "a", "actions": ["pull"]}] * 500},
    }
    for label, claims in wrong.items():
        answer = world(f"Bearer {made(**claims)}", "GET", target)
        assert answer.status in (401, 431), (label, answer)
    headers: tuple[dict[str, Any], ...] = ({"jwk": jwk(ED)}, {"x5c": []}, {"typ": "JOSE"}, {"cty": "JWT"})
    for header in (*headers, {"crit": ["exp"]}, {"kid": "000000"}):
        assert world(f"Bearer {made(header)}", "GET", target).status == 401, header
    right = made()
    head, body, signature = right.split(".")
    elsewhere = b64(json.dumps({**payload, "sub": "user:bob"}).encode())
    tampered = {
        "another payload": f"{head}.{elsewhere}.{signature}",
        "no signature": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "four parts": f"{right}.{signature}",
        "cut signature": right[:-4],
        "padded": f"{right}==",
        "in a token": forged(json.loads(unb64(head)), right.encode(), signer(ED)),
        "nested": made({"cty": "JWT"}, nested=right),
        "twice": f"{right},{right}",
        "with spaces": f"{head}. {body}.{signature}",
        "in quotes": f'"{right}"',
        "huge": f"{head}.{b64(b'{' + b' ' * 20_000 + b'}')}.{signature}",
        "deep": f"{head}.{b64(b'[' * 5000)}.{signature}",
    }
    for label, each in tampered.items():
        for credentials in (f"Bearer {each}", basic("x", each)):
            assert world(credentials, "GET", target).status in (401, 429, 431), label
    assert world(f"Bearer {right}", "GET", target).status == 200


def test_token_for_bobs_things_is_none_for_alices_whatever_it_says(world: World) -> None:
    """Access in a token is what was allowed; what is allowed is asked again."""
    _, made = registry_token(world)
    world.image("alice", "a/own", "edge", "alice")
    bob = parts(world.token("bob"))[1]
    everything = [
        {"type": "repository", "name": "a/own", "actions": ["admin", "pull", "push", "overwrite", "delete"]},
        {"type": "registry", "name": "catalog", "actions": ["catalog"]},
    ]
    token = f"Bearer {made(sub='user:bob', bound=bob['bound'], access=everything)}"
    assert world(token, "GET", "/v2/").status == 200
    assert world(token, "GET", "/v2/a/own/manifests/edge").error() == (404, "NAME_UNKNOWN")
    assert world(token, "DELETE", "/v2/a/own/manifests/edge").error() == (403, "DENIED")
    assert world(token, "GET", "/v2/_catalog").error() == (403, "DENIED")


# CVE-2026-35172


def test_cve_2026_35172_what_was_deleted_in_a_and_is_read_in_b_stays_deleted_in_a(world: World) -> None:
    data = seeded("deleted in a")
    for who, repository in (("alice", "a/gone"), ("bob", "b/kept")):
        digest = world.blob(who, repository, data)
    assert world("alice", "DELETE", f"/v2/a/gone/blobs/{digest}").status == 202
    for _ in range(4):  # Of either worker, before and after the other has it in whatever it remembers.
        for method in ("GET", "HEAD"):
            assert world("bob", method, f"/v2/b/kept/blobs/{digest}").status in (200, 307)
            assert world("alice", method, f"/v2/a/gone/blobs/{digest}").status == 404
    answer = world("bob", "POST", f"/v2/b/more/blobs/uploads/?mount={digest}&from=a/gone")
    assert answer.status == 202
    answer = world("alice", "POST", f"/v2/a/other/blobs/uploads/?mount={digest}&from=a/gone")
    assert answer.status == 202


# CVE-2026-41888


def test_cve_2026_41888_where_nothing_is_deleted_no_method_deletes(tmp_path: Path) -> None:
    options = ("--access", str(files(tmp_path)), "--workers", "1", "--set", "delete.enabled=false")
    with bucketry(str(tmp_path / "store"), tmp_path / "server", options=options) as server:
        world = World(Api(server.port), server, tmp_path)
        layer = seeded("not deleted")
        manifest = image(layers=[layer], annotations={"seed": "kept"})
        assert world.image("root", "a/kept", "edge", "kept", (layer,)).status == 201
        things = [f"manifests/{digest_of(manifest)}", "manifests/edge", f"blobs/{digest_of(layer)}"]
        for who in ("root", "alice", world.token("root", "repository:a/kept:*")):
            for thing in things:
                target = f"/v2/a/kept/{thing}"
                assert world(who, "DELETE", target).error() == (405, "UNSUPPORTED")
                assert world(who, "DELETE", f"{target}?force=true").status == 405
                for method in ("delete", "Delete", "PURGE", "OPTIONS", "POST", "PATCH"):
                    assert world(who, method, target).status in (400, 405), method
                for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
                    world(who, "GET", f"{target}?_method=DELETE", headers={name: "DELETE"})
                    world(who, "PUT", target, b"", {name: "DELETE", "Content-Type": OCI_MANIFEST})
                assert world(who, "GET", target).status == 200, thing
        assert world("bob", "DELETE", f"/v2/a/kept/{things[0]}").error() == (403, "DENIED")
        assert_no_fault(server)


# CVE-2024-39897


@pytest.mark.parametrize("way", ["basic", "token"])
def test_cve_2024_39897_a_stranger_reads_and_mounts_nothing_of_a_private_repository(world: World, way: str) -> None:
    data = seeded("secret of alice", way)
    digest = world.blob("alice", "a/private", data)
    assert world.image("alice", "a/private", "edge", way, (data,)).status == 201
    scopes = ("repository:b/mine:pull,push,delete", "repository:a/private:pull,push", "repository:a/private:*")
    bob = "bob" if way == "basic" else world.token("bob", *scopes)
    uploads = "/v2/b/mine/blobs/uploads/"
    for target in (
        f"{uploads}?mount={digest}&from=a/private",
        f"{uploads}?mount={digest}",
        f"{uploads}?mount={digest}&from=a/private&from=b/mine",
        f"{uploads}?mount={digest}&from=b/mine&from=a/private",
        f"{uploads}?mount={digest}&from=b/mine",
        f"{uploads}?from=a/private&mount={quote(digest)}",
        f"{uploads}?mount={digest}&from=a%2Fprivate",
        f"{uploads}?mount={digest}&digest={digest}",
    ):
        answer = world(bob, "POST", target)
        assert answer.status == 202, (target, answer)
    for target in ("A/private", "a/private/", "../a/private", "b/mine/../../a/private", "%61/private%00", "*", "**"):
        assert world(bob, "POST", f"{uploads}?mount={digest}&from={target}").status in (202, 400), target
    begin = json.dumps({"digest": digest, "size": len(data)}).encode()
    answer = world(bob, "POST", "/v2/b/mine/_bucketry/uploads", begin)
    assert (answer.status, answer.json()["state"]) == (201, "open"), "its parts are wanted as of any other blob"
    session = answer.json()["session"]
    answer = world(bob, "POST", f"/v2/b/mine/_bucketry/uploads/{session}/complete", begin)
    assert answer.status == 400, "nothing was sent"
    answer = world(bob, "PUT", f"{world(bob, 'POST', uploads).header('Location')}?digest={digest}")
    assert answer.error() == (400, "DIGEST_INVALID"), "nothing was sent"
    answer = world.manifest(bob, "b/mine", "stolen", image(layers=[data]))
    assert answer.error() == (404, "MANIFEST_BLOB_UNKNOWN")
    for target in (f"blobs/{digest}", f"_bucketry/checkpoints/{digest}"):
        assert world(bob, "GET", f"/v2/b/mine/{target}").status == 404
        assert world(bob, "GET", f"/v2/a/private/{target}").error() == (404, "NAME_UNKNOWN")
        assert world(None, "GET", f"/v2/a/private/{target}").status == 401
    for target in ("manifests/edge", "tags/list", f"referrers/{digest}"):
        assert world(bob, "GET", f"/v2/a/private/{target}").error() == (404, "NAME_UNKNOWN")
    assert world("root", "POST", f"{uploads}?mount={digest}").status == 201, (
        "who may read all may have it from anywhere"
    )


# CVE-2026-31801


@pytest.mark.parametrize("tag", ["latest", "edge", "v1"])
@pytest.mark.parametrize("way", ["basic", "token"])
def test_cve_2026_31801_who_may_create_and_not_overwrite_moves_no_tag(world: World, tag: str, way: str) -> None:
    repository = f"a/create/{tag}/{way}"
    carol = "carol" if way == "basic" else world.token("carol", f"repository:{repository}:*")
    assert world.image(carol, repository, tag, "first").status == 201
    first, second = (image(annotations={"seed": seed}) for seed in ("first", "second"))
    for _ in range(2):
        assert world.manifest(carol, repository, tag, first).status == 201, "the very same is no change"
        for reference in (
            tag,
            f"{digest_of(second)}?tag={tag}",
            f"{digest_of(second)}?tag=fresh-{tag}&tag={tag}",
            f"{digest_of(second)}?tag={tag}&tag={tag}",
        ):
            answer = world.manifest(carol, repository, reference, second)
            assert answer.error() == (403, "DENIED"), answer
            assert "move tags" in answer.message
        assert world.manifest(carol, repository, digest_of(second), second).status == 201
        assert world("alice", "HEAD", f"/v2/{repository}/manifests/{tag}").header("Docker-Content-Digest") == digest_of(
            first
        )
        assert world("alice", "GET", f"/v2/{repository}/manifests/fresh-{tag}").status == 404
    # Deleting and making anew is moving in two steps.
    assert world(carol, "DELETE", f"/v2/{repository}/manifests/{tag}").error() == (403, "DENIED")
    assert world(carol, "DELETE", f"/v2/{repository}/manifests/{digest_of(first)}").error() == (403, "DENIED")
    assert world.manifest("alice", repository, tag, second).status == 201


def test_cve_2026_31801_of_many_who_create_a_tag_at_once_one_has_it(world: World) -> None:
    bodies = [image(annotations={"seed": str(number)}) for number in range(12)]
    world.blob("carol", "a/race", b"{}")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: world.manifest("carol", "a/race", "latest", body).status, bodies))
    assert sorted(answers) == [201, *[403] * 11]
    held = world("alice", "HEAD", "/v2/a/race/manifests/latest").header("Docker-Content-Digest")
    assert held == digest_of(bodies[answers.index(201)])


# Immutable tags


def test_immutable_tag_is_neither_moved_nor_deleted_by_any_way_and_anybody(world: World) -> None:
    repository = "a/fixed/app"
    assert world.image("root", repository, "v1", "first").status == 201
    first, second = (image(annotations={"seed": seed}) for seed in ("first", "second"))
    assert world.manifest("alice", repository, "edge", first).status == 201
    for who in ("root", "alice", world.token("root", f"repository:{repository}:*")):
        for reference in ("v1", f"{digest_of(second)}?tag=v1", f"{digest_of(second)}?tag=x&tag=v1"):
            assert world.manifest(who, repository, reference, second).error() == (403, "DENIED")
        for reference in ("v1", digest_of(first)):
            answer = world(who, "DELETE", f"/v2/{repository}/manifests/{reference}")
            assert answer.error() == (403, "DENIED")
            assert "immutable" in answer.message
    for tag in ("v1", "edge"):
        found = world("alice", "HEAD", f"/v2/{repository}/manifests/{tag}").header("Docker-Content-Digest")
        assert found == digest_of(first)
    assert world("alice", "GET", f"/v2/{repository}/manifests/x").status == 404


def test_delete_by_digest_against_pushes_of_an_immutable_tag(world: World) -> None:
    """A push that was acknowledged stays, whichever was first; and the tag is never given to other bytes after."""
    world.blob("alice", "a/fixed/race", b"{}")
    for number in range(25):
        body, tag = image(annotations={"race": str(number)}), f"v{number}"
        digest = digest_of(body)
        assert world.manifest("alice", "a/fixed/race", f"edge-{number}", body).status == 201
        with ThreadPoolExecutor(2) as pool:
            deleted = pool.submit(world, "alice", "DELETE", f"/v2/a/fixed/race/manifests/{digest}")
            pushed = pool.submit(world.manifest, "alice", "a/fixed/race", tag, body)
        assert pushed.result().status == 201
        assert deleted.result().status in (202, 403, 404)
        for reference in (tag, digest):
            answer = world("alice", "GET", f"/v2/a/fixed/race/manifests/{reference}")
            assert (answer.status, answer.body) == (200, body), (number, deleted.result())
        other = image(annotations={"race": f"{number} other"})
        assert world.manifest("alice", "a/fixed/race", tag, other).error() == (403, "DENIED")


# CVE-2026-32589


def test_cve_2026_32589_an_upload_is_of_who_began_it_where_it_was_begun(world: World) -> None:
    data = seeded("upload of alice")
    digest = digest_of(data)
    begun = world("alice", "POST", "/v2/a/up/blobs/uploads/").header("Location")
    assert world("alice", "PATCH", begun, data[:100]).status == 202
    moved = world("alice", "GET", begun).header("Location")
    opened = world("alice", "POST", "/v2/a/up/_bucketry/uploads", json.dumps({"size": len(data)}).encode())
    parallel = f"/v2/a/up/_bucketry/uploads/{opened.json()['session']}"
    complete = json.dumps({"digest": digest, "size": len(data)}).encode()
    requests: list[tuple[str, str, bytes]] = [
        *((method, where, body) for where in (begun, moved) for method, body in (("GET", b""), ("DELETE", b""))),
        *(("PATCH", where, data[100:]) for where in (begun, moved)),
        *(("PUT", f"{where}?digest={digest}", data[100:]) for where in (begun, moved)),
        ("GET", parallel, b""),
        ("POST", f"{parallel}/urls", b'{"parts": [1]}'),
        ("PUT", f"{parallel}/parts/1", data),
        ("POST", f"{parallel}/complete", complete),
        ("DELETE", parallel, b""),
    ]
    others = ("carol", "root", world.token("carol", "repository:a/up:pull,push"))
    for method, target, body in requests:
        for who in others:  # They may push there.
            assert world(who, method, target, body).error() == (404, "BLOB_UPLOAD_UNKNOWN"), (who, method, target)
        assert world("bob", method, target, body).error() == (403, "DENIED")
        assert world(None, method, target, body).status == 401
        elsewhere = target.replace("/a/up/", "/a/elsewhere/")
        assert world("alice", method, elsewhere, body).error() == (404, "BLOB_UPLOAD_UNKNOWN"), (method, target)
    # Neither kind of session is one of the other kind.
    session = begun.rpartition("/")[2]
    assert world("alice", "GET", f"/v2/a/up/_bucketry/uploads/{session}").status == 404
    assert world("alice", "GET", begun.replace(session, opened.json()["session"])).status == 404
    answer = world(world.token("alice", "repository:a/up:push"), "PUT", f"{moved}?digest={digest}", data[100:])
    assert answer.status == 201, "her token is she as well"


# CVE-2025-48374


CANARIES = {
    "password": "canary-password-1f2e",
    "user": "canary-user-3a4b",
    "form": "canary-form-5c6d",
    "query": "canary-query-7e8f",
    "header": "canary-header-9a0b",
    "cookie": "canary-cookie-1c2d",
    "host": "canary-userinfo-3e4f",
    "claim": "canary-claim-5a6b",
    "garbage": "canary-garbage-7c8d",
    "refresh": "canary-refresh-9e0f",
}


@pytest.mark.parametrize("log", ["json", "text"])
def test_cve_2025_48374_no_secret_is_in_logs_metrics_and_errors(tmp_path: Path, log: str) -> None:
    # Each request from an address of its own, or most would be throttled.
    config = f'[log]\nformat = "{log}"\nlevel = "debug"\n[server]\ntrusted_proxies = ["127.0.0.0/8"]\n'
    addresses = (str(ip) for ip in ipaddress.ip_network("10.0.0.0/16").hosts())
    audit = tmp_path / "audit.log"
    options = ("--access", str(files(tmp_path)), "--workers", "1", "--set", f"access.audit={audit}")
    told = bytearray()
    robot = make_token("canary", bytes(range(32)))
    with bucketry(str(tmp_path / "store"), tmp_path / "server", options=options, config=config) as server:
        world = World(Api(server.port), server, tmp_path)
        now = time.time()
        claims = {"iss": ISSUER, "aud": "me", "iat": now, "exp": now + 60, "sub": "job", "jti": CANARIES["claim"]}
        good, bad = signed(RSA, claims), signed(OTHER_RSA, claims)
        held = world.token("alice", "repository:a/x:pull")
        credentials = [
            basic("alice", CANARIES["password"]),
            basic(CANARIES["user"], CANARIES["password"]),
            basic("", CANARIES["password"]),
            f"Basic {CANARIES['garbage']}",
            f"Bearer {CANARIES['garbage']}",
            f"{CANARIES['garbage']} x",
            CANARIES["garbage"],
            f"Bearer {good}",
            f"Bearer {bad}",
            basic("x", good),
            basic("x", bad),
            f"Bearer {held[7:]}x",
            held,
            f"Bearer {robot}",
            basic("x", robot),
            basic("x", robot[:-3]),
            basic("alice", PASSWORDS["alice"]),
        ]
        secret_headers = {
            "Cookie": f"session={CANARIES['cookie']}",
            "X-Api-Key": CANARIES["header"],
            "Proxy-Authorization": f"Basic {CANARIES['header']}",
            "X-Registry-Auth": CANARIES["header"],
        }
        query = f"?token={CANARIES['query']}&password={CANARIES['query']}&access_token={CANARIES['query']}"
        for each in credentials:
            for method, target in (
                ("GET", f"/v2/{query}"),
                ("GET", f"/v2/a/x/tags/list{query}"),
                ("GET", f"/v2/a/x/tags/list{query}&n={robot}"),
                ("GET", f"/v2/a/x/manifests/none{query}"),
                ("POST", f"/v2/a/x/blobs/uploads/{query}&mount={robot}"),
                ("POST", f"/v2/a/x/blobs/uploads/{query}&from={robot}&mount={ABSENT}"),
                ("PUT", f"/v2/a/x/manifests/x{query}&tag={robot}/"),
                ("GET", f"/token{query}&account={CANARIES['query']}"),
                ("GET", f"/token{query}&scope={robot}"),
                ("GET", f"/token{query}&service={CANARIES['query']}"),
                ("GET", f"/nowhere{query}"),
            ):
                answer = world(each, method, target, headers={**secret_headers, "X-Forwarded-For": next(addresses)})
                assert answer.status < 500, answer
                told += answer.body + str(answer.headers).encode()
        forms = [
            {"grant_type": "password", "username": "alice", "password": CANARIES["form"], "service": "bucketry"},
            {"grant_type": "refresh_token", "refresh_token": CANARIES["refresh"]},
            {"grant_type": "password", "username": CANARIES["user"], "password": robot},
            {"grant_type": CANARIES["form"], "password": CANARIES["form"], "client_secret": CANARIES["form"]},
        ]
        for form in forms:
            kind = {"Content-Type": "application/x-www-form-urlencoded", "X-Forwarded-For": next(addresses)}
            answer = world(None, "POST", f"/token{query}", urlencode(form).encode(), kind)
            assert answer.status in (400, 401, 429), answer
            told += answer.body + str(answer.headers).encode()
        for target in (f"/v2/{robot}/tags/list", f"/v2/x/{good}/tags/list", f"/v2/a/x/manifests/{robot}", f"/{good}"):
            world(None, "GET", target, headers={"User-Agent": f"curl {robot}", "Referer": good})
            world(None, "GET", target, headers={"X-Request-Id": robot[:60], "X-Forwarded-For": robot})
        with world.api.wire() as wire:
            wire.begin("GET", f"http://alice:{CANARIES['host']}@registry.test/v2/a/x/tags/list")
            wire.answer()
        with world.api.wire() as wire:  # What is no HTTP at all.
            wire.send(f"{CANARIES['garbage']} {robot}\r\n{CANARIES['garbage']}\r\n\r\n".encode())
            wire.rest()
        metrics = world.api.get("/metrics").body
        world.api.get("/v2/", x_request_id="the-last")
        if log == "json":
            wait_until(lambda: "the-last" in server.log(), seconds=5, what=server.log, alive=server.alive)
        time.sleep(0.2)
        assert_no_fault(server)
        (kid, key), store = world.signing_key(), tmp_path / "store"
        assert kid
        seed = next(iter(re.findall(rb'"seed":"([^"]+)"', next(store.rglob(f"access/keys/{kid}")).read_bytes())))
        hashes = [line.partition(":")[2] for line in (tmp_path / "htpasswd").read_text().splitlines()]
        secrets = {
            **CANARIES,
            "robot": robot[20:],
            "id token": good.split(".")[2],
            "payload of it": good.split(".")[1],
            "bad id token": bad.split(".")[2],
            "registry token": held.split(".")[2],
            "seed": seed.decode(),
            **{f"hash {number}": each for number, each in enumerate(hashes)},
            **{f"password {name}": word for name, word in PASSWORDS.items()},
            **{f"basic {number}": each[6:] for number, each in enumerate(credentials) if each.startswith("Basic ")},
        }
        assert key is not None
        everything = {"log": server.log(), "audit": audit.read_text(), "metrics": metrics.decode()}
        for place, text in everything.items():
            for label, secret in secrets.items():
                assert secret not in text, f"{label} is in the {place}"
        answers = told.decode("latin-1")
        for label in ("password", "form", "refresh", "garbage", "cookie", "header", "seed", "payload of it"):
            assert secrets[label] not in answers, f"{label} is in an answer"


# What is too much


def test_huge_credentials_are_refused_and_the_server_goes_on(world: World) -> None:
    for size in (1_000, 20_000, 200_000, 3_000_000):
        for scheme in ("Basic", "Bearer", "Digest", ""):
            value = base64.b64encode(b"x:" + b"y" * size).decode()
            try:
                answer = world(f"{scheme} {value}".strip(), "GET", "/v2/")
            except OSError:
                continue  # It was cut off while it was sent.
            assert answer.status in (400, 401, 413, 431, 429), (size, scheme, answer)
    assert world("root", "GET", "/v2/").status == 200
    several = "\r\n".join(["GET /v2/ HTTP/1.1", "Host: x", *[f"Authorization: {basic('a', 'b')}"] * 50, "", ""])
    with world.api.wire() as wire:
        wire.send(several.encode())
        assert wire.answer().status in (400, 401, 429)


def test_of_several_credentials_none_is_taken(world: World) -> None:
    """What is in front of the registry may have looked at another one than the registry would."""
    for first, second in ((basic("alice", PASSWORDS["alice"]), basic("bob", "x")), (basic("bob", "x"), "Bearer x")):
        lines = ["GET /v2/ HTTP/1.1", "Host: x", f"Authorization: {first}", f"Authorization: {second}", "", ""]
        with world.api.wire() as wire:
            wire.send("\r\n".join(lines).encode())
            assert wire.answer().status in (400, 401)


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_forms_that_are_too_large_or_none(world: World) -> None:
    def post(body: bytes, **headers: str) -> Answer:
        return world(None, "POST", "/token", body, {**FORM, **headers})

    for body in (
        b"a=" + b"x" * 70_000,
        b"a=" + b"x" * 3_000_000,
        b"&".join([b"a=b"] * 10_000),
        b"",
        b"\xff\xfe",
        b"grant_type",
        b"=&=&=",
        b"%zz=%",
        b"grant_type=password&" * 300,
        b'{"grant_type": "password"}',
        b"grant_type=client_credentials",
    ):
        assert post(body).status == 400, body[:40]
    assert world(None, "POST", "/token", b"{}", {"Content-Type": "application/json"}).status == 400
    assert world(None, "POST", "/token", b"grant_type=password").status == 400
    pieces = [b"a=" + b"x" * 30_000] * 20
    assert world.api.request("POST", "/token", pieces, FORM).status == 400
    right = urlencode({"grant_type": "password", "username": "alice", "password": PASSWORDS["alice"]}).encode()
    answer = post(right + b"&scope=repository:a/x:pull&service=bucketry")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert post(right + b"&service=other").status == 400
    for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        assert world("alice", method, "/token").status == 405, method


def test_bodies_to_the_token_service_that_stall_or_trickle_are_cut_off(world: World) -> None:
    began = time.monotonic()
    with world.api.wire() as wire:
        wire.begin("POST", "/token", {**FORM, "Content-Length": "1000"})
        wire.send(b"grant_type=pass")
        assert wire.answer("POST").status == 408
    with world.api.wire() as wire:
        wire.begin("POST", "/token", {**FORM, "Transfer-Encoding": "chunked"})
        wire.socket.setblocking(False)
        answered = b""
        while not answered and time.monotonic() - began < 20:
            wire.chunk(b"x")
            time.sleep(0.05)
            with contextlib.suppress(BlockingIOError):
                answered = wire.socket.recv(100)
        assert answered.startswith(b"HTTP/1.1 408 ")
    stalled = [socket.create_connection(("127.0.0.1", world.server.port)) for _ in range(60)]
    try:
        for each in stalled:
            each.sendall(b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\nContent-Type: ")
            each.sendall(b"application/x-www-form-urlencoded\r\n\r\na=")
        assert world("alice", "GET", "/token").status == 200
    finally:
        for each in stalled:
            each.close()


# Scopes


def test_ten_thousand_scopes_are_refused(world: World) -> None:
    scopes = [("scope", f"repository:a/r{number}:pull") for number in range(10_000)]
    answers = [
        world("alice", "GET", f"/token?{urlencode(scopes)}"),
        world("alice", "GET", f"/token?{urlencode(scopes[:101])}"),
        world("alice", "GET", f"/token?{urlencode({'scope': ' '.join(scope for _, scope in scopes[:101])})}"),
        world("alice", "POST", "/token", urlencode(scopes).encode(), FORM),
        world("alice", "POST", "/token", urlencode({"scope": " ".join(s for _, s in scopes)}).encode(), FORM),
    ]
    assert [answer.status for answer in answers][1:] == [400] * 4
    assert answers[0].status in (400, 414, 431)
    assert world("alice", "GET", f"/token?{urlencode(scopes[:100])}").status == 200


def granted(world: World, who: str, scope: str) -> list[str]:
    """What a token has that was asked for by this text; nothing where it was refused."""
    answer = world(who, "GET", f"/token?scope={scope}")
    if answer.status in (400, 431):
        return []
    assert answer.status == 200, answer
    _, payload = parts(answer.json()["token"])
    return [f"{entry['type']}:{entry['name']}:{','.join(entry['actions'])}" for entry in payload["access"]]


def test_scopes_that_smuggle_give_what_the_rules_give_and_no_more(world: World) -> None:
    mine = ["repository:b/x:pull,push,overwrite"]
    assert granted(world, "bob", "repository:b/x:pull,push") == mine
    nothing = [
        "repository:a/x:pull,push",
        "repository:a/x:*",
        "repository:*:pull",
        "repository:**:pull",
        "repository:b/*:pull",
        "repository:b/../a/x:pull",
        "repository:b/x/../../a/x:pull",
        "repository:..:pull",
        "repository:/a/x:pull",
        "repository:a//x:pull",
        "repository:b%252F..%252Fa:pull",
        "repository:B/x:pull",
        "repository:b/X:pull",
        "Repository:b/x:pull",
        "repository:b/x:PULL",
        "repository:b/x:admin",
        "repository:b/x:catalog",
        "repository:b/x%00:pull",
        "repository:b/x%0a:pull",
        "repository:%D0%B0/x:pull",  # Cyrillic a
        "repository:%EF%BD%82/x:pull",  # full width b
        "repository:b/x%E2%80%8B:pull",  # zero width
        "repository:b%E2%88%95x:pull",  # a slash that is none
        "repository:b/x",
        "repository::pull",
        "::",
        ":",
        "*",
        "admin",
        "registry:catalog:*",
        "registry:*:*",
        "registry::*",
        "registry:catalog:pull",
        "repository:registry.example:5000/a/x:pull",
        "repository:a/x:pull:b/x:pull",
        "user:root:*",
        "repository(plugin):a/x:pull",
        "repository:a/x:pull,repository:b/x:pull",
        '{"type":"repository","name":"a/x","actions":["pull"]}',
        '["repository:a/x:pull"]',
    ]
    for scope in nothing:
        assert granted(world, "bob", scope.replace(" ", "%20")) == [], scope
    for scope in (
        "repository:a/x:pull repository:b/x:pull,push",
        "repository:b/x:pull,push repository:a/x:pull,push",
        "repository:b/x:pull&scope=repository:b/x:push&scope=repository:a/x:*",
        "repository:b/x:push,pull,admin,root,overwrite,,",
        "repository(plugin):b/x:pull,push",
        "repository:b/x:pull,push registry:catalog:* repository:secret/x:pull",
    ):
        assert granted(world, "bob", scope.replace(" ", "%20")) == mine, scope
    for scope in ("repository:a/x:pull%09repository:b/x:pull", "repository:a/x:pull%0arepository:b/x:pull"):
        assert granted(world, "bob", scope) == []


def test_names_that_look_like_others_are_no_names(world: World) -> None:
    """Neither as they are written, nor by any encoding of a path."""
    assert world.image("alice", "a/real", "edge", "real").status == 201
    names = [
        "A/real",
        "a/Real",
        "a/../a/real",
        "b/../a/real",
        "./a/real",
        "a/./real",
        "a//real",
        "/a/real",
        "a%2freal/../../a/real",
        "%61/%72eal/",
        "\u0430/real",
        "\uff41/real",
        "a/rea\u217c",
        "a/re\u0301al",
        "a/real\u200b",
        "\u202ea/real",
        "a\u2215real",
        "a\\real",
        "a/real%00",
        "a/real%20",
        "a/real%0a",
        "a/real.",
        "a/real;x",
        "a/real%3fx",
        "a%252freal",
        "..%2fa/real",
        "b/x/%2e%2e/%2e%2e/a/real",
    ]
    for name in names:
        written = quote(name, safe="/%")
        for who in ("bob", None, world.token("bob", "repository:b/x:pull,push")):
            for what in ("manifests/edge", "tags/list"):
                answer = world(who, "GET", f"/v2/{written}/{what}")
                assert answer.status in (400, 401, 404), (name, who, answer)
                assert b"real" not in answer.body or b"errors" in answer.body
    # An encoded slash is a slash, to the rules as to the store.
    assert world("alice", "GET", "/v2/a%2Freal/manifests/edge").status == 200
    assert world("bob", "GET", "/v2/a%2Freal/manifests/edge").error() == (404, "NAME_UNKNOWN")
    assert world("bob", "GET", "/v2/%61/%72eal/manifests/edge").error() == (404, "NAME_UNKNOWN")


def test_users_who_look_like_others_are_not_they(world: World) -> None:
    word = PASSWORDS["alice"]
    for name in ("Alice", "ALICE", "alice ", " alice", "\u0430lice", "alic\u00e9", "alice\0", "ali\u200bce", "alice\n"):
        answer = world(basic(name, word), "GET", "/v2/")
        assert answer.status in (401, 429), name
    latin = "Basic " + base64.b64encode(b"alice\xe9:x").decode()
    assert world(latin, "GET", "/v2/").status in (401, 429)
    for credentials in (f"basic {basic('alice', word)[6:]}", f"BASIC {basic('alice', word)[6:]}"):
        assert world(credentials, "GET", "/v2/").status == 200, "a scheme has no case (RFC 9110, 11.1)"


def test_absent_digest_and_present_one_are_alike_to_who_may_not_pull(world: World) -> None:
    digest = world.blob("alice", "a/hidden", seeded("hidden"))
    answers = [world("bob", "HEAD", f"/v2/a/hidden/blobs/{each}") for each in (digest, ABSENT)]
    assert [answer.status for answer in answers] == [404, 404]
    lengths = {answer.header("Content-Length") for answer in answers}
    assert len(lengths) == 1
