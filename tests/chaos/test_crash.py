"""A process dies, or the store loses an answer or refuses, at every single store call of everything a client does.

Nothing that was acknowledged is lost, nothing half-written is visible, what the client does next succeeds, and once all
sessions have expired the sweeper leaves nothing but what is published: see `LEFT` for what it cannot know of.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
from tests.chaos.clients import CLIENTS, Client
from tests.unit.registry.helpers import LONG, FakeClock, Truth, memory_store, open_registry, truth

from bucketry.oci import Digest
from bucketry.registry import Registry
from bucketry.store.contract import Unavailable
from bucketry.store.faults import Call, CrashAfter, CrashBefore, Crashed, Fault, FaultyStore, LoseAnswer, Refuse, Rule
from bucketry.store.memory import MemoryStore

FAULTS: dict[str, Callable[[], Fault]] = {
    "dies before": CrashBefore,
    "dies after": CrashAfter,
    "answer lost": LoseAnswer,
    "refused": Refuse,
}


Left: TypeAlias = tuple[int, int]
"""Bulk objects without a record that the sweeper leaves: where the client asked how far it came, and began again."""

LEFT: dict[str, dict[str, Left]] = {
    # By the last call that took effect. Everywhere else nothing is left.
    #
    # These bytes were written before a session or a record could name them: nothing points to them.
    "PATCH, PUT": {"put data 1": (1, 1)},
    "chunks, PUT": {"put data 1": (1, 1)},
    "PUT": {"put data 1": (1, 1)},
    "PUT of several parts": {"complete_multipart data 1": (1, 1), "put checkpoints 1": (1, 1)},
    "POST": {"put data 1": (1, 1)},
    "POST of several parts": {"complete_multipart data 1": (1, 1), "put checkpoints 1": (1, 1)},
    "PATCH, PUT of what another has": {"put data 1": (1, 1)},
    "PUT of several parts that another has": {
        "complete_multipart data 1": (1, 1),
        "put checkpoints 1": (1, 1),
        "put blobs 1": (1, 1),
        "get blobs 1": (1, 1),
        "put repos 1": (1, 1),
        "get blobs 2": (1, 1),
    },
}


@dataclass
class World:
    """One store, and the registries that one client uses one after the other."""

    client: Client
    clock: FakeClock = field(default_factory=FakeClock)
    inner: MemoryStore = field(init=False)
    replicas: int = 1

    def __post_init__(self) -> None:
        self.inner = memory_store(self.clock)
        self.client.clock = self.clock

    async def registry(self, store: FaultyStore | None = None) -> Registry:
        self.replicas += 1
        return await open_registry(store or self.inner, self.clock, replica=self.replicas)


async def calls_of(client: Client) -> list[Call]:
    """The store calls of a run without a fault."""
    world = World(client)
    await client.prepare(await world.registry())
    view = FaultyStore(world.inner)
    registry = await world.registry(view)
    before = len(view.log)
    await client.run(registry)
    return view.log[before:]


def last_effect(calls: list[Call], at: int, fault: Fault) -> str:
    """The last call that took effect, and which of its like: ``put uploads 2``."""
    last = at if isinstance(fault, CrashAfter | LoseAnswer) else at - 1
    if last < 0:
        return "nothing"

    def kind(call: Call) -> str:
        return f"{call.operation} {call.key.partition('/')[0]}"

    return f"{kind(calls[last])} {Counter(map(kind, calls[: last + 1]))[kind(calls[last])]}"


async def suffer(client: Client, fault: Fault, at: int, *, ask: bool, same: bool) -> int:
    """Runs the client into the fault at a call, then lets it go on; what the sweeper leaves of that.

    ``ask``: the client asks how far it came; else it begins again. ``same``: on the same process, which lived on.
    """
    world = World(client)
    await client.prepare(await world.registry())
    view = FaultyStore(world.inner)
    registry = await world.registry(view)
    view.add(Rule(fault, at=len(view.log) + at))
    try:
        await client.run(registry)
    except (Crashed, Unavailable):
        check_nothing_is_broken(await truth(world.inner), acknowledged=False)
    else:
        await client.check(await world.registry())

    again = registry if same and not view.crashed else await world.registry()
    await (client.go_on(again) if ask else client.run(again))

    await client.check(again)
    await client.check(await world.registry())
    check_nothing_is_broken(await truth(world.inner), acknowledged=True)

    world.clock.advance(LONG)
    await again.close()
    last = await world.registry()
    await last.sweeper.sweep()

    after = await truth(world.inner)
    check_nothing_is_broken(after, acknowledged=True)
    assert (after.sessions, after.multiparts) == (set(), 0)
    await client.check(last)
    assert {Digest.of(blob) for blob in client.blobs()} == {digest for _, digest in after.links}
    assert (after.unlinked, after.stray) == ([], [])
    assert {marker[:2] for marker in after.markers} <= set(after.manifests)
    return len(after.orphans)


def check_nothing_is_broken(found: Truth, *, acknowledged: bool) -> None:
    problems = found.problems
    if not acknowledged:
        # A manifest enters its subject's listing after it is there itself, and leaves it before.
        problems = [problem for problem in problems if "is not among the referrers" not in problem]
    assert problems == []
    assert found.lost == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", CLIENTS)
async def test_a_fault_at_every_call(name: str, fault: str) -> None:
    calls = await calls_of(CLIENTS[name]())
    for at in range(len(calls)):
        last = last_effect(calls, at, FAULTS[fault]())
        for same in (True, False):
            left = [await suffer(CLIENTS[name](), FAULTS[fault](), at, ask=ask, same=same) for ask in (True, False)]
            assert tuple(left) == LEFT.get(name, {}).get(last, (0, 0)), f"{fault}, at call {at}, after {last}"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", CLIENTS)
async def test_faults_again_and_again(name: str, seed: int) -> None:
    """What goes on after a fault meets the next one, on this replica or another, until it is done."""
    chance = random.Random(f"{name} {seed}")
    client = CLIENTS[name]()
    world = World(client)
    await client.prepare(await world.registry())
    views = [FaultyStore(world.inner) for _ in range(2)]
    registries = [await world.registry(view) for view in views]
    for attempt in range(100):
        at = chance.randrange(2)
        if views[at].crashed:
            views[at] = FaultyStore(world.inner)
            registries[at] = await world.registry(views[at])
        fault = FAULTS[chance.choice(list(FAULTS))]()
        views[at].add(Rule(fault, at=len(views[at].log) + chance.randrange(3 + attempt)))
        try:
            await (client.go_on if attempt and chance.random() < 0.7 else client.run)(registries[at])
        except (Crashed, Unavailable):
            check_nothing_is_broken(await truth(world.inner), acknowledged=False)
        else:
            break
    else:
        pytest.fail("it never ends")
    last = await world.registry()
    await client.check(last)
    world.clock.advance(LONG)

    await last.sweeper.sweep()

    after = await truth(world.inner)
    check_nothing_is_broken(after, acknowledged=True)
    assert (after.sessions, after.multiparts, after.unlinked) == (set(), 0, [])
