"""A publish that is killed, or overtaken, at any of its calls: readers see nothing half, and the next run ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from tests.support.sites import MemorySite
from tests.unit.transfer.fakes import Clockwork, Heard, MemorySource
from tests.unit.transfer.site.worlds import World, at_call, count, dies, everything, image, killed_at, refers, signature

from bucketry.store.contract import Unavailable
from bucketry.transfer.site.publishing import Published

FOLDER_OR_BUCKET = pytest.mark.parametrize("keeps_headers", [True, False], ids=["bucket", "folder"])


@FOLDER_OR_BUCKET
@pytest.mark.parametrize("after", [False, True], ids=["unsent", "unanswered"])
@pytest.mark.parametrize("published_before", [False, True], ids=["new", "again"])
async def test_killed_at_any_call(tmp_path: Path, keeps_headers: bool, after: bool, published_before: bool) -> None:
    old, new = MemorySource(image(1)), everything()

    async def prepared() -> World:
        world = World(tmp_path, keeps_headers)
        if published_before:
            await world.publish((old, "app", "latest"), (old, "other", "latest"))
        return world

    def run(world: World, site: MemorySite) -> Awaitable[Published]:
        return world.publish((new.source, "app", "latest"), (new.source, "b", "latest"), site=site)

    world = await prepared()
    calls = await count(world, lambda site: run(world, site))
    await run(world, world.site())
    expected = world.content()
    assert calls > 40
    for number in range(calls):
        world = await prepared()
        site = world.site()
        killed_at(site, number, after=after)
        await dies(run(world, site))
        assert world.found == [], f"call {number}: {site.log[-1]}"
        await run(world, world.site())
        assert world.found == [], f"after call {number}: {site.log[-1]}"
        assert world.content() == expected, f"after call {number}: {site.log[-1]}"
        assert world.state().pending == {}


@FOLDER_OR_BUCKET
async def test_what_a_killed_run_took_up_is_ended_by_whoever_comes(tmp_path: Path, keeps_headers: bool) -> None:
    one, two = MemorySource(image(1)), MemorySource(image(2))
    world = World(tmp_path, keeps_headers)
    calls = await count(world, lambda site: world.publish((one, "app", "latest"), site=site))
    ended = 0
    for number in range(calls):
        world = World(tmp_path, keeps_headers)
        site = world.site()
        killed_at(site, number, after=True)
        await dies(world.publish((one, "app", "latest"), site=site))
        await world.publish((two, "other", "latest"))
        assert world.found == []
        told = world.state().names()
        assert world.catalog() == told
        for name in told:
            assert f"v2/{name}/manifests/latest" in world.files()
        ended += "app" in told
    assert ended


@FOLDER_OR_BUCKET
async def test_lost_answers_are_asked_again(tmp_path: Path, keeps_headers: bool) -> None:
    new = everything()
    world = World(tmp_path, keeps_headers)
    calls = await count(world, lambda site: world.publish((new.source, "app", "latest"), site=site))
    await world.publish((new.source, "app", "latest"))
    expected = world.content()

    async def lost() -> None:
        raise Unavailable("the answer was lost")

    for number in range(calls):
        world = World(tmp_path, keeps_headers)
        site = world.site()
        site.after = at_call(number, lost)
        await world.publish((new.source, "app", "latest"), site=site)
        assert world.found == [], f"call {number}: {site.log[number]}"
        assert world.content() == expected


@FOLDER_OR_BUCKET
@pytest.mark.parametrize("same_tag", [False, True], ids=["other tags", "the same tag"])
async def test_another_publish_at_any_call(tmp_path: Path, keeps_headers: bool, same_tag: bool) -> None:
    """While one waits with a call, another does all of its own."""
    one, two = image(1), image(2)
    first, second = MemorySource(one), MemorySource(two)
    refers(first, signature(one.manifest, 1), one.manifest)
    if same_tag:
        tags = ("latest", "latest")
    else:
        tags = ("one", "two")
        first.add(one.manifest, tag="one")
        second.add(two.manifest, tag="two")
        second.add(one.manifest, tag="latest", blobs=one.blobs)
    world = World(tmp_path, keeps_headers)
    calls = await count(world, lambda site: world.publish((first, "app", tags[0]), site=site))
    for number in range(calls):
        world = World(tmp_path, keeps_headers)
        site = world.site()
        other = partial(world.publish, (second, "app", tags[1]), (second, "b", tags[1]))
        site.before = at_call(number, other)
        await world.publish((first, "app", tags[0]), site=site)
        assert world.found == [], f"call {number}: {site.log[number]}"
        assert world.catalog() == ["app", "b"]
        assert world.listed("app") == sorted(set(tags))
        assert world.state().pending == {}
        if not same_tag:
            assert world.at("v2/app/manifests/one") == one.manifest.body
            assert world.at("v2/app/manifests/two") == two.manifest.body
            assert world.at("index.html") == b'{"app": ["one", "two"], "b": ["two"]}'
        told = world.state().repositories["app"].tags["latest" if same_tag else "one"].digest
        chosen = one if told == str(one.manifest.digest) else two
        assert world.at(f"v2/app/manifests/{tags[0]}") == chosen.manifest.body


@FOLDER_OR_BUCKET
async def test_overtaken_at_any_call_and_killed_with_it(tmp_path: Path, keeps_headers: bool) -> None:
    """What was written too late by one who is dead then does not stay."""
    first, second, third = (MemorySource(image(seed)) for seed in range(3))
    world = World(tmp_path, keeps_headers)
    calls = await count(world, lambda site: world.publish((first, "app", "latest"), site=site))
    for number in range(calls):
        world = World(tmp_path, keeps_headers)
        site = world.site()
        killed_at(site, number, after=True)
        others: list[asyncio.Future[Published]] = []
        overtake = at_call(number, partial(done_by, others, partial(world.publish, (second, "app", "latest"))))
        dies_then = site.before

        async def before(
            operation: str,
            path: str,
            overtake: Callable[[str, str], Awaitable[None]] = overtake,
            dies_then: Callable[[str, str], Awaitable[None]] = dies_then,
        ) -> None:
            await overtake(operation, path)
            await dies_then(operation, path)

        site.before = before
        await dies(world.publish((first, "app", "latest"), site=site))
        await others[0]
        assert world.found == [], f"call {number}: {site.log[-1]}"
        await world.publish((third, "other", "latest"))
        assert world.found == [], f"after call {number}: {site.log[-1]}"
        told = world.state().repositories["app"].tags["latest"].digest
        assert world.at("v2/app/manifests/latest") == world.at(f"v2/app/manifests/{told}"), f"call {number}"
        assert world.listed("app") == ["latest"]
        assert world.at("index.html") == b'{"app": ["latest"], "other": ["latest"]}'


async def done_by(others: list[asyncio.Future[Published]], run: Callable[[], Awaitable[Published]]) -> None:
    """All of it, whatever becomes of the one that waits."""
    others.append(asyncio.ensure_future(run()))
    await asyncio.shield(others[0])


async def test_two_at_once_lose_no_signature(tmp_path: Path) -> None:
    subject = image(1)
    sources = []
    for seed in range(4):
        source = MemorySource(subject)
        refers(source, signature(subject.manifest, seed), subject.manifest)
        sources.append(source)
    world = World(tmp_path)
    await world.publish((MemorySource(subject), "app", "latest"))

    await asyncio.gather(*(world.publish((source, "app", "latest")) for source in sources))

    assert len(world.referrers("app", subject.manifest)) == 4
    assert world.found == []


async def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    made = [image(seed) for seed in range(8)]

    await asyncio.gather(
        *(
            world.publish((MemorySource(each), f"team/app{number % 4}", "latest"), clockwork=Clockwork(number))
            for number, each in enumerate(made)
        )
    )

    assert world.found == []
    assert world.catalog() == [f"team/app{number}" for number in range(4)]
    for name in world.catalog():
        told = world.state().repositories[name].tags["latest"].digest
        assert world.at(f"v2/{name}/manifests/latest") == world.at(f"v2/{name}/manifests/{told}")


async def test_first_publishes_at_once_make_one_site(tmp_path: Path) -> None:
    world, heard = World(tmp_path), Heard()

    await asyncio.gather(*(world.publish((MemorySource(image(n)), f"app{n}", "latest"), heard=heard) for n in range(3)))

    assert world.catalog() == ["app0", "app1", "app2"]
    assert world.found == []
