"""Client certificates that a proxy verified: whom they stand for, from whom they count, and tokens for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.support.api import Api
from tests.support.server import Server, assert_no_fault, bucketry
from tests.support.tls import Tls, make_client, make_tls
from tests.transfer.command import Person

HEADER = "X-Client-Cert"
RULES = """
users = "htpasswd"

[groups]
builders = ["cert:CN=builder"]

[[rule]]
who = ["group:builders"]
repositories = ["team/**"]
allow = ["pull", "push"]

[[rule]]
who = ["user:alice"]
repositories = ["alice/**"]
allow = ["pull"]

[certificates]
"CN=alice laptop" = "user:alice"
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "access.toml").write_text(RULES)
    (tmp_path / "htpasswd").write_text("")
    return tmp_path


def serving(folder: Path, proxies: str) -> Iterator[Server]:
    options = ("--access", str(folder / "access.toml"), "--workers", "1")
    settings = ("--set", f"access.certificate_header={HEADER}", "--set", f"server.trusted_proxies={proxies}")
    with bucketry(str(folder / "store"), folder / "server", options=[*options, *settings]) as running:
        yield running
        assert_no_fault(running)


@pytest.fixture
def behind_a_proxy(folder: Path) -> Iterator[Server]:
    """Whoever asks from this machine is the proxy."""
    yield from serving(folder, "127.0.0.1/32")


@pytest.fixture
def behind_another(folder: Path) -> Iterator[Server]:
    yield from serving(folder, "192.0.2.7/32")


def header(authority: Tls, folder: Path, subject: str) -> dict[str, str]:
    certificate, _ = make_client(authority, folder / subject.strip("/"), subject)
    return {HEADER: quote(certificate.read_text())}


def test_rules_are_for_names_of_certificates(behind_a_proxy: Server, authority: Tls, tmp_path: Path) -> None:
    api = Api(behind_a_proxy.port)
    builder, alice, nobody = (header(authority, tmp_path, f"/CN={cn}") for cn in ("builder", "alice laptop", "nobody"))
    assert [api.request("GET", "/v2/", headers=each).status for each in (builder, alice, nobody, {})] == [200] * 3 + [
        401
    ]
    assert api.request("POST", "/v2/team/a/blobs/uploads/", b"", builder).status == 202
    assert api.request("GET", "/v2/team/a/tags/list", headers=builder).status == 404
    assert api.request("GET", "/v2/alice/a/tags/list", headers=alice).error() == (404, "NAME_UNKNOWN")
    denied = api.request("POST", "/v2/team/a/blobs/uploads/", b"", nobody)
    assert denied.error() == (403, "DENIED")
    assert "cert:CN=nobody" in denied.message


def test_credentials_count_before_a_certificate(behind_a_proxy: Server, authority: Tls, tmp_path: Path) -> None:
    builder = header(authority, tmp_path, "/CN=builder")
    wrong = {**builder, "Authorization": "Basic Ym9iOndyb25n"}
    assert Api(behind_a_proxy.port).request("GET", "/v2/", headers=wrong).status == 401


def test_a_token_is_given_out_for_a_certificate(behind_a_proxy: Server, authority: Tls, tmp_path: Path) -> None:
    api = Api(behind_a_proxy.port)
    for subject, repository in (("/CN=builder", "team/a"), ("/CN=alice laptop", "alice/a")):
        answer = api.request(
            "GET", f"/token?service=bucketry&scope=repository:{repository}:pull",
            headers=header(authority, tmp_path, subject),
        )  # fmt: skip
        assert answer.status == 200, answer
    token = {"Authorization": f"Bearer {json.loads(answer.body)['token']}"}
    # alice is in no file of users: her certificate is what she is known by.
    assert api.request("GET", "/v2/", headers=token).status == 200


@pytest.mark.parametrize("value", ["CN=builder", "nonsense", "%41%42"])
def test_what_is_no_certificate_is_refused(behind_a_proxy: Server, value: str) -> None:
    answer = Api(behind_a_proxy.port).request("GET", "/v2/", headers={HEADER: value})
    assert answer.error() == (401, "UNAUTHORIZED")


def test_one_beside_the_proxys_is_refused(behind_a_proxy: Server, authority: Tls, tmp_path: Path) -> None:
    with Api(behind_a_proxy.port).wire() as wire:
        value = header(authority, tmp_path, "/CN=builder")[HEADER]
        wire.send(f"GET /v2/ HTTP/1.1\r\nHost: a\r\n{HEADER}: {value}\r\n{HEADER}: {value}\r\n\r\n".encode())
        assert wire.answer().status == 401


def test_from_anyone_but_the_proxy_it_is_not_looked_at(behind_another: Server, authority: Tls, tmp_path: Path) -> None:
    api = Api(behind_another.port)
    builder = header(authority, tmp_path, "/CN=builder")
    for headers in (builder, {**builder, "X-Forwarded-For": "192.0.2.7"}, {HEADER: "nonsense"}):
        answer = api.request("GET", "/v2/", headers=headers)
        assert answer.error() == (401, "UNAUTHORIZED")
        assert "log in first" in answer.message


def test_it_is_of_no_use_without_proxies_and_rules(tmp_path: Path) -> None:
    person = Person.at(tmp_path / "person")
    for words, says in (
        ((), "server.trusted_proxies"),
        (("--set", "server.trusted_proxies=192.0.2.7/32"), "access.file"),
    ):
        done = person.types("serve", "--set", f"access.certificate_header={HEADER}", *words)
        assert done.code == 2
        assert says in done.err
