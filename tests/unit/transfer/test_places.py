"""From what people type to what it opens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from tests.unit.transfer.fakes import Heard, Image, MemorySource, settings, some_bytes

from bucketry.registry import Registry
from bucketry.store.contract import OCTET_STREAM, Buffer, Condition
from bucketry.store.memory import MemoryStore
from bucketry.store.site_folder import FolderSite
from bucketry.transfer import places
from bucketry.transfer.errors import ImageMissing, NameUnusable, Refused
from bucketry.transfer.names import Role, parse_place
from bucketry.transfer.places import (
    Opening,
    mountable,
    open_any,
    open_destination,
    open_registry,
    open_saved,
    open_source,
    open_target,
)
from bucketry.transfer.push import push
from bucketry.transfer.site.gathering import ImageToPublish
from bucketry.transfer.site.publishing import publish


@pytest.fixture
async def opening(tmp_path: Path) -> AsyncIterator[Opening]:
    made = Opening(settings(tmp_path), environ={}, home=tmp_path / "home", clock=lambda: 1e9)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("text", "role", "name"),
    [
        ("localhost:5000/app:v1", "pull from", "localhost:5000/app:v1"),
        ("oci:layout:v1", "pull from", "oci:layout:v1"),
        ("oci-archive:a.tar", "pull from", "oci-archive:a.tar"),
    ],
)
async def test_sources(opening: Opening, text: str, role: Role, name: str) -> None:
    source = await open_source(parse_place(text, role=role), opening)

    assert source.name == name
    await source.close()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("docker-archive:a.tar", "docker-archive:a.tar"),
        ("docker-daemon:app:v1", "docker-daemon:app:v1"),
        ("app:v1", "docker-daemon:app:v1"),
    ],
)
async def test_saved_images(opening: Opening, text: str, name: str) -> None:
    saved = await open_any(parse_place(text, role="push from"), opening)

    assert saved.name == name
    await saved.close()


@pytest.mark.parametrize(
    "text", ["docker-daemon:app:v1", "docker-archive:a.tar", "oci:layout:v1", "oci-archive:a.tar:v1"]
)
async def test_destinations(opening: Opening, tmp_path: Path, text: str) -> None:
    destination = await open_destination(parse_place(text, role="pull to"), opening)

    assert destination.name.partition(":")[0] == text.partition(":")[0]


async def test_what_a_name_cannot_be_opened_as(opening: Opening) -> None:
    repository, file = parse_place("localhost/app", role="push to"), parse_place("docker-archive:a", role="push from")

    with pytest.raises(NameUnusable):
        await open_source(file, opening)
    with pytest.raises(NameUnusable):
        await open_target(file, opening)
    with pytest.raises(NameUnusable):
        await open_saved(repository, opening)
    with pytest.raises(NameUnusable):
        await open_destination(repository, opening)


@pytest.mark.parametrize(
    ("typed", "folder", "repository"),
    [
        ("{0}/team/app", "team", "app"),
        ("{0}//team/app", "", "team/app"),
        ("{0}/with space/app", "with space", "app"),
    ],
)
async def test_a_registry_is_made_in_the_folder_before_the_name(
    tmp_path: Path, opening: Opening, typed: str, folder: str, repository: str
) -> None:
    root = tmp_path / "data"
    target = await open_target(parse_place("file:" + typed.format(root) + ":v1", role="push to"), opening)
    await push(MemorySource(Image(b"layer")), target, tag="v1", settings=opening.settings, listen=Heard())
    await target.close()

    assert (root / folder / "bucketry.json").is_file()
    assert (root / folder / "repos" / repository).is_dir()


async def test_the_deepest_registry_that_is_there_is_meant(tmp_path: Path, opening: Opening) -> None:
    root = tmp_path / "data"
    for there in ("", "/a"):
        target = await open_target(parse_place(f"file:{root}{there}//first", role="push to"), opening)
        await target.close()
    image = Image(some_bytes(300_000))

    target = await open_target(parse_place(f"file:{root}/a/b/c:v1", role="push to"), opening)
    await push(MemorySource(image), target, tag="v1", settings=opening.settings, listen=Heard())
    await target.close()

    assert (root / "a" / "repos" / "b" / "c").is_dir()
    source = await open_source(parse_place(f"file:{root}/a//b/c:v1", role="pull from"), opening)
    assert (await source.manifest()).body == image.manifest.body
    assert source.name == f"file:{root}/a/b/c:v1"
    await source.close()


async def test_reading_makes_no_registry(tmp_path: Path, opening: Opening) -> None:
    with pytest.raises(ImageMissing, match="holds no registry"):
        await open_source(parse_place(f"file:{tmp_path}/data/app", role="pull from"), opening)

    assert not (tmp_path / "data" / "bucketry.json").exists()


class Careless(MemoryStore):
    """A store that ignores conditions, and outlives whoever closes it."""

    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        return await super().put(key, body, content_type=content_type, metadata=metadata)

    async def close(self) -> None:
        return


async def test_nothing_stays_of_a_push_to_a_store_that_ignores_conditions(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Careless(min_part=1)
    monkeypatch.setattr(places, "open_store", lambda url, options: store)
    target = await open_target(parse_place("s3://bucket/app", role="push to"), opening)
    source = MemorySource(Image(some_bytes(20_000_000)))
    source.piece = 1024 * 1024

    with pytest.raises(Refused, match="cannot hold a registry"):
        await push(source, target, tag="v1", settings=opening.settings, listen=Heard())
    await target.close()

    assert (await store.list("")).objects == ()
    assert not await store.list_multiparts()


async def test_a_registry_in_a_store_that_ignores_conditions_is_not_pushed_to(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Careless()
    await Registry.open(store)
    before = (await store.list("")).objects
    monkeypatch.setattr(places, "open_store", lambda url, options: store)

    with pytest.raises(Refused, match="cannot hold a registry"):
        await open_target(parse_place("s3://bucket//app", role="push to"), opening)

    assert (await store.list("")).objects == before


async def test_a_store_that_was_looked_at_is_believed_for_a_day(
    tmp_path: Path, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = parse_place(f"file:{tmp_path}/data/app", role="push to")
    target = await open_target(place, opening)
    await push(MemorySource(Image(b"layer")), target, tag="v1", settings=opening.settings, listen=Heard())
    await target.close()

    async def never(*args: object, **options: object) -> object:
        raise AssertionError("looked at again")

    monkeypatch.setattr("bucketry.transfer.judging.probe", never)
    await (await open_target(place, opening)).close()
    opening.clock = lambda: 1e9 + 25 * 3600
    with pytest.raises(AssertionError):
        await open_target(place, opening)


def test_what_can_be_mounted() -> None:
    one, two = parse_place("reg.example/a:1", role="copy from"), parse_place("reg.example/b:1", role="copy to")
    other = parse_place("other.example/b:1", role="copy to")

    assert mountable(one, two) == "a"
    assert mountable(one, other) is None
    assert mountable(one, one) is None


@pytest.mark.parametrize("name", ["file:{}/site//team/app:v1", "file:{}/site/team/app:v1"])
async def test_a_published_site_is_read_where_it_lies_and_not_pushed_to(
    opening: Opening, tmp_path: Path, name: str
) -> None:
    image = Image(some_bytes(300_000))
    site = FolderSite(tmp_path / "site")
    await site.start()
    source = ImageToPublish(MemorySource(image), "team/app", "v1")
    await publish([source], site, settings=opening.settings, listen=Heard())
    await site.close()
    before = set((tmp_path / "site").rglob("*"))

    read = await open_source(parse_place(name.format(tmp_path), role="pull from"), opening)
    assert await read.manifest() == image.manifest
    assert await read.tags() == ["v1"]
    layer = image.manifest.parsed.layers[0]
    assert b"".join([piece async for piece in read.blob(layer).read()]) == image.blobs[layer.digest]
    with pytest.raises(ImageMissing):
        await read.manifest("v2")
    await read.close()
    with pytest.raises(Refused, match="bucketry publish"):
        await open_target(parse_place(name.format(tmp_path), role="push to"), opening)
    with pytest.raises(Refused, match="bucketry publish"):
        await open_registry(f"file:{tmp_path}/site", opening, write=True)
    assert set((tmp_path / "site").rglob("*")) == before
