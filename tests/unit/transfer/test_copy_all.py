"""Whole registries, between stores in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path

import pytest
from tests.unit.transfer.fakes import Heard, Image, MemorySource, index, settings, some_bytes

from bucketry.oci.glob import RepositoryGlob
from bucketry.registry import Registry
from bucketry.store.memory import MemoryStore
from bucketry.transfer import copy_all as engine
from bucketry.transfer.contract import RawManifest
from bucketry.transfer.copy import copy
from bucketry.transfer.copy_all import CopiedAll
from bucketry.transfer.errors import ImageMissing, NameUnusable, Unreachable
from bucketry.transfer.events import Done, Event, Found, Moved, Note, Skipped
from bucketry.transfer.homes import BucketHome

BIG = some_bytes(300_000)


class Two:
    """``source`` and ``target`` of a copy, and what was told of it."""

    def __init__(self, tmp_path: Path, source: Registry, target: Registry) -> None:
        self.settings = settings(tmp_path)
        self.source, self.target = BucketHome(source, ""), BucketHome(target, "")
        self.heard: list[Event] = []

    async def add(self, repository: str, tags: Iterable[str], *images: Image, of: RawManifest | None = None) -> None:
        held = MemorySource(*images)
        held.by_tag.clear()
        for tag in tags:
            held.add(of or images[0].manifest, tag=tag)
        await copy(
            held,
            self.source.repository(repository),
            tag=None,
            tags=await held.tags(),
            settings=self.settings,
            listen=Heard(),
        )

    async def run(self, *globs: str) -> CopiedAll:
        self.heard = []
        return await engine.copy_all(
            self.source,
            self.target,
            globs=[RepositoryGlob(glob) for glob in globs],
            settings=self.settings,
            listen=self.heard.append,
        )

    async def there(self) -> dict[str, dict[str, str]]:
        found = {}
        async for name in self.target.repositories():
            repository = self.target.repository(name)
            found[name] = {tag: str((await repository.manifest(tag)).digest) for tag in await repository.tags()}
        return found

    @property
    def moved(self) -> int:
        return sum(event.size for event in self.heard if isinstance(event, Moved))


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    made = Two(tmp_path, await Registry.open(MemoryStore()), await Registry.open(MemoryStore()))
    yield made
    await made.source.close()
    await made.target.close()


async def test_every_repository_with_every_tag(two: Two) -> None:
    one, other = Image(BIG), Image(BIG, b"more")
    both = index((one.manifest, "linux/amd64"), (other.manifest, "linux/arm64"))
    await two.add("team/app", ["v1", "stable"], one)
    await two.add("team/sub/x", ["latest"], one, other, of=both)
    await two.add("web", ["v9"], other)

    copied = await two.run()

    assert (copied.repositories, copied.tags, copied.failed) == (3, 4, ())
    assert await two.there() == {
        "team/app": {"v1": str(one.manifest.digest), "stable": str(one.manifest.digest)},
        "team/sub/x": {"latest": str(both.digest)},
        "web": {"v9": str(other.manifest.digest)},
    }
    assert {event.item for event in two.heard if isinstance(event, Done)} == {"team/app", "team/sub/x", "web"}


async def test_a_second_run_sends_what_is_new_and_nothing_else(two: Two) -> None:
    one, other = Image(BIG), Image(some_bytes(1000))
    await two.add("app", ["v1"], one)
    await two.add("web", ["v1"], one)
    await two.run()
    assert two.moved > len(BIG)

    await two.run()
    assert two.moved == 0
    assert {event.item: event.why for event in two.heard if isinstance(event, Skipped)} == {
        "app": "already there",
        "web": "already there",
    }

    await two.add("app", ["v2"], other)
    await two.add("web", ["v1"], other)
    copied = await two.run()
    assert copied.tags == 3
    assert 0 < two.moved < 10_000
    there = await two.there()
    assert there["app"] == {"v1": str(one.manifest.digest), "v2": str(other.manifest.digest)}
    assert there["web"] == {"v1": str(other.manifest.digest)}


async def test_more_tags_than_are_looked_at_together(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "TAGS_AT_ONCE", 3)
    tags = [f"v{number}" for number in range(8)]
    await two.add("app", tags, Image(b"layer"))

    assert (await two.run()).tags == 8
    assert list((await two.there())["app"]) == tags


@pytest.mark.parametrize(
    ("globs", "names"),
    [
        (["team/*"], {"team/app"}),
        (["team/**"], {"team/app", "team/sub/x"}),
        (["web", "**/x"], {"web", "team/sub/x"}),
        (["web", "w*"], {"web"}),
    ],
)
async def test_only_what_a_glob_matches(two: Two, globs: list[str], names: set[str]) -> None:
    for name in ("team/app", "team/sub/x", "web"):
        await two.add(name, ["v1"], Image(b"layer"))

    copied = await two.run(*globs)

    assert set(await two.there()) == names
    assert copied.repositories == len(names)


async def test_one_that_fails_is_told_and_the_others_are_copied(two: Two) -> None:
    whole, broken = Image(BIG), Image(some_bytes(2000))
    await two.add("a", ["v1"], broken)
    await two.add("b", ["v1"], whole)
    blob = broken.manifest.parsed.layers[0].parsed
    store = two.source.repository("a")._registry.store
    held = await two.source.repository("a")._registry.blobs.find("a", blob)
    await store.delete(held.data)

    copied = await two.run()

    assert [name for name, _ in copied.failed] == ["a"]
    assert blob.hex in copied.failed[0][1] or held.data in copied.failed[0][1]
    assert set(await two.there()) == {"b"}
    assert any(isinstance(event, Note) and event.text.startswith("a: ") for event in two.heard)


async def test_a_side_that_stops_answering_ends_it(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    await two.add("a", ["v1"], Image(BIG))

    async def gone() -> bool:
        raise Unreachable("nobody is there")

    two.settings = settings(two.settings.cache, retries=0)
    target = two.target.repository("a")
    monkeypatch.setattr(target, "takes_parts", gone)
    monkeypatch.setattr(two.target, "repository", lambda name: target)
    with pytest.raises(Unreachable, match="nobody"):
        await two.run()


async def test_sizes_add_up_to_what_moved(two: Two) -> None:
    one, other = Image(BIG), Image(BIG, b"more")
    await two.add("app", ["v1"], one)
    await two.add("app", ["v2"], other)

    await two.run()

    sizes = [event.size for event in two.heard if isinstance(event, Found) and event.size is not None]
    done = [event.size for event in two.heard if isinstance(event, Done)]
    assert done == [two.moved]
    assert sizes[-1] == two.moved


async def test_no_more_moves_than_is_said_to_be_there(two: Two) -> None:
    await two.add("app", [f"v{number}" for number in range(150)], Image(b"layer"))

    await two.run()

    moved = size = 0
    for event in two.heard:
        match event:
            case Found() if event.size is not None:
                size = event.size
            case Moved():
                moved += event.size
                assert moved <= size
    assert [event.size for event in two.heard if isinstance(event, Done)] == [moved]


async def test_a_name_that_cannot_be_is_told_and_the_others_are_copied(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two.add("app", ["v1"], Image(b"layer"))

    async def repositories() -> AsyncGenerator[str]:
        for name in ("../../etc", "Upper/Case", "app", ""):
            yield name

    monkeypatch.setattr(two.source, "repositories", repositories)
    copied = await two.run()

    assert {name for name, _ in copied.failed} == {"../../etc", "Upper/Case", ""}
    assert set(await two.there()) == {"app"}


async def test_nothing_to_copy_and_into_itself(two: Two) -> None:
    with pytest.raises(ImageMissing, match="no repository at all"):
        await two.run()
    await two.add("app", ["v1"], Image(b"layer"))
    with pytest.raises(ImageMissing, match=r"no repository team/\*"):
        await two.run("team/*")
    two.target = two.source
    with pytest.raises(NameUnusable, match="into itself"):
        await two.run()
