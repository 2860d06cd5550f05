"""Secrets that are presented to a server, and are found in nothing that it writes or answers."""

from __future__ import annotations

import ipaddress
import re
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.support.access import ISSUER, PASSWORDS, World, basic, files
from tests.support.api import ABSENT, Api
from tests.support.ports import wait_until
from tests.support.server import assert_no_fault, bucketry
from tests.unit.server.auth.forging import OTHER_RSA, RSA, signed

from bucketry.access import make_token

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
    """CVE-2025-48374: everything that could be a secret, wherever a request can have it."""
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
