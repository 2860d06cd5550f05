"""A prune leaves what it names, and deletes the rest when nobody can be in the middle of it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.support.sites import MemorySite
from tests.unit.transfer.fakes import Clockwork, MemorySource
from tests.unit.transfer.site.worlds import (
    World,
    at_call,
    cosign_tag,
    count,
    dies,
    everything,
    image,
    killed_at,
    refers,
    signature,
)

from bucketry.store.contract import IfMatch
from bucketry.transfer.contract import Source
from bucketry.transfer.site import paths
from bucketry.transfer.site.leaving import PATIENCE
from bucketry.transfer.site.publishing import Published
from bucketry.transfer.site.state import State, encode

HOUR = 3600.0
FOLDER_OR_BUCKET = pytest.mark.parametrize("keeps_headers", [True, False], ids=["bucket", "folder"])


async def fresh(tmp_path: Path, source: Source, *names: str, keeps_headers: bool = True) -> set[str]:
    """The files of a site that has just these."""
    world = World(tmp_path, keeps_headers)
    await world.publish(*((source, name, "latest") for name in names))
    return set(world.files())


@FOLDER_OR_BUCKET
async def test_what_is_not_named_leaves_after_the_grace(tmp_path: Path, keeps_headers: bool) -> None:
    world, old, new = World(tmp_path, keeps_headers), everything(), MemorySource(image(1))
    await world.publish((old.source, "app", "latest"), (old.source, "gone", "latest"))
    before = set(world.files())

    published = await world.publish((new, "app", "latest"), prune=True)

    # Tags and lists at once, what they named later.
    assert world.catalog() == ["app"]
    assert world.listed("app") == ["latest"]
    assert not [path for path in world.files() if path.startswith("v2/gone/tags/")]
    assert not [path for path in world.files() if path.startswith("v2/gone/manifests/") and ":" not in path]
    assert f"v2/gone/manifests/{old.index.digest}" in world.files()
    left = {path for path in before if paths.parse(path) and paths.parse(path).by_digest}  # type: ignore[union-attr]
    assert set(published.leaving) == left - {path for path in left if path in await fresh(tmp_path, new, "app")}
    assert set(world.state().leaving.values()) == {world.now}

    world.now += HOUR - 1
    assert (await world.publish((new, "app", "latest"), prune=True)).removed == {}
    world.now += 1
    await world.publish((new, "app", "latest"))
    assert f"v2/gone/manifests/{old.index.digest}" in world.files(), "only a prune deletes"

    published = await world.publish((new, "app", "latest"), prune=True)

    assert set(world.files()) == await fresh(tmp_path, new, "app", keeps_headers=keeps_headers)
    assert world.state().leaving == {}
    assert world.state().going == {}
    assert published.removed.keys() == set(left) - set(world.files())
    assert sum(published.removed.values()) > 10_000
    assert world.found == []


@FOLDER_OR_BUCKET
async def test_without_grace_all_goes_at_once(tmp_path: Path, keeps_headers: bool) -> None:
    world, old, new = World(tmp_path, keeps_headers), everything(), MemorySource(image(1))
    await world.publish((old.source, "app", "latest"), (old.source, "gone", "latest"))
    site = world.site()

    await world.publish((new, "app", "latest"), site=site, prune=True, grace=0)

    assert set(world.files()) == await fresh(tmp_path, new, "app", keeps_headers=keeps_headers)
    assert world.found == []
    deleted = [number for number, (operation, _) in enumerate(site.log) if operation == "delete_many"]
    lists = [number for number, (operation, path) in enumerate(site.log) if (operation, path) == ("put", "v2/_catalog")]
    assert lists[-1] < deleted[-1]


async def test_what_left_by_a_clock_that_ran_ahead_leaves_all_the_same(tmp_path: Path) -> None:
    world, old, new = World(tmp_path), MemorySource(image(1)), MemorySource(image(2))
    await world.publish((old, "app", "latest"))
    right, world.now = world.now, world.now + 1e9
    await world.publish((new, "app", "latest"), prune=True)
    world.now = right
    await world.publish((new, "app", "latest"), prune=True)
    assert set(world.state().leaving.values()) == {right}

    world.now += HOUR
    await world.publish((new, "app", "latest"), prune=True)

    assert set(world.files()) == await fresh(tmp_path, new, "app")


async def test_what_is_published_again_stays(tmp_path: Path) -> None:
    world, old, new = World(tmp_path), MemorySource(image(1)), MemorySource(image(2))
    await world.publish((old, "app", "latest"))
    await world.publish((new, "app", "latest"), prune=True)
    assert world.state().leaving
    world.now += 2 * HOUR

    published = await world.publish((old, "app", "latest"))

    assert published.ways["sent"].files == 0
    assert world.state().leaving == {}
    await world.publish((old, "app", "latest"), prune=True)
    world.now += 2 * HOUR
    await world.publish((old, "app", "latest"), prune=True)
    assert set(world.files()) == await fresh(tmp_path, old, "app")
    assert world.found == []


async def test_a_signature_that_left_is_told_of_no_more(tmp_path: Path) -> None:
    subject = image(1)
    signed, plain = MemorySource(subject), MemorySource(subject)
    refers(signed, signature(subject.manifest), subject.manifest)
    world = World(tmp_path)
    await world.publish((signed, "app", "latest"))
    assert len(world.referrers("app", subject.manifest)) == 1

    await world.publish((plain, "app", "latest"), prune=True)

    assert world.referrers("app", subject.manifest) == []
    world.now += HOUR
    await world.publish((plain, "app", "latest"), prune=True)
    assert set(world.files()) == await fresh(tmp_path, plain, "app")
    assert world.found == []


async def test_files_that_no_repository_has_are_left_alone(tmp_path: Path) -> None:
    world, new = World(tmp_path), MemorySource(image(1))
    await world.publish((new, "app", "latest"))
    strange = ["favicon.ico", "v2/index.html", "v2/app/README", "v2/app/blobs/x y", "other/blobs/sha256:x"]
    for path in strange:
        world.disk.set(path, b"mine", world.disk.files["v2/_catalog"].served)

    await world.publish((new, "app", "latest"), prune=True, grace=0)

    assert set(strange) <= set(world.files())


async def test_traces_of_killed_runs_leave(tmp_path: Path) -> None:
    """Blobs and manifests of a run that never took its tags up."""
    world, old, new = World(tmp_path), everything(), MemorySource(image(1))
    await world.publish((new, "app", "latest"))
    calls = await count(world, lambda site: world.publish((old.source, "never", "latest"), site=site))
    site = world.site()
    killed_at(site, calls // 2, after=True)
    await dies(world.publish((old.source, "never", "latest"), site=site))
    assert [path for path in world.files() if path.startswith("v2/never/")]

    await world.publish((new, "app", "latest"), prune=True)
    world.now += HOUR
    await world.publish((new, "app", "latest"), prune=True)

    assert set(world.files()) == await fresh(tmp_path, new, "app")


@FOLDER_OR_BUCKET
@pytest.mark.parametrize("after", [False, True], ids=["unsent", "unanswered"])
@pytest.mark.parametrize("grace", [0.0, HOUR], ids=["at once", "later"])
async def test_a_prune_killed_at_any_call(tmp_path: Path, keeps_headers: bool, after: bool, grace: float) -> None:
    old, new = everything(), MemorySource(image(1))

    async def prepared() -> World:
        world = World(tmp_path, keeps_headers)
        await world.publish((old.source, "app", "latest"), (old.source, "gone", "latest"))
        if grace:
            await world.publish((new, "app", "latest"), prune=True)
            world.now += grace
        return world

    def run(world: World, site: MemorySite) -> Awaitable[Published]:
        return world.publish((new, "app", "latest"), site=site, prune=True, grace=grace)

    calls = await count(await prepared(), lambda site: _run_on(site, run, tmp_path, keeps_headers))
    for number in range(calls):
        world = await prepared()
        site = world.site()
        killed_at(site, number, after=after)
        await dies(run(world, site))
        assert world.found == [], f"call {number}: {site.log[-1]}"
        await run(world, world.site())
        world.now += HOUR
        await run(world, world.site())
        assert world.found == [], f"after call {number}: {site.log[-1]}"
        assert set(world.files()) == await fresh(tmp_path, new, "app", keeps_headers=keeps_headers)
        assert world.state().going == {}


def _run_on(
    site: MemorySite, run: Callable[[World, MemorySite], Awaitable[Published]], tmp_path: Path, keeps_headers: bool
) -> Awaitable[Published]:
    world = World(tmp_path, keeps_headers, disk=site.disk, now=2_000_000.0)
    return run(world, site)


@FOLDER_OR_BUCKET
@pytest.mark.parametrize("grace", [0.0, HOUR], ids=["at once", "later"])
@pytest.mark.parametrize("outer", ["publish", "prune"])
async def test_a_publish_while_another_prunes(tmp_path: Path, keeps_headers: bool, grace: float, outer: str) -> None:
    """Each of the two, stopped at any of its calls while the other does all of its own."""
    old, new = everything(), MemorySource(image(1))

    async def prepared() -> World:
        world = World(tmp_path, keeps_headers)
        await world.publish((old.source, "app", "old"), (old.source, "gone", "latest"))
        await world.publish((new, "app", "latest"), prune=True)
        world.now += grace
        return world

    old.source.add(old.index, tag="old")

    def publishes(world: World, site: MemorySite, clockwork: Clockwork) -> Awaitable[Published]:
        return world.publish((old.source, "app", "old"), site=site, clockwork=clockwork)

    def prunes(world: World, site: MemorySite, clockwork: Clockwork) -> Awaitable[Published]:
        return world.publish((new, "app", "latest"), site=site, clockwork=clockwork, prune=True, grace=grace)

    first, second = (publishes, prunes) if outer == "publish" else (prunes, publishes)
    world = await prepared()
    calls = await count(world, lambda site: first(world, site, Clockwork()))
    published_last = 0
    for number in range(calls):
        world = await prepared()
        site = world.site()
        others: list[asyncio.Future[Published]] = []
        site.before = at_call(number, partial(begun, others, partial(second, world, world.site(), Unhurried())))
        await first(world, site, Unhurried())
        await others[0]
        assert world.found == [], f"call {number}: {site.log[number]}"
        assert world.problems() == []
        state = world.state()
        assert (state.going, state.pending) == ({}, {})
        assert set(world.listed("app")) == set(state.repositories["app"].tags)
        tags = {path.rpartition("/")[2] for path in world.files() if path.startswith("v2/app/manifests/")}
        assert {tag for tag in tags if ":" not in tag and "." not in tag} == state.repositories["app"].tags.keys() - {
            cosign_tag(old.index)
        }
        assert "latest" in state.repositories["app"].tags
        if "old" in state.repositories["app"].tags:
            assert len(world.referrers("app", old.index)) == 1
            assert len(state.referrers("app", old.index.digest)) == 1
            published_last += 1
    assert published_last


async def begun(others: list[asyncio.Future[Published]], run: Callable[[], Awaitable[Published]]) -> None:
    """Does all of it, unless it waits for the one that is held up meanwhile."""
    others.append(asyncio.ensure_future(run()))
    await asyncio.wait(others, timeout=0.1)


class Unhurried(Clockwork):
    """Whose waits leave others time for some hundred calls."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0.005)
        await super().sleep(seconds)


