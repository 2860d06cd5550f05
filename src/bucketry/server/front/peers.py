"""How a front tells the application who is at the other end: by the name of its own end of their connection.

The HTTP server passes on that name as the client's. It is a path in a folder that only the server's user can open, so
what it says is what a front said.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

MAX_PATH: Final = 103
"""Bytes of a Unix socket's name, where they are fewest."""
MOST_FRONTS: Final = 16**3
"""Their numbers begin with 0."""
MAX_FOLDER: Final = MAX_PATH - len("/fff-") - 32 - len("-ffff-ffffffff-") - 24
"""Bytes that are left for the folder, with the longest of all that `socket_name` puts together."""
CERTIFICATES: Final = "certificates"
_FIELDS: Final = 5
_SERIALS: Final = 16**8


@dataclass(frozen=True, slots=True)
class Peer:
    """``certificate``: where the one is, in DER, that the client showed and the front verified."""

    address: str
    port: int
    certificate: Path | None = None


def socket_name(folder: Path, front: int, address: tuple[str, int], serial: int, certificate: str | None) -> str:
    """Of the front's end of a connection. ``certificate``: as `certificate_id` gives it.

    No two connections that are open have the same: address and port are each one's own already.
    """
    # The zone of a link-local address is of no use to anybody but this machine.
    packed = ipaddress.ip_address(address[0].partition("%")[0]).packed.hex()
    return f"{folder}/{front:x}-{packed}-{address[1]:x}-{serial % _SERIALS:x}-{certificate or ''}"


def certificate_id(der: bytes) -> str:
    """96 bits of its hash: all of those that are open at once were signed by an authority that the owner trusts."""
    return hashlib.sha256(der).hexdigest()[:24]


def certificate_file(folder: Path, front: int, certificate: str) -> Path:
    """Each front has files of its own, as each knows by itself when the last connection of one ends."""
    return folder / CERTIFICATES / f"{front:x}-{certificate}"


def clear(folder: Path, front: int) -> None:
    """Removes what a front of this number left there that was killed."""
    for file in (*folder.glob(f"{front:x}-*"), *(folder / CERTIFICATES).glob(f"{front:x}-*")):
        file.unlink(missing_ok=True)


@lru_cache(maxsize=4096)
def read_peer(name: str) -> Peer:
    """What `socket_name` wrote. Raises `ValueError` for any other name."""
    path = Path(name)
    fields = path.name.split("-")
    if len(fields) != _FIELDS:
        raise ValueError(f"no name of a connection: {path.name!r}")
    front, packed, port, _, certificate = fields
    address = ipaddress.ip_address(bytes.fromhex(packed))
    file = certificate_file(path.parent, int(front, 16), certificate) if certificate else None
    return Peer(str(address), int(port, 16), file)
