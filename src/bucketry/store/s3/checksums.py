"""Checksums that the store verifies a body by when it arrives. Large bodies are summed in a thread."""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bucketry.store.contract import Buffer

Sum: TypeAlias = Literal["md5", "crc32", "sha256"]

HEADERS: Mapping[Sum, str] = {
    "md5": "content-md5",
    "crc32": "x-amz-checksum-crc32",
    "sha256": "x-amz-checksum-sha256",
}

_ELEMENTS: Mapping[str, str] = {"crc32": "ChecksumCRC32", "sha256": "ChecksumSHA256"}

_INLINE = 256 * 1024
"""Bytes: up to it a hop to a thread costs more than the sum."""

_SUMS: Mapping[Sum, Callable[[Buffer], bytes]] = {
    "md5": lambda body: hashlib.md5(body, usedforsecurity=False).digest(),
    "crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "sha256": lambda body: hashlib.sha256(body).digest(),
}

_PART_ETAG = re.compile(r"(.*);(\d+)(?:;(crc32|sha256)=([A-Za-z0-9+/=]+))?", re.DOTALL | re.ASCII)


async def checksum(kind: Sum, body: Buffer) -> str:
    """The checksum in base64, as its header carries it."""
    add = _SUMS[kind]
    if memoryview(body).nbytes <= _INLINE:
        return b64encode(add(body)).decode()
    return b64encode(await asyncio.to_thread(add, body)).decode()


@dataclass(frozen=True, slots=True)
class PartTag:
    """What the contract carries as a part's etag: the store's own, and what completing needs to know besides.

    The size, since S3 is not told how long the parts are that it is to put together; and the checksum, since S3 wants
    those of the parts again. They ride along because another process may complete the upload than the one that wrote
    the part. ``size`` is None for an etag that `join` did not make.
    """

    etag: str
    size: int | None = None
    kind: Sum | None = None
    value: str = ""

    def join(self) -> str:
        checksum = f";{self.kind}={self.value}" if self.kind in _ELEMENTS else ""
        return f"{self.etag};{self.size}{checksum}"

    @classmethod
    def split(cls, joined: str) -> PartTag:
        found = _PART_ETAG.fullmatch(joined)
        if found is None:
            return cls(joined)
        kind = next((kind for kind in _SUMS if kind == found[3]), None)
        return cls(found[1], int(found[2]), kind, found[4] or "")

    @classmethod
    def listed(cls, etag: str, size: int, kind: Sum | None, sums: Mapping[str, str]) -> PartTag:
        """Of a part as the store lists it; ``sums`` are its checksums by the names of their XML elements."""
        value = "" if kind is None else sums.get(_ELEMENTS.get(kind, ""), "")
        return cls(etag, size, kind if value else None, value)

    @property
    def element(self) -> tuple[str, str] | None:
        """Name and value of the XML element that carries the checksum."""
        return None if self.kind is None else (_ELEMENTS[self.kind], self.value)
