"""Whose connection a request came by, where TLS is spoken in front of the HTTP server (docs/rfcs/0007-tls-front.md)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from starlette.types import Scope, Send

from bucketry.server.body import ClientGone
from bucketry.server.front.peers import read_peer

_CERTIFICATE: Final = "bucketry.certificate"


def told_by_front(scope: Scope, folder: str) -> bool:
    """Puts what the front in ``folder`` said about the client where an application looks for it.

    False for a connection that no front made: only the server's own user, or root, can open one.
    """
    name: str = scope["client"][0] if scope.get("client") else ""
    if not name.startswith(f"{folder}/"):
        return False
    try:
        peer = read_peer(name)
    except ValueError:
        return False
    scope["client"] = (peer.address, peer.port)
    scope["scheme"] = "https"
    scope[_CERTIFICATE] = peer.certificate
    return True


async def refuse(send: Send) -> None:
    """Answers who came past the fronts."""
    await send({"type": "http.response.start", "status": 403, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


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
