"""Another registry to try the client on: distribution, whichever version is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.fixtures import Registry
from tests.support.ports import answers, free_port
from tests.support.server import Server, ended, start
from tests.support.tools import search_path, tool

USER, PASSWORD = "alice", "canary-password-7f3a"
HTPASSWD = f"{USER}:$2b$04$28N5XYPFssE9VVvNqTk7veK5lH6XWW8HyUa3dvRdSDeA.DRIWYZFG\n"


def _command(folder: Path, *, users: bool = False) -> tuple[list[str | Path], int]:
    """What starts it, and its port."""
    port = free_port()
    auth = ""
    if users:
        (folder / "users").write_text(HTPASSWD)
        auth = f"auth:\n  htpasswd:\n    realm: users\n    path: {folder / 'users'}\n"
    (folder / "peer.yml").write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "127.0.0.1:{port}"}}\n{auth}'
    )
    program = shutil.which("registry", path=search_path()) or tool("docker-registry")
    return [program, "serve", folder / "peer.yml"], port


@contextmanager
def peer(folder: Path, *, users: bool = False) -> Iterator[Registry]:
    """A running one on a folder. ``users``: it lets in only `USER`."""
    command, port = _command(folder, users=users)
    # Version 3 traces to a collector that is not there, unless told otherwise.
    env = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    server = Server(start(command, folder / "peer.log", env=env), folder / "peer.log", port)
    with ended(server, lambda: answers(port, "/" if users else "/v2/")):
        yield Registry(server.host, "peer")
