"""What a Docker Engine has is not fetched again: layers, and whole images. The real engine, and some that differ."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from tests.support.daemons import short_folder
from tests.support.images import OCI_CONFIG, OCI_MANIFEST, Image, make_image, to_json, write_docker_archive
from tests.support.tools import run, tool
from tests.unit.transfer.fakes import Clockwork, Heard, MemorySource, settings
from tests.unit.transfer.local.engine import FakeEngine, says, serving
from tests.unit.transfer.local.filled import as_packed, begin, blobs, described, fill, land, raw
from tests.unit.transfer.local.tars import members

from bucketry.transfer.contract import Held
from bucketry.transfer.errors import NoSpace, Refused, SourceDamaged, Unreachable
from bucketry.transfer.events import Ended, Note, Skipped
from bucketry.transfer.local.docker_daemon import DockerFilling
from bucketry.transfer.local.docker_engine import DockerEngine, find_engine
from bucketry.transfer.local.docker_layers import layers_held
from bucketry.transfer.pull import pull

BASE = make_image(61, (300, 400_000))
TOP = make_image(62, (500,))
IN_THE_ENGINE = "the Docker Engine has it"


def joined(*parts: tuple[Image, int]) -> Image:
    """An image of layers of others."""
    layers = tuple(image.layers[i] for image, i in parts)
    diff_ids = [image.diff_ids[i] for image, i in parts]
    document = json.loads(BASE.config.data)
    document["rootfs"]["diff_ids"] = diff_ids
    document["history"] = [{"created_by": f"layer {i}"} for i in range(len(parts))]
    config = to_json(document, OCI_CONFIG)
    manifest = json.loads(BASE.manifest.data)
    manifest |= {"config": config.descriptor(), "layers": [layer.descriptor() for layer in layers]}
    return Image(to_json(manifest, OCI_MANIFEST), config, layers, tuple(i.tars[n] for i, n in parts), "amd64")


NEXT = joined((BASE, 0), (BASE, 1), (TOP, 0))


@pytest.fixture
def short() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[DockerEngine]:
    """A client of the real one."""
    client = DockerEngine(find_engine({"DOCKER_HOST": docker_host}, Path("/nowhere")))
    yield client
    await client.close()


@pytest.fixture
def docker(docker_host: str) -> Callable[..., str]:
    return lambda *arguments: run([tool("docker"), "--host", docker_host, *arguments])


@contextmanager
def loaded(docker: Callable[..., str], image: Image, name: str, folder: Path) -> Iterator[None]:
    docker("load", "--input", write_docker_archive(folder / "in.tar", image, name))
    try:
        yield
    finally:
        found = docker("images", "--quiet", name)
        if found:
            docker("rmi", name)


def taken(docker: Callable[..., str], image: Image, name: str) -> None:
    """Asserts that the engine has the image, and removes it."""
    found = json.loads(docker("image", "inspect", name))[0]
    docker("rmi", name)
    assert (found["Id"], found["RootFS"]["Layers"]) == (image.config.digest, image.diff_ids)


def source_of(image: Image) -> MemorySource:
    source = MemorySource()
    source.add(raw(image.manifest), tag="v1", blobs={blob.digest: blob.data for blob in blobs(image)})
    return source


async def pulled(source: MemorySource, destination: DockerFilling, folder: Path, heard: Heard) -> Ended:
    return await pull(
        source,
        destination,
        reference="v1",
        settings=settings(folder),
        listen=heard,
        timing=Clockwork().timing,
        clock=lambda: 1e9,
    )


def skipped(heard: Heard) -> dict[str, str]:
    return {event.item: event.why for event in heard.events if isinstance(event, Skipped)}


# The real engine


async def test_layers_that_the_engine_has_are_not_fetched(
    engine: DockerEngine, docker: Callable[..., str], tmp_path: Path
) -> None:
    source, heard = source_of(NEXT), Heard()
    with loaded(docker, BASE, "layers/app:v1", tmp_path):
        ended = await pulled(source, DockerFilling(engine, "layers/app:v2", tmp_path / "images"), tmp_path, heard)
        taken(docker, NEXT, "layers/app:v2")

    assert skipped(heard) == {layer.digest: IN_THE_ENGINE for layer in BASE.layers}
    assert source.read_bytes == ended.moved == len(NEXT.config.data) + len(TOP.layers[0].data)
    assert ended.skipped == sum(len(layer.data) for layer in BASE.layers)
    assert list((tmp_path / "images").iterdir()) == []


async def test_a_layer_above_others_than_there_is_fetched(
    engine: DockerEngine, docker: Callable[..., str], tmp_path: Path
) -> None:
    turned, heard = joined((BASE, 1), (BASE, 0)), Heard()
    with loaded(docker, BASE, "layers/app:v1", tmp_path):
        await pulled(source_of(turned), DockerFilling(engine, "layers/turned:v1", tmp_path / "images"), tmp_path, heard)
        taken(docker, turned, "layers/turned:v1")

    assert skipped(heard) == {}


async def test_a_layer_that_comes_again_above_what_is_there_is_fetched(
    engine: DockerEngine, docker: Callable[..., str], tmp_path: Path
) -> None:
    twice, heard = joined((BASE, 0), (BASE, 1), (BASE, 0)), Heard()
    with loaded(docker, BASE, "layers/app:v1", tmp_path):
        await pulled(source_of(twice), DockerFilling(engine, "layers/twice:v1", tmp_path / "i"), tmp_path, heard)
        taken(docker, twice, "layers/twice:v1")

    assert skipped(heard) == {BASE.layers[1].digest: IN_THE_ENGINE}


async def test_layers_of_zstd_that_the_engine_has_are_not_fetched_nor_decompressed(
    engine: DockerEngine, docker: Callable[..., str], tmp_path: Path
) -> None:
    packed, heard = await as_packed("zstd", NEXT), Heard()
    with loaded(docker, BASE, "layers/app:v1", tmp_path):
        await pulled(source_of(packed), DockerFilling(engine, "layers/zstd:v1", tmp_path / "images"), tmp_path, heard)
        taken(docker, NEXT, "layers/zstd:v1")

    assert skipped(heard) == {layer.digest: IN_THE_ENGINE for layer in packed.layers[:2]}
    assert list((tmp_path / "images").iterdir()) == []


@pytest.mark.parametrize("how", ["gzip", "zstd"])
async def test_layers_that_are_removed_before_the_load_are_fetched_after_all(
    how: str, engine: DockerEngine, docker: Callable[..., str], tmp_path: Path
) -> None:
    image, heard = await as_packed(how, NEXT), Heard()
    source = source_of(image)
    with loaded(docker, BASE, "layers/app:v1", tmp_path):

        async def remove(digest: str, start: int) -> None:
            if digest == image.layers[2].digest:
                await asyncio.to_thread(docker, "rmi", "layers/app:v1")

        source.before_read = remove
        ended = await pulled(source, DockerFilling(engine, "layers/app:v2", tmp_path / "images"), tmp_path, heard)
        taken(docker, NEXT, "layers/app:v2")

    assert len(skipped(heard)) == 2
    assert [event.text for event in heard.events if isinstance(event, Note)] == [
        "docker-daemon:layers/app:v2: what was there is gone since, and is fetched"
    ]
    assert (ended.moved, ended.skipped) == (sum(len(blob.data) for blob in blobs(image)), 0)
    assert source.read_bytes == ended.moved
    assert list((tmp_path / "images").iterdir()) == []


async def test_an_image_that_the_engine_has_gets_its_new_name_and_nothing_else(
    engine: DockerEngine, docker: Callable[..., str], tmp_path: Path
) -> None:
    source, heard = source_of(BASE), Heard()
    with loaded(docker, BASE, "layers/app:v1", tmp_path):
        destination = DockerFilling(engine, "reg.test:5000/other/name:v9", tmp_path / "images")
        ended = await pulled(source, destination, tmp_path, heard)
        taken(docker, BASE, "reg.test:5000/other/name:v9")

    assert source.read_bytes == ended.moved == 0
    assert skipped(heard) == {blob.digest: IN_THE_ENGINE for blob in blobs(BASE)}
    assert not (tmp_path / "images").exists()


async def test_an_image_that_is_removed_before_it_gets_its_name_is_fetched(
    engine: DockerEngine, docker: Callable[..., str], tmp_path: Path
) -> None:
    destination = DockerFilling(engine, "layers/app:v3", tmp_path / "images")
    with loaded(docker, BASE, "layers/app:v1", tmp_path):
        await begin(destination, BASE)
        assert isinstance(await destination.slot(described(BASE.config)), Held)
    missing = await destination.finish()

    assert missing is not None
    assert [blob.digest for blob in missing] == [blob.digest for blob in blobs(BASE)]
    assert await land(destination, blobs(BASE)) == [blob.digest for blob in blobs(BASE)]
    assert await destination.finish() is None
    taken(docker, BASE, "layers/app:v3")


# Others


def of_images(fake: FakeEngine, *images: Image, store: str | None = None, name: str = "Engine") -> None:
    """An engine with these images, called ``app:0``, ``app:1``..., the last the newest."""
    found = {image.config.digest: {"Id": image.config.digest, "RootFS": {"Layers": image.diff_ids}} for image in images}
    listed = [{"Id": id_, "Created": n, "RepoTags": [f"app:{n}"]} for n, id_ in enumerate(found)]
    status = [["Backing Filesystem", "extfs"], *([["driver-type", store]] if store else [])]

    async def answer(request: web.BaseRequest) -> web.Response:
        id_ = request.path.split("/images/")[-1].removesuffix("/json")
        return says(found[id_]) if id_ in found else says({"message": "No such image"}, 404)

    fake.handlers |= {
        "/images/json": lambda request: answered(listed),
        "/json": answer,
        "/version": lambda request: answered({"Components": [{"Name": name}, {"Name": "runc"}]}),
        "/info": lambda request: answered({"Driver": "overlay2", "DriverStatus": status}),
    }


async def answered(document: object, status: int = 200) -> web.Response:
    return says(document, status)


@pytest.mark.parametrize(
    ("store", "name", "held"),
    [
        (None, "Engine", True),
        ("io.containerd.snapshotter.v1", "Engine", False),
        (None, "Podman Engine", False),
    ],
)
async def test_only_engines_that_keep_chains_get_less_than_all(
    store: str | None, name: str, held: bool, short: Path, tmp_path: Path
) -> None:
    fake = FakeEngine()
    of_images(fake, BASE, store=store, name=name)
    got = bytearray()

    async def take(request: web.BaseRequest) -> web.Response:
        got.extend(await request.content.read())
        return says({"stream": "Loaded"})

    fake.handlers["/images/load"] = take
    async with serving(fake, short) as engine:
        written = await fill(DockerFilling(engine, "app:v1", tmp_path), NEXT)

    wanted = [NEXT.config, NEXT.layers[2]] if held else [NEXT.config, *NEXT.layers]
    assert written == [blob.digest for blob in wanted]
    sent = members(bytes(got))
    assert next(iter(sent)) == "manifest.json"
    assert list(sent.values())[1:] == [blob.data for blob in wanted]
    assert len(json.loads(sent["manifest.json"])[0]["Layers"]) == 3


async def test_a_later_run_asks_again_what_the_engine_has(short: Path, tmp_path: Path) -> None:
    """The config is there by then. Meanwhile the engine has lost the base."""
    fake = FakeEngine()
    of_images(fake, BASE)
    fake.handlers["/images/load"] = lambda request: answered({"stream": ""})
    async with serving(fake, short) as engine:
        first = DockerFilling(engine, "app:v1", tmp_path)
        await begin(first, NEXT)
        assert await land(first, [NEXT.config, *NEXT.layers[:2]]) == [NEXT.config.digest]
        await first.abandon()
    of_images(fake, joined((BASE, 0)))
    async with serving(fake, short) as engine:
        written = await fill(DockerFilling(engine, "app:v1", tmp_path), NEXT)

    assert written == [layer.digest for layer in NEXT.layers[1:]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/info", "/version", "/images/json"])
async def test_an_engine_that_does_not_say_gets_all(path: str, short: Path, tmp_path: Path) -> None:
    fake = FakeEngine()
    of_images(fake, BASE)
    fake.handlers = {
        path: lambda request: answered({"message": "denied"}, 403),
        "/images/load": lambda request: answered({"stream": ""}),
        **{ending: handler for ending, handler in fake.handlers.items() if ending != path},
    }
    async with serving(fake, short) as engine:
        assert len(await fill(DockerFilling(engine, "app:v1", tmp_path), NEXT)) == 4


async def test_what_the_engine_refuses_though_it_gets_all_is_said(short: Path, tmp_path: Path) -> None:
    fake = FakeEngine()
    of_images(fake, BASE)
    loads: list[int] = []

    async def refuse(request: web.BaseRequest) -> web.Response:
        loads.append(len(members(await request.content.read())))
        return says({"error": "open layer: no such file or directory"})

    fake.handlers["/images/load"] = refuse
    async with serving(fake, short) as engine:
        destination = DockerFilling(engine, "app:v1", tmp_path)
        with pytest.raises(Refused, match="did not load the image: open layer"):
            await pulled(source_of(NEXT), destination, tmp_path, Heard())

    assert loads == [3, 5]


async def test_room_is_looked_for_once_it_is_known_what_is_needed(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def room(folder: Path, needed: int, what: str) -> None:
        asked.append(needed)
        if needed > 200_000:
            raise NoSpace("full")

    monkeypatch.setattr("bucketry.transfer.local.archive_filling.check_room", room)
    fake = FakeEngine()
    of_images(fake, BASE)
    fake.handlers["/images/load"] = lambda request: answered({"error": "gone"})
    async with serving(fake, short) as engine:
        destination = DockerFilling(engine, "app:v1", tmp_path)
        with pytest.raises(NoSpace):
            await pulled(source_of(NEXT), destination, tmp_path, Heard())

    few, all_ = asked
    assert few < 200_000 < 300_000 < all_


async def test_a_config_that_does_not_fit_its_layers_is_refused(short: Path, tmp_path: Path) -> None:
    document = json.loads(NEXT.manifest.data)
    document["layers"] = document["layers"][:2]
    fake = FakeEngine()
    of_images(fake, BASE)
    async with serving(fake, short) as engine:
        destination = DockerFilling(engine, "app:v1", tmp_path)
        await destination.begin(raw(to_json(document, OCI_MANIFEST)), [], None)
        with pytest.raises(SourceDamaged, match="has 2 layers, but its config has 3"):
            await land(destination, [NEXT.config])
        await destination.abandon()


class TestWhichLayersAreHeld:
    async def held(self, short: Path, fake: FakeEngine, image: Image, **options: float) -> int:
        async with serving(fake, short) as engine:
            return await layers_held(engine, image.diff_ids, "app:1", **options)  # type: ignore[arg-type]

    async def test_the_longest_beginning_that_an_image_has(self, short: Path) -> None:
        fake = FakeEngine()
        of_images(fake, TOP, joined((BASE, 0)), BASE, joined((BASE, 0), (TOP, 0)))

        assert await self.held(short, fake, NEXT) == 2
        assert await self.held(short, fake, joined((BASE, 1))) == 0

    async def test_images_of_the_same_name_are_looked_at_first_and_then_the_newest(self, short: Path) -> None:
        fake = FakeEngine()
        of_images(fake, *(make_image(70 + n, (10,)) for n in range(4)))
        listed = [
            ("sha256:a", 1, "other:1"),
            ("sha256:b", 3, "other:2"),
            ("sha256:c", 2, "app:7"),
            ("sha256:d", 4, None),
        ]
        fake.handlers["/images/json"] = lambda request: answered(
            [{"Id": id_, "Created": when, "RepoTags": [tag] if tag else None} for id_, when, tag in listed]
        )

        assert await self.held(short, fake, NEXT, most=3) == 0
        assert [asked.split("/")[-2] for asked in fake.asked if "sha256" in asked] == [
            "sha256:c",
            "sha256:d",
            "sha256:b",
        ]

    async def test_no_more_is_asked_once_all_are_found(self, short: Path) -> None:
        fake = FakeEngine()
        of_images(fake, *(make_image(80 + n, (10,)) for n in range(30)), NEXT)

        assert await self.held(short, fake, NEXT) == 3
        assert len(fake.asked) < 20

    async def test_an_image_that_is_gone_meanwhile_has_none(self, short: Path) -> None:
        fake = FakeEngine()
        of_images(fake, BASE)
        fake.handlers["/images/json"] = lambda request: answered([{"Id": "sha256:gone"}, {"Id": BASE.config.digest}])

        assert await self.held(short, fake, NEXT) == 2

    async def test_a_slow_engine_is_not_waited_for(self, short: Path) -> None:
        fake = FakeEngine()
        of_images(fake, BASE, TOP)
        answer = fake.handlers["/json"]

        async def slowly(request: web.BaseRequest) -> web.StreamResponse:
            if TOP.config.digest in request.path:
                await asyncio.sleep(60)
            return await answer(request)

        fake.handlers["/json"] = slowly

        assert await self.held(short, fake, NEXT, seconds=0.3) == 2

    async def test_an_engine_that_ends_is_said_so(self, short: Path) -> None:
        fake = FakeEngine()

        async def die(request: web.BaseRequest) -> web.Response:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        fake.handlers["/images/json"] = die
        with pytest.raises(Unreachable):
            await self.held(short, fake, NEXT)
