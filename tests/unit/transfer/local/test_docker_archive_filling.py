"""Archives for docker load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.images import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Blob, Image, make_image, make_index, to_json
from tests.support.tools import run, tool
from tests.unit.transfer.local.filled import as_packed, begin, blobs, described, fill, land, put, raw
from tests.unit.transfer.local.tars import members, pieces

from bucketry.oci import Digest
from bucketry.transfer.errors import NameUnusable, NoSpace, Refused, SourceDamaged
from bucketry.transfer.local.archive_filling import ArchiveFilling
from bucketry.transfer.local.docker_archive import DockerArchive
from bucketry.transfer.local.docker_archive_filling import DockerArchiveFilling

IMAGE = make_image(31, (300, 300_000))
INDEX = make_index([IMAGE, make_image(32, (500,), "arm64")])


async def assert_holds(path: Path, image: Image, name: str | None = None) -> None:
    source = DockerArchive(path, name)
    assert list(map(str, await source.diff_ids())) == image.diff_ids
    assert (await source.config()).config == image.config.data
    await source.close()


def docker(host: str, *arguments: str | Path) -> str:
    return run([tool("docker"), "--host", host, *arguments])


def assert_docker_loads(host: str, path: Path, image: Image, name: str | None) -> None:
    said = docker(host, "load", "--input", path)
    assert (f"Loaded image: {name}" if name else f"Loaded image ID: {image.config.digest}") in said
    found = json.loads(docker(host, "image", "inspect", name or image.config.digest))[0]
    docker(host, "rmi", name or image.config.digest)
    assert found["Id"] == image.config.digest
    assert found["RootFS"]["Layers"] == image.diff_ids


@pytest.mark.parametrize("name", ["filled/app:v1", None])
async def test_docker_loads_gzip_layers_as_they_are(name: str | None, docker_host: str, tmp_path: Path) -> None:
    path = tmp_path / "out.tar"

    await fill(DockerArchiveFilling(path, name), IMAGE, "v1")

    held = members(path.read_bytes())
    assert {layer.data for layer in IMAGE.layers} < set(held.values())
    await assert_holds(path, IMAGE, name)
    assert_docker_loads(docker_host, path, IMAGE, name)


async def test_docker_loads_what_was_zstd(docker_host: str, tmp_path: Path) -> None:
    path = tmp_path / "out.tar"
    image = await as_packed("zstd", IMAGE)

    await fill(DockerArchiveFilling(path, "filled/zstd:v1"), image)

    assert set(image.tars) < set(members(path.read_bytes()).values())
    assert [each.name for each in tmp_path.iterdir()] == ["out.tar"]
    assert_docker_loads(docker_host, path, image, "filled/zstd:v1")


async def test_zstd_stays_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out.tar"
    image = await as_packed("zstd", IMAGE)

    await fill(DockerArchiveFilling(path, keep_zstd=True), image)

    assert {layer.data for layer in image.layers} < set(members(path.read_bytes()).values())
    await assert_holds(path, image)


async def test_a_layer_that_comes_twice_is_held_once(docker_host: str, tmp_path: Path) -> None:
    for image in (IMAGE, await as_packed("zstd", IMAGE)):
        config, manifest = json.loads(image.config.data), json.loads(image.manifest.data)
        config["rootfs"]["diff_ids"].append(config["rootfs"]["diff_ids"][0])
        config["history"].append(config["history"][0])
        configured = to_json(config, OCI_CONFIG)
        manifest["layers"].append(manifest["layers"][0])
        manifest["config"] = configured.descriptor()
        tars = (*image.tars, image.tars[0])
        twice = Image(to_json(manifest, OCI_MANIFEST), configured, image.layers, tars, "amd64")
        path = tmp_path / "out.tar"

        await fill(DockerArchiveFilling(path, "filled/twice:v1"), twice)

        assert len(members(path.read_bytes())) == 4
        assert_docker_loads(docker_host, path, twice, "filled/twice:v1")


async def test_podman_and_skopeo_read_it(tmp_path: Path) -> None:
    await fill(DockerArchiveFilling(tmp_path / "out.tar", "team/app:v1"), IMAGE)

    said = json.loads(run([tool("skopeo"), "inspect", f"docker-archive:{tmp_path / 'out.tar'}:team/app:v1"]))
    assert said["Layers"] == IMAGE.diff_ids


@pytest.mark.parametrize(
    ("image", "tag", "names"),
    [
        ("app", "ignored:v2", ["app:latest"]),
        ("docker.io/library/app:v1", None, ["app:v1"]),
        ("host.example:5000/team/app:v1", None, ["host.example:5000/team/app:v1"]),
        (None, "host.example/app:v2", ["host.example/app:v2"]),
        (None, "v2", None),
        (None, None, None),
    ],
)
async def test_it_is_called_as_docker_would(
    image: str | None, tag: str | None, names: list[str] | None, tmp_path: Path
) -> None:
    await fill(DockerArchiveFilling(tmp_path / "out.tar", image), IMAGE, tag)

    (entry,) = json.loads(members((tmp_path / "out.tar").read_bytes())["manifest.json"])
    assert entry["RepoTags"] == names


@pytest.mark.parametrize("image", ["UPPER", "app@sha256:" + "0" * 64, "a b", "x" * 300])
async def test_a_name_that_docker_does_not_take_is_refused(image: str, tmp_path: Path) -> None:
    with pytest.raises(NameUnusable):
        await begin(DockerArchiveFilling(tmp_path / "out.tar", image), IMAGE)


async def test_one_image_of_an_index_is_taken(tmp_path: Path) -> None:
    chosen = INDEX.images[1]
    destination = DockerArchiveFilling(tmp_path / "out.tar", "app:v1")

    await destination.begin(raw(INDEX.manifest), [raw(chosen.manifest)], "v1")
    await land(destination, blobs(chosen))
    await destination.finish()

    await assert_holds(tmp_path / "out.tar", chosen)
    with pytest.raises(NameUnusable, match="there are 2: choose one by --platform"):
        await begin(DockerArchiveFilling(tmp_path / "two.tar"), INDEX)


def statement() -> Blob:
    """What buildkit puts beside an image to say how it was built."""
    config = to_json(
        {"architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": []}}, OCI_CONFIG
    )
    layer = {"mediaType": "application/vnd.in-toto+json", "digest": str(Digest.of(b"{}")), "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor(), "layers": [layer]}
    return to_json(document, OCI_MANIFEST)


async def test_a_statement_about_the_build_is_left_out(tmp_path: Path) -> None:
    entries = [IMAGE.manifest.descriptor(), statement().descriptor()]
    index = to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, OCI_INDEX)
    destination = DockerArchiveFilling(tmp_path / "out.tar")

    await destination.begin(raw(index), [raw(IMAGE.manifest), raw(statement())], None)
    await land(destination, blobs(IMAGE))
    await destination.finish()

    await assert_holds(tmp_path / "out.tar", IMAGE)
    with pytest.raises(NameUnusable, match="no image that Docker could run"):
        await DockerArchiveFilling(tmp_path / "two.tar").begin(raw(statement()), [], None)


async def test_a_layer_from_elsewhere_is_refused(tmp_path: Path) -> None:
    document = json.loads(IMAGE.manifest.data)
    document["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

    with pytest.raises(Refused, match="fetched from elsewhere"):
        await DockerArchiveFilling(tmp_path / "out.tar").begin(raw(to_json(document, OCI_MANIFEST)), [], None)


async def test_a_zstd_layer_that_is_not_what_the_config_names_is_refused_and_leaves_what_there_was(
    tmp_path: Path,
) -> None:
    image = await as_packed("zstd", IMAGE, tars=(IMAGE.tars[0], IMAGE.tars[1][:-512] + b"?" * 512))
    path = tmp_path / "out.tar"
    destination = DockerArchiveFilling(path)
    await begin(destination, image)
    size = (tmp_path / "out.tar.partial").stat().st_size
    await land(destination, blobs(image))

    with pytest.raises(SourceDamaged, match="not the tar that the image's config names"):
        await destination.finish()
    assert (tmp_path / "out.tar.partial").stat().st_size == size
    await destination.abandon()
    assert not path.exists()


async def test_zstd_layers_are_gone_on_with_too(tmp_path: Path) -> None:
    image = await as_packed("zstd", IMAGE)
    first = DockerArchiveFilling(tmp_path / "out.tar")
    await begin(first, image)
    slot = await first.slot(described(image.layers[1]))
    assert slot is not None
    put(slot, image.layers[1].data, 0, 1000)
    await first.abandon()

    again = DockerArchiveFilling(tmp_path / "out.tar")
    await begin(again, image)
    assert await again.slot(described(image.layers[1])) == slot
    put(slot, image.layers[1].data, 1000)
    await again.landed(described(image.layers[1]))
    await again.abandon()

    last = DockerArchiveFilling(tmp_path / "out.tar")
    assert await fill(last, image) == [image.config.digest, image.layers[0].digest]

    await assert_holds(tmp_path / "out.tar", image)


async def test_a_disk_that_is_full_at_the_end_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = await as_packed("zstd", IMAGE)
    destination = DockerArchiveFilling(tmp_path / "out.tar")
    await begin(destination, image)
    await land(destination, blobs(image))
    size = (tmp_path / "out.tar.partial").stat().st_size
    write = ArchiveFilling._write

    def full(self: ArchiveFilling, offset: int, data: bytes) -> None:
        if offset > size + 100_000:
            raise OSError(28, "No space left on device")
        write(self, offset, data)

    monkeypatch.setattr(ArchiveFilling, "_write", full)
    with pytest.raises(NoSpace, match=r"cannot write docker-archive:.*No space left on device; make room"):
        await destination.finish()
    assert (tmp_path / "out.tar.partial").stat().st_size == size


async def test_appended_members_have_the_size_that_came(tmp_path: Path) -> None:
    archive = ArchiveFilling(tmp_path / "out.tar", "out.tar")
    await archive.begin([])

    await archive.append("empty", pieces(b""))
    await archive.append("some", pieces(b"x" * 5000))
    await archive.publish()

    held = members((tmp_path / "out.tar").read_bytes())
    assert held == {"empty": b"", "some": b"x" * 5000}
