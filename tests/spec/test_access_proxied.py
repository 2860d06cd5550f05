"""Whom a server behind proxies takes a client for, whatever the client says: for its limits and for the audit log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.access import basic, htpasswd
from tests.support.api import Api
from tests.support.server import Server, assert_no_fault, bucketry
from tests.unit.server.auth.forging import ED, jwk, key_set, signed

RULES = """
users = "htpasswd"

[[issuer]]
name = "ci"
url = "https://ci.example"
audience = "registry.example"
keys = "jwks.json"

[[rule]]
who = ["oidc:ci"]
claims = { sub = "repo:acme/app" }
repositories = ["team/**"]
allow = ["pull", "push"]

[[rule]]
who = ["user:alice"]
repositories = ["team/**"]
allow = ["pull"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("proxied")
    (made / "access.toml").write_text(RULES)
    (made / "htpasswd").write_text(htpasswd({"alice": "canary-alice"}))
    (made / "jwks.json").write_bytes(key_set(jwk(ED)))
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    settings = (
        "server.trusted_proxies=127.0.0.1/32",
        f"access.audit={folder / 'audit.log'}",
        "limits.requests_per_principal=3",
        "limits.request_burst=2s",
    )
    options = ["--access", str(folder / "access.toml"), "--workers", "1"]
    for one in settings:
        options += ["--set", one]
    with bucketry(str(folder / "store"), folder / "server", options=options) as running:
        yield running
        assert_no_fault(running)


def ask(server: Server, *lines: str) -> int:
    """The status of a request with these header lines."""
    with Api(server.port).wire() as wire:
        wire.send("\r\n".join(["GET /v2/team/app/tags/list HTTP/1.1", "Host: a", *lines, "", ""]).encode())
        return wire.answer().status


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-forwarded-for"])
def test_line_that_a_proxy_adds_counts_and_not_the_clients_own(server: Server, folder: Path, name: str) -> None:
    """Some proxies leave a client's header as it is, and put theirs behind it."""
    wrong = f"Authorization: {basic('alice', 'canary-wrong')}"
    assert ask(server, wrong, "X-Forwarded-For: 6.6.6.6", f"{name}: 192.0.2.77") in (401, 429)
    assert json.loads((folder / "audit.log").read_text().splitlines()[-1])["address"] == "192.0.2.77"


def test_guesses_are_counted_together_whatever_the_client_says_of_its_address(server: Server) -> None:
    statuses = []
    for number in range(60):
        wrong = f"Authorization: {basic(f'user{number}', 'canary-wrong')}"
        statuses.append(ask(server, wrong, f"X-Forwarded-For: 6.6.6.{number}", "X-Forwarded-For: 192.0.2.78"))
    assert statuses[0] == 401
    assert statuses[-1] == 429


def test_jobs_of_an_issuer_are_limited_each_by_itself(server: Server) -> None:
    """Everybody may have a job there, and that one is not to use up what another may ask for."""
    now = time.time()

    def job(subject: str) -> str:
        claims = {"iss": "https://ci.example", "aud": "registry.example", "sub": subject, "iat": now, "exp": now + 600}
        return f"Authorization: Bearer {signed(ED, claims)}"

    stranger = job("repo:evil/x")
    assert [ask(server, stranger) for _ in range(12)][-1] == 429
    assert ask(server, job("repo:acme/app")) == 404
