"""Who may read /metrics: everybody, or whom rules allow it, asked for as Prometheus asks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.access import basic as basic_value
from tests.support.api import Answer, Api
from tests.support.server import Server, assert_no_fault, bucketry
from tests.transfer.command import Person
from tests.unit.server.auth.forging import ED, jwk, key_set, signed

from bucketry.access import htpasswd_line

RULES = """
users = "htpasswd"

[[rule]]
who = ["user:alice"]
repositories = ["**"]
allow = ["admin"]

[[rule]]
who = ["robot:named"]
allow = ["metrics"]

[[rule]]
who = ["user:bob"]
repositories = ["team/**"]
allow = ["pull", "push", "overwrite", "delete", "catalog"]

[[rule]]
who = ["anonymous"]
repositories = ["**"]
allow = ["pull", "push", "overwrite", "delete", "catalog"]

[[issuer]]
name = "cluster"
url = "https://cluster.example"
audience = "registry.example"
keys = "jwks.json"

[[rule]]
who = ["oidc:cluster"]
claims = { sub = "prometheus" }
allow = ["metrics"]
"""
PASSWORDS = {"alice": "canary-alice", "bob": "canary-bob"}
CHALLENGE = 'Basic realm="bucketry"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "access.toml").write_text(RULES)
    lines = [htpasswd_line(name, password, salt=bytes(16)) for name, password in PASSWORDS.items()]
    (folder / "htpasswd").write_text("\n".join(lines) + "\n")
    (folder / "jwks.json").write_bytes(key_set(jwk(ED)))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    options = ["--access", str(folder / "access.toml"), "--workers", "2", "--set", "access.metrics=rules"]
    options += ["--set", f"access.audit={folder / 'audit.log'}"]
    with bucketry(str(folder / "store"), folder / "server", options=options) as running:
        yield running
        assert_no_fault(running)
        assert "canary" not in running.log() + (folder / "audit.log").read_text()


@pytest.fixture
def api(server: Server) -> Api:
    return Api(server.port)


@pytest.fixture(scope="module")
def person(server: Server, folder: Path) -> Person:
    return Person.at(folder / "person")


def basic(name: str, password: str | None = None) -> dict[str, str]:
    word = PASSWORDS[name] if password is None else password
    return {"Authorization": basic_value(name, word)}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def id_token(**claims: object) -> str:
    now = time.time()
    document = {"iss": "https://cluster.example", "aud": "registry.example", "sub": "prometheus", "iat": now}
    return signed(ED, {**document, "exp": now + 600, **claims})


def robot(person: Person, folder: Path, name: str, repository: str, allow: str) -> str:
    options = ("--repository", repository, "--allow", allow, "--store", folder / "store", "-q")
    done = person.types("token", "create", name, *options)
    assert done.code == 0, done.err
    return done.out.strip()


def scrape(api: Api, headers: dict[str, str] | None = None) -> Answer:
    """With what Prometheus sends of its own."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    own = {
        "Accept": accept,
        "Accept-Encoding": "gzip",
        "User-Agent": "Prometheus/3.0",
        "X-Prometheus-Scrape-Timeout-Seconds": "10",
    }
    return api.request("GET", "/metrics", headers={**own, **(headers or {})})


def assert_metrics(answer: Answer) -> None:
    assert answer.status == 200, answer
    assert answer.header("Content-Type").startswith("text/plain; version=0.0.4")
    assert b"\nbucketry_http_requests_total{" in answer.body


def assert_told_to_log_in(answer: Answer, *words: str) -> None:
    assert answer.error() == (401, "UNAUTHORIZED")
    assert answer.header("WWW-Authenticate") == CHALLENGE
    assert b"bucketry_http" not in answer.body
    for word in words:
        assert word in answer.message, answer.message


def audited(folder: Path) -> dict[str, Any]:
    """The last line."""
    return dict(json.loads((folder / "audit.log").read_text().splitlines()[-1]))


def test_whoever_rules_allow_it_reads_them(api: Api, person: Person, folder: Path) -> None:
    token, named = (
        robot(person, folder, "prometheus", "**", "metrics"),
        robot(person, folder, "named", "team/app", "pull"),
    )
    for headers in (
        basic("alice"),
        basic("prometheus", token),
        bearer(token),
        bearer(named),
        basic("any", id_token()),
        bearer(id_token()),
    ):
        assert_metrics(scrape(api, headers))
        assert api.request("HEAD", "/metrics", headers=headers).status == 200


