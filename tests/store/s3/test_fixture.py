"""The real server of these tests ends when they do, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.store.seaweed import free_ports

ROOT = Path(__file__).parents[3]

HOST = """
import os, sys, time
from pathlib import Path
from tests.store.seaweed import running
folder = Path(sys.argv[1])
with running(["sleep", "60"], folder / "log", os.environ, folder) as server:
    print(server.pid, flush=True)
    time.sleep(60 if sys.argv[2] == "killed" else 0)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that is dead, and that nobody has waited for yet, is no server any more.
    return not Path(f"/proc/{pid}/stat").exists() or ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def run(folder: Path, end: str) -> None:
    folder.mkdir()
    host = subprocess.Popen([sys.executable, "-c", HOST, str(folder), end], stdout=subprocess.PIPE, cwd=ROOT)
    with host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        if end == "killed":
            assert alive(pid)
            host.send_signal(signal.SIGKILL)
        host.wait(10)
    deadline = time.monotonic() + 5
    while alive(pid) or (end == "killed" and folder.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_ends_with_its_block(tmp_path: Path) -> None:
    run(tmp_path / "server", "done")


def test_a_server_and_its_folder_go_when_the_tests_are_killed(tmp_path: Path) -> None:
    run(tmp_path / "server", "killed")


def test_free_ports_are_apart() -> None:
    assert len(set(free_ports(20))) == 20
