"""A registry that speaks HTTPS: clients over it, a certificate that is replaced while it serves, who is let in."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.spec.https import LOOK, command, connection, dotted, get, processes, serial, serving, trusting, under_load
from tests.support.api import noise
from tests.support.images import assert_layout_holds, digest_of, make_image, write_layout
from tests.support.ports import free_port, wait_until
from tests.support.server import Server
from tests.support.tls import Tls, make_client, make_tls
from tests.support.tools import run, search_path, tool

AS_IF_IN_ETC = """
import sys
from pathlib import Path
from bucketry.cli import main
from bucketry.transfer.remote.session import Session
Session.__init__.__kwdefaults__["certificates"] = (Path(sys.argv.pop(1)),)
sys.exit(main())
"""
"""The client, with another folder in place of /etc/docker/certs.d."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


def refused(folder: Path, tls: Tls, **options: object) -> str:
    """What a server says that does not start."""
    done = subprocess.run(
        command(f"127.0.0.1:{free_port()}", folder / "store", tls, dotted(options)),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("bucketry: ")
    assert not (folder / "store").exists()
    return said


def test_images_travel_over_it(tls: Tls, tmp_path: Path) -> None:
    image = make_image(71, (300_000, 2_000_000))
    layout = write_layout(tmp_path / "layout", image, "v1")
    with serving(tmp_path, tls, "--workers", "2", tls__hsts="365d") as server:
        name = f"localhost:{server.port}/team/app"
        trusts = {"SSL_CERT_FILE": str(tls.authority), "PATH": search_path(), "HOME": str(tmp_path)}

        crane = tool("crane")
        run([crane, "push", layout, f"{name}:crane"], env=trusts)
        run([crane, "pull", "--format=oci", f"{name}:crane", tmp_path / "crane"], env=trusts)
        assert_layout_holds(tmp_path / "crane", image)

        # This machine's own names are reached by HTTP but where there are certificates for them.
        trusted = tmp_path / "certs.d" / f"localhost:{server.port}"
        trusted.mkdir(parents=True)
        shutil.copy(tls.authority, trusted / "ca.crt")
        for words in (("push", f"oci:{layout}:v1", f"{name}:own"), ("pull", f"{name}:own", f"oci:{tmp_path / 'own'}")):
            run([sys.executable, "-c", AS_IF_IN_ETC, trusted.parent, *words], env=trusts)
        assert_layout_holds(tmp_path / "own", image)

        # HTTP/2 is asked for, and not spoken (docs/how-to/tls.md).
        asks = (
            "-sS",
            "--http2",
            "--cacert",
            tls.authority,
            "-o",
            tmp_path / "got",
            "-w",
            "%{http_version} %{http_code}",
        )
        said = run([tool("curl"), *asks, f"https://localhost:{server.port}/v2/team/app/manifests/own"])
        assert said == "1.1 200"
        got = get(server.port, trusting(tls.authority))
        assert got.headers["strict-transport-security"] == "max-age=31536000"
        assert f"https://127.0.0.1:{server.port}" in server.log()


def test_the_challenge_names_https(tls: Tls, tmp_path: Path) -> None:
    (tmp_path / "access.toml").write_text("[[rule]]\nwho = ['user:alice']\nrepositories = ['**']\nallow = ['pull']\n")
    with serving(tmp_path, tls, "--workers", "1", "--access", str(tmp_path / "access.toml")) as server:
        got = get(server.port, trusting(tls.authority))
    assert got.status == 401
    assert got.headers["www-authenticate"].startswith(f'Bearer realm="https://localhost:{server.port}/token"')
    assert "strict-transport-security" not in got.headers


def test_certificate_that_is_replaced_is_taken_up_and_no_connection_fails(tls: Tls, tmp_path: Path) -> None:
    """Nor is an upload disturbed that goes on all the while."""
    other = make_tls(tmp_path / "other")
    files = Tls(tls.authority, tls.authority_key, tmp_path / "server.crt", tmp_path / "server.key")
    shutil.copy(tls.certificate, files.certificate)
    shutil.copy(tls.key, files.key)
    old, new = serial(tls.certificate), serial(other.certificate)
    blob = noise("replaced", 3_000_000)
    with serving(tmp_path, files, "--workers", "2") as server:
        before = processes(server)
        upload = connection(server.port, trusting(tls.authority))
        upload.putrequest("POST", f"/v2/a/blobs/uploads/?digest={digest_of(blob)}")
        upload.putheader("Content-Length", str(len(blob)))
        upload.endheaders()
        upload.send(blob[:1_000_000])
        with under_load(server.port, tls.authority, other.authority) as load:
            # The key of one and the certificate of the other, for as long as it takes to see it.
            shutil.copy(other.certificate, files.certificate)
            wait_for(lambda: "is not that of the certificate" in server.log(), server)
            upload.send(blob[1_000_000:2_000_000])
            shutil.copy(other.key, files.key)
            replaced = time.monotonic()
            wait_for(lambda: get(server.port, trusting(other.authority, tls.authority)).serial == new, server)
            time.sleep(max(0.0, replaced + LOOK + 2 - time.monotonic()))
        upload.send(blob[2_000_000:])
        answer = upload.getresponse()
        assert (answer.status, answer.read()) == (201, b"")
        upload.close()
        assert load.failed == []
        assert len(load.shown) > 50
        assert {seen for at, seen in load.shown if at < replaced} == {old}
        assert {seen for at, seen in load.shown if at > replaced + LOOK + 1} == {new}
        assert "a new certificate is taken up" in server.log()
        assert processes(server) == before


def wait_for(holds: Callable[[], bool], server: Server) -> None:
    wait_until(holds, seconds=10, what=server.log, alive=server.alive)


def test_key_of_another_certificate_is_refused(tls: Tls, tmp_path: Path) -> None:
    other = make_tls(tmp_path / "other")
    assert "is not that of the certificate in" in refused(tmp_path, tls, tls__key=other.key)


def test_what_is_not_there_is_named(tls: Tls, tmp_path: Path) -> None:
    said = refused(tmp_path, tls, tls__cert=tmp_path / "none.crt")
    assert re.fullmatch(r"bucketry: tls\.cert: cannot read \S+/none\.crt: No such file or directory", said)


def test_only_clients_with_a_certificate_of_the_authority_are_let_in(tls: Tls, tmp_path: Path) -> None:
    clients, strangers = make_tls(tmp_path / "clients"), make_tls(tmp_path / "strangers")
    builder, stranger = (
        make_client(each, tmp_path / "made" / name) for each, name in ((clients, "a"), (strangers, "b"))
    )
    required: dict[str, Any] = {"tls__client_certificates": "required", "tls__client_ca": clients.authority}
    with serving(tmp_path, tls, "--workers", "1", **required) as server:
        assert get(server.port, trusting(tls.authority, client=builder)).status == 200
        for nobody in (None, stranger):
            # In TLS 1.3 a client is told only when it reads.
            with pytest.raises((ssl.SSLError, ConnectionError)):
                get(server.port, trusting(tls.authority, client=nobody))


def closed_after(port: int, context: ssl.SSLContext | None, data: bytes) -> float:
    """Seconds until the server closed a connection on which a client did no more than this."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        connection = plain if context is None else context.wrap_socket(plain, server_hostname="localhost")
        with connection:
            connection.sendall(data)
            connection.settimeout(20)
            try:
                while connection.recv(4096):
                    pass
            except (ConnectionError, ssl.SSLError):
                pass
    return time.monotonic() - began


FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
BLOB = b"POST /v2/a/blobs/uploads/?digest=sha256:" + b"0" * 64
SLOW: Sequence[tuple[str, bool, bytes, float]] = (
    ("silent before the handshake", False, b"", 10),
    ("in the middle of the handshake", False, b"\x16\x03\x01\x02\x00\x01", 10),
    ("silent after it", True, b"", 3),
    ("in the middle of a head", True, b"GET /v2/ HTTP/1.1\r\nHost: a\r\n", 3),
    ("form", True, b"POST /token HTTP/1.1\r\nHost: a\r\n" + FORM + b"Content-Length: 100\r\n\r\nscope=", 3),
    ("blob", True, BLOB + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab", 3),
    ("chunks", True, BLOB + b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", 3),
    ("body of no use", True, b"DELETE /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab", 3),
    ("body of a GET", True, b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab", 0),
)
"""What a client does before it falls silent, whether after a handshake, and the seconds until it is cut off."""


def test_clients_that_fall_silent_are_cut_off_wherever_they_do(tls: Tls, tmp_path: Path) -> None:
    (tmp_path / "access.toml").write_text(
        "[[rule]]\nwho = ['anonymous']\nrepositories = ['**']\nallow = ['pull', 'push']\n"
    )
    short: dict[str, Any] = {"limits__header_timeout": "3s", "limits__body_idle_timeout": "3s"}
    took: dict[str, float] = {}
    with serving(tmp_path, tls, "--workers", "1", "--access", str(tmp_path / "access.toml"), **short) as server:
        context = trusting(tls.authority)

        def wait(name: str, shakes: bool, data: bytes) -> None:
            took[name] = closed_after(server.port, context if shakes else None, data)

        threads = [threading.Thread(target=wait, args=case[:3]) for case in SLOW]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert get(server.port, context).status == 401
    for name, _, _, seconds in SLOW:
        assert seconds - 0.5 <= took[name] <= seconds + 4, took


def test_many_who_never_agree_on_tls_keep_nobody_out(tls: Tls, tmp_path: Path) -> None:
    """They are no connections yet, so no setting counts them; and a worker out of open files does nothing any more."""
    few = ("/bin/sh", "-c", 'ulimit -S -n 256 && exec "$0" "$@"')
    with serving(tmp_path, tls, "--workers", "1", before=few) as server, contextlib.ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        for _ in range(3):
            assert get(server.port, trusting(tls.authority)).status == 200