def test_strangers_are_told_to_log_in_also_where_they_may_do_all_else(api: Api, folder: Path) -> None:
    for headers in (None, bearer(api.get("/token?scope=repository:team/app:pull").json()["token"])):
        assert_told_to_log_in(scrape(api, headers))
        line = audited(folder)
        assert (line["principal"], line["action"], line["status"], line["result"]) == (
            "anonymous",
            "metrics",
            401,
            "denied",
        )
    assert "the right to metrics" in scrape(api).message
    assert api.request("HEAD", "/metrics").status == 401


def test_others_are_told_which_right_they_lack(api: Api, person: Person, folder: Path) -> None:
    reader = robot(person, folder, "reader", "**", "pull,push,overwrite,delete,catalog")
    keeper = robot(person, folder, "keeper", "team/**", "pull")
    for headers, who in (
        (basic("bob"), "user:bob"),
        (bearer(reader), "robot:reader"),
        (basic("x", keeper), "robot:keeper"),
        (bearer(id_token(sub="another")), "oidc:cluster"),
    ):
        answer = scrape(api, headers)
        assert answer.error() == (403, "DENIED")
        assert who in answer.message
        assert "the right to metrics" in answer.message
        line = audited(folder)
        assert (line["principal"], line["action"], line["status"], line["reason"]) == (who, "metrics", 403, "DENIED")


def test_wrong_credentials_are_refused_and_noted(api: Api, folder: Path) -> None:
    for headers, reason, claimed in (
        (basic("alice", "canary-guess"), "password", "user:alice"),
        (basic("nobody", "canary-guess"), "password", None),
        (bearer("canary-nonsense"), "issuer", None),
        (bearer(id_token(aud="another")), "audience", None),
        ({"Authorization": "Digest canary"}, "malformed", None),
    ):
        assert_told_to_log_in(scrape(api, headers))
        line = audited(folder)
        assert (line["principal"], line["action"], line["reason"]) == (None, "metrics", reason)
        assert line.get("claimed") == claimed


def test_token_of_the_token_service_is_for_repositories(api: Api, folder: Path) -> None:
    token = api.request("GET", "/token?scope=repository:team/app:*", headers=basic("alice")).json()["token"]
    assert_told_to_log_in(scrape(api, bearer(token)), "send a password, a robot's token or an ID token")
    assert audited(folder)["principal"] == "user:alice"


def test_scrapes_that_are_let_through_are_not_noted(api: Api, folder: Path) -> None:
    before = (folder / "audit.log").read_bytes()
    assert_metrics(scrape(api, basic("alice")))
    assert (folder / "audit.log").read_bytes() == before


def test_health_is_told_to_everybody(api: Api) -> None:
    assert (api.get("/healthz").status, api.get("/readyz").status) == (200, 200)


def test_guesses_are_throttled_with_those_of_the_api(folder: Path) -> None:
    options = ["--access", str(folder / "access.toml"), "--workers", "1", "--set", "access.metrics=rules"]
    options += ["--set", f"access.audit={folder / 'guesses.log'}"]
    with bucketry(str(folder / "guessed"), folder / "throttled", options=options) as running:
        api = Api(running.port)
        answers = [scrape(api, basic("bob", f"guess-{number}")) for number in range(30)]
        assert {answer.status for answer in answers} == {401, 429}
        (waits,) = {answer.error() for answer in answers if answer.status == 429}
        assert waits == (429, "TOOMANYREQUESTS")
        assert int(answers[-1].header("Retry-After")) >= 1
        assert api.request("GET", "/v2/", headers=basic("bob")).status == 429
        lines = [json.loads(line) for line in (folder / "guesses.log").read_text().splitlines()]
        assert (lines[29]["status"], lines[29]["result"], lines[29]["claimed"]) == (429, "denied", "user:bob")


def test_everybody_reads_them_where_nothing_is_said(folder: Path) -> None:
    options = ["--access", str(folder / "access.toml"), "--workers", "1"]
    with bucketry(str(folder / "open"), folder / "everybody", options=options) as running:
        api = Api(running.port)
        for headers in (None, basic("bob"), basic("alice", "wrong")):
            assert_metrics(scrape(api, headers))
        assert "access.metrics" not in running.log()
