"""crane: POST, one PATCH with a length, PUT; copies by mounting."""

from __future__ import annotations

from pathlib import Path

from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import Content, Image, Index, assert_layout_holds, write_layout


def push_and_pull(crane: Client, registry: Registry, repository: str, content: Content, folder: Path) -> None:
    remote = f"{registry.host}/{repository}:v1"
    crane("push", write_layout(folder / "pushed", content, "v1"), remote)
    registry.reader.assert_holds(repository, "v1", content)
    crane("pull", "--format=oci", remote, folder / "pulled")
    assert_layout_holds(folder / "pulled", content)


def test_an_image_comes_back_byte_by_byte(
    crane: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    push_and_pull(crane, registry, repository, image, tmp_path)
    assert "PASS" in crane("validate", "--remote", f"{registry.host}/{repository}:v1")


def test_an_index_comes_back_with_all_its_platforms(
    crane: Client, registry: Registry, repository: str, index: Index, tmp_path: Path
) -> None:
    push_and_pull(crane, registry, repository, index, tmp_path)


def test_tags_and_repositories_are_listed(
    crane: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    layout = write_layout(tmp_path / "pushed", small_image, "v1")
    for tag in ("v10", "v1", "latest"):
        crane("push", layout, f"{registry.host}/{repository}:{tag}")
    assert crane("ls", f"{registry.host}/{repository}").split() == ["latest", "v1", "v10"]
    assert repository in crane("catalog", registry.host).split()


def test_a_copy_to_another_repository_mounts_every_blob(
    crane: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    first, second = f"{registry.host}/{repository}:v1", f"{registry.host}/{repository}/copy:v1"
    crane("push", write_layout(tmp_path / "pushed", image, "v1"), first)
    said = crane("copy", first, second)
    for blob in (image.config, *image.layers):
        assert f"mounted blob: {blob.digest}" in said
    registry.reader.assert_holds(f"{repository}/copy", "v1", image)


def test_a_deleted_manifest_is_gone_with_its_tags(
    crane: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    name = f"{registry.host}/{repository}"
    layout = write_layout(tmp_path / "pushed", small_image, "v1")
    for tag in ("v1", "v2"):
        crane("push", layout, f"{name}:{tag}")
    crane("delete", f"{name}@{small_image.digest}")
    for reference in ("v1", "v2", small_image.digest):
        assert registry.reader.request(f"/v2/{repository}/manifests/{reference}").status == 404
    crane("push", layout, f"{name}:v1")
    registry.reader.assert_holds(repository, "v1", small_image)


def test_a_deleted_tag_leaves_the_manifest(
    crane: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    name = f"{registry.host}/{repository}"
    layout = write_layout(tmp_path / "pushed", small_image, "v1")
    for tag in ("v1", "v2"):
        crane("push", layout, f"{name}:{tag}")
    crane("delete", f"{name}:v1")
    assert crane("ls", name).split() == ["v2"]
    registry.reader.assert_holds(repository, small_image.digest, small_image)
