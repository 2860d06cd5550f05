"""The daemons behind two clients, docker and ctr: private ones, with sockets and folders of their own."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.server import Daemon, ended, start
from tests.support.tools import missing, root_only, search_path, tool

CONTAINERD_CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
"""


def succeeds(command: Sequence[str], env: dict[str, str] | None = None) -> bool:
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode == 0


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short name: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="d-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def dockerd() -> Iterator[str]:
    """A Docker daemon, as a value for DOCKER_HOST. It leaves the network alone, and so can run no container."""
    env = {**os.environ, "PATH": search_path()}
    with short_folder() as folder:
        host = f"unix://{folder}/docker.sock"
        command = [
            tool("dockerd"),
            f"--host={host}",
            f"--data-root={folder}/data",
            f"--exec-root={folder}/exec",
            f"--pidfile={folder}/pid",
            f"--config-file={folder}/daemon.json",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
        ]
        (folder / "daemon.json").write_text("{}")
        log = folder / "log"
        daemon = Daemon(start(command, log, env=env), log)
        with ended(daemon, lambda: succeeds([tool("docker"), "--host", host, "version"])):
            yield host


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """A daemon of our own where the tests run as root, and the one of this machine elsewhere."""
    docker = tool("docker")
    if os.geteuid() == 0:
        with dockerd() as host:
            yield host
    else:
        if not succeeds([docker, "version"]):
            missing("docker: there is no daemon to talk to, and starting one needs root")
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


@pytest.fixture(scope="session")
def containerd_address() -> Iterator[str]:
    """The socket of a containerd that has nothing yet."""
    root_only("containerd")
    with short_folder() as folder:
        config = folder / "config.toml"
        config.write_text(CONTAINERD_CONFIG.format(folder=folder))
        address = f"{folder}/containerd.sock"
        log = folder / "log"
        command = [tool("containerd"), "--config", str(config)]
        daemon = Daemon(start(command, log, env={**os.environ, "PATH": search_path()}), log)
        with ended(daemon, lambda: succeeds([tool("ctr"), "--address", address, "version"])):
            yield address
