"""The algorithms, and the form in which a hash under way is stored.

The form is bucketry's own, the same whatever the machine's byte order or the version of OpenSSL.
Version 1, integers big-endian::

    size        what
    1           0xB1: a bucketry hash state, version 1 (another version has another first byte)
    1           algorithm: 1 is sha256, 2 is sha512
    8           length: bytes hashed so far, below 2**61
    32 or 64    chaining value: eight words of 4 (sha256) or 8 (sha512) bytes
    0 to 127    the length % 64 (sha512: length % 128) bytes of the block that is not full yet
    4           CRC-32 of everything before it

The CRC finds damage, not malice. Whoever can write a state can choose the digest it leads to, so a state is
kept where only the registry writes; but none makes `unpack` or what follows crash.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_LENGTH = 2**61 - 1
"""Bytes: the longest message SHA-256 is defined for (64 bits count its bits). SHA-512 is held to it too."""


class Parameters(NamedTuple):
    """What differs between the algorithms. Sizes are in bytes."""

    code: int
    """The algorithm byte of a stored state."""
    block: int
    """What is compressed at a time: chaining values belong to its multiples."""
    chain: int
    """The size of the chaining value, and of the digest."""


ALGORITHMS: Mapping[str, Parameters] = MappingProxyType(
    {"sha256": Parameters(code=1, block=64, chain=32), "sha512": Parameters(code=2, block=128, chain=64)}
)
"""What can be hashed here, by the names OCI digests give the algorithms."""

_MAGIC = 0xB1
_HEAD = struct.Struct(">BBQ")
_CRC = struct.Struct(">I")


def parameters(algorithm: str) -> Parameters:
    """The algorithm's entry in `ALGORITHMS`; ValueError where it has none."""
    try:
        return ALGORITHMS[algorithm]
    except KeyError:
        raise ValueError(f"no such hash here: {algorithm!r}; there are {', '.join(ALGORITHMS)}") from None


def pack(algorithm: str, chain: bytes, length: int, pending: bytes) -> bytes:
    """The stored form of a chaining value, a length in bytes and the ``length % block`` pending bytes."""
    body = _HEAD.pack(_MAGIC, ALGORITHMS[algorithm].code, length) + chain + pending
    return body + _CRC.pack(zlib.crc32(body))


def unpack(algorithm: str, state: bytes) -> tuple[bytes, int, bytes]:
    """What `pack` was given. ValueError: malformed, damaged, of another algorithm or another version."""
    code, block, chain_size = parameters(algorithm)
    if len(state) < _HEAD.size:
        raise ValueError(f"not a hash state: {len(state)} bytes are too few")
    magic, found, length = _HEAD.unpack_from(state)
    if magic != _MAGIC:
        raise ValueError(f"not a hash state this version of bucketry knows: its first byte is 0x{magic:02x}")
    if found != code:
        names = [name for name, known in ALGORITHMS.items() if known.code == found]
        raise ValueError(f"a hash state of {names[0] if names else f'algorithm {found}'}, not of {algorithm}")
    if length > MAX_LENGTH:
        raise too_long(algorithm, length)
    pending_at = _HEAD.size + chain_size
    crc_at = pending_at + length % block
    if len(state) != crc_at + _CRC.size:
        raise ValueError(f"a malformed hash state: {len(state)} bytes, not {crc_at + _CRC.size}")
    if zlib.crc32(state[:crc_at]) != _CRC.unpack_from(state, crc_at)[0]:
        raise ValueError("a damaged hash state: its checksum does not match")
    return state[_HEAD.size : pending_at], length, state[pending_at:crc_at]


def too_long(algorithm: str, length: int) -> ValueError:
    """The error of a length above `MAX_LENGTH`."""
    return ValueError(f"no {algorithm} message is {length} bytes long: at most {MAX_LENGTH}")


def between_blocks(algorithm: str, length: int) -> ValueError:
    """The error of asking for a chaining value where there is none."""
    return ValueError(
        f"no {algorithm} chaining value after {length} bytes: not a multiple of {ALGORITHMS[algorithm].block}"
    )
