"""Client certificates, of connections and those that a proxy verified: whom they stand for, who is let in by them, and
tokens for them."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.support.api import Answer, Api
from tests.support.certificates import Authority, Pair
from tests.support.secure_server import RELOAD, Secure, owner_files, secure
from tests.support.server import Server, assert_no_fault, bucketry
from tests.support.tls import Tls, make_client, make_tls
from tests.transfer.command import Person

from bucketry.access import htpasswd_line

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


# By the server itself: certificates of connections (docs/rfcs/0007-tls-front.md)

NAMED = {
    "CN=builder": (),
    "DNS:ci.example.com": ("DNS:CI.example.com",),
    "URI:spiffe://acme.example/ns/ci/sa/builder": ("URI:spiffe://acme.example/ns/ci/sa/builder",),
    "EMAIL:robot@example.com": ("EMAIL:robot@example.com",),
}
"""Names of certificates as rules write them, and the alternative names of those who bear them."""
SECURE_RULES = "\n".join(
    [
        'users = "htpasswd"',
        '[groups]\nbuilders = ["cert:CN=member", "cert:DNS:member.example.com"]',
        *(
            f'[[rule]]\nwho = ["cert:{name}"]\nrepositories = ["by-{re.split("[:=]", name)[0].lower()}/**"]'
            '\nallow = ["pull", "push"]'
            for name in NAMED
        ),
        '[[rule]]\nwho = ["group:builders"]\nrepositories = ["team/**"]\nallow = ["pull", "push"]',
        '[[rule]]\nwho = ["user:alice"]\nrepositories = ["alice/**"]\nallow = ["pull", "push"]',
        '[[rule]]\nwho = ["anonymous"]\nrepositories = ["public/**"]\nallow = ["pull"]',
        '[[rule]]\nwho = ["cert:CN=proxy"]\nrepositories = ["**"]\nallow = ["admin"]',
        '[certificates]\n"EMAIL:alice@example.com" = "user:alice"',
    ]
)
PASSWORD = "canary-pw-alice"
BASIC = {"Authorization": "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()}
DENIED = (ssl.SSLError, ConnectionError)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("clients"), "authority of clients")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("servers")
    return owner_files(folder, Authority(folder, "authority of servers"))


def asking(clients: Authority, demand: str = "optional") -> dict[str, Any]:
    return {"tls__client_certificates": demand, "tls__client_ca": clients.file}


@pytest.fixture(scope="module")
def direct(clients: Authority, shown: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """Clients may show a certificate. A proxy is trusted, and nobody here is that."""
    proxy: dict[str, Any] = {"access__certificate_header": HEADER, "server__trusted_proxies": "192.0.2.7/32"}
    users = htpasswd_line("alice", PASSWORD, salt=bytes(16)) + "\n"
    folder = tmp_path_factory.mktemp("direct")
    with secure(folder, shown, SECURE_RULES, users=users, **asking(clients), **proxy) as running:
        yield running


def missing(answer: Answer) -> str:
    """What an answer says that somebody may not, without the advice behind it."""
    return answer.message.partition(": ask ")[0]


def kind(name: str) -> str:
    return re.split("[:=]", name)[0].lower()


def begin(server: Secure, client: Pair | None, repository: str, headers: dict[str, str] | None = None) -> Answer:
    return server.asks(client, "POST", f"/v2/{repository}/blobs/uploads/", b"", headers)


@pytest.mark.parametrize("name", NAMED)
def test_each_kind_of_name_has_the_rights_of_its_rule(direct: Secure, clients: Authority, name: str) -> None:
    alternatives = NAMED[name]
    client = clients.client("builder" if not alternatives else None, *alternatives)
    assert begin(direct, client, f"by-{kind(name)}/a").status == 202
    for other in NAMED:
        below = f"by-{kind(other)}/a"
        if other != name:
            denied = begin(direct, client, below)
            assert denied.error() == (403, "DENIED")
            assert missing(denied) == f"cert:{name} may not push to {below}"


def test_who_bears_several_names_is_who_a_rule_names(direct: Secure, clients: Authority) -> None:
    several = clients.client("host-17", "DNS:host-17.example.com", "DNS:ci.example.com")
    assert begin(direct, several, "by-dns/a").status == 202
    assert missing(begin(direct, several, "by-cn/a")) == "cert:DNS:ci.example.com may not push to by-cn/a"


def test_a_certificate_may_stand_for_a_user_and_be_in_a_group(direct: Secure, clients: Authority) -> None:
    alice = clients.client("laptop", "EMAIL:alice@example.com")
    assert begin(direct, alice, "alice/a").status == 202
    assert missing(begin(direct, alice, "team/a")) == "user:alice may not push to team/a"
    for member in (clients.client("member"), clients.client("x", "DNS:member.example.com")):
        assert begin(direct, member, "team/a").status == 202


def test_what_is_denied_names_the_certificate(direct: Secure, clients: Authority) -> None:
    nobody = clients.client("nobody")
    assert direct.asks(nobody, "GET", "/v2/").status == 200
    assert missing(begin(direct, nobody, "team/a")) == "cert:CN=nobody may not push to team/a"
    unseen = direct.asks(nobody, "GET", "/v2/team/a/tags/list")
    assert unseen.error() == (404, "NAME_UNKNOWN")
    assert "cert:CN=nobody may not pull from team/a" in unseen.message


def test_without_one_clients_log_in_as_ever(direct: Secure) -> None:
    asked = direct.asks(None, "GET", "/v2/")
    assert asked.status == 401
    assert asked.header("WWW-Authenticate").startswith(f'Bearer realm="https://localhost:{direct.port}/token"')
    assert direct.asks(None, "GET", "/v2/public/a/tags/list").error() == (404, "NAME_UNKNOWN")
    assert begin(direct, None, "alice/a").status == 401
    assert begin(direct, None, "alice/a", BASIC).status == 202


def test_credentials_count_before_the_certificate_of_a_connection(direct: Secure, clients: Authority) -> None:
    member = clients.client("member")
    assert missing(begin(direct, member, "team/a", BASIC)) == "user:alice may not push to team/a"
    assert begin(direct, member, "alice/a", BASIC).status == 202
    wrong = {"Authorization": "Basic " + base64.b64encode(b"alice:canary-wrong").decode()}
    assert begin(direct, member, "team/a", wrong).error() == (401, "UNAUTHORIZED")


def test_a_token_for_a_certificate_works_on_a_connection_without_one(direct: Secure, clients: Authority) -> None:
    asked = "/token?service=bucketry&scope=repository:{}/a:pull,push"
    for client, below in (
        (clients.client("member"), "team"),
        (clients.client(None, "EMAIL:alice@example.com"), "alice"),
    ):
        token = direct.asks(client, "GET", asked.format(below)).json()
        assert token["scope"] == f"repository:{below}/a:pull,push"
        bearer = {"Authorization": f"Bearer {token['token']}"}
        assert begin(direct, None, f"{below}/a", bearer).status == 202
        assert begin(direct, None, "by-cn/a", bearer).status == 403
    assert direct.asks(clients.client("nobody"), "GET", asked.format("team")).json()["scope"] == ""


def test_an_upload_is_not_taken_on_with_another_certificate(direct: Secure, clients: Authority) -> None:
    first, second = clients.client("member"), clients.client(None, "DNS:member.example.com")
    location = begin(direct, first, "team/a").header("Location")
    path = location.removeprefix(f"https://localhost:{direct.port}")
    for other in (second, None):
        refused = direct.asks(other, "PATCH", path, b"abc", {"Content-Type": "application/octet-stream"})
        assert refused.status == (404 if other else 401)
    renewed = clients.client("member")
    assert direct.asks(renewed, "PATCH", path, b"abc", {"Content-Type": "application/octet-stream"}).status == 202


def test_a_header_of_somebody_with_a_certificate_of_their_own_is_not_looked_at(
    direct: Secure, clients: Authority
) -> None:
    other = {HEADER: quote(clients.client("member").certificate.read_text()), "X-Forwarded-For": "192.0.2.7"}
    denied = begin(direct, clients.client("nobody"), "team/a", other)
    assert missing(denied) == "cert:CN=nobody may not push to team/a"
    assert begin(direct, None, "team/a", other).status == 401


def test_the_audit_log_says_whose_certificate(direct: Secure, clients: Authority) -> None:
    begin(direct, clients.client("audited"), "audited/one")
    begin(direct, clients.client(None, "EMAIL:alice@example.com"), "audited/two")
    lines = {line.get("repository"): line for line in direct.audited()}
    for repository, principal in (("audited/one", "cert:CN=audited"), ("audited/two", "user:alice")):
        line = lines[repository]
        assert (line["principal"], line["method"], line["result"]) == (principal, "certificate", "denied")
        assert line["address"] == "127.0.0.1"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_certificates_that_are_not_taken_end_the_handshake_and_the_log_says_why(
    clients: Authority, shown: Tls, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    # The same name and the key of another: who signed is what counts, not what they call themselves.
    strangers = Authority(tmp_path / "strangers", "authority of clients")
    refused = {
        "another authority": (strangers.client("member"), "unable to get local issuer|signature failure"),
        "expired": (clients.client("member", until=-timedelta(minutes=1)), "has expired"),
        "not yet valid": (clients.client("member", since=timedelta(hours=1)), "not yet valid"),
        "no usage for clients": (
            clients.client("member", usage=ExtendedKeyUsageOID.SERVER_AUTH),
            "(?:unsuitable|unsupported) certificate purpose",
        ),
    }  # fmt: skip
    with secure(tmp_path / "served", shown, SECURE_RULES, **asking(clients)) as server:
        for what, (client, why) in refused.items():
            context = server.context(client)
            context.minimum_version = context.maximum_version = version
            time.sleep(1.1)  # One line a second.
            with pytest.raises(DENIED):
                visit(server, context, None)
            line = await_line(server, f"(?:{why}).*a client's certificate was refused")
            assert '"client":"127.0.0.1"' in line, what
        assert server.asks(clients.client("member"), "GET", "/v2/").status == 200
        assert not any(
            line["principal"] == "cert:CN=member" and line["result"] != "allowed" for line in server.audited()
        )


def await_line(server: Secure, pattern: str, meanwhile: Callable[[], object] = lambda: None) -> str:
    deadline = time.monotonic() + 5
    while True:
        for line in server.server.log().splitlines():
            if re.search(pattern, line):
                return line
        assert time.monotonic() < deadline, server.server.log()
        meanwhile()
        time.sleep(0.1)


def test_an_authority_that_is_replaced_lets_nobody_in_any_more_who_was(
    clients: Authority, shown: Tls, tmp_path: Path
) -> None:
    """Not by a session that a client resumes, either: it would bring back who was verified by the old one."""
    successor = Authority(tmp_path / "successor", "authority of clients")
    owned = tmp_path / "clients.crt"
    owned.write_bytes(clients.file.read_bytes())
    old, new = clients.client("member"), successor.client("member")
    settings = {**asking(clients, "required"), "tls__client_ca": owned}
    with secure(tmp_path / "served", shown, SECURE_RULES, let_in=old, **settings) as server:
        contexts = []
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = server.context(old)
            context.minimum_version = context.maximum_version = version
            contexts.append((context, visit(server, context, None)))
        with pytest.raises(DENIED):
            server.asks(new, "GET", "/v2/")
        owned.write_bytes(successor.file.read_bytes())
        await_line(server, "a new certificate is taken up")
        began = time.monotonic()
        while True:
            try:
                server.asks(old, "GET", "/v2/")
            except DENIED:
                break
            assert time.monotonic() - began < RELOAD + 1
        for context, session in contexts:
            with pytest.raises(DENIED):
                visit(server, context, session)
            with pytest.raises(DENIED):
                visit(server, context, None)
        assert server.asks(new, "GET", "/v2/").status == 200


def visit(server: Secure, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
    """What a client keeps to resume its session by."""
    plain = socket.create_connection(("127.0.0.1", server.port), 20)
    with plain, context.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
        connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        return connection.session


def test_an_authority_below_another_lets_in_its_own_clients_only(
    clients: Authority, shown: Tls, tmp_path: Path
) -> None:
    below = Authority(tmp_path / "below", "below", clients)
    settings = {**asking(clients), "tls__client_ca": below.file}
    with secure(tmp_path / "served", shown, SECURE_RULES, **settings) as server:
        assert begin(server, below.client("member"), "team/a").status == 202
        with pytest.raises(DENIED):
            server.asks(clients.client("member"), "GET", "/v2/")


def test_a_list_of_the_authority_above_ends_the_one_below(clients: Authority, shown: Tls, tmp_path: Path) -> None:
    below, both, lists = Authority(tmp_path / "below", "below", clients), tmp_path / "both.crt", tmp_path / "lists.crl"
    both.write_bytes(clients.file.read_bytes() + below.file.read_bytes())
    lists.write_bytes(clients.revoked() + below.revoked())
    settings = {**asking(clients), "tls__client_ca": both, "tls__client_crl": lists}
    with secure(tmp_path / "served", shown, SECURE_RULES, **settings) as server:
        client = below.client("member")
        assert begin(server, client, "team/a").status == 202
        lists.write_bytes(clients.revoked(Pair(below.file, below.file)) + below.revoked())
        await_line(server, "certificate revoked.*certificate was refused", meanwhile=lambda: tried(server, client))


def test_who_is_revoked_is_not_let_in_any_more_nor_by_a_session(clients: Authority, shown: Tls, tmp_path: Path) -> None:
    lists, one, other = tmp_path / "clients.crl", clients.client("member"), clients.client("member")
    lists.write_bytes(clients.revoked(clients.client("gone before")))
    settings = {**asking(clients), "tls__client_crl": lists}
    with secure(tmp_path / "served", shown, SECURE_RULES, **settings) as server:
        context = server.context(one)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        session = visit(server, context, None)
        lists.write_bytes(clients.revoked(one))
        await_line(
            server, "certificate revoked.*a client's certificate was refused", meanwhile=lambda: tried(server, one)
        )
        with pytest.raises(DENIED):
            visit(server, context, session)
        assert server.asks(other, "GET", "/v2/").status == 200
        assert server.asks(None, "GET", "/v2/").status == 401
        # Out of date: who is on the next one is not known, so nobody is let in who shows a certificate.
        lists.write_bytes(clients.revoked(until=-timedelta(minutes=1)))
        await_line(
            server, "CRL has expired.*a client's certificate was refused", meanwhile=lambda: tried(server, other)
        )
        assert "was due to be replaced on" in server.server.log()
        assert server.asks(None, "GET", "/v2/").status == 401


def tried(server: Secure, client: Pair) -> None:
    with contextlib.suppress(*DENIED):
        server.asks(client, "GET", "/v2/")


def test_a_proxys_own_certificate_stands_for_nobody_else(clients: Authority, shown: Tls, tmp_path: Path) -> None:
    """It comes by TLS, and shows a certificate itself; whom it speaks for, it says in the header."""
    proxy = clients.client("proxy")
    trusting = {"access__certificate_header": HEADER, "server__trusted_proxies": "127.0.0.1/32"}
    settings = {**asking(clients, "required"), **trusting}
    with secure(tmp_path / "served", shown, SECURE_RULES, let_in=proxy, **settings) as server:
        member = {HEADER: quote(clients.client("member").certificate.read_text()), "X-Forwarded-For": "192.0.2.9"}
        assert begin(server, proxy, "team/a", member).status == 202
        assert missing(begin(server, proxy, "other/a", member)) == "cert:CN=member may not push to other/a"
        assert begin(server, proxy, "team/a", {"X-Forwarded-For": "192.0.2.9"}).status == 401
        assert begin(server, proxy, "team/a").status == 401
        lines = server.audited()
    assert {line["principal"] for line in lines} == {"cert:CN=member", "anonymous"}
    assert {line["address"] for line in lines} >= {"192.0.2.9"}


def test_a_trusted_proxy_is_nobody_by_its_certificate(clients: Authority, shown: Tls, tmp_path: Path) -> None:
    """Without a header for it as well: it would be whoever comes through it."""
    proxy = clients.client("proxy")
    settings = {**asking(clients, "required"), "server__trusted_proxies": "127.0.0.1/32"}
    with secure(tmp_path / "served", shown, SECURE_RULES, let_in=proxy, **settings) as server:
        assert begin(server, proxy, "team/a", {"X-Forwarded-For": "192.0.2.9"}).status == 401
        assert begin(server, proxy, "team/a").status == 401
        assert {line["principal"] for line in server.audited()} == {"anonymous"}


def test_requests_are_limited_by_whose_certificate_it_is(clients: Authority, shown: Tls, tmp_path: Path) -> None:
    one, other = clients.client("member"), clients.client(None, "DNS:member.example.com")
    with secure(
        tmp_path / "served", shown, SECURE_RULES, **asking(clients), limits__requests_per_principal=3
    ) as server:  # fmt: skip
        found = [server.asks(one, "GET", "/v2/").status for _ in range(40)]
        assert 429 in found
        limited = next(answer for _ in range(40) if (answer := server.asks(one, "GET", "/v2/")).status == 429)
        assert "cert:CN=member" in limited.message
        assert int(limited.header("Retry-After")) >= 1
        assert server.asks(other, "GET", "/v2/").status == 200
