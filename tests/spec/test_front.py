"""The processes that speak TLS: what becomes of connections when one of all processes ends, and what is left then."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.spec.https import (
    begun,
    connection,
    get,
    private_folder,
    processes,
    ready,
    serving,
    trusting,
    under_load,
)
from tests.support.api import noise
from tests.support.images import digest_of
from tests.support.ports import wait_until
from tests.support.server import Server, descendants
from tests.support.tls import Tls, make_client, make_tls
from tests.support.tools import run, tool

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked at by /proc")
REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def context(tls: Tls) -> ssl.SSLContext:
    return trusting(tls.authority)


def until(holds: Callable[[], bool], server: Server, seconds: float = 15) -> None:
    wait_until(holds, seconds=seconds, what=server.log, alive=server.alive)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
    except OSError:
        return False


def pushed(port: int, context: ssl.SSLContext, blob: bytes) -> str:
    """The path of a blob that is there now."""
    digest = digest_of(blob)
    client = connection(port, context)
    client.request("POST", f"/v2/a/blobs/uploads/?digest={digest}", blob)
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (201, b"")
    client.close()
    return f"/v2/a/blobs/{digest}"


def uploading(port: int, context: ssl.SSLContext, blob: bytes) -> http.client.HTTPSConnection:
    """Half of it has been sent."""
    client = connection(port, context)
    client.putrequest("POST", f"/v2/a/blobs/uploads/?digest={digest_of(blob)}")
    client.putheader("Content-Length", str(len(blob)))
    client.endheaders()
    client.send(blob[: len(blob) // 2])
    return client


def test_front_that_is_killed_is_started_again_and_workers_notice_nothing(
    tls: Tls, context: ssl.SSLContext, tmp_path: Path
) -> None:
    with serving(tmp_path, tls, "--workers", "2", faults=True) as server:
        before = processes(server)
        assert (len(before.fronts), len(before.workers)) == (2, 2)
        victim = min(before.fronts)
        os.kill(victim, signal.SIGKILL)
        # The others go on at once, and the system takes connections for all of them.
        for _ in range(20):
            assert get(server.port, context).status == 200
        until(lambda: len(processes(server).fronts) == 2, server)
        after = processes(server)
        assert after.workers == before.workers
        assert victim not in after.fronts
        assert server.log().count("a process that speaks TLS ended, and is started again") == 1
        for pid in after.fronts - before.fronts:
            # The new one takes connections, too.
            for other in after.fronts & before.fronts:
                os.kill(other, signal.SIGSTOP)
            try:
                until(lambda: get(server.port, context).status == 200, server)
            finally:
                for other in after.fronts & before.fronts:
                    os.kill(other, signal.SIGCONT)
            assert alive(pid)
        assert "Traceback" not in server.log()


def test_worker_that_is_killed_is_replaced_and_fronts_go_on(tls: Tls, context: ssl.SSLContext, tmp_path: Path) -> None:
    with serving(tmp_path, tls, "--workers", "1", faults=True) as server:
        before = processes(server)
        (worker,) = before.workers
        waits = begun(server.port, context)
        os.kill(worker, signal.SIGKILL)
        # No worker is there: whoever comes now waits for the next one.
        assert get(server.port, context).status == 200
        waits.sendall(REQUEST)
        assert waits.recv(12) == b"HTTP/1.1 200"
        waits.close()
        after = processes(server)
        assert after.fronts == before.fronts
        assert after.workers.isdisjoint(before.workers)


def test_no_connection_fails_while_workers_are_replaced(tls: Tls, tmp_path: Path) -> None:
    with serving(tmp_path, tls, "--workers", "1", limits__shutdown_grace="2s") as server:
        before = processes(server)
        with under_load(server.port, tls.authority) as load:
            time.sleep(0.3)
            server.process.send_signal(signal.SIGHUP)
            until(lambda: processes(server).workers.isdisjoint(before.workers), server, 20)
            time.sleep(0.5)
        assert load.failed == []
        assert len(load.shown) > 50
        assert processes(server).fronts == before.fronts


def test_sigterm_lets_run_what_runs_and_leaves_nothing(tls: Tls, context: ssl.SSLContext, tmp_path: Path) -> None:
    blob, big = noise("upload", 2_000_000), noise("download", 24_000_000)
    with serving(tmp_path, tls, "--workers", "2", faults=True, limits__shutdown_grace="4s") as server:
        folder, below = private_folder(server), descendants(server.process.pid)
        path = pushed(server.port, context, big)
        upload = uploading(server.port, context, blob)
        stuck = uploading(server.port, context, noise("stuck", 2_000_000))
        download = connection(server.port, context)
        download.request("GET", path)
        answer = download.getresponse()
        got = answer.read(1_000_000)
        idle = begun(server.port, context)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        until(lambda: refuses(server.port), server, 2)
        assert idle.recv(1) == b""
        upload.send(blob[len(blob) // 2 :])
        done = upload.getresponse()
        assert (done.status, done.read()) == (201, b"")
        got += answer.read()
        assert digest_of(got) == path.rpartition("/")[2]
        assert server.process.wait(15) == 0
        # The one that never ended was waited for, and no longer than that.
        assert 2 < time.monotonic() - began < 12
        for each in (upload, stuck, download, idle):
            each.close()
        assert not any(alive(pid) for pid in below)
        assert not folder.exists()


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_all_end_when_the_leading_process_is_killed(tls: Tls, context: ssl.SSLContext, tmp_path: Path) -> None:
    with contextlib.suppress(AssertionError), serving(tmp_path, tls, "--workers", "2") as server:
        folder, below = private_folder(server), descendants(server.process.pid)
        idle = begun(server.port, context)
        idle.sendall(REQUEST)
        assert idle.recv(12) == b"HTTP/1.1 200"
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(5)
        deadline = time.monotonic() + 10
        while any(alive(pid) for pid in below):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert refuses(server.port)
        idle.close()
        # Sockets without anybody, and no key.
        left = sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))
        assert left == ["certificates", "held", "workers"]
        assert "Traceback" not in server.log()
        (tmp_path / "next").mkdir()
        with serving(tmp_path / "next", tls, "--workers", "1") as another:
            assert private_folder(another).exists()
            # Another server that starts just now may be the one that removes it.
            until(lambda: not folder.exists(), another)
        return
    raise AssertionError("the block did not come to its end")


def test_clients_beyond_the_limit_wait_until_one_ends(tls: Tls, context: ssl.SSLContext, tmp_path: Path) -> None:
    with serving(tmp_path, tls, "--workers", "1", limits__max_connections=5) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(begun(server.port, context)) for _ in range(5)]
        for client in clients:
            client.sendall(REQUEST)
            assert client.recv(12) == b"HTTP/1.1 200"
        answered: list[int] = []
        waiting = threading.Thread(target=lambda: answered.append(get(server.port, context).status))
        waiting.start()
        waiting.join(1.5)
        assert answered == []
        clients[0].close()
        waiting.join(15)
        assert answered == [200]


def test_clients_that_agree_at_once_are_no_more_than_the_limit(
    tls: Tls, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """Several are agreeing on TLS when the last place is taken: they wait for another, and the workers hear nothing."""
    with serving(tmp_path, tls, "--workers", "1", limits__max_connections=5) as server, contextlib.ExitStack() as stack:
        (front,) = processes(server).fronts
        before = unix_sockets(front)
        clients = [stack.enter_context(begun(server.port, context)) for _ in range(4)]
        raw = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=9)) for _ in range(5)]
        clients += [stack.enter_context(context.wrap_socket(each, server_hostname="localhost")) for each in raw]
        for client in clients:
            client.sendall(REQUEST)
            client.settimeout(0.1)
        got = [False] * len(clients)
        deadline = time.monotonic() + 15
        while got.count(True) < 5 and time.monotonic() < deadline:
            got = [was or answered(client) for was, client in zip(got, clients, strict=True)]
        got = [was or answered(client) for was, client in zip(got, clients, strict=True)]
        assert got.count(True) == 5
        assert unix_sockets(front) - before == 5
        clients[got.index(True)].close()
        waits = clients[got.index(False)]
        for other in clients:
            if other is not waits and not got[clients.index(other)]:
                other.close()
        waits.settimeout(15)
        assert answered(waits)
        assert unix_sockets(front) - before == 5


def answered(client: ssl.SSLSocket) -> bool:
    try:
        return client.recv(12) == b"HTTP/1.1 200"
    except TimeoutError:
        return False


def unix_sockets(pid: int) -> int:
    named = {f"socket:[{line.split()[6]}]" for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    return sum(file in named for file in open_files(pid))


def test_silent_clients_are_no_connections(tls: Tls, context: ssl.SSLContext, tmp_path: Path) -> None:
    with serving(tmp_path, tls, "--workers", "1", limits__max_connections=5) as server, contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        for _ in range(5):
            assert get(server.port, context).status == 200


def test_front_without_files_hangs_nobody(tls: Tls, context: ssl.SSLContext, tmp_path: Path) -> None:
    """Neither who waits for one, nor the certificate that comes meanwhile."""
    few = ("/bin/sh", "-c", 'ulimit -n 64 && exec "$0" "$@"')
    files = Tls(tls.authority, tls.authority_key, tmp_path / "server.crt", tmp_path / "server.key")
    other = make_tls(tmp_path / "other")
    shutil.copy(tls.certificate, files.certificate)
    shutil.copy(tls.key, files.key)
    both = trusting(tls.authority, other.authority)
    with serving(tmp_path, files, "--workers", "1", before=few) as server:
        (front,) = processes(server).fronts
        old = get(server.port, both).serial
        waits = begun(server.port, both)
        with contextlib.ExitStack() as stack:
            for _ in range(90):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            until(lambda: len(os.listdir(f"/proc/{front}/fd")) >= 63, server)
            shutil.copy(other.certificate, files.certificate)
            shutil.copy(other.key, files.key)
            until(lambda: "a new certificate is taken up" in server.log(), server)
            # There is no file for its way to a worker, either.
            waits.sendall(REQUEST)
            spent = processor_seconds(front)
            time.sleep(1)
            assert processor_seconds(front) - spent < 0.5
        assert waits.recv(12) == b"HTTP/1.1 200"
        waits.close()
        until(lambda: get(server.port, both).serial != old, server)
        assert processes(server).fronts == {front}
        assert "Exception in callback" not in server.log()


def processor_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def clients_in(server: Server, path: str) -> list[str]:
    """The client addresses of the log's lines for this path."""
    found = []
    for line in server.log().splitlines():
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict) and path in str(said.get("path", "")):
                found.append(str(said["client"]))
    return found


