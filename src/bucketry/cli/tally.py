"""Adds up the events of a transfer: what every way to show progress shows."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bucketry.transfer import events
from bucketry.transfer.wording import size_text

WINDOW = 5.0
"""Seconds over which a rate is measured."""

_LONG = re.compile(r"([0-9a-f]{12})[0-9a-f]{52,}")
"""A digest's digits: the first of them are enough for a person to tell one from the other."""


@dataclass(slots=True)
class Item:
    """One blob or manifest. Bytes; ``size`` None as long as it is not known.

    ``kind`` None: not a part of the image; the first request for it, say, that is made again.
    """

    name: str
    kind: events.Kind | None
    size: int | None = None
    read: int = 0
    moved: int = 0
    resumed: int = 0
    verified: int = 0
    state: str = "waiting"
    """waiting, moving, verifying, done or skipped."""
    why: str = ""

    @property
    def there(self) -> int:
        """Bytes that need not travel any more."""
        return self.resumed + self.moved


class Tally:
    """``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._window: deque[tuple[float, int]] = deque([(self._began, 0)])
        self.items: dict[str, Item] = {}
        self.began: events.Began | None = None
        self.ended: events.Ended | None = None
        self.moved = 0
        """Bytes that travelled in this run, those that were sent again not counted twice."""
        self.retries = 0

    def add(self, event: events.Event) -> Item | None:
        """Takes an event in; gives the item that it is about."""
        match event:
            case events.Began():
                self.began = event
            case events.Ended():
                self.ended = event
            case events.Note():
                pass
            case events.Found():
                item = self.items.setdefault(event.item, Item(event.item, event.kind))
                item.size = event.size if event.size is not None else item.size
                return item
            case _:
                return self._about_item(event)
        return None

    def _about_item(
        self,
        event: events.Skipped
        | events.Resumed
        | events.Read
        | events.Moved
        | events.Again
        | events.Verified
        | events.Done,
    ) -> Item:
        if isinstance(event, events.Again) and event.item not in self.items:
            return Item(event.item, None)
        item = self.items.setdefault(event.item, Item(event.item, "blob"))
        match event:
            case events.Skipped():
                item.state, item.why = "skipped", event.why
                item.size = event.size if event.size is not None else item.size
            case events.Resumed():
                item.resumed += event.size
            case events.Read():
                item.read += event.size
            case events.Moved():
                item.moved += event.size
                item.state = "moving"
                self._count(event.size)
            case events.Again():
                item.moved -= event.size
                self.retries += 1
                self._count(-event.size)
            case events.Verified():
                item.verified += event.size
                if item.size is not None and item.there >= item.size and item.state == "moving":
                    item.state = "verifying"
            case events.Done():
                item.size, item.state = event.size, "done"
        return item

    def _count(self, size: int) -> None:
        now = self._clock()
        self.moved += size
        self._window.append((now, self.moved))
        while len(self._window) > 2 and now - self._window[1][0] > WINDOW:
            self._window.popleft()

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    def rate(self) -> float:
        """Bytes a second of late; 0 before there is one."""
        first, base = self._window[0]
        passed = self._clock() - first
        return max(0.0, (self.moved - base) / passed) if passed > 0 else 0.0

    def total(self) -> int | None:
        """Bytes of all items that travel or travelled; None while the size of one is not known."""
        total = 0
        for item in self.items.values():
            if item.state == "skipped":
                continue
            if item.size is None:
                return None
            total += item.size
        return total

    def there(self) -> int:
        """Bytes of these that are there."""
        return sum(
            item.size if item.state == "done" and item.size is not None else item.there
            for item in self.items.values()
            if item.state != "skipped"
        )

    def blobs_moved(self) -> bool:
        """Whether anything but manifests travelled."""
        return any(item.moved for item in self.items.values() if item.kind != "manifest")

    def left(self) -> float | None:
        """Seconds that it will still take; None where nobody can say."""
        total, rate = self.total(), self.rate()
        if total is None or rate <= 0:
            return None
        return max(0, total - self.there()) / rate


def time_text(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 10 min``"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _short(seconds: float) -> str:
    """As `time_text`, but ``0.05 s`` and ``0.4 s`` too."""
    if seconds >= 1:
        return time_text(seconds)
    return f"{seconds:.2f} s" if seconds < 0.1 else f"{seconds:.1f} s"


def name_text(item: Item) -> str:
    """``layer sha256:1234567890ab``: what a person can tell items by."""
    name = _LONG.sub(r"\1", item.name)
    return name if item.kind is None else f"{item.kind} {name}"


def short_name(item: Item) -> str:
    """``1234567890ab``: the first digits of its digest, or the end of its path."""
    digits = _LONG.search(item.name)
    return item.name[-12:] if digits is None else digits[1]


def _there(tally: Tally, size: int) -> str:
    skipped = [item for item in tally.items.values() if item.state == "skipped"]
    if all(item.size is not None for item in skipped):
        return f"{size_text(size)} {'was' if size == 1 else 'were'} there already"
    count = sum(item.kind in ("layer", "blob") for item in skipped)
    return f"{count} {'layer was' if count == 1 else 'layers were'} there already"


def summary(tally: Tally, ended: events.Ended) -> list[str]:
    """The last lines: what was sent, how fast, how to use it; none of a publish, whose command knows more of it."""
    action = "copy" if tally.began is None else tally.began.action
    if action == "publish":
        return []
    verb = {"push": "pushed", "pull": "pulled", "copy": "copied"}[action]
    there = _there(tally, ended.skipped)
    if not ended.moved:
        line = f"nothing had to be {verb}: {there}"
    elif not tally.blobs_moved() and any(item.state == "skipped" for item in tally.items.values()):
        # Manifests alone: their few bytes say nothing, and their rate less.
        line = f"no layer had to be {verb}: {there}"
        line += "" if tally.began is None else f"; {tally.began.target} is up to date"
    else:
        seconds = max(ended.seconds, 0.01)
        line = f"{verb} {size_text(ended.moved)} in {_short(seconds)}, {size_text(ended.moved / seconds)}/s"
        if ended.parallel > 1:
            line += f", up to {ended.parallel} pieces at once"
        if ended.skipped:
            line += f"; {there}"
    if tally.retries:
        line += f"; {tally.retries} {'piece was' if tally.retries == 1 else 'pieces were'} sent again"
    lines = [line, ended.digest] if ended.digest else [line]
    if ended.pull is not None:
        lines.append(ended.pull)
    return lines
