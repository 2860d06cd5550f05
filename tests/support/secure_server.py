"""A registry that speaks HTTPS, looks at its clients' certificates and has rules; and requests to it, each on a
connection of its own."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.api import Answer
from tests.support.certificates import Authority, Pair, context
from tests.support.ports import free_port
from tests.support.server import Server, assert_no_fault, ended, start
from tests.support.tls import Tls

RELOAD = 1.0
"""Seconds between two looks at the files of TLS."""


@dataclass(frozen=True)
class Secure:
    """``trust``: the file of the authority that the server's certificate is by. ``folder``: its files."""

    server: Server
    trust: Path
    folder: Path

    @property
    def port(self) -> int:
        return self.server.port

    def context(self, client: Pair | None = None) -> ssl.SSLContext:
        return context(self.trust, client)

    def asks(
        self,
        client: Pair | None,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Raises `ssl.SSLError` or `ConnectionError` for a client that is not let in."""
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=self.context(client))
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def audited(self) -> list[dict[str, Any]]:
        """Of a server that writes its audit log into its folder."""
        return [json.loads(line) for line in (self.folder / "audit.log").read_text().splitlines()]


def owner_files(folder: Path, authority: Authority, *names: str) -> Tls:
    """A server's certificate by the authority, as the files of an owner: to be replaced."""
    shown = authority.server(*(names or ("DNS:localhost", "IP:127.0.0.1")))
    return Tls(authority.file, authority.file, shown.certificate, shown.key)


def command(folder: Path, listen: str, tls: Tls, settings: Mapping[str, object]) -> list[str | Path]:
    given = {
        "tls.cert": tls.certificate,
        "tls.key": tls.key,
        "tls.reload": f"{RELOAD}s",
        "access.file": folder / "access.toml",
        "access.audit": folder / "audit.log",
        **settings,
    }
    flags = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    program = Path(sys.executable).parent / "bucketry"
    return [program, "serve", "--listen", listen, "--store", folder / "store", "--workers", "1", *flags]


@contextmanager
def secure(
    folder: Path, tls: Tls, rules: str, *, users: str = "", let_in: Pair | None = None, **settings: object
) -> Iterator[Secure]:
    """``settings``: with ``__`` for a dot. ``let_in``: what the one shows who looks whether it is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "access.toml").write_text(rules)
    (folder / "htpasswd").write_text(users)
    port, log = free_port(), folder / "log"
    given = {name.replace("__", "."): value for name, value in settings.items()}
    server = Server(start(command(folder, f"127.0.0.1:{port}", tls, given), log, cwd=folder), log, port)
    found = Secure(server, tls.authority, folder)

    def ready() -> bool:
        try:
            return found.asks(let_in, "GET", "/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    with ended(server, ready):
        yield found
        assert_no_fault(server)
