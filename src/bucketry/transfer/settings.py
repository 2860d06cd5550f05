"""What a person may set of a transfer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024

MOST_PARALLEL = 64
"""Pieces on their way at once, however fast it is."""

LEAST_MEMORY = 4 * MIB


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where bucketry keeps what makes a second run cheaper: ``$XDG_CACHE_HOME/bucketry`` or ``~/.cache/bucketry``."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_CACHE_HOME", "")
    # The basedir specification wants relative paths ignored.
    return (Path(base) if base.startswith("/") else Path(environ.get("HOME") or "/tmp") / ".cache") / "bucketry"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSettings:
    """Sizes in bytes. ValueError, with a sentence for a person, where a value cannot be."""

    parallel: int | None = None
    """Pieces on their way at once; None: as many as make it faster."""
    memory: int = 256 * MIB
    """The buffers of all pieces together."""
    part_size: int | None = None
    """A wish; None: chosen by the size of the blob."""
    compression: str = "gzip"
    """Of layers that are not compressed yet, by name: ``gzip``, ``zstd:3``, ``none``."""
    platform: str | None = None
    """``os/architecture[/variant]``: one image of an index; None: see the operation."""
    referrers: bool = False
    """Take signatures, SBOMs and the like along."""
    retries: int = 8
    """Of each piece, after a failure that may pass. The waits between 8 add up to more than a minute."""
    cache: Path = field(default_factory=cache_folder)
    """The folder of what a later run goes on with. Nothing fails where it cannot be written."""

    def __post_init__(self) -> None:
        if self.parallel is not None and not 1 <= self.parallel <= MOST_PARALLEL:
            raise ValueError(f"{self.parallel} pieces at once: choose 1 to {MOST_PARALLEL}")
        if self.memory < LEAST_MEMORY:
            raise ValueError(f"{self.memory} bytes of memory are too few: at least {LEAST_MEMORY // MIB} MiB")
        if self.part_size is not None and not 1 <= self.part_size <= self.memory:
            raise ValueError(f"a part of {self.part_size} bytes does not fit into the {self.memory} bytes of memory")
        if self.retries < 0:
            raise ValueError(f"{self.retries} retries: choose 0 or more")

    def part(self, size: int | None) -> int:
        """Bytes of the parts to wish for, of a blob of ``size`` bytes (None: not known)."""
        if self.part_size is not None:
            return self.part_size
        # 10,000 parts are the most of S3; few requests matter more for large blobs than a quick climb.
        wanted = 8 * MIB
        if size is None or size > 4096 * MIB:
            wanted = 16 * MIB
        while size is not None and wanted * 9_000 < size:
            wanted *= 2
        return wanted
