"""Byte ranges: of a blob that is read (RFC 9110, section 14), and of a chunk that is pushed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bucketry.oci.errors import UploadInvalid

MAX_RANGES = 1024
"""More are answered with the whole blob: nobody needs them, and each costs a read."""

_SPEC = re.compile(r"[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.ASCII)
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,19})-([0-9]{1,19})(?:/(?:[0-9]{1,19}|\*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """From ``start`` up to, not including, ``stop``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class Unsatisfiable(Exception):
    """No range of the header lies within the blob: 416."""


def parse_range(header: str | None, size: int) -> list[ByteRange] | None:
    """The ranges a Range header asks for of ``size`` bytes; None where it asks for all, or means nothing.

    An end beyond the blob is cut. Ranges that overlap or touch are joined where there are several. Raises
    `Unsatisfiable`, also for a range whose end lies before its start: the conformance suite asks for it.
    """
    if header is None:
        return None
    unit, separator, text = header.partition("=")
    if not separator or unit.strip().lower() != "bytes":
        return None
    specs = text.split(",", MAX_RANGES)
    if len(specs) > MAX_RANGES:
        return None
    found: list[ByteRange] = []
    for spec in specs:
        if not spec.strip():
            continue
        match = _SPEC.fullmatch(spec)
        if match is None or match[1] == match[2] == "":
            return None
        if match[1] == "":
            start, stop = max(0, size - int(match[2])), size
        else:
            start = int(match[1])
            stop = size if match[2] == "" else min(size, int(match[2]) + 1)
        if start < stop:
            found.append(ByteRange(start, stop))
    if not found:
        raise Unsatisfiable
    return found if len(found) == 1 else _joined(found)


def _joined(ranges: list[ByteRange]) -> list[ByteRange]:
    ranges = sorted(ranges, key=lambda part: part.start)
    joined = [ranges[0]]
    for part in ranges[1:]:
        if part.start <= joined[-1].stop:
            joined[-1] = ByteRange(joined[-1].start, max(joined[-1].stop, part.stop))
        else:
            joined.append(part)
    return joined


def parse_content_range(header: str | None) -> ByteRange | None:
    """Where a chunk belongs: ``0-1023`` as the spec writes it, or ``bytes 0-1023/…`` as HTTP does.

    Raises `UploadInvalid` for anything else.
    """
    if header is None:
        return None
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise UploadInvalid(
            f"the Content-Range {header[:80]!r} is none: write FIRST-LAST, both included, as in 0-1023",
            detail={"content-range": header[:80]},
        )
    return ByteRange(int(match[1]), int(match[2]) + 1)
