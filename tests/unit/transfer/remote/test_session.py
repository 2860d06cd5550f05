"""Connections: which are plain, whom TLS trusts, when they are given up, and what a person reads then."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from tests.support.ports import free_port
from tests.support.tools import run, tool
from tests.unit.transfer.remote.conftest import PASSWORD, USER, Known
from tests.unit.transfer.remote.samples import BASIC, BLOB, MANIFEST, UPLOADS, manifest, pieces
from tests.unit.transfer.remote.scripted import Asked, Scripted, challenge, redirect

from bucketry.oci import ImageReference
from bucketry.transfer.errors import Misconfigured, Refused, Unreachable
from bucketry.transfer.remote import RemoteRepository, Session
from bucketry.transfer.remote.auth import Purpose
from bucketry.transfer.remote.credentials import Credentials


@pytest.mark.parametrize(
    ("host", "insecure", "origin"),
    [
        ("localhost:5000", False, "http://localhost:5000"),
        ("127.0.0.1:5000", False, "http://127.0.0.1:5000"),
        ("[::1]:5000", False, "http://[::1]:5000"),
        ("localhost.example:5000", False, "https://localhost.example:5000"),
        ("reg.example", False, "https://reg.example"),
        ("192.168.0.1:5000", False, "https://192.168.0.1:5000"),
        ("docker.io", False, "https://registry-1.docker.io"),
        ("reg.example:5000", True, "http://reg.example:5000"),
    ],
)
def test_only_this_machine_is_reached_over_plain_http_unless_allowed(
    host: str, insecure: bool, origin: str, tmp_path: Path
) -> None:
    session = Session(Known(), insecure=insecure, certificates=(tmp_path,))

    assert str(session.registry(host).origin).rstrip("/") == origin
    assert session.registry(host) is session.registry(host)


async def test_a_port_that_nobody_listens_on(session: Session) -> None:
    port = free_port()

    said = rf"^127.0.0.1:{port}: no connection \(Connection refused\): is it running\?$"
    with pytest.raises(Unreachable, match=said):
        await session.registry(f"127.0.0.1:{port}").check()


async def test_a_host_that_does_not_exist(known: Known) -> None:
    session = Session(known)
    try:
        with pytest.raises(Unreachable, match=r"^reg\.invalid: there is no such host"):
            await session.registry("reg.invalid").check()
    finally:
        await session.close()


@pytest.mark.parametrize("when", ["before", "within"])
async def test_silence_is_given_up(server: Scripted, known: Known, when: str) -> None:
    over = asyncio.Event()

    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        if when == "within":
            await response.prepare(request)
            await response.write(b"{")
        await over.wait()
        return response

    server.raw("GET", MANIFEST, silent)
    session = Session(known, read_timeout=0.2)
    try:
        with pytest.raises(Unreachable, match="no answer in time"):
            await RemoteRepository(session, ImageReference.parse(f"{server.host}/team/app:v1")).manifest()
    finally:
        over.set()
        await session.close()


async def test_one_that_takes_no_bytes_is_given_up(server: Scripted, known: Known) -> None:
    over = asyncio.Event()

    async def full(request: web.BaseRequest) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    server.raw("PUT", "/part", full)
    session = Session(known, read_timeout=0.3)
    try:
        async with asyncio.timeout(10):
            with pytest.raises(Unreachable):
                await session.send("PUT", session.registry(server.host).url("/part"), body=bytes(64 << 20))
    finally:
        over.set()
        await session.close()


async def test_connections_to_a_host_are_bounded(server: Scripted, known: Known) -> None:
    running, most = 0, 0

    async def count(asked: Asked) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return web.Response()

    server.on("GET", "/v2/", count)
    session = Session(known, connections=2)
    try:
        await asyncio.gather(*(session.registry(server.host).check() for _ in range(6)))
    finally:
        await session.close()
    assert most == 2


async def test_what_is_no_http_is_refused(known: Known) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    session = Session(known)
    try:
        with pytest.raises(Refused, match=rf"not proper HTTP.*certs\.d/127\.0\.0\.1:{port}/ca\.crt"):
            await session.registry(f"127.0.0.1:{port}").check()
    finally:
        await session.close()
        listener.close()
        await listener.wait_closed()


async def test_a_proxy_of_the_environment_is_used_but_for_this_machine(
    server: Scripted, stranger: Scripted, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", stranger.url)
    stranger.on("GET", "http://reg.example/v2/", lambda: web.Response())
    server.on("GET", "/v2/", lambda: web.Response())
    session = Session(known, insecure=True)
    try:
        await session.registry("reg.example").check()
        await session.registry(server.host).check()
    finally:
        await session.close()

    assert [asked.target for asked in stranger.asked] == ["http://reg.example/v2/"]
    assert len(server.asked) == 1


async def test_netrc_gives_no_credentials(
    server: Scripted, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login alice password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.on("GET", "/v2/", lambda: web.Response())

    await session.registry(server.host).check()

    assert server.asked[0].authorization is None


async def test_only_the_headers_that_were_meant_are_sent(server: Scripted, session: Session) -> None:
    server.on("POST", "/x", lambda: web.Response())

    async with await session.registry(server.host).request("POST", "/x", Purpose()):
        pass

    assert set(server.asked[0].headers) == {"Host", "User-Agent", "Content-Length"}


# TLS


@dataclass(frozen=True)
class Certificate:
    cert: Path
    key: Path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For localhost, signed by nobody else."""
    folder = tmp_path_factory.mktemp("tls")
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    run(
        [tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", made.key, "-out", made.cert]
    )  # fmt: skip
    return made


@pytest_asyncio.fixture
async def secure(certificate: Certificate) -> AsyncIterator[Scripted]:
    """A registry over TLS, at localhost."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert, certificate.key)
    server = Scripted(name="localhost")
    await server.start(context)
    yield server
    await server.stop()


@pytest.fixture
def folder(secure: Scripted, tmp_path: Path) -> Path:
    """Where certificates for the registry are looked for."""
    folder = tmp_path / "certs.d" / secure.host
    folder.mkdir(parents=True)
    return folder


@pytest_asyncio.fixture
async def careful(secure: Scripted, folder: Path, tmp_path: Path) -> AsyncIterator[Session]:
    """A session of a person who has logged in to ``secure``."""
    known = Known(secure.host, Credentials("file", USER, PASSWORD))
    session = Session(known, certificates=(tmp_path / "certs.d",))
    yield session
    await session.close()


def copy(file: Path, to: Path) -> None:
    to.write_bytes(file.read_bytes())


async def test_a_certificate_that_nobody_vouches_for_is_refused(secure: Scripted, careful: Session) -> None:
    with pytest.raises(Misconfigured) as caught:
        await careful.registry(secure.host).check()

    assert f"/etc/docker/certs.d/{secure.host}/ca.crt" in str(caught.value)
    assert secure.asked == []


async def test_a_ca_of_the_hosts_folder_is_trusted_for_that_host(
    secure: Scripted, careful: Session, folder: Path, certificate: Certificate
) -> None:
    copy(certificate.cert, folder / "ca.crt")
    secure.on("GET", "/v2/", lambda: web.Response())

    assert not await careful.registry(secure.host).check()
    with pytest.raises(Misconfigured):
        await careful.send("GET", careful.registry(secure.host).origin.with_host("127.0.0.1"))


async def test_a_ca_in_the_users_own_folder_is_trusted(
    secure: Scripted, known: Known, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".config" / "containers" / "certs.d" / secure.host
    folder.mkdir(parents=True)
    copy(certificate.cert, folder / "ca.crt")
    monkeypatch.setenv("HOME", str(tmp_path))
    secure.on("GET", "/v2/", lambda: web.Response())
    session = Session(known)
    try:
        assert not await session.registry(secure.host).check()
    finally:
        await session.close()


async def test_ssl_cert_file_is_trusted(
    secure: Scripted, careful: Session, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    secure.on("GET", "/v2/", lambda: web.Response())

    assert not await careful.registry(secure.host).check()


@pytest.mark.parametrize("text", [None, "no certificate"])
async def test_ssl_cert_file_that_is_of_no_use_is_named(
    secure: Scripted, careful: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    file = tmp_path / "cas.pem"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    with pytest.raises(Misconfigured, match=r"cas\.pem holds no certificates to trust"):
        await careful.registry(secure.host).check()


async def test_a_client_certificate_is_shown(
    careful: Session, folder: Path, certificate: Certificate, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate.cert))
    context.load_cert_chain(certificate.cert, certificate.key)
    context.verify_mode = ssl.CERT_REQUIRED
    server = Scripted(name="localhost")
    await server.start(context)
    try:
        own = folder.parent / server.host
        own.mkdir()
        copy(certificate.cert, own / "ca.crt")
        server.on("GET", "/v2/", lambda: web.Response())
        copy(certificate.cert, own / "client.cert")
        copy(certificate.key, own / "client.key")
        (own / "client.key").chmod(0o600)
        assert not await careful.registry(server.host).check()
    finally:
        await server.stop()


def no_key(folder: Path, certificate: Certificate) -> None:
    (folder / "client.key").unlink()


def for_everybody(folder: Path, certificate: Certificate) -> None:
    (folder / "client.key").chmod(0o604)


def no_certificate(folder: Path, certificate: Certificate) -> None:
    (folder / "client.cert").unlink()


def another(folder: Path, certificate: Certificate) -> None:
    run([tool("openssl"), "genrsa", "-out", folder / "client.key", "2048"])


def nonsense(folder: Path, certificate: Certificate) -> None:
    (folder / "client.key").write_text("no key")


def encrypted(folder: Path, certificate: Certificate) -> None:
    made: list[str | Path] = [
        "rsa",
        "-aes128",
        "-passout",
        "pass:canary-secret",
        "-in",
        certificate.key,
        "-out",
        folder / "client.key",
    ]
    run([tool("openssl"), *made])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (no_key, r"client\.key is not there: a client certificate is client\.cert and client\.key"),
        (for_everybody, r"client\.key can be read by everybody on this machine: chmod 600 \S+/client\.key"),
        (no_certificate, r"client\.key is there without client\.cert"),
        (another, r"client\.cert and client\.key are no client certificate"),
        (nonsense, r"client\.cert and client\.key are no client certificate"),
        (encrypted, r"client\.key is encrypted: put a key there that is not"),
    ],
)
async def test_a_client_certificate_that_cannot_be_shown_is_named(
    secure: Scripted,
    careful: Session,
    folder: Path,
    certificate: Certificate,
    wrong: Callable[[Path, Certificate], None],
    says: str,
) -> None:
    copy(certificate.cert, folder / "ca.crt")
    copy(certificate.cert, folder / "client.cert")
    copy(certificate.key, folder / "client.key")
    (folder / "client.key").chmod(0o600)
    wrong(folder, certificate)

    with pytest.raises(Misconfigured, match=says):
        await careful.registry(secure.host).check()
    assert secure.asked == []


async def test_tls_with_one_that_speaks_none_names_the_flag(server: Scripted, known: Known, tmp_path: Path) -> None:
    (tmp_path / server.host).mkdir()
    session = Session(known, certificates=(tmp_path,))
    try:
        with pytest.raises(Refused, match="if it speaks plain http, allow that by --insecure"):
            await session.registry(server.host).check()
    finally:
        await session.close()


async def test_from_https_to_http_no_credentials_go(
    secure: Scripted, stranger: Scripted, careful: Session, folder: Path, certificate: Certificate
) -> None:
    copy(certificate.cert, folder / "ca.crt")
    plain = stranger.url.replace("127.0.0.1", "localhost")
    repository = RemoteRepository(careful, ImageReference.parse(f"{secure.host}/team/app:v1"))
    secure.on(
        "GET", MANIFEST, lambda asked: redirect(f"{plain}/m") if asked.authorization == BASIC else challenge("Basic")
    )
    stranger.on("GET", "/m", manifest)

    await repository.manifest()

    assert [asked.authorization for asked in stranger.asked] == [None]
    secure.on("GET", MANIFEST, lambda: challenge(f'Bearer realm="{plain}/token"'))
    with pytest.raises(Refused, match="it is reached over plain http"):
        await RemoteRepository(careful, ImageReference.parse(f"{secure.host}/team/app:v1")).manifest()
    assert stranger.requests("GET", "/token") == []


async def test_an_upload_is_not_sent_from_https_to_http(
    secure: Scripted, stranger: Scripted, careful: Session, folder: Path, certificate: Certificate
) -> None:
    copy(certificate.cert, folder / "ca.crt")
    repository = RemoteRepository(careful, ImageReference.parse(f"{secure.host}/team/app:v1"))
    secure.on("POST", UPLOADS, lambda: web.Response(status=202, headers={"Location": f"{stranger.url}/put"}))

    with pytest.raises(Refused, match="without TLS; if a proxy is in front of the registry"):
        await repository.put_blob(BLOB, pieces())

    assert stranger.asked == []
