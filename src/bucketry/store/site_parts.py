"""How a file of a site is cut into parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bucketry.store.contract import MAX_PARTS, Buffer, InvalidPart, StoreError

DEFAULT_PART: Final = 8 * 1024 * 1024
"""Bytes."""

MAX_PART: Final = 5 * 1024**3
"""Bytes: the largest part S3 takes."""

_STEP: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cut:
    """``size`` bytes in parts of ``part_size`` bytes, the last one shorter. An empty file is one empty part."""

    size: int
    part_size: int

    @property
    def count(self) -> int:
        return max(1, -(-self.size // self.part_size))

    def length(self, number: int) -> int:
        """Bytes of a part; ``number`` is 1 to ``count``."""
        return min(self.part_size, self.size - (number - 1) * self.part_size)

    def check(self, number: int, body: Buffer) -> int:
        """The offset of a part. Raises `ValueError` for one that is none, or has not its length."""
        if not 1 <= number <= self.count:
            raise ValueError(f"there is no part {number} of {self.size} bytes in parts of {self.part_size}")
        given = memoryview(body).nbytes
        if given != self.length(number):
            raise ValueError(f"part {number} has {given} bytes, not {self.length(number)}")
        return (number - 1) * self.part_size

    def require_all(self, numbers: set[int], what: str) -> None:
        """Raises `InvalidPart` where parts are missing; ``numbers`` were put. An empty file needs none."""
        missing = self.count - len(numbers)
        if missing > 0 and self.size:
            raise InvalidPart(f"{what}: {missing} of its {self.count} parts were not put")


def cut(size: int, wish: int | None, *, least: int, most: int = MAX_PART) -> Cut:
    """Parts of ``wish`` bytes, or as near to it as ``least``, ``most`` and `MAX_PARTS` allow.

    Raises `StoreError` for what no parts can hold.
    """
    if size < 0:
        raise ValueError(f"no file has {size} bytes")
    if size > most * MAX_PARTS:
        raise StoreError(f"a file of {size:,} bytes is larger than {MAX_PARTS:,} parts of {most:,} can be")
    part_size = min(max(wish or DEFAULT_PART, least), most)
    if part_size * MAX_PARTS < size:
        part_size = min((size // MAX_PARTS // _STEP + 1) * _STEP, most)
    return Cut(size, part_size)
