"""podman: one PATCH stream a blob; manifests of several platforms."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import Image, Index, assert_layout_holds, write_layout

INSECURE = "--tls-verify=false"


def test_an_image_comes_back_the_same(
    podman: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    name = f"{registry.host}/{repository}:v1"
    podman("pull", f"oci:{write_layout(tmp_path / 'pushed', image, 'v1')}:v1")
    podman("push", INSECURE, image.config.digest, f"docker://{name}")
    registry.reader.assert_same_image(repository, "v1", image)

    podman("rmi", "--all", "--force")
    podman("pull", INSECURE, name)
    found = json.loads(podman("image", "inspect", name))[0]
    assert f"sha256:{found['Id']}" == image.config.digest
    assert found["RootFS"]["Layers"] == image.diff_ids
    root = Path(podman("image", "mount", name).split()[-1])
    assert {path: (root / path).read_bytes() for path in image.files()} == image.files()
    podman("image", "unmount", name)


def test_a_manifest_of_several_platforms_is_pushed_and_pulled(
    podman: Client, skopeo: Client, registry: Registry, repository: str, index: Index, tmp_path: Path
) -> None:
    podman("manifest", "create", "built")
    for image in index.images:
        layout = write_layout(tmp_path / image.architecture, image, "v1")
        podman("manifest", "add", "built", f"oci:{layout}:v1")
    podman("manifest", "push", "--all", INSECURE, "built", f"docker://{registry.host}/{repository}:v1")

    listed = json.loads(registry.reader.manifest(repository, "v1"))["manifests"]
    assert [(entry["digest"], entry["platform"]["architecture"]) for entry in listed] == [
        (image.digest, image.architecture) for image in index.images
    ]
    for image in index.images:
        registry.reader.assert_holds(repository, image.digest, image)
        name = f"{registry.host}/{repository}@{image.digest}"
        skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path / 'pulled'}:{image.architecture}")
        assert_layout_holds(tmp_path / "pulled", image)
    podman("pull", INSECURE, "--arch=arm64", f"{registry.host}/{repository}:v1")
    found = json.loads(podman("image", "inspect", f"{registry.host}/{repository}:v1"))[0]
    assert f"sha256:{found['Id']}" == index.images[1].config.digest
