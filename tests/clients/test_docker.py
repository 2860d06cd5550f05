"""docker with its classic store: one chunked PATCH a blob, Docker schema 2 manifests, layers compressed anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import Image, Index, write_docker_archive, write_layout
from tests.support.reading import DOCKER_MANIFEST


def inspect(docker: Client, name: str) -> Any:
    return json.loads(docker("image", "inspect", name))[0]


def load(docker: Client, image: Image, name: str, folder: Path) -> None:
    """Gives the daemon an image of this name, made here."""
    docker("load", "--input", write_docker_archive(folder / "image.tar", image, name))


@pytest.mark.parametrize("host", ["host", "localhost"])
def test_an_image_comes_back_the_same(
    host: str, docker: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    name = f"{getattr(registry, host)}/{repository}:v1"
    load(docker, image, name, tmp_path)
    pushed = docker("push", name)
    registry.reader.assert_same_image(repository, "v1", image)
    manifest = registry.reader.get(f"/v2/{repository}/manifests/v1", {"Accept": DOCKER_MANIFEST})
    assert manifest.headers["Content-Type"] == DOCKER_MANIFEST
    digest = manifest.headers["Docker-Content-Digest"]
    assert f"digest: {digest} size: {len(manifest.body)}" in pushed

    # Without the image the daemon has no layer of it either, and must fetch each.
    docker("rmi", name)
    docker("pull", name)
    found = inspect(docker, name)
    docker("rmi", name)
    assert found["Id"] == image.config.digest
    assert found["RootFS"]["Layers"] == image.diff_ids
    assert found["RepoDigests"] == [f"{getattr(registry, host)}/{repository}@{digest}"]


def test_a_second_push_sends_nothing_again(
    docker: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    name = f"{registry.host}/{repository}"
    load(docker, small_image, f"{name}:v1", tmp_path)
    docker("push", f"{name}:v1")
    docker("tag", f"{name}:v1", f"{name}:v2")
    said = docker("push", f"{name}:v2")
    docker("rmi", f"{name}:v1", f"{name}:v2")
    assert said.count("Layer already exists") == len(small_image.layers)
    assert registry.reader.tags(repository) == ["v1", "v2"]
    assert registry.reader.manifest(repository, "v1") == registry.reader.manifest(repository, "v2")


def test_a_push_to_another_repository_mounts_the_layers(
    docker: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    first, second = f"{registry.host}/{repository}:v1", f"{registry.host}/{repository}/copy:v1"
    load(docker, image, first, tmp_path)
    docker("push", first)
    docker("tag", first, second)
    said = docker("push", second)
    docker("rmi", first, second)
    assert said.count(f"Mounted from {repository}") == len(image.layers)
    registry.reader.assert_same_image(f"{repository}/copy", "v1", image)


def test_of_an_index_the_own_platform_is_pulled(
    docker: Client, skopeo: Client, registry: Registry, repository: str, index: Index, tmp_path: Path
) -> None:
    layout = write_layout(tmp_path / "pushed", index, "v1")
    name = f"{registry.host}/{repository}:v1"
    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layout}:v1", f"docker://{name}")
    for image in index.images:
        docker("pull", "--platform", f"linux/{image.architecture}", name)
        found = inspect(docker, name)
        docker("rmi", name)
        assert found["Id"] == image.config.digest
        assert found["RootFS"]["Layers"] == image.diff_ids