async def test_what_a_dead_prune_was_deleting_is_sent_again(tmp_path: Path) -> None:
    world, source, clockwork = World(tmp_path), MemorySource(image(1)), Clockwork()
    await world.publish((source, "app", "latest"))
    blob = next(path for path in world.files() if "/blobs/" in path)
    await _going(world, blob)
    world.watched = False
    del world.disk.files[blob]

    published = await world.publish((source, "app", "latest"), clockwork=clockwork)

    assert clockwork.now >= PATIENCE
    assert blob in world.files()
    assert published.ways["sent"].files == 1
    assert world.state().going == {}
    assert world.problems() == []


async def test_who_only_looks_waits_for_nobody(tmp_path: Path) -> None:
    world, source, clockwork = World(tmp_path), MemorySource(image(1)), Clockwork()
    await world.publish((source, "app", "latest"), (source, "gone", "latest"))
    blob = next(path for path in world.files() if "/blobs/" in path)
    await _going(world, blob)
    await _announced(world, pending={"gone:latest": world.now})

    said = await world.publish((source, "app", "latest"), clockwork=clockwork, prune=True, dry_run=True)

    assert clockwork.slept == []
    assert said.state.names() == ["app"]


async def test_what_is_being_deleted_is_waited_for(tmp_path: Path) -> None:
    world, source, clockwork = World(tmp_path), MemorySource(image(1)), Clockwork()
    await world.publish((source, "app", "latest"))
    blob = next(path for path in world.files() if "/blobs/" in path)
    await _going(world, blob)
    world.watched = False
    site = world.site()
    looks = 0

    async def ends(operation: str, path: str) -> None:
        nonlocal looks
        if (operation, path) == ("get", "bucketry-site.json"):
            looks += 1
            if looks == 5:
                del world.disk.files[blob]
                await _going(world)

    site.before = ends
    published = await world.publish((source, "app", "latest"), site=site, clockwork=clockwork)

    assert looks >= 5
    assert clockwork.now < PATIENCE
    assert published.ways["sent"].files == 1
    assert world.problems() == []