@pytest.mark.parametrize(("host", "seen"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
def test_client_is_known_by_its_address(
    tls: Tls, context: ssl.SSLContext, tmp_path: Path, host: str, seen: str
) -> None:
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    open_to_all = ("--insecure-open",) if host == "::" else ()
    options: dict[str, Any] = {"server__trusted_proxies": "127.0.0.2/32", "log__format": "json"}
    with serving(tmp_path, tls, "--workers", "1", *open_to_all, host=host, **options) as server:
        for source in [seen] if ":" in seen else [seen, "127.0.0.2"]:
            with (
                socket.create_connection((seen, server.port), timeout=5, source_address=(source, 0)) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as client,
            ):
                target = f"/v2/from-{source.replace('.', '-').replace(':', '-')}/tags/list"
                head = f"GET {target} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\nConnection: close\r\n\r\n"
                client.sendall(head.encode())
                while client.recv(4096):
                    pass
            expected = "192.0.2.9" if source == "127.0.0.2" else seen
            until(lambda target=target: clients_in(server, target) != [], server)  # type: ignore[misc]
            assert clients_in(server, target) == [expected]


def test_nobody_passes_by_the_fronts(tls: Tls, tmp_path: Path) -> None:
    with serving(tmp_path, tls, "--workers", "1") as server:
        folder = private_folder(server)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.geteuid()
        # The server's own user can, or root; and is no client then.
        before = len(server.log())
        for number in range(20):
            with socket.socket(socket.AF_UNIX) as client:
                if number % 2:
                    client.bind(str(tmp_path / f"0-7f000001-1-{number}-"))
                client.connect(str(folder / "workers"))
                client.sendall(REQUEST)
                assert client.recv(12) == b"HTTP/1.1 403"
        assert "Traceback" not in server.log()
        assert len(server.log()) - before < 1000


def test_certificates_of_clients_are_there_as_long_as_their_connections(tls: Tls, tmp_path: Path) -> None:
    authority = make_tls(tmp_path / "authority")
    contexts = [
        trusting(tls.authority, client=make_client(authority, tmp_path / name, f"/CN={name}"))
        for name in ("one", "two", "three")
    ]
    options: dict[str, Any] = {"tls__client_certificates": "required", "tls__client_ca": authority.authority}
    with serving(tmp_path, tls, "--workers", "1", **options) as server:
        shown = private_folder(server) / "certificates"
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(begun(server.port, context)) for context in contexts * 8]
            for client in clients:
                client.sendall(REQUEST)
            for client in clients:
                assert client.recv(12) == b"HTTP/1.1 200"
            assert len(list(shown.iterdir())) == 3
            for client in clients[:-2]:
                client.close()
            until(lambda: len(list(shown.iterdir())) == 2, server)
        until(lambda: list(shown.iterdir()) == [], server)
        assert {each.name for each in shown.parent.iterdir()} == {"certificates", "held", "workers"}


def open_files(pid: int) -> list[str]:
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(os.readlink(each))
    return found


def resident(pid: int) -> int:
    """KiB."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_idle_connections_that_were_busy_cost_little(tls: Tls, context: ssl.SSLContext, tmp_path: Path) -> None:
    count, blob = 300, noise("busy", 1_500_000)
    with serving(tmp_path, tls, "--workers", "1") as server, contextlib.ExitStack() as stack:
        (front,) = processes(server).fronts
        path = pushed(server.port, context, blob)
        before = resident(front)
        for _ in range(count):
            client = connection(server.port, context)
            stack.callback(client.close)
            client.request("GET", path)
            assert len(client.getresponse().read()) == len(blob)
            client.request("POST", f"/v2/a/blobs/uploads/?digest={path.rpartition('/')[2]}", blob)
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (201, b"")
        each = (resident(front) - before) / count
    # Measured: 58 KiB, of which OpenSSL's buffers are most. Those of asyncio alone would be 256.
    assert each < 90, f"{each:.0f} KiB"


def test_key_is_nowhere_but_in_the_owners_file(tls: Tls, context: ssl.SSLContext, tmp_path: Path) -> None:
    encrypted = tmp_path / "encrypted.key"
    password = "correct horse battery"
    run([tool("openssl"), "pkey", "-in", tls.key, "-aes256", "-passout", f"pass:{password}", "-out", encrypted])
    (tmp_path / "bucketry.toml").write_text(f'[tls]\nkey_password = "{password}"\n')
    lines = [line.encode() for line in tls.key.read_text().splitlines() if "-----" not in line]
    secrets = [password.encode(), *lines, base64.b64decode(b"".join(lines))[-60:]]
    options: dict[str, Any] = {"tls__key": encrypted}
    with serving(tmp_path, tls, "--config", str(tmp_path / "bucketry.toml"), "--workers", "2", **options) as server:
        assert get(server.port, context).status == 200
        server.process.send_signal(signal.SIGHUP)
        pids = [server.process.pid, *descendants(server.process.pid)]
        assert len(pids) >= 5
        looked_at = 0
        for pid in pids:
            try:
                seen = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue  # A worker that was replaced.
            looked_at += 1
            assert not any(secret in seen for secret in secrets)
            # Those that are nowhere in the file system are open, or are not at all.
            until(lambda pid=pid: not any("memfd:bucketry-tls" in file for file in open_files(pid)), server)  # type: ignore[misc]
        assert looked_at >= 3
        kept = [file for file in private_folder(server).rglob("*") if file.is_file()]
        for what in ("tls", "metrics", "rules"):
            kept += [file for file in Path(tempfile.gettempdir()).glob(f"bucketry-{what}-*/**/*") if file.is_file()]
        for file in (*kept, server.log_path):
            with contextlib.suppress(FileNotFoundError):  # Of another server, which ended.
                assert not any(secret in file.read_bytes() for secret in secrets), file


def test_ready_tells_a_server_from_none(tls: Tls, tmp_path: Path) -> None:
    with serving(tmp_path, tls, "--workers", "1") as server:
        assert ready(server.port)
    assert not ready(server.port)
