"""Archives of docker save and podman save: read as they are, or refused."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from tests.support.daemons import short_folder
from tests.support.images import Blob, Image, digest_of, make_image, write_docker_archive, write_layout
from tests.support.tools import root_only, run, tool
from tests.unit.transfer.local.tars import entry, listing, pieces, read_all, saved, tar, written

from bucketry.oci import Digest
from bucketry.transfer.compress import Compression, compress
from bucketry.transfer.contract import SavedImage
from bucketry.transfer.errors import ImageMissing, NameUnusable, SourceDamaged, TransferError
from bucketry.transfer.local.docker_archive import DockerArchive
from bucketry.transfer.local.saved import MAX_DOCUMENT

IMAGE = make_image(7, (300, 70_000))
OTHER = make_image(8, (400,))
WAYS = ["plain", "gzip", "zstd"]


async def packed(way: str, data: bytes) -> bytes:
    if way == "plain":
        return data
    return b"".join([piece async for piece in compress(Compression.parse(way), pieces(data, 50_000))])


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def assert_holds(source: SavedImage, image: Image) -> None:
    """The layers, each once, the config, and the diff ids, before and after."""
    before = await source.diff_ids()
    layers, config = await read_all(source)
    assert config.config == image.config.data
    assert list(map(str, config.diff_ids)) == image.diff_ids
    assert list(before) == list(config.diff_ids)
    assert [layers[config.aliases.get(path, path)] for path in config.layers] == list(image.tars)
    known = {layer.path: str(layer.diff_id) async for layer in source.layers()}
    assert {path: digest_of(data) for path, data in layers.items()} == known
    assert set(layers) == {config.aliases.get(path, path) for path in config.layers}


async def test_docker_s_old_form_is_read(way: str, tmp_path: Path) -> None:
    data = tar(saved(IMAGE), entry("repositories", b"{}"), entry("0/VERSION", b"1.0"), entry("0/json", b"{}"))
    source = DockerArchive(written(tmp_path, await packed(way, data)))

    await assert_holds(source, IMAGE)
    assert (await source.config()).tags == ("app:v1",)
    await source.close()


async def test_docker_s_new_form_is_read(way: str, tmp_path: Path) -> None:
    """As Docker 25 and later write it: blobs by digest, the documents among them without an ending."""
    config = f"blobs/sha256/{Digest.of(IMAGE.config.data).hex}"
    layers = [f"blobs/sha256/{Digest.of(data).hex}" for data in IMAGE.tars]
    files = {
        config: IMAGE.config.data,
        "blobs/sha256/" + "0" * 64: b'{"schemaVersion":2}',
        **dict(zip(layers, IMAGE.tars, strict=True)),
        "index.json": b'{"schemaVersion":2,"manifests":[]}',
        "manifest.json": listing({"Config": config, "RepoTags": ["app:v1"], "Layers": layers, "LayerSources": {}}),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    }
    data = entry("blobs/", flag=b"5") + tar(files)

    await assert_holds(DockerArchive(written(tmp_path, await packed(way, data))), IMAGE)


async def test_layers_that_are_compressed_are_passed_on_as_they_are(way: str, tmp_path: Path) -> None:
    files = saved(IMAGE)
    inner = [gzip.compress(IMAGE.tars[0]), await packed("zstd", IMAGE.tars[1])]
    for number, data in enumerate(inner):
        files[f"{number:064x}/layer.tar"] = data

    layers, _ = await read_all(DockerArchive(written(tmp_path, await packed(way, tar(files)))))

    assert list(layers.values()) == inner


async def test_a_layer_that_comes_twice_is_given_once(way: str, tmp_path: Path) -> None:
    """The old form links the second to the first, and a link may stand before what it is to."""
    image = Image(IMAGE.manifest, config_of(IMAGE, [0, 1, 0]), IMAGE.layers, IMAGE.tars, IMAGE.architecture)
    first, second = f"{0:064x}/layer.tar", f"{1:064x}/layer.tar"
    files = saved(image, Layers=[first, second, "f/layer.tar"])
    data = entry("f/layer.tar", flag=b"2", link=f"../{first}") + tar(files)
    source = DockerArchive(written(tmp_path, await packed(way, data)))

    layers, config = await read_all(source)

    assert layers == {first: IMAGE.tars[0], second: IMAGE.tars[1]}
    assert config.layers == (first, second, "f/layer.tar")
    assert config.aliases == {"f/layer.tar": first}


def config_of(image: Image, order: list[int]) -> Blob:
    """A config for the layers in this order."""
    said = json.loads(image.config.data)
    said["rootfs"]["diff_ids"] = [image.diff_ids[number] for number in order]
    return Blob(json.dumps(said).encode(), image.config.media_type)


def two_images() -> bytes:
    one, two = saved(IMAGE, ["app:v1", "host.example:5000/team/app:v2"]), saved(OTHER, ["other:v1"])
    entries = [*json.loads(one.pop("manifest.json")), *json.loads(two.pop("manifest.json"))]
    moved = {path.replace("0/layer", "9/layer"): data for path, data in two.items()}
    entries[1]["Layers"] = [path.replace("0/layer", "9/layer") for path in entries[1]["Layers"]]
    return tar({**one, **moved, "manifest.json": listing(*entries)})


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("app:v1", IMAGE),
        ("docker.io/library/app:v1", IMAGE),
        ("v2", IMAGE),
        ("host.example:5000/team/app:v2", IMAGE),
        ("other:v1", OTHER),
    ],
)
async def test_a_name_chooses_among_images(name: str, image: Image, way: str, tmp_path: Path) -> None:
    await assert_holds(DockerArchive(written(tmp_path, await packed(way, two_images())), name), image)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        (None, NameUnusable, "2 images: add one of 'app:v1', 'host.example:5000/team/app:v2', 'other:v1'"),
        ("v1", NameUnusable, "could be 'app:v1'"),
        ("v3", ImageMissing, "no image 'v3': it has 'app:v1'"),
        ("app", ImageMissing, "no image 'app'"),
    ],
)
async def test_a_name_that_chooses_none_is_told_which_there_are(
    name: str | None, error: type[TransferError], says: str, tmp_path: Path
) -> None:
    source = DockerArchive(written(tmp_path, two_images()), name)

    with pytest.raises(error, match=says):
        await source.diff_ids()


async def test_layers_may_be_left_unread_or_half_read(way: str, tmp_path: Path) -> None:
    source = DockerArchive(written(tmp_path, await packed(way, tar(saved(make_image(9, (900, 90_000, 500)))))))
    found = []

    async for layer in source.layers():
        found.append(layer.path)
        if len(found) == 2:
            assert len(await anext(aiter(layer.read()))) > 0

    assert len(found) == 3
    await source.config()


FIRST, SECOND = f"{0:064x}/layer.tar", f"{1:064x}/layer.tar"
CONFIG = IMAGE.config.digest.removeprefix("sha256:") + ".json"


def without(path: str) -> dict[str, bytes]:
    return {name: data for name, data in saved(IMAGE).items() if name != path}


DAMAGED: dict[str, tuple[bytes, type[TransferError], str]] = {
    "no list": (tar({"a/layer.tar": b"x"}), ImageMissing, r"has no manifest\.json"),
    "an OCI layout": (tar({"oci-layout": b"{}", "index.json": b"{}"}), ImageMissing, "oci-archive:"),
    "an empty list": (tar({"manifest.json": b"[]"}), ImageMissing, "has no image in it"),
    "a list that is no list": (tar({"manifest.json": b'{"Config":"x"}'}), SourceDamaged, "damaged"),
    "a list that is no text": (tar({"manifest.json": b"\xff" * 9}), SourceDamaged, "damaged"),
    "a list without configs": (tar({"manifest.json": b"[{}]"}), SourceDamaged, "damaged"),
    "no config": (tar(saved(IMAGE, Config="other.json")), SourceDamaged, r"has no 'other\.json'"),
    "a config outside": (tar(saved(IMAGE, Config="../x.json")), SourceDamaged, "outside of it"),
    "another config": (tar({**saved(IMAGE), CONFIG: OTHER.config.data}), SourceDamaged, "not the one that its name"),
    "a config that is no config": (tar(saved(IMAGE, Config="x.json") | {"x.json": b"{}"}), SourceDamaged, "damaged"),
    "a diff id that is none": (
        tar(saved(IMAGE, Config="x.json") | {"x.json": b'{"rootfs":{"diff_ids":["md5:0","sha256:1"]}}'}),
        SourceDamaged,
        "damaged",
    ),
    "a layer outside": (tar(saved(IMAGE, Layers=["/etc/passwd", SECOND])), SourceDamaged, "outside of it"),
    "a layer that is not there": (tar(without(SECOND)), SourceDamaged, "lists the layer '0000"),
    "a layer that is a folder": (
        tar(without(SECOND), entry(SECOND, flag=b"5")),
        SourceDamaged,
        "lists the layer '0000",
    ),
    "a layer that links to nothing": (
        tar(without(SECOND), entry(SECOND, flag=b"2", link="nothing")),
        SourceDamaged,
        "lists the layer '0000",
    ),
    "a layer with two digests": (tar(saved(IMAGE, Layers=[FIRST, FIRST])), SourceDamaged, "two digests"),
    "fewer layers than the config has": (tar(saved(IMAGE, Layers=[FIRST])), SourceDamaged, "1 layers, but its .* 2"),
    "more layers than the config has": (tar(saved(IMAGE, Layers=[FIRST, SECOND, FIRST])), SourceDamaged, "3 layers"),
    "members that come twice": (tar(saved(IMAGE), entry(FIRST, b"other bytes")), SourceDamaged, "twice"),
    "a name outside": (tar(saved(IMAGE), entry("../x", b"")), SourceDamaged, "outside of it"),
    "a link outside": (tar(saved(IMAGE), entry("x", flag=b"2", link="/etc/shadow")), SourceDamaged, "outside of it"),
    "an absurd size": (entry("x", size=b"\x80\x7f" + b"\xff" * 10), SourceDamaged, "says that 'x' has"),
    "nothing": (b"", SourceDamaged, "cut short"),
    "no tar": (b"some text\n" * 1000, SourceDamaged, "checksum"),
}


@pytest.mark.parametrize("what", DAMAGED)
async def test_what_is_damaged_is_refused_before_a_layer_is_given(what: str, way: str, tmp_path: Path) -> None:
    data, error, says = DAMAGED[what]
    source = DockerArchive(written(tmp_path, await packed(way, data)))

    with pytest.raises(error, match=says):
        await anext(aiter(source.layers()))
    await source.close()


async def test_a_huge_list_is_refused_and_not_read(tmp_path: Path) -> None:
    head = entry("manifest.json", size=b"%011o\0" % 2**30)
    plain = tmp_path / "plain.tar"
    with plain.open("wb") as file:
        file.write(head)
        file.truncate(2**30 + 4096)
    compressed = written(tmp_path, await packed("gzip", head + bytes(10_000)), "image.tar.gz")

    for path in (plain, compressed):
        with pytest.raises(SourceDamaged, match=f"1,073,741,824 bytes: at most {MAX_DOCUMENT:,} are read"):
            await DockerArchive(path).diff_ids()


async def test_many_documents_are_refused_in_a_stream(tmp_path: Path) -> None:
    data = b"".join(entry(f"{number}.json", b"{" + bytes(4 * 2**20)) for number in range(17))

    with pytest.raises(SourceDamaged, match="67,108,864 of all such documents"):
        await DockerArchive(written(tmp_path, await packed("zstd", data))).diff_ids()


async def test_a_long_statement_beside_the_image_is_passed_over(tmp_path: Path) -> None:
    """Newer engines save what buildkit said of the build, as blobs without an ending."""
    statement = b'{"predicate":"' + b"x" * MAX_DOCUMENT + b'"}'
    data = tar({"blobs/sha256/" + "a" * 64: statement, **saved(IMAGE)})

    await assert_holds(DockerArchive(written(tmp_path, await packed("zstd", data))), IMAGE)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
async def test_an_archive_that_is_cut_short_is_refused(part: float, way: str, tmp_path: Path) -> None:
    data = await packed(way, tar(saved(IMAGE)))
    source = DockerArchive(written(tmp_path, data[: int(len(data) * part)]))

    with pytest.raises(SourceDamaged, match="cut short"):
        await source.diff_ids()


async def test_other_bytes_behind_a_stream_s_end_are_refused(tmp_path: Path) -> None:
    data = await packed("gzip", tar(saved(IMAGE)) + b"more")

    with pytest.raises(SourceDamaged, match="behind its end"):
        await DockerArchive(written(tmp_path, data)).diff_ids()


async def test_a_file_that_is_not_there_or_no_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ImageMissing, match="there is no file"):
        await DockerArchive(tmp_path / "none.tar").diff_ids()
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(NameUnusable, match="not a plain file"):
            await DockerArchive(path).diff_ids()


async def test_a_layer_shortened_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, tar(saved(IMAGE)))
    source = DockerArchive(path)
    await source.diff_ids()
    os.truncate(path, 5000)

    with pytest.raises(SourceDamaged, match="cut short"):
        await read_all(source)
    await source.close()


def docker(host: str, *arguments: str | Path) -> str:
    return run([tool("docker"), "--host", host, *arguments])


async def test_what_docker_saves_is_read(docker_host: str, way: str, tmp_path: Path) -> None:
    docker(docker_host, "load", "--input", write_docker_archive(tmp_path / "in.tar", IMAGE, "saved/app:v1"))
    docker(docker_host, "tag", "saved/app:v1", "saved/app:v2")
    docker(docker_host, "load", "--input", write_docker_archive(tmp_path / "in.tar", OTHER, "saved/other:v1"))
    docker(docker_host, "save", "--output", tmp_path / "one.tar", "saved/app:v1")
    docker(docker_host, "save", "--output", tmp_path / "two.tar", "saved/app:v1", "saved/app:v2", "saved/other:v1")
    docker(docker_host, "rmi", "saved/app:v1", "saved/app:v2", "saved/other:v1")

    for name, chosen, image in (
        ("one.tar", None, IMAGE),
        ("two.tar", "saved/app:v2", IMAGE),
        ("two.tar", "saved/other:v1", OTHER),
    ):
        data = await packed(way, (tmp_path / name).read_bytes())
        source = DockerArchive(written(tmp_path, data), chosen)
        await assert_holds(source, image)
        await source.close()


async def test_what_skopeo_writes_is_read(way: str, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", IMAGE, "v1")
    path = tmp_path / "skopeo.tar"
    run([tool("skopeo"), "--insecure-policy", "copy", f"oci:{layout}:v1", f"docker-archive:{path}:team/app:v1"])

    source = DockerArchive(written(tmp_path, await packed(way, path.read_bytes())), "team/app:v1")

    await assert_holds(source, IMAGE)
    await source.close()


async def test_what_podman_saves_is_read(tmp_path: Path) -> None:
    root_only("podman on a storage of its own")
    loaded = write_docker_archive(tmp_path / "in.tar", IMAGE, "localhost/saved/app:v1")
    with short_folder() as folder:  # podman takes no long one
        podman: list[str | Path] = [
            tool("podman"),
            "--root",
            folder / "root",
            "--runroot",
            folder / "run",
            "--storage-driver",
            "vfs",
        ]
        run([*podman, "load", "--input", loaded])
        run([*podman, "save", "--output", tmp_path / "out.tar", "localhost/saved/app:v1"])

    source = DockerArchive(tmp_path / "out.tar", "localhost/saved/app:v1")

    await assert_holds(source, IMAGE)
    await source.close()
