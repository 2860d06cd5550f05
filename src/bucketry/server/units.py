"""Sizes, durations and addresses as people write them: ``8MiB``, ``24h``, ``127.0.0.1:5000``. Pure."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_SIZES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_DURATIONS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86_400),
}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s?([A-Za-z]*)")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")


def parse_size(given: int | str) -> int:
    """Bytes: ``8MiB`` (1024), ``8MB`` (1000), ``1.5GiB``, or a number. Raises `ValueError`."""
    if isinstance(given, int):
        if given < 0:
            raise ValueError("is less than nothing")
        return given
    match = _SIZE.fullmatch(given)
    factor = _SIZES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError('is not a size; write "8MiB", "8MB" or a number of bytes')
    size = Fraction(match[1]) * factor
    if size.denominator != 1:
        raise ValueError("is not a whole number of bytes")
    return size.numerator


def parse_duration(given: float | str) -> float:
    """Seconds: ``500ms``, ``30s``, ``10m``, ``24h``, ``7d``, ``1h30m``, or a number. Raises `ValueError`."""
    if isinstance(given, int | float):
        if not math.isfinite(given) or given < 0:
            raise ValueError("is not a duration; it must be 0 or more")
        return float(given)
    if _SECONDS.fullmatch(given):
        return float(given)
    pieces = list(_DURATION.finditer(given))
    if not pieces or "".join(piece[0] for piece in pieces) != given:
        raise ValueError('is not a duration; write "30s", "10m", "24h", "7d" or a number of seconds')
    return float(sum(Fraction(piece[1]) * _DURATIONS[piece[2]] for piece in pieces))


def format_size(size: int) -> str:
    """Exactly, in the largest unit of 1024 that divides it: ``8MiB``, ``1000B``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = _SIZES[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def format_duration(seconds: float) -> str:
    """Exactly, in the largest unit that divides it: ``24h``, ``90s``, ``250ms``; days from two on."""
    exact = Fraction(seconds)
    for unit in ("d", "h", "m", "s", "ms"):
        count = exact / _DURATIONS[unit]
        if count.denominator == 1 and count and not (unit == "d" and count < 2):
            return f"{count.numerator}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def split_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPV6]:PORT`` to host and port. Raises `ValueError`."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65_535:
        raise ValueError("is not HOST:PORT; write 127.0.0.1:5000, 0.0.0.0:5000 or [::]:5000")
    return match[1] or match[2], int(match[3])
