"""Programs that a benchmark starts: found, started on free ports, waited for, and ended with all they started."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class Missing(Exception):
    """A program is not installed; the message says how to get it."""


def find_program(name: str) -> str | None:
    """The path of a program: beside this Python, in the folder of ``.ci/tools``, on PATH, where Debian has daemons."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folders = [
        str(Path(sys.executable).parent),
        str(Path(cache, "bucketry-ci", "bin")),
        os.environ.get("PATH", os.defpath),
        "/usr/local/sbin:/usr/sbin:/sbin",
    ]
    return shutil.which(name, path=os.pathsep.join(folders))


def require_program(name: str, how: str) -> str:
    """As `find_program`. Raises `Missing`, with ``how`` to install it."""
    found = find_program(name)
    if found is None:
        raise Missing(f"{name} is not installed: {how}")
    return found


def free_ports(count: int) -> list[int]:
    """Ports that are free now. All are held at once, so that no two are the same."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def connection_to(port: int, authority: Path | None = None, *, timeout: float) -> http.client.HTTPConnection:
    """To 127.0.0.1; by TLS where there is an authority to trust, a file in PEM."""
    if authority is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    context = ssl.create_default_context(cafile=authority)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context)


def answers(port: int, path: str, authority: Path | None = None) -> bool:
    """Whether a GET of ``path`` on 127.0.0.1 gets a 2xx."""
    connection = connection_to(port, authority, timeout=2)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def accepts(port: int) -> bool:
    """Whether someone listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    log: Path,
    *,
    ready: Callable[[], bool],
    env: Mapping[str, str],
    grace: float = _STOP_SECONDS,
) -> Iterator[int]:
    """Runs a server in the folder of its log; its process id, once it is ready.

    It has a session of its own, so that Ctrl-C reaches this process only.

    It gets SIGTERM at the end of the block (and when this process dies), and SIGKILL ``grace`` seconds later.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*_with_parent(), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _with_parent() -> list[str]:
    """What the kernel is told by to end a program when this process ends, however it does (Linux)."""
    setpriv = find_program("setpriv")
    return [setpriv, "--pdeathsig", "SIGTERM", "--"] if setpriv is not None else []


def settle(pid: int, seconds: float = 20.0) -> None:
    """Waits until a process and all below it do nothing: a server's workers may still be starting when one answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = cpu_seconds(pid)
        time.sleep(0.3)
        if cpu_seconds(pid) - before < 0.03:
            return


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all below it, those that have ended (and were waited for) included."""
    ticks = 0
    for each in tree(pid):
        with suppress(OSError):
            words = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, words[11:15]))
    return ticks / _TICKS


def tree(pid: int) -> list[int]:
    """A process and all below it that live."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                found += tree(int(child))
    return found
