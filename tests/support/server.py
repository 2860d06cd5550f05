"""`bucketry serve` as its users run it: a process of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import answers, free_port, wait_until
from tests.support.tools import with_parent

START_SECONDS = 30.0
STOP_SECONDS = 20.0


@dataclass
class Daemon:
    """A process that runs until it is ended, and writes its output to a file."""

    process: subprocess.Popen[bytes]
    log_path: Path

    def log(self) -> str:
        """What it has printed so far, both streams."""
        return self.log_path.read_text(errors="replace")

    def alive(self) -> bool:
        return self.process.poll() is None

    def terminate(self) -> int:
        """SIGTERM, and its exit status; the test fails where it does not end by itself."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {STOP_SECONDS:g} s of SIGTERM:\n{self.log()}") from None

    def kill(self) -> None:
        """SIGKILL to it and to every process it started."""
        # The first process first: it might start another in place of a child that it sees die.
        for pid in [self.process.pid, *reversed(descendants(self.process.pid))]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(STOP_SECONDS)


def descendants(pid: int) -> list[int]:
    """The processes below one, as /proc tells; empty where there is no /proc."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [*descendants(child), child]
    return found


@dataclass
class Server(Daemon):
    """A daemon that listens on a port of 127.0.0.1."""

    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"


def start(
    command: Sequence[str | Path],
    log_path: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a program that ends no later than the test process does; both its streams go to a file."""
    with log_path.open("ab") as log:
        return subprocess.Popen(
            with_parent(list(map(str, command))),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(os.environ if env is None else env),
            cwd=cwd,
        )


@contextmanager
def ended(daemon: Daemon, ready: Callable[[], bool]) -> Iterator[None]:
    """Waits until a daemon is ready, and ends it when the block ends: gently, and by force where that failed."""
    try:
        wait_until(ready, seconds=START_SECONDS, what=daemon.log, alive=daemon.alive)
        yield
    except BaseException:
        daemon.kill()
        raise
    daemon.terminate()


def assert_no_fault(server: Server) -> None:
    """The log so far shows no answer of 500 or above and no traceback."""
    lines = server.log().splitlines()
    faults = [line for line in lines if re.search(r'"status":5\d\d\b|"level":"(error|critical)"|Traceback', line)]
    assert not faults, "\n".join(faults[:20])


@contextmanager
def bucketry(
    store: str,
    folder: Path,
    *,
    config: str | None = None,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Iterator[Server]:
    """A running `bucketry serve` on ``store``; ``folder`` takes its log and its ``config`` (TOML text).

    ``options`` are further flags, ``env`` further variables, ``port`` one to reuse (after a crash).
    It is ready when ``/readyz`` says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port() if port is None else port
    program = Path(sys.executable).parent / "bucketry"
    # A setting of the person who runs the tests must not change what they test.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("BUCKETRY_")}
    command: list[str | Path] = [program, "serve", "--listen", f"127.0.0.1:{port}", "--store", store]
    if config is not None:
        file = folder / f"bucketry-{port}.toml"
        file.write_text(config)
        command += ["--config", file]
    log_path = folder / f"bucketry-{port}.log"
    process = start([*command, *options], log_path, env={**outside, **(env or {})}, cwd=folder)
    server = Server(process, log_path, port)
    with ended(server, lambda: answers(port, "/readyz")):
        yield server
