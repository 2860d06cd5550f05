"""Scenarios that push blobs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench.client import REPOSITORY, push, push_together
from bench.ground import CAP, SMALL, TOGETHER, Ground, Pair, Rounds, shown
from bench.layers import GIB, MIB, Layer
from bench.measure import counters, watched_memory
from bench.processes import cpu_seconds
from bench.protocol import Client, Way
from bench.results import NO_TARGET, Row, Target
from bench.services import Registry

WAYS = {Way.PATCH: "POST, PATCH chunked, PUT", Way.PUT: "POST, PUT"}

_BATCHED = "delete_many"
"""The store call that bucketry saves up: it removes ended sessions, many in one, off the client's path."""
_SETTLE_SECONDS = 0.3


def capped(ground: Ground) -> Sequence[Row]:
    """Through a store whose every connection is slow, as S3's are."""
    scale, rows = ground.scale, []
    with ground.on_s3(cap=CAP) as (pair, _):
        for way, size, rounds in (
            (Way.PATCH, scale.layer, scale.rounds),
            (Way.PUT, scale.layer, scale.rounds),
            (Way.PATCH, scale.odd_layer, 1),
            (Way.PUT, scale.odd_layer, 1),
        ):
            rates = Rounds()
            for number in range(rounds):
                layer = Layer(f"capped {way.value} {number}", size)
                for registry in pair:
                    seconds = push(registry.port, layer, way).total
                    rates.add(registry, size / MIB / seconds)
                    ground.say(f"{shown(size)} to {registry.name}, {way.value}: {seconds:.1f} s")
            title = f"push of {shown(size)}, 10 MiB/s a connection: {WAYS[way]}"
            rows.append(rates.row(title, "MiB/s", Target(ratio=5), more_is_better=True))
    return rows


def large(ground: Ground) -> Sequence[Row]:
    """To S3. Each round has an S3 server of its own, as what the peer leaves behind would fill the memory."""
    pushes = _Pushes(ground, "S3")
    for number in range(ground.scale.rounds):
        with ground.on_s3(expected=6 * ground.scale.large) as (pair, _):
            pushes.run(pair, number)
    return pushes.rows(Target(ratio=10), Target(ratio=1))


def folder(ground: Ground) -> Sequence[Row]:
    pushes = _Pushes(ground, "a folder")
    for number in range(ground.scale.rounds):
        with ground.on_folders() as pair:
            pushes.run(pair, number)
    return pushes.rows(NO_TARGET, NO_TARGET)


class _Pushes:
    """Large layers pushed each way: how long the last request takes, CPU seconds, rates."""

    def __init__(self, ground: Ground, where: str) -> None:
        self._ground = ground
        self._where = where
        self._commits = Rounds()
        self._cpu = {way: Rounds() for way in WAYS}
        self._rates = {way: Rounds() for way in WAYS}

    def run(self, pair: Pair, number: int) -> None:
        size = self._ground.scale.large
        for way in WAYS:
            layer = Layer(f"large {way.value} {number}", size)
            for registry in pair:
                before = cpu_seconds(registry.pid)
                pushed = push(registry.port, layer, way)
                time.sleep(_SETTLE_SECONDS)
                cpu = (cpu_seconds(registry.pid) - before) * GIB / size
                self._cpu[way].add(registry, cpu)
                self._rates[way].add(registry, size / MIB / pushed.total)
                if way is Way.PATCH:
                    self._commits.add(registry, pushed.commit)
                self._ground.say(
                    f"{shown(size)} to {registry.name} on {self._where}, {way.value}: {pushed.total:.2f} s, "
                    f"last request {pushed.commit:.3f} s, CPU {cpu:.2f} s/GiB"
                )

    def rows(self, commit: Target, cpu: Target) -> list[Row]:
        size, where = shown(self._ground.scale.large), self._where
        found = [self._commits.row(f"commit of {size} on {where}: the PUT after the PATCH", "s", commit)]
        for way, title in WAYS.items():
            found.append(self._cpu[way].row(f"CPU of the server, push to {where}: {title}", "s/GiB", cpu))
        for way, title in WAYS.items():
            found.append(self._rates[way].row(f"push of {size} to {where}: {title}", "MiB/s", more_is_better=True))
        return found


