"""What the fronts' TLS agrees to, and what it does not."""

from __future__ import annotations

import os
import ssl

import pytest
from tests.unit.server.front.conftest import Contexts
from tests.unit.server.front.stage import Client, Stage

from bucketry.server.front.contexts import Keys, Terms, server_context
from bucketry.server.front.relay import State


def meeting(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[Stage, Client]:
    stage = Stage(server)
    return stage, Client(stage, client).agree()


@pytest.mark.parametrize(("offers", "http2", "agreed"), [
    (("h2", "http/1.1"), True, "h2"),
    (("h2", "http/1.1"), False, "http/1.1"),
    (("http/1.1",), True, "http/1.1"),
    ((), True, None),
])  # fmt: skip
def test_http2_only_where_both_want_it(
    contexts: Contexts, offers: tuple[str, ...], http2: bool, agreed: str | None
) -> None:
    stage, client = meeting(contexts.server(http2=http2), contexts.client(alpn=offers))
    assert client.tls.selected_alpn_protocol() == agreed
    stage.close()


@pytest.mark.parametrize("least", ["1.2", "1.3"])
def test_versions(contexts: Contexts, least: str) -> None:
    server = server_context(contexts.keys(), Terms(least, False, False))
    old = contexts.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    if least == "1.2":
        stage, client = meeting(server, old)
        cipher = client.tls.cipher()
        assert client.tls.version() == "TLSv1.2"
        assert cipher is not None
        assert cipher[0].startswith("ECDHE-")
    else:
        stage = Stage(server)
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            drive(Client(stage, old))
        assert stage.agreements == 0
    stage.close()


def drive(client: Client) -> None:
    """As `Client.agree`, but goes on to read, where TLS 1.3 says that a certificate is refused."""
    client.agree()
    client.stage.run()
    client.hear()


def test_ciphers_that_browsers_warn_of_are_refused(contexts: Contexts) -> None:
    weak = contexts.client()
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    stage = Stage(contexts.server())
    with pytest.raises(ssl.SSLError):
        drive(Client(stage, weak))
    stage.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_that_was_verified_is_verified_again(contexts: Contexts, version: ssl.TLSVersion) -> None:
    """No ticket brings back who was verified by the authorities of then."""
    server, context = contexts.server(authorities=True, required=True), contexts.client(shows=True)
    context.maximum_version = version
    stage, client = meeting(server, context)
    client.say(b"GET")
    client.hear()
    assert stage.shown is not None
    session = client.tls.session
    assert session is None or not session.has_ticket
    stage.close()


def test_clients_without_a_certificate_where_one_is_required(contexts: Contexts) -> None:
    stage = Stage(contexts.server(authorities=True, required=True))
    with pytest.raises(ssl.SSLError):
        drive(Client(stage, contexts.client()))
    assert [error.reason for error in stage.refusals] == ["PEER_DID_NOT_RETURN_A_CERTIFICATE"]
    stage.close()
    stage, client = meeting(contexts.server(authorities=True), contexts.client())
    client.say(b"GET")
    stage.run()
    assert (stage.state, stage.shown) == (State.OPEN, None)
    stage.close()


@pytest.mark.parametrize("memory", [True, False])
def test_key_is_in_no_file_that_stays(
    contexts: Contexts, memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    before = len(os.listdir("/proc/self/fd"))
    context = server_context(contexts.keys(), Terms("1.2", False, False))
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(folder.iterdir()) == []
    stage, _ = meeting(context, contexts.client())
    stage.close()


def test_keys_do_not_show_in_what_is_printed(contexts: Contexts) -> None:
    assert "PRIVATE" not in repr(contexts.keys())
    assert "BEGIN" not in repr(contexts.keys(authorities=True))


def test_key_of_another_certificate_is_an_error_of_tls(contexts: Contexts) -> None:
    keys = contexts.keys()
    with pytest.raises(ssl.SSLError):
        server_context(Keys(keys.certificate, b"no key", None), Terms("1.2", False, False))
