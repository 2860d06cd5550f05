"""A registry with rules for the tests of access: its users, what each may do, and requests by their names."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import bcrypt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.api import Answer, Api, image, noise
from tests.support.images import OCI_MANIFEST, digest_of
from tests.support.server import Server
from tests.unit.server.auth.forging import RSA, jwk, key_set, unb64

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


def htpasswd(passwords: Mapping[str, str]) -> str:
    """A file of users with these passwords, of as few rounds as bcrypt has."""
    lines = (f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n" for name, word in passwords.items())
    return "".join(lines)


def files(folder: Path) -> Path:
    """The file of rules, beside those that it names."""
    (folder / "htpasswd").write_text(htpasswd(PASSWORDS))
    (folder / "jwks.json").write_bytes(key_set(jwk(RSA)))
    (folder / "access.toml").write_text(RULES)
    return folder / "access.toml"


@dataclass(frozen=True)
class World:
    """A server under these rules."""

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
    """The header's value."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def seeded(*names: str) -> bytes:
    return noise(" ".join(names), 300)


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload."""
    header, payload, _ = token.removeprefix("Bearer ").split(".")
    return json.loads(unb64(header)), json.loads(unb64(payload))
