"""What scenarios share: sizes, rounds, and the two registries side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.layers import GIB, KIB, MIB
from bench.results import NO_TARGET, Row, Target
from bench.services import Bucket, Registry, Services


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes in bytes, times in seconds. ``odd_layer`` is no multiple of any part's size."""

    rounds: int
    layer: int
    odd_layer: int
    large: int
    seconds: int
    many: int
    """Different tags or blobs that are asked for in turn."""


FULL = Scale(rounds=3, layer=256 * MIB, odd_layer=254 * MIB + 12345, large=GIB, seconds=5, many=200)
QUICK = Scale(rounds=1, layer=12 * MIB, odd_layer=9 * MIB + 12345, large=20 * MIB, seconds=1, many=20)

CAP = "10m"
"""Bytes a second of a capped connection, as nginx writes 10 MiB."""

SMALL = 10 * KIB
TOGETHER = 8
"""Pushes at once."""


def shown(size: int) -> str:
    """``256 MiB``, ``250 MiB + 12,345 B``"""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            whole, rest = divmod(size, unit)
            return f"{whole} {name}" + (f" + {rest:,} B" if rest else "")
    return f"{size} B"


@dataclass(frozen=True, slots=True)
class Pair:
    """Both registries, running."""

    peer: Registry
    bucketry: Registry

    def __iter__(self) -> Iterator[Registry]:
        return iter((self.peer, self.bucketry))


@dataclass(frozen=True, slots=True)
class Ground:
    services: Services
    scale: Scale
    say: Callable[[str], None]
    """Tells how it goes."""
    shared: tuple[Bucket, Bucket] | None = None
    """An S3 server for all scenarios, where they are in a hurry."""

    def seaweed(self, *, expected: int = 0) -> AbstractContextManager[tuple[Bucket, Bucket]]:
        """An S3 server, with a bucket for each registry, which will hold ``expected`` bytes."""
        return self.services.seaweed(expected=expected) if self.shared is None else nullcontext(self.shared)

    @contextmanager
    def on_s3(self, *, cap: str | None = None, expected: int = 0) -> Iterator[tuple[Pair, int]]:
        """Both on one S3 server, and the port of that server's counters."""
        with ExitStack() as stack:
            buckets = stack.enter_context(self.seaweed(expected=expected))
            ways = [stack.enter_context(self.services.capped(each, cap)) if cap else each for each in buckets]
            yield self._pair(stack, *ways), buckets[0].metrics

    @contextmanager
    def on_folders(self) -> Iterator[Pair]:
        """Each on a folder of its own."""
        with ExitStack() as stack:
            yield self._pair(stack, *(stack.enter_context(self.services.scratch(f"store-{n}")) for n in range(2)))

    def _pair(self, stack: ExitStack, theirs: Bucket | Path, ours: Bucket | Path) -> Pair:
        peer = stack.enter_context(self.services.peer(theirs))
        return Pair(peer, stack.enter_context(self.services.bucketry(ours)))


class Rounds:
    """What was measured of each registry, a value a round."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {"peer": [], "bucketry": []}

    def add(self, registry: Registry, value: float) -> None:
        self._values[registry.name].append(value)

    def row(
        self, name: str, unit: str, target: Target = NO_TARGET, *, more_is_better: bool = False, note: str = ""
    ) -> Row:
        values = self._values
        return Row(name, unit, values["peer"], values["bucketry"], target, more_is_better=more_is_better, note=note)
