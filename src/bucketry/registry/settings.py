"""What a registry's owner may set, and what is passed in from outside: clock and ids."""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass
from typing import Protocol

from bucketry.hashing import SEGMENT
from bucketry.oci.manifest import MAX_MANIFEST

MIB = 1024 * 1024


class Clock(Protocol):
    def now(self) -> float:
        """POSIX seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for measuring how long something took."""
        ...


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class Ids(Protocol):
    def token(self) -> str:
        """32 hex digits nobody can guess."""
        ...

    def uuid(self) -> str:
        """A random UUID as text."""
        ...


class RandomIds:
    def token(self) -> str:
        return secrets.token_hex(16)

    def uuid(self) -> str:
        return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Sizes in bytes, times in seconds."""

    part_size: int = 5 * MIB
    """Of every part of an upload but the last. A blob may have 10,000 parts: 48 GiB by default."""
    memory: int = 96 * MIB
    """All part buffers of this process together; uploads beyond it wait for a buffer."""
    parallel_parts: int = 8
    """Parts of one upload that may be on their way to the store at once."""
    upload_expiry: float = 24 * 3600
    """An upload session ends this long after it began, finished or not."""
    lease_renewal: float = 3600
    """A link older than this is written anew when a client is told that it may skip the upload."""
    max_manifest: int = MAX_MANIFEST
    sparse: bool = False
    """Take a manifest whose blobs, or an index whose manifests, are not all in the repository."""
    delete: bool = True
    mount_without_source: bool = True
    """Mount a blob of any repository when the client does not say of which."""
    max_page: int = 1000
    """The most tags, repositories or referrers one answer lists."""
    segment: int = SEGMENT
    """Between two SHA-256 checkpoints of what is uploaded from now on: a multiple of 64."""
    verify_readers: int = 32
    """Segments of one blob that are read back at once."""
    verify_at_once: int = 2
    """Blobs that this process reads back at once; others wait their turn."""
    verify_beat: float = 5.0
    """Between two signs of life of whoever reads a blob back."""
    verify_takeover: float = 15.0
    """Another replica takes a verification over that it has seen no sign of life of for so long."""
