"""Whose connection a request came by, where TLS is spoken in front of the HTTP server (docs/rfcs/0007-tls-front.md)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from starlette.types import Scope

from bucketry.server.body import ClientGone
from bucketry.server.front.peers import read_peer

_CERTIFICATE: Final = "bucketry.certificate"


def told_by_front(scope: Scope, folder: str) -> None:
    """Puts what the front in ``folder`` said about the client where an application looks for it.

    Raises `ValueError` for a connection that no front made: there can be none.
    """
    name = scope["client"][0]
    if not name.startswith(folder):
        raise ValueError(f"a connection past the fronts: {name!r}")
    peer = read_peer(name)
    scope["client"] = (peer.address, peer.port)
    scope["scheme"] = "https"
    scope[_CERTIFICATE] = peer.certificate


def certificate_of(scope: Scope) -> bytes | None:
    """The client's certificate, in DER; None where it showed none. Raises `ClientGone`."""
    file: Path | None = scope.get(_CERTIFICATE)
    if file is None:
        return None
    try:
        return _read(file)
    except FileNotFoundError:
        # Its front removed it with the last connection that it came by.
        raise ClientGone("the connection ended before the request was looked at") from None


@lru_cache(maxsize=1024)
def _read(file: Path) -> bytes:
    """Its name is made of what is in it."""
    return file.read_bytes()
