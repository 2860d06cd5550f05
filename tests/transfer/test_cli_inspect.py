"""``bucketry inspect``: what an image, an index and an artifact are made of, from wherever they are."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.images import (
    KIB,
    MIB,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Blob,
    Image,
    Index,
    make_image,
    make_index,
    to_json,
    write_layout,
)
from tests.support.server import bucketry
from tests.transfer.command import Person

from bucketry.cli.inspect import AT_ONCE, _layers
from bucketry.oci import Descriptor

SBOM = "application/vnd.example.sbom.v1+json"
EMPTY = Blob(b"{}", "application/vnd.oci.empty.v1+json")


@dataclass(frozen=True)
class Artifact:
    manifest: Blob
    layer: Blob

    def blobs(self) -> Iterator[Blob]:
        yield from (EMPTY, self.layer, self.manifest)


def make_artifact(subject: Image) -> Artifact:
    layer = Blob(b'{"packages":[]}', SBOM)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": SBOM,
        "config": EMPTY.descriptor(),
        "layers": [layer.descriptor()],
        "subject": subject.manifest.descriptor(),
        "annotations": {"org.example.made-by": "nobody"},
    }
    return Artifact(to_json(document, OCI_MANIFEST), layer)


@dataclass(frozen=True)
class There:
    """A registry with an image, an index and an artifact, under tags of these names."""

    name: str
    image: Image
    index: Index
    artifact: Artifact


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person.at(tmp_path_factory.mktemp("inspect") / "person")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, person: Person) -> Iterator[dict[str, There]]:
    """The same registry, by its server and as the folder where it is."""
    folder = tmp_path_factory.mktemp("there")
    image = make_image(seed=41, sizes=(300, 17 * MIB))
    index = make_index([make_image(seed=42, sizes=(100,)), make_image(seed=43, sizes=(200,), architecture="arm64")])
    artifact = make_artifact(image)
    with bucketry(str(folder / "store"), folder, options=["--workers=1"]) as server:
        contents: dict[str, Any] = {"image": image, "index": index, "artifact": artifact}
        for tag, content in contents.items():
            layout = write_layout(folder / tag, content, tag)
            done = person.types("push", f"oci:{layout}:{tag}", f"{server.host}/team/app:{tag}")
            assert done.code == 0, done.err
        names = {"server": f"{server.host}/team/app", "folder": f"file:{folder}/store/team/app"}
        yield {kind: There(name, image, index, artifact) for kind, name in names.items()}


@pytest.fixture(params=["server", "folder"])
def there(request: pytest.FixtureRequest, both: dict[str, There]) -> There:
    return both[request.param]


def test_an_image(there: There, person: Person) -> None:
    done = person.types("inspect", f"{there.name}:image")

    assert (done.code, done.err) == (0, "")
    image = there.image
    small, large = image.layers
    total = sum(len(blob.data) for blob in (image.config, small, large))
    assert done.lines == [
        f"{there.name}:image",
        f"digest      {image.digest}",
        f"media type  {OCI_MANIFEST}",
        "platform    linux/amd64",
        f"size        {total / MIB:.1f} MiB, in 2 layers",
        f"  {small.digest}  {len(small.data)} B",
        f"  {large.digest}  {len(large.data) / MIB:.1f} MiB, verified in 3 segments",
        "referrers   1",
        f"  {there.artifact.manifest.digest}  {SBOM}",
    ]


def test_an_image_for_programs(there: There, person: Person) -> None:
    done = person.types("inspect", f"{there.name}:image", "--json")

    image = there.image
    assert json.loads(done.out) == {
        "name": f"{there.name}:image",
        "digest": image.digest,
        "mediaType": OCI_MANIFEST,
        "size": len(image.manifest.data),
        "platform": "linux/amd64",
        "config": image.config.descriptor(),
        "layers": [
            {**layer.descriptor(), "segments": segments} for layer, segments in zip(image.layers, (1, 3), strict=True)
        ],
        "total": sum(len(blob.data) for blob in (image.config, *image.layers)),
        "referrers": [
            {
                "digest": there.artifact.manifest.digest,
                "artifactType": SBOM,
                "size": len(there.artifact.manifest.data),
            }
        ],
    }


def test_an_index(there: There, person: Person) -> None:
    done = person.types("inspect", f"{there.name}:index")

    first, second = there.index.images
    assert done.lines == [
        f"{there.name}:index",
        f"digest      {there.index.digest}",
        f"media type  {OCI_INDEX}",
        "images      2",
        f"  {first.digest}  linux/amd64",
        f"  {second.digest}  linux/arm64",
    ]
    document = json.loads(person.types("inspect", f"{there.name}:index", "--json").out)
    assert [entry["platform"] for entry in document["manifests"]] == ["linux/amd64", "linux/arm64"]
    assert [entry["size"] for entry in document["manifests"]] == [len(image.manifest.data) for image in (first, second)]


def test_one_image_of_an_index(there: There, person: Person) -> None:
    done = person.types("inspect", f"{there.name}:index", "--platform", "linux/arm64")
    assert f"digest      {there.index.images[1].digest}" in done.lines
    assert "platform    linux/arm64" in done.lines

    done = person.types("inspect", f"{there.name}:index", "--platform", "linux/s390x")
    done.fails(1, there.name, "linux/s390x", "it has linux/amd64, linux/arm64")


def test_an_artifact(there: There, person: Person) -> None:
    done = person.types("inspect", f"{there.name}:artifact")

    layer = there.artifact.layer
    assert done.lines == [
        f"{there.name}:artifact",
        f"digest      {there.artifact.manifest.digest}",
        f"media type  {OCI_MANIFEST}",
        f"artifact    {SBOM}",
        f"subject     {there.image.digest}",
        f"size        {len(layer.data) + 2} B, in 1 layer",
        f"  {layer.digest}  {len(layer.data)} B",
    ]
    document = json.loads(person.types("inspect", f"{there.name}:artifact", "--json").out)
    assert document["annotations"] == {"org.example.made-by": "nobody"}
    assert (document["artifactType"], document["subject"]) == (SBOM, there.image.digest)


@pytest.mark.parametrize("tag", ["image", "index", "artifact"])
def test_the_exact_bytes(there: There, person: Person, tag: str) -> None:
    command, environ = person.command(["inspect", f"{there.name}:{tag}", "--raw"])
    out = subprocess.run(command, env=environ, capture_output=True, check=True, timeout=60).stdout
    content: Any = getattr(there, tag)
    assert out == content.manifest.data


def test_by_digest(there: There, person: Person) -> None:
    done = person.types("inspect", f"{there.name}@{there.image.digest}")
    assert done.lines[0] == f"{there.name}@{there.image.digest}"


def test_a_layout(person: Person, tmp_path: Path) -> None:
    image = make_image(seed=44, sizes=(5 * KIB,))
    layout = write_layout(tmp_path / "layout", image, "v1")
    done = person.types("inspect", f"oci:{layout}:v1")
    assert done.lines[:2] == [f"oci:{layout}:v1", f"digest      {image.digest}"]


async def test_layers_are_asked_about_at_once_and_not_all_of_them() -> None:
    running = peak = 0

    class Slow:
        def blob(self, blob: Descriptor) -> Slow:
            return self

        async def checkpoints(self) -> None:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.01)
            running -= 1

    layers = [Descriptor(media_type=OCI_LAYER, digest=f"sha256:{number:064x}", size=number) for number in range(30)]
    source: Any = Slow()
    found = await _layers(source, [*layers, layers[0]])
    assert [layer["size"] for layer in found] == [*range(30), 0]
    assert peak == AT_ONCE
