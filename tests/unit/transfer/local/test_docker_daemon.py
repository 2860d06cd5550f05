"""The Docker Engine as source and destination: the real one, and one that fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from tests.support.daemons import short_folder
from tests.support.images import OCI_MANIFEST, Image, make_image, to_json, write_docker_archive
from tests.support.tools import run, tool
from tests.unit.transfer.fakes import Clockwork, Heard, MemoryTarget, settings
from tests.unit.transfer.local.engine import FakeEngine, runner_of, says, serving
from tests.unit.transfer.local.filled import begin, blobs, described, fill, land, put, raw
from tests.unit.transfer.local.tars import END, entry, listing, read_all, saved, tar

from bucketry.oci import Digest
from bucketry.transfer.contract import Slot
from bucketry.transfer.errors import (
    ImageMissing,
    Misconfigured,
    NameUnusable,
    NoSpace,
    NotPermitted,
    Refused,
    SourceDamaged,
    TransferError,
    Unreachable,
)
from bucketry.transfer.events import Read
from bucketry.transfer.local.docker_daemon import DockerFilling, DockerImage
from bucketry.transfer.local.docker_engine import DockerEngine, EngineAddress, find_engine
from bucketry.transfer.local.v1_ids import chain_ids, v1_id
from bucketry.transfer.push import push

IMAGE = make_image(41, (300, 3_000_000))
OTHER = make_image(42, (400,))
FACTS = {"Id": IMAGE.config.digest, "Size": 3_000_300, "RootFS": {"Type": "layers", "Layers": IMAGE.diff_ids}}


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


def docker(host: str, *arguments: str | Path) -> str:
    return run([tool("docker"), "--host", host, *arguments])


def load(host: str, image: Image, name: str, folder: Path) -> None:
    docker(host, "load", "--input", write_docker_archive(folder / "in.tar", image, name))


async def test_an_image_is_read_from_the_engine(engine: DockerEngine, docker_host: str, tmp_path: Path) -> None:
    load(docker_host, IMAGE, "daemon/app:v1", tmp_path)
    source = DockerImage(engine, "daemon/app:v1")
    try:
        before = await source.diff_ids()
        layers, config = await read_all(source)
    finally:
        docker(docker_host, "rmi", "daemon/app:v1")

    assert source.name == "docker-daemon:daemon/app:v1"
    assert list(map(str, before)) == list(map(str, config.diff_ids)) == IMAGE.diff_ids
    assert config.config == IMAGE.config.data
    assert config.tags == ("daemon/app:v1",)
    held = [layers[config.aliases.get(path, path)] for path in config.layers]
    # The engine packs layers anew: the files are the same, its own tar decides the digest.
    assert [hashlib.sha256(data).hexdigest() for data in held] == [digest[7:] for digest in IMAGE.diff_ids]


async def test_an_image_is_read_by_its_id_and_without_a_tag(
    engine: DockerEngine, docker_host: str, tmp_path: Path
) -> None:
    load(docker_host, IMAGE, "daemon/app:latest", tmp_path)
    try:
        for name in ("daemon/app", IMAGE.config.digest, IMAGE.config.digest[7:]):
            assert len(await DockerImage(engine, name).diff_ids()) == 2
    finally:
        docker(docker_host, "rmi", "daemon/app:latest")


async def test_an_image_that_is_not_there_is_said_with_what_is_like_it(
    engine: DockerEngine, docker_host: str, tmp_path: Path
) -> None:
    load(docker_host, IMAGE, "daemon/app:v1", tmp_path)
    try:
        for name in ("daemon/app:v2", "deamon/app:v1"):
            with pytest.raises(ImageMissing, match=rf"has no image '{name}'; there is daemon/app:v1"):
                await DockerImage(engine, name).diff_ids()
            with pytest.raises(ImageMissing, match="there is daemon/app:v1"):
                await anext(aiter(DockerImage(engine, name).layers()))
    finally:
        docker(docker_host, "rmi", "daemon/app:v1")


async def test_who_stops_in_the_middle_of_a_layer_is_let_go(
    engine: DockerEngine, docker_host: str, tmp_path: Path
) -> None:
    load(docker_host, IMAGE, "daemon/app:v1", tmp_path)
    source = DockerImage(engine, "daemon/app:v1")
    try:
        layers = source.layers()
        layer = await anext(aiter(layers))
        await anext(aiter(layer.read()))
        await layers.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            await source.close()
    finally:
        docker(docker_host, "rmi", "daemon/app:v1")


async def test_an_image_is_loaded_and_leaves_no_file(engine: DockerEngine, docker_host: str, tmp_path: Path) -> None:
    await fill(DockerFilling(engine, "daemon/loaded:v1", tmp_path / "cache"), IMAGE, "ignored")

    found = json.loads(docker(docker_host, "image", "inspect", "daemon/loaded:v1"))[0]
    docker(docker_host, "rmi", "daemon/loaded:v1")
    assert found["Id"] == IMAGE.config.digest
    assert found["RootFS"]["Layers"] == IMAGE.diff_ids
    assert list((tmp_path / "cache").iterdir()) == []


async def test_a_layer_that_is_no_tar_is_refused_by_the_engine(
    engine: DockerEngine, docker_host: str, tmp_path: Path
) -> None:
    destination = DockerFilling(engine, "daemon/broken:v1", tmp_path)
    await begin(destination, IMAGE)
    for blob in blobs(IMAGE):
        slot = await destination.slot(described(blob))
        assert isinstance(slot, Slot)
        put(slot, blob.data if blob is IMAGE.config else b"?" * len(blob.data))
        await destination.landed(described(blob))

    with pytest.raises(Refused, match=r"did not load the image: .+"):
        await destination.finish()
    await destination.abandon()


async def test_a_run_that_was_given_up_is_gone_on_with(short: Path, tmp_path: Path) -> None:
    fake = FakeEngine()
    got = bytearray()

    async def take(request: web.BaseRequest) -> web.Response:
        got.extend(await request.content.read())
        return says({"stream": "Loaded image: app:v1\n"})

    fake.handlers["/images/load"] = take
    async with serving(fake, short) as engine:
        first = DockerFilling(engine, "app:v1", tmp_path)
        await begin(first, IMAGE)
        await land(first, [IMAGE.layers[1]])
        await first.abandon()
    async with serving(fake, short) as engine:
        assert await fill(DockerFilling(engine, "app:v1", tmp_path), IMAGE) == [
            IMAGE.config.digest,
            IMAGE.layers[0].digest,
        ]

    assert b"manifest.json" in got[:100]
    assert IMAGE.layers[1].data in got
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "error", "says_"),
    [
        (says({"errorDetail": {"message": "x"}, "error": "unexpected EOF"}), Refused, "did not load the image: unex"),
        (
            says({"error": "Error processing tar file(exit status 1): write /data: no space left on device"}),
            NoSpace,
            "has no space left: try docker system prune",
        ),
        (says({"message": "open /tmp/x: no space left on device"}, 500), NoSpace, "no space left"),
        (says({"message": "broken"}, 500), Refused, "did not load the image: broken"),
        (web.Response(text="<html>"), Refused, "cannot be read"),
    ],
)
async def test_what_the_engine_says_against_an_archive_is_heard(
    answer: web.Response, error: type[TransferError], says_: str, short: Path, tmp_path: Path
) -> None:
    fake = FakeEngine()

    async def refuse(request: web.BaseRequest) -> web.Response:
        await request.content.read()
        return answer

    fake.handlers["/images/load"] = refuse
    async with serving(fake, short) as engine:
        destination = DockerFilling(engine, "app:v1", tmp_path)
        with pytest.raises(error, match=says_):
            await fill(destination, IMAGE)
        await destination.abandon()

    # A later run need not fetch anything again.
    assert [path.name.endswith(".tar.partial") for path in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("size", [100_000, 20_000_000])
async def test_an_engine_that_refuses_before_it_has_read_all_is_heard(size: int, short: Path, tmp_path: Path) -> None:
    fake = FakeEngine()

    async def refuse(request: web.BaseRequest) -> web.Response:
        await request.content.read(1000)
        return says({"message": "mkdir /var/lib/docker/tmp: no space left on device"}, 500)

    fake.handlers["/images/load"] = refuse
    async with serving(fake, short) as engine:
        destination = DockerFilling(engine, "app:v1", tmp_path)
        with pytest.raises(NoSpace, match="no space left"):
            await fill(destination, make_image(44, (size,)))
        await destination.abandon()


async def test_an_engine_that_ends_in_the_middle_of_a_load_is_said_so(short: Path, tmp_path: Path) -> None:
    fake = FakeEngine()

    async def die(request: web.BaseRequest) -> web.Response:
        await request.content.read(1000)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    fake.handlers["/images/load"] = die
    async with serving(fake, short) as engine:
        destination = DockerFilling(engine, "app:v1", tmp_path)
        with pytest.raises(Unreachable, match="broke"):
            await fill(destination, make_image(43, (9_000_000,)))
        await destination.abandon()


async def stream(fake: FakeEngine, data: bytes, *, whole: bool = True) -> None:
    async def give(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for start in range(0, len(data), 100_000):
            await answer.write(data[start : start + 100_000])
        if not whole:
            assert request.transport is not None
            request.transport.abort()
        return answer

    async def facts(request: web.BaseRequest) -> web.Response:
        return says(FACTS)

    fake.handlers["/get"] = give
    fake.handlers["/json"] = facts


async def test_a_connection_that_breaks_is_no_end_of_the_image(short: Path) -> None:
    fake = FakeEngine()
    await stream(fake, tar(saved(IMAGE))[:200_000], whole=False)

    async with serving(fake, short) as engine:
        with pytest.raises(Unreachable, match="broke"):
            await read_all(DockerImage(engine, "app:v1"))


HOSTILE: dict[str, tuple[bytes, str]] = {
    "cut short": (tar(saved(IMAGE))[:200_000], "cut short"),
    "a name outside": (tar(saved(IMAGE), entry("../x", b"")), "outside of it"),
    "another image": (tar(saved(OTHER)), "became another image"),
    "a layer that is not there": (
        tar({path: data for path, data in saved(IMAGE).items() if not path.startswith(f"{1:064x}")}),
        "lists the layer",
    ),
    "a huge list": (tar(saved(OTHER))[:-1024] + entry("x.json", size=b"%011o\0" % 2**30), "1,073,741,824 bytes"),
    "nothing": (END, "has no manifest"),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_stream_that_is_not_what_it_says_is_refused(what: str, short: Path) -> None:
    data, why = HOSTILE[what]
    fake = FakeEngine()
    await stream(fake, data)

    async with serving(fake, short) as engine:
        with pytest.raises((SourceDamaged, ImageMissing), match=why):
            await read_all(DockerImage(engine, "app:v1"))


@pytest.mark.parametrize(("config", "layer"), [("blobs/sha256/{}", "blobs/sha256/{}"), ("{}.json", "{}.tar")])
async def test_newer_engines_say_which_layer_it_is_before_it_is_read(config: str, layer: str, short: Path) -> None:
    """The first as Docker, the other as Podman."""
    files = {
        config.format(IMAGE.config.digest[7:]): IMAGE.config.data,
        **{layer.format(digest[7:]): data for digest, data in zip(IMAGE.diff_ids, IMAGE.tars, strict=True)},
    }
    first, *layers = files
    fake = FakeEngine("1.48")
    await stream(
        fake, tar({**files, "manifest.json": listing({"Config": first, "RepoTags": ["app:v1"], "Layers": layers})})
    )

    async with serving(fake, short) as engine:
        source = DockerImage(engine, "app:v1")
        found = [str(layer.diff_id) async for layer in source.layers()]
        assert (await source.config()).config == IMAGE.config.data

    assert found == IMAGE.diff_ids
    assert fake.asked[:3] == ["GET /_ping", "GET /v1.48/images/app:v1/json", "GET /v1.48/images/app:v1/get"]


async def test_older_engines_say_which_layer_it_is_before_it_is_read(
    engine: DockerEngine, docker_host: str, tmp_path: Path
) -> None:
    """The first and the last are the same layer: the last is a link."""
    first = make_image(45, (300, 70_000, 5_000))
    image = repeated(first)
    load(docker_host, image, "daemon/names:v1", tmp_path)
    source = DockerImage(engine, "daemon/names:v1")
    found = {}
    try:
        async for layer in source.layers():
            data = b"".join([piece async for piece in layer.read()])
            found[layer.path] = (str(layer.diff_id), f"sha256:{hashlib.sha256(data).hexdigest()}")
        config = await source.config()
    finally:
        docker(docker_host, "rmi", "daemon/names:v1")

    assert all(said == real for said, real in found.values())
    assert [found[config.aliases.get(path, path)][0] for path in config.layers] == image.diff_ids
    assert len(found) == 3


def repeated(image: Image) -> Image:
    """With its lowest layer as the uppermost, too."""
    config = json.loads(image.config.data)
    config["rootfs"]["diff_ids"].append(image.diff_ids[0])
    config["history"].append(config["history"][0])
    return replace(image, config=to_json(config, "application/json"), tars=(*image.tars, image.tars[0]))


EMPTY: dict[str, msgspec.Raw] = {"created": msgspec.Raw(b'"1970-01-01T00:00:00Z"')}


def named(image: Image, order: Sequence[int] | None = None) -> dict[str, bytes]:
    """What an older engine saves, its layers listed in another ``order``."""
    files, layers, below = {}, [], None
    diff_ids = tuple(map(Digest.parse, image.diff_ids))
    for chain_id, data in zip(chain_ids(diff_ids), image.tars, strict=True):
        parent: dict[str, str] = {} if below is None else {"parent": below}
        below = v1_id(EMPTY, chain_id, below)
        layers.append(f"{below}/layer.tar")
        files[f"{below}/json"] = json.dumps({"created": "1970-01-01T00:00:00Z", **parent}).encode()
        files[layers[-1]] = data
    listed = [layers[i] for i in order or range(len(layers))]
    config = image.config.digest[7:] + ".json"
    entry_ = {"Config": config, "RepoTags": ["app:v1"], "Layers": listed}
    return {**files, config: image.config.data, "manifest.json": listing(entry_)}


@pytest.mark.parametrize("files", [saved(IMAGE), {k: v for k, v in named(IMAGE).items() if not k.endswith("/json")}])
async def test_a_layer_whose_name_says_nothing_is_one_to_read(files: dict[str, bytes], short: Path) -> None:
    fake = FakeEngine()
    await stream(fake, tar(files))

    async with serving(fake, short) as engine:
        assert [layer.diff_id async for layer in DockerImage(engine, "app:v1").layers()] == [None, None]


async def sent(files: dict[str, bytes], target: MemoryTarget, short: Path, cache: Path) -> Heard:
    fake, heard = FakeEngine(), Heard()
    await stream(fake, tar(files))
    async with serving(fake, short) as engine:
        image = DockerImage(engine, "app:v1")
        await push(
            image,
            target,
            tag="v1",
            settings=settings(cache),
            listen=heard,
            timing=Clockwork().timing,
            clock=lambda: 1e9,
        )
    return heard


async def test_a_layer_that_is_there_is_passed_over_by_its_name(short: Path, tmp_path: Path) -> None:
    target = MemoryTarget()
    files = named(IMAGE)
    small, large = (path for path in files if path.endswith("layer.tar"))
    await sent(files, target, short, tmp_path)
    (digest,) = (layer.digest for layer in target.by_tag["v1"].parsed.layers[:1])
    del target.blobs[digest]

    heard = await sent(files, target, short, tmp_path)

    assert [event.item for event in heard.events if isinstance(event, Read)] == [small]
    assert large in heard.skipped()
    assert digest in target.blobs


async def test_a_layer_that_was_passed_over_gets_no_other_place_in_the_image(short: Path, tmp_path: Path) -> None:
    target = MemoryTarget()
    await sent(named(IMAGE), target, short, tmp_path)
    del target.blobs[target.by_tag["v1"].parsed.layers[0].digest]
    target.by_tag.clear()

    with pytest.raises(SourceDamaged, match="its config says"):
        await sent(named(IMAGE, order=[1, 0]), target, short, tmp_path)

    assert target.by_tag == {}


async def test_a_layer_that_is_not_what_its_name_says_is_refused(short: Path, tmp_path: Path) -> None:
    files = named(IMAGE)
    *_, large = (path for path in files if path.endswith("layer.tar"))
    target = MemoryTarget()

    with pytest.raises(SourceDamaged, match="its config says"):
        await sent({**files, large: OTHER.tars[0]}, target, short, tmp_path)

    assert target.by_tag == {}


async def test_a_layer_that_has_passed_is_not_given(short: Path) -> None:
    fake = FakeEngine()
    await stream(fake, tar(saved(IMAGE)))

    async with serving(fake, short) as engine:
        first, _ = [layer async for layer in DockerImage(engine, "app:v1").layers()]
        with pytest.raises(RuntimeError, match="has passed"):
            await anext(aiter(first.read()))


async def test_layers_of_zstd_are_kept_for_engines_that_read_them(short: Path, tmp_path: Path) -> None:
    document = json.loads(IMAGE.manifest.data)
    for layer in document["layers"]:
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
    for version, kept in (("1.41", 0), ("1.42", 2), ("1.51", 2)):
        async with serving(FakeEngine(version), short) as engine:
            destination = DockerFilling(engine, "app:v1", tmp_path / version)
            await destination.begin(raw(to_json(document, OCI_MANIFEST)), [], None)
            (partial,) = (tmp_path / version).iterdir()
            assert partial.read_bytes().count(b".tar.zst\0") == kept
            await destination.abandon()


async def test_no_engine_is_said_with_its_socket_and_the_other_way(tmp_path: Path) -> None:
    engine = DockerEngine(find_engine({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}, tmp_path))

    with pytest.raises(Unreachable, match=r"none\.sock \(from DOCKER_HOST\): No such file.*docker-archive:FILE"):
        await DockerImage(engine, "app:v1").diff_ids()
    destination = DockerFilling(engine, "app:v1", tmp_path / "cache")
    with pytest.raises(Unreachable, match="no Docker Engine answers at"):
        await begin(destination, IMAGE)
    await destination.abandon()
    assert not (tmp_path / "cache").exists()


async def test_a_socket_that_may_not_be_used_is_said_with_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root there is no such socket."""

    async def refuse(*args: object, **kwargs: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", refuse, raising=False)
    engine = DockerEngine(EngineAddress("unix:///var/run/docker.sock", ""))

    with pytest.raises(NotPermitted, match=r"may not use the Docker Engine at /var/run/docker\.sock: join the group"):
        await engine.tags()


async def test_what_is_no_engine_is_said_so() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(Unreachable, match=f"tcp://127.0.0.1:{port}"):
        await DockerEngine(find_engine({"DOCKER_HOST": f"tcp://127.0.0.1:{port}"}, Path("/x"))).tags()


async def test_an_engine_is_reached_over_plain_tcp() -> None:
    fake = FakeEngine()
    fake.handlers["/images/json"] = lambda request: answered([{"RepoTags": ["app:v1", "<none>:<none>"]}, {}])
    runner = runner_of(fake)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    engine = DockerEngine(find_engine({"DOCKER_HOST": f"tcp://127.0.0.1:{port}"}, Path("/x")))
    try:
        assert await engine.tags() == ["app:v1"]
        assert await engine.api_version() == (1, 41)
    finally:
        await engine.close()
        await runner.cleanup()


async def answered(document: object) -> web.Response:
    return says(document)


class TestWhereTheEngineIs:
    def context(self, home: Path, name: str, host: str, *, current: bool = True, folder: str = ".docker") -> None:
        digest = hashlib.sha256(name.encode()).hexdigest()
        meta = home / folder / "contexts" / "meta" / digest
        meta.mkdir(parents=True)
        said = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}
        (meta / "meta.json").write_text(json.dumps(said))
        if current:
            (home / folder / "config.json").write_text(json.dumps({"auths": {}, "currentContext": name}))

    def test_by_default_it_is_the_socket_that_docker_uses(self, tmp_path: Path) -> None:
        assert str(find_engine({}, tmp_path)) == "/var/run/docker.sock"
        self.context(tmp_path, "desktop", "unix:///home/me/desktop.sock", current=False)
        assert str(find_engine({}, tmp_path)) == "/var/run/docker.sock"

    def test_the_active_context_says_where(self, tmp_path: Path) -> None:
        self.context(tmp_path, "desktop", "unix:///home/me/desktop.sock")
        self.context(tmp_path, "other", "tcp://10.0.0.1:2375", current=False)

        assert find_engine({}, tmp_path).socket == "/home/me/desktop.sock"
        assert find_engine({"DOCKER_CONTEXT": "other"}, tmp_path).host == "tcp://10.0.0.1:2375"
        assert find_engine({"DOCKER_CONTEXT": "default"}, tmp_path).socket == "/var/run/docker.sock"
        assert find_engine({"DOCKER_HOST": "unix:///x.sock"}, tmp_path).socket == "/x.sock"

    def test_docker_config_says_where_contexts_are(self, tmp_path: Path) -> None:
        self.context(tmp_path, "desktop", "unix:///d.sock", folder="elsewhere")

        assert find_engine({"DOCKER_CONFIG": str(tmp_path / "elsewhere")}, tmp_path).socket == "/d.sock"

    @pytest.mark.parametrize(
        "host", ["ssh://me@host", "npipe:////./pipe/docker_engine", "tcp://host", "unix://rel", "x"]
    )
    def test_another_kind_is_refused(self, host: str, tmp_path: Path) -> None:
        with pytest.raises(NameUnusable, match=r"from DOCKER_HOST, is not supported.*docker-archive:FILE"):
            find_engine({"DOCKER_HOST": host}, tmp_path)

    def test_tls_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(NameUnusable, match="with TLS, from DOCKER_HOST, is not supported"):
            find_engine({"DOCKER_HOST": "tcp://host:2376", "DOCKER_TLS_VERIFY": "1"}, tmp_path)

    def test_a_context_that_is_not_there_is_said_so(self, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match="no docker context 'gone'"):
            find_engine({"DOCKER_CONTEXT": "gone"}, tmp_path)

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        (tmp_path / ".docker").mkdir()
        (tmp_path / ".docker" / "config.json").write_text("{")

        with pytest.raises(Misconfigured, match=r"config\.json cannot be read"):
            find_engine({}, tmp_path)


def test_the_home_folder_is_not_needed_where_the_host_is_said() -> None:
    assert find_engine({"DOCKER_HOST": "unix:///x"}, Path(os.devnull)).socket == "/x"