async def _going(world: World, *gone: str) -> None:
    await _announced(world, going=dict.fromkeys(gone, world.now), removals=world.state().removals + 1)


async def _announced(world: World, **changes: object) -> None:
    """As another process, which then says no more."""
    held = world.disk.files["bucketry-site.json"]
    state: State = msgspec.structs.replace(world.state(), nonce=world.token(), **changes)
    await world.site().put("bucketry-site.json", encode(state), served=held.served, condition=IfMatch(held.etag))


def at_state(number: int, act: Callable[[], Awaitable[object]]) -> Callable[[str, str], Awaitable[None]]:
    """A hook that acts before the state is written for that time."""
    written = 0

    async def hook(operation: str, path: str) -> None:
        nonlocal written
        if (operation, path) == ("put", "bucketry-site.json"):
            written += 1
            if written == number:
                await act()

    return hook


@FOLDER_OR_BUCKET
async def test_a_tag_that_was_published_since_the_prune_looked_leaves(tmp_path: Path, keeps_headers: bool) -> None:
    world, old, new = World(tmp_path, keeps_headers), MemorySource(image(1)), MemorySource(image(2))
    old.add(image(1).manifest, tag="late")
    await world.publish((new, "app", "latest"), (old, "gone", "latest"))
    site = world.site()
    other = partial(world.publish, (old, "app", "late"), (old, "late", "late"))
    site.before = at_state(1, other)

    await world.publish((new, "app", "latest"), site=site, prune=True)

    assert world.catalog() == ["app"]
    assert not [path for path in world.files() if path.endswith("/late") or "/late." in path or "/late/tags" in path]
    assert world.found == []


async def test_a_signature_that_a_prune_dropped_meanwhile_is_told_of_again(tmp_path: Path) -> None:
    subject = image(1)
    signed, plain = MemorySource(subject), MemorySource(subject)
    refers(signed, signature(subject.manifest), subject.manifest)
    signed.add(subject.manifest, tag="signed")
    world = World(tmp_path)
    await world.publish((plain, "app", "latest"))
    site = world.site()
    # Between its taking up the signature and its taking up the tag.
    site.before = at_state(2, partial(world.publish, (plain, "app", "latest"), prune=True))

    await world.publish((signed, "app", "signed"), site=site)

    assert len(world.referrers("app", subject.manifest)) == 1
    assert len(world.state().referrers("app", subject.manifest.digest)) == 1
    assert world.found == []
