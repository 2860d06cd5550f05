"""Where a server listens: what works, and the one line where it does not."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.api import Api
from tests.support.ports import free_port
from tests.support.server import Daemon, bucketry, start

PROGRAM = Path(sys.executable).parent / "bucketry"


def refused(listen: str, folder: Path) -> str:
    """What a server says that does not start."""
    done = subprocess.run(
        [PROGRAM, "serve", "--listen", listen, "--store", str(folder / "refused"), "--workers", "1"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("bucketry: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@contextlib.contextmanager
def listening(listen: str, folder: Path) -> Iterator[int]:
    """A server's port, as it says it itself."""
    command: list[str | Path] = [PROGRAM, "serve", "--listen", listen, "--store", folder / "store", "--workers", "1"]
    daemon = Daemon(start(command, folder / "log"), folder / "log")
    try:
        deadline = time.monotonic() + 30
        while (said := re.search(r"listening on +http://\S+:([0-9]+)", daemon.log())) is None:
            assert daemon.alive(), daemon.log()
            assert time.monotonic() < deadline, daemon.log()
            time.sleep(0.05)
        yield int(said[1])
    finally:
        daemon.terminate()


def answers(host: str, port: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=5) as connection:
                connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                return connection.recv(100).startswith(b"HTTP/1.1 200 ")
        except ConnectionRefusedError:
            time.sleep(0.05)
    return False


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_second_server_on_one_port_is_refused_and_takes_no_requests(host: str, tmp_path: Path) -> None:
    with bucketry(str(tmp_path / "first"), tmp_path, options=["--workers", "2"]) as first:
        api = Api(first.port)
        digest = api.push_blob("a", b"of the first")
        said = refused(f"{host}:{first.port}", tmp_path)
        assert "in use" in said
        assert "--listen" in said
        assert [api.get(f"/v2/a/blobs/{digest}").status for _ in range(10)] == [200] * 10
    assert not (tmp_path / "refused").exists()


def test_port_can_be_taken_again_at_once(tmp_path: Path) -> None:
    port = free_port()
    for _ in range(2):
        with bucketry(str(tmp_path / "store"), tmp_path, port=port) as server:
            assert Api(server.port).get("/v2/").status == 200


def test_name_of_a_host_is_looked_up(tmp_path: Path) -> None:
    with listening("localhost:0", tmp_path) as port:
        assert answers("127.0.0.1", port)


def test_ipv6_address_in_brackets(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with listening("[::1]:0", tmp_path) as port:
        assert answers("::1", port)


@pytest.mark.parametrize(
    ("listen", "says"),
    [("192.0.2.1:5000", "127.0.0.1"), ("no-such-host.invalid:5000", "no-such-host.invalid is no known name")],
)
def test_address_of_another_machine_is_refused_in_one_line(listen: str, says: str, tmp_path: Path) -> None:
    assert says in refused(listen, tmp_path)
