"""Measurements side by side, with what they should reach, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """``ratio``: how many times better than the peer, at least. ``most``: a limit, in the row's unit."""

    ratio: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        if self.ratio is not None:
            return "below the peer" if self.ratio == 1 else f">= {self.ratio:g}x the peer"
        return "" if self.most is None else f"<= {self.most:g}"


NO_TARGET = Target()


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: a value a round each; medians count. ``note`` says what a reader must know of it.

    ``peer`` is empty where nothing was measured.
    """

    name: str
    unit: str
    peer: Sequence[float]
    bucketry: Sequence[float]
    target: Target = NO_TARGET
    more_is_better: bool = False
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times better bucketry is: above 1 is better."""
        if not self.peer:
            return None
        theirs, ours = median(self.peer), median(self.bucketry)
        above, below = (ours, theirs) if self.more_is_better else (theirs, ours)
        return above / below if below else None

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.target.most is not None:
            return median(self.bucketry) <= self.target.most
        if self.target.ratio is None:
            return None
        ratio = self.ratio
        if ratio is None:
            return False
        return ratio > 1 if self.target.ratio == 1 else ratio >= self.target.ratio

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "target": str(self.target), "ratio": self.ratio, "met": self.met}


_HEADS = ("", "unit", "peer", "bucketry", "ratio", "target", "")


def table(rows: Sequence[Row]) -> str:
    """For people: medians, the range of the rounds in brackets, ratios that are better above 1."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    marks = {note: f" [{number}]" for number, note in enumerate(notes, 1)}
    lines = [_HEADS, *(_cells(row, marks.get(row.note, "")) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    shown = ["  ".join(_pad(line, widths)).rstrip() for line in lines]
    shown.insert(1, "-" * max(map(len, shown)))
    return "\n".join([*shown, "", *(f"{mark.strip()} {note}" for note, mark in marks.items())])


def _cells(row: Row, mark: str) -> tuple[str, ...]:
    verdict = {True: "MET", False: "MISSED", None: ""}[row.met]
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}x" if row.ratio < 100 else f"{row.ratio:.0f}x"
    return (row.name + mark, row.unit, _values(row.peer), _values(row.bucketry), ratio, str(row.target), verdict)


def _values(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = _number(min(values)), _number(max(values))
    middle = _number(median(values))
    return middle if low == high else f"{middle} [{low}-{high}]"


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _pad(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Numbers to the right, words to the left."""
    return [
        cell.rjust(width) if column in (2, 3, 4) else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
