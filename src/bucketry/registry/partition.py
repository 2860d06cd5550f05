"""How a blob is cut into parts that arrive in any order: part n begins at byte (n - 1) * ``part_size``. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from bucketry.oci.errors import SizeInvalid, UploadInvalid
from bucketry.store.contract import MAX_PARTS, Part

MAX_PART = 64 * 1024 * 1024
"""Bytes: no part is longer, but where the blob would not fit into `MAX_PARTS`."""
MAX_BLOB = 5 * 1024**4
"""Bytes: the largest object S3 takes."""
USUAL_PARTS = 256
"""Of a blob of known size, where the client has no wish."""
_TOLD = 100
"""Parts that an error names."""


def part_size_for(size: int | None, wish: int | None, *, segment: int, least: int, most: int | None) -> int:
    """Bytes of a part, for a blob of ``size`` bytes (None: not known yet) and a client's ``wish``.

    A multiple of ``segment``, so that whoever hashes part after part ends each at a checkpoint. A wish is clamped to
    ``least`` (what the store and the owner want of a part) and `MAX_PART`. Without one it is two segments (16 MiB:
    156 GiB fit) where the size is not known, else so long that a blob has `USUAL_PARTS` of them at most: short parts
    keep many connections at work on one layer, but each costs a request.

    ``most``: bytes a part may have because it is buffered here; None where it is not. Raises `SizeInvalid` for a
    size that cannot be, or that needs longer parts.
    """
    if size is not None and not 0 <= size <= MAX_BLOB:
        raise SizeInvalid(f"no blob of {size} bytes can be kept: at most {MAX_BLOB}", detail={"size": size})
    floor = _segments(least, segment)
    ceiling = max(floor, (MAX_PART if most is None else min(MAX_PART, most)) // segment * segment)
    if wish is None:
        wish = 2 * segment if size is None else -(-size // USUAL_PARTS)
    chosen = min(max(_segments(wish, segment), floor), ceiling)
    if size is not None:
        chosen = max(chosen, _segments(-(-size // MAX_PARTS), segment))
    if most is not None and chosen > max(most, floor):
        raise SizeInvalid(
            f"a blob of {size} bytes needs parts of {chosen}, and this registry buffers {most}: "
            "set upload.memory higher on it",
            detail={"size": size},
        )
    return chosen


def _segments(size: int, segment: int) -> int:
    """At least ``size``, and at least one segment."""
    return max(1, -(-size // segment)) * segment


def part_count(size: int, part_size: int) -> int:
    return -(-size // part_size)


def expected_size(number: int, part_size: int, size: int) -> int:
    """Bytes of that part of a blob of ``size`` bytes."""
    return max(0, min(part_size, size - (number - 1) * part_size))


def check_parts(parts: Iterable[Part], part_size: int, size: int) -> tuple[Part, ...]:
    """The parts of a blob of ``size`` bytes, in order, out of those that are in the store.

    Raises `UploadInvalid` where some are missing, and `SizeInvalid` where one is not of the size of its place.
    """
    if size > MAX_PARTS * part_size:
        raise SizeInvalid(
            f"{size} bytes are more than {MAX_PARTS} parts of {part_size}: begin with the size, or a wish"
        )
    found = {part.number: part for part in parts}
    count = part_count(size, part_size)
    missing = [number for number in range(1, count + 1) if number not in found]
    if missing:
        raise UploadInvalid(
            f"{len(missing)} of {count} parts of {part_size} bytes have not arrived: "
            f"send them, and complete the upload again",
            detail={"missing": missing[:_TOLD]},
        )
    wrong = [part for part in found.values() if part.size != expected_size(part.number, part_size, size)]
    if wrong:
        wrong.sort(key=lambda part: part.number)
        raise SizeInvalid(
            f"{len(wrong)} parts are not as long as their places in {size} bytes: part {wrong[0].number} has "
            f"{wrong[0].size} bytes, and {expected_size(wrong[0].number, part_size, size)} belong there. "
            "Send them again, and complete the upload again.",
            detail={
                "parts": [
                    {"number": part.number, "size": part.size, "expected": expected_size(part.number, part_size, size)}
                    for part in wrong[:_TOLD]
                ]
            },
        )
    return tuple(found[number] for number in range(1, count + 1))
