"""skopeo: one PATCH stream a blob; digests of images and of whole indexes survive."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import Content, Image, Index, assert_layout_holds, write_layout

PUSH = ("copy", "--all", "--preserve-digests", "--dest-tls-verify=false")
PULL = ("copy", "--all", "--preserve-digests", "--src-tls-verify=false")


def push_and_pull(skopeo: Client, registry: Registry, repository: str, content: Content, folder: Path) -> None:
    remote = f"docker://{registry.host}/{repository}:v1"
    layout = write_layout(folder / "pushed", content, "v1")
    skopeo(*PUSH, f"oci:{layout}:v1", remote)
    registry.reader.assert_holds(repository, "v1", content)
    skopeo(*PULL, remote, f"oci:{folder / 'pulled'}:v1")
    assert_layout_holds(folder / "pulled", content)


def test_an_image_comes_back_byte_by_byte(
    skopeo: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    push_and_pull(skopeo, registry, repository, image, tmp_path)


def test_an_index_comes_back_with_all_its_platforms(
    skopeo: Client, registry: Registry, repository: str, index: Index, tmp_path: Path
) -> None:
    push_and_pull(skopeo, registry, repository, index, tmp_path)


def test_tags_are_listed_and_deleted(
    skopeo: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    layout = write_layout(tmp_path / "pushed", small_image, "v1")
    for tag in ("v2", "v1"):
        skopeo(*PUSH, f"oci:{layout}:v1", f"docker://{registry.host}/{repository}:{tag}")
    listed = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{registry.host}/{repository}"))
    assert listed["Tags"] == ["v1", "v2"]
    # skopeo deletes the manifest that the tag names, and with it every tag of it.
    skopeo("delete", "--tls-verify=false", f"docker://{registry.host}/{repository}:v1")
    assert registry.reader.request(f"/v2/{repository}/manifests/v2").status == 404
    assert registry.reader.request(f"/v2/{repository}/manifests/{small_image.digest}").status == 404


def test_a_repository_is_copied_to_another(
    skopeo: Client, registry: Registry, repository: str, index: Index, tmp_path: Path
) -> None:
    layout = write_layout(tmp_path / "pushed", index, "v1")
    first = f"docker://{registry.host}/{repository}:v1"
    skopeo(*PUSH, f"oci:{layout}:v1", first)
    skopeo(*PUSH, "--src-tls-verify=false", first, f"docker://{registry.host}/{repository}/copy:v1")
    registry.reader.assert_holds(f"{repository}/copy", "v1", index)
