"""Token buckets by key, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, and ``per_second`` on average."""

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        if not (self.per_second > 0 and self.burst >= 1):
            raise ValueError("a rate lets through at least one at once, and more than none a second")


class Buckets:
    """One bucket a key, full at first. ``monotonic`` in seconds.

    Of more than ``most`` keys, those that were used longest ago are forgotten, which fills them.
    """

    def __init__(self, rate: Rate, *, monotonic: Callable[[], float], most: int = MAX_KEYS) -> None:
        self._rate = rate
        self._monotonic = monotonic
        self._most = most
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What was in it, and when. A bucket that is full needs no entry."""

    def __len__(self) -> int:
        return len(self._levels)

    def wait(self, key: str, cost: float = 1.0) -> float:
        """Seconds until ``cost`` can be taken: 0 for now. More than the burst is as the burst."""
        missing = min(cost, self._rate.burst) - self._level(key)
        return 0.0 if missing <= 1e-9 else missing / self._rate.per_second

    def take(self, key: str, cost: float = 1.0) -> None:
        """Takes it, whether or not it is there: the level may go below nothing, by one burst at most."""
        self._set(key, max(self._level(key) - cost, -self._rate.burst))

    def give(self, key: str, amount: float = 1.0) -> None:
        """Puts back what was taken."""
        self._set(key, self._level(key) + amount)

    def fill(self, key: str) -> None:
        self._levels.pop(key, None)

    def _level(self, key: str) -> float:
        held = self._levels.get(key)
        if held is None:
            return self._rate.burst
        level, then = held
        return min(self._rate.burst, level + max(0.0, self._monotonic() - then) * self._rate.per_second)

    def _set(self, key: str, level: float) -> None:
        if level >= self._rate.burst:
            self._levels.pop(key, None)
            return
        self._levels[key] = (level, self._monotonic())
        self._levels.move_to_end(key)
        while len(self._levels) > self._most:
            self._levels.popitem(last=False)
