"""Limits of requests by address and by principal, and what answers over TLS say besides."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.server.test_app import MEMORY, running

from bucketry.server.config import AccessConfig, Config, LimitsConfig, ServerConfig, TlsConfig


def limited(**limits: float) -> Config:
    return Config(
        store=MEMORY,
        server=ServerConfig(trusted_proxies=("127.0.0.1/32",)),
        limits=LimitsConfig(request_burst=3.0, **limits),  # type: ignore[arg-type]
    )


async def test_who_sends_too_much_is_asked_to_wait_and_others_are_not() -> None:
    async with running(limited(requests_per_address=1)) as app:
        for _ in range(3):
            assert (await app.ask("GET", "/v2/", peer="192.0.2.1")).status == 200
        refused = await app.ask("GET", "/v2/", peer="192.0.2.1")
        assert refused.status == 429
        assert refused.error["code"] == "TOOMANYREQUESTS"
        assert refused.headers["retry-after"] == "1"
        assert (await app.ask("GET", "/v2/", peer="192.0.2.2")).status == 200
        assert (await app.ask("GET", "/metrics", peer="192.0.2.1")).status == 429


async def test_probes_are_not_limited() -> None:
    async with running(limited(requests_per_address=1)) as app:
        for _ in range(8):
            assert (await app.ask("GET", "/healthz")).status == 200
            assert (await app.ask("GET", "/readyz")).status == 200


async def test_the_address_that_counts_is_the_one_trusted_proxies_forward_for() -> None:
    async with running(limited(requests_per_address=1)) as app:

        async def status(forwarded: str, peer: str) -> int:
            return (await app.ask("GET", "/v2/", {"X-Forwarded-For": forwarded}, peer=peer)).status

        assert [await status("192.0.2.1", "127.0.0.1") for _ in range(4)] == [200, 200, 200, 429]
        assert await status("192.0.2.2", "127.0.0.1") == 200
        # Nobody else has a say in it.
        assert [await status(f"192.0.2.{n}", "198.51.100.1") for n in range(4)] == [200, 200, 200, 429]


async def test_neighbours_in_one_network_of_ipv6_are_one() -> None:
    async with running(limited(requests_per_address=1)) as app:
        answers = [await app.ask("GET", "/v2/", peer=f"2001:db8::{n}") for n in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]


async def test_a_principal_is_limited_from_all_addresses_together(tmp_path: Path) -> None:
    from bucketry.access import htpasswd_line

    rules = tmp_path / "access.toml"
    rules.write_text(
        "users = 'htpasswd'\n[[rule]]\nwho = ['anonymous', 'user:alice']\nrepositories = ['**']\nallow = ['pull']\n"
    )
    (tmp_path / "htpasswd").write_text(htpasswd_line("alice", "secret", salt=bytes(16)) + "\n")
    config = Config(
        store=MEMORY,
        access=AccessConfig(file=str(rules)),
        limits=LimitsConfig(requests_per_principal=1, request_burst=3.0),
    )
    alice = {"Authorization": "Basic YWxpY2U6c2VjcmV0"}
    async with running(config) as app:
        answers = [await app.ask("GET", "/v2/a/tags/list", alice, peer=f"192.0.2.{n}") for n in range(4)]
        assert [answer.status for answer in answers] == [404, 404, 404, 429]
        assert "user:alice" in answers[-1].error["message"]
        strangers = [await app.ask("GET", "/v2/a/tags/list", peer="192.0.2.9") for n in range(6)]
        assert {answer.status for answer in strangers} == {404}


async def test_without_limits_nothing_is_counted() -> None:
    async with running(Config(store=MEMORY)) as app:
        assert app.app._limits is None
        for _ in range(50):
            assert (await app.ask("GET", "/v2/")).status == 200


@pytest.mark.parametrize(("scheme", "said"), [("https", "max-age=86400"), ("http", None)])
async def test_browsers_are_told_of_https_over_https_only(scheme: str, said: str | None) -> None:
    config = Config(store=MEMORY, tls=TlsConfig(cert="c", key="k", hsts=86400.0))
    async with running(config) as app:
        answer = await app.ask("GET", "/v2/", scheme=scheme)
        assert answer.headers.get("strict-transport-security") == said
        missing = await app.ask("GET", "/v2/none/manifests/none", scheme=scheme)
        assert missing.status == 404
        assert missing.headers.get("strict-transport-security") == said