def memory(ground: Ground) -> Sequence[Row]:
    """Eight layers at once, to one registry after the other, each with an S3 server of its own."""
    size = ground.scale.large
    rss: dict[str, float] = {}
    pss: dict[str, float] = {}
    samples: dict[str, int] = {}
    layers = [Layer(f"memory {number}", size) for number in range(TOGETHER)]
    for index, name in enumerate(("peer", "bucketry")):
        with ExitStack() as stack:
            bucket = stack.enter_context(ground.seaweed(expected=2 * TOGETHER * size))[index]
            start = ground.services.peer if name == "peer" else ground.services.bucketry
            registry = stack.enter_context(start(bucket))
            with watched_memory(registry.pid) as peak:
                began = time.monotonic()
                push_together(registry.port, layers, Way.PATCH)
            rss[name], pss[name], samples[name] = peak.rss / MIB, peak.pss / MIB, peak.samples
            ground.say(
                f"{TOGETHER} x {shown(size)} at once to {name}: {time.monotonic() - began:.0f} s, "
                f"RSS {rss[name]:.0f} MiB, PSS {pss[name]:.0f} MiB ({peak.samples} samples)"
            )
    what = f"peak memory, {TOGETHER} pushes of {shown(size)} at once to S3"
    limit = Target(most=300)
    return [
        Row(
            f"{what}: RSS",
            "MiB",
            [rss["peer"]],
            [rss["bucketry"]],
            limit,
            note="summed over all processes of the server, so pages they share count once for each",
            details={"samples": samples},
        ),
        Row(f"{what}: PSS", "MiB", [pss["peer"]], [pss["bucketry"]], limit, note="as RSS, but shared pages count once"),
    ]


def calls(ground: Ground) -> Sequence[Row]:
    """HEAD to commit, by bucketry's own counters and by the S3 server's, which count the peer's too."""
    rows = []
    with ground.on_s3() as (pair, metrics):
        # Connections, and what a worker asks for once.
        for registry in pair:
            for number in range(16):
                with Client(registry.port) as client:
                    client.push(REPOSITORY, Layer(f"calls warm {number}", SMALL), Way.PATCH)
        for way, title in WAYS.items():
            for size in (SMALL, ground.scale.layer):
                layer = Layer(f"calls {way.value}", size)
                theirs = _counted(pair.peer, layer, way, metrics)
                ours = _counted(pair.bucketry, layer, way, metrics)
                told = {name: count for name, count in ours.told.items() if name != _BATCHED}
                parts = told.get("put_part", 0)
                ground.say(f"{shown(size)}, {way.value}: peer {theirs.seen}, bucketry {ours.seen}: {dict(ours.told)}")
                rows.append(
                    Row(
                        f"store requests, a blob of {shown(size)}: {title}",
                        "requests",
                        [theirs.seen],
                        [sum(told.values())],
                        Target(most=6 if size == SMALL else 8 + parts),
                        note=", ".join(f"{name} {count}" for name, count in sorted(told.items()))
                        + (f"; off the client's path {_BATCHED} {batches}" if (batches := ours.told[_BATCHED]) else "")
                        + f"; the S3 server counted {ours.seen}",
                        details={"by_operation": dict(ours.told), "seen_by_the_s3_server": ours.seen},
                    )
                )
    return rows


class _Count(NamedTuple):
    seen: int
    """Requests to its bucket, as the S3 server counts them."""
    told: Counter[str]
    """The same by operation, as the registry counts them; empty of the peer."""


def _counted(registry: Registry, layer: Layer, way: Way, metrics: int) -> _Count:
    ours = registry.name == "bucketry"

    def count() -> tuple[int, Counter[str]]:
        told = counters(registry.port, "bucketry_store_requests_total", "operation") if ours else Counter[str]()
        return counters(metrics, "SeaweedFS_s3_request_total", "bucket")[registry.name], told

    seen, told = count()
    with Client(registry.port) as client:
        client.push(REPOSITORY, layer, way)
    time.sleep(_SETTLE_SECONDS)
    seen_after, told_after = count()
    return _Count(seen_after - seen, told_after - told)
