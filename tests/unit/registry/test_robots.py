from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.unit.registry.helpers import DAY, NOW, FakeClock, standstill

from bucketry.access.actions import Action
from bucketry.access.errors import PrincipalInvalid
from bucketry.access.robots import RobotRecord, make_token, parse_token
from bucketry.registry import layout
from bucketry.registry.robots import RobotExists, Robots, RobotUnknown
from bucketry.store.contract import Corrupt, StoredObject
from bucketry.store.memory import MemoryStore

RELOAD = 10.0


class Counting(MemoryStore):
    reads = 0
    late: asyncio.Event | None = None
    """What the next read waits for before it gives its answer."""

    async def get(self, key: str, *, limit: int = 16 * 1024 * 1024) -> StoredObject:
        self.reads += 1
        late, self.late = self.late, None
        found = await super().get(key, limit=limit)
        if late is not None:
            await late.wait()
        return found


def record(name: str = "ci", *, secret: int = 1, expires: float | None = None) -> RobotRecord:
    token = make_token(name, bytes([secret]) * 32)
    return RobotRecord(
        name=name,
        repositories=("team/**",),
        actions=(Action.PULL, Action.PUSH),
        created=NOW,
        digest=parse_token(token).digest,
        expires=expires,
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Counting:
    return Counting(clock=clock.now)


def robots_of(store: MemoryStore, clock: FakeClock, cached: int = 100) -> Robots:
    return Robots(store, clock=clock, reload=RELOAD, cached=cached)


async def test_a_robot_that_was_made_is_found_by_every_replica(store: Counting, clock: FakeClock) -> None:
    await robots_of(store, clock).create(record())

    assert await robots_of(store, clock).get("ci") == record()


async def test_the_store_holds_no_token(store: Counting, clock: FakeClock) -> None:
    await robots_of(store, clock).create(record())
    token = make_token("ci", bytes([1]) * 32)

    assert token.split("_")[2].encode() not in (await store.get(layout.robot("ci"))).body


async def test_of_many_made_at_once_under_one_name_one_is(store: Counting, clock: FakeClock) -> None:
    replicas = [robots_of(store, clock) for _ in range(8)]

    done = await asyncio.gather(
        *(robots.create(record(secret=number)) for number, robots in enumerate(replicas)), return_exceptions=True
    )

    assert [type(result) for result in done].count(RobotExists) == 7
    winner = done.index(None)
    assert await robots_of(store, clock).get("ci") == record(secret=winner)


async def test_a_robot_is_asked_of_the_store_once_in_ten_seconds(store: Counting, clock: FakeClock) -> None:
    robots = robots_of(store, clock)
    await robots.create(record())
    before = store.reads

    for _ in range(5):
        await asyncio.gather(*(robots.get("ci") for _ in range(20)), *(robots.get("nobody") for _ in range(20)))
    assert store.reads - before <= 4, "of those that ask at once, the others share the next read"

    clock.advance(RELOAD)
    before = store.reads
    for _ in range(5):
        assert await robots.get("ci") == record()
        assert await robots.get("nobody") is None
    assert store.reads - before == 2


async def test_a_revoked_robot_ends_here_at_once_and_elsewhere_within_ten_seconds(
    store: Counting, clock: FakeClock
) -> None:
    here, there = robots_of(store, clock), robots_of(store, clock)
    await here.create(record())
    assert await there.get("ci") == await here.get("ci") == record()
    clock.advance(1)

    revoked = await here.revoke("ci")

    assert revoked.revoked == NOW + 1
    assert await here.get("ci") == revoked
    clock.advance(RELOAD - 1)
    assert await there.get("ci") == revoked


async def test_a_read_that_a_revocation_overtook_is_not_remembered(store: Counting, clock: FakeClock) -> None:
    robots = robots_of(store, clock)
    await robots.create(record())
    late = store.late = asyncio.Event()
    reading = asyncio.create_task(robots.get("ci"))
    await standstill()
    revoked = await robots.revoke("ci")
    late.set()
    assert await reading == record()

    assert await robots.get("ci") == revoked


async def test_revoking_twice_keeps_the_first_time_and_nobody_cannot_be_revoked(
    store: Counting, clock: FakeClock
) -> None:
    robots = robots_of(store, clock)
    await robots.create(record())
    first = await robots.revoke("ci")
    clock.advance(5)

    assert await robots.revoke("ci") == first
    with pytest.raises(RobotUnknown, match="no robot nobody"):
        await robots.revoke("nobody")


async def test_a_name_is_free_again_when_its_robot_is_over(store: Counting, clock: FakeClock) -> None:
    robots = robots_of(store, clock)
    await robots.create(record("a"))
    await robots.create(record("b", expires=NOW + DAY))
    for name in ("a", "b"):
        with pytest.raises(RobotExists, match="already"):
            await robots.create(record(name, secret=2))
    await robots.revoke("a")
    clock.advance(DAY)

    for name in ("a", "b"):
        await robots.create(record(name, secret=2))
        assert await robots.get(name) == record(name, secret=2)


async def test_all_are_listed_by_name(store: Counting, clock: FakeClock) -> None:
    robots = robots_of(store, clock)
    for name in ("c", "a", "b.x", "b"):
        await robots.create(record(name))
    await robots.revoke("c")

    assert [(one.name, one.revoked) for one in await robots.list()] == [
        ("a", None), ("b", None), ("b.x", None), ("c", NOW),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"\xff", msgspec.json.encode(record("other")),
        record().encode().replace(b'"pull"', b'"all"'), record().encode().replace(b'"ci"', b'"../ci"'),
    ],
)  # fmt: skip
async def test_a_record_that_is_none_lets_nobody_in_and_hides_no_other(
    store: Counting, clock: FakeClock, body: bytes
) -> None:
    robots = robots_of(store, clock)
    await robots.create(record("good"))
    await store.put(layout.robot("ci"), body)

    with pytest.raises(Corrupt, match="access/robots/ci"):
        await robots.get("ci")
    assert [one.name for one in await robots.list()] == ["good"]


@pytest.mark.parametrize("name", ["", "..", "../keys/019675", "a/b", "A", "ä", "a\n", "a" * 65, "a_", "*"])
async def test_what_is_no_name_reaches_no_store(store: Counting, clock: FakeClock, name: str) -> None:
    robots = robots_of(store, clock)

    with pytest.raises(PrincipalInvalid):
        await robots.get(name)
    with pytest.raises(PrincipalInvalid):
        await robots.revoke(name)
    assert store.reads == 0


async def test_made_up_names_do_not_push_out_the_robots_that_there_are(store: Counting, clock: FakeClock) -> None:
    robots = robots_of(store, clock, cached=10)
    await robots.create(record())
    await robots.get("ci")

    for number in range(100):
        assert await robots.get(f"made-up-{number}") is None

    before = store.reads
    await robots.get("ci")
    assert store.reads == before
    assert len(robots._absent) == 10
