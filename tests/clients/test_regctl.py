"""regctl: one PUT a blob, or chunks with Content-Range; referrers, deletes by tag and by digest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import Content, Image, Index, assert_layout_holds, write_layout


def push_and_pull(regctl: Client, registry: Registry, repository: str, content: Content, folder: Path) -> None:
    remote = f"{registry.host}/{repository}:v1"
    layout = write_layout(folder / "pushed", content, "v1")
    regctl("image", "copy", f"ocidir://{layout}:v1", remote)
    registry.reader.assert_holds(repository, "v1", content)
    regctl("image", "copy", remote, f"ocidir://{folder / 'pulled'}:v1")
    assert_layout_holds(folder / "pulled", content)


@pytest.fixture
def chunking(regctl: Client, registry: Registry) -> Client:
    """regctl, told to send every blob over 1,000 bytes in chunks of 1 MiB."""
    plain = dataclasses.replace(regctl, options=())
    plain("registry", "set", "--tls=disabled", "--blob-chunk=1048576", "--blob-max=1000", registry.host)
    return plain


def test_an_image_comes_back_byte_by_byte(
    regctl: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    push_and_pull(regctl, registry, repository, image, tmp_path)


def test_an_image_pushed_in_chunks_comes_back_byte_by_byte(
    chunking: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    push_and_pull(chunking, registry, repository, image, tmp_path)


def test_an_index_comes_back_with_all_its_platforms(
    regctl: Client, registry: Registry, repository: str, index: Index, tmp_path: Path
) -> None:
    push_and_pull(regctl, registry, repository, index, tmp_path)


def test_a_tag_is_deleted_and_the_other_stays(
    regctl: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    name = f"{registry.host}/{repository}"
    layout = write_layout(tmp_path / "pushed", small_image, "v1")
    for tag in ("v1", "v2", "v3"):
        regctl("image", "copy", f"ocidir://{layout}:v1", f"{name}:{tag}")
    assert regctl("tag", "ls", name).split() == ["v1", "v2", "v3"]
    regctl("tag", "delete", f"{name}:v2")
    assert regctl("tag", "ls", name).split() == ["v1", "v3"]
    registry.reader.assert_holds(repository, "v1", small_image)


def test_a_manifest_is_deleted_by_digest(
    regctl: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    name = f"{registry.host}/{repository}"
    layout = write_layout(tmp_path / "pushed", small_image, "v1")
    regctl("image", "copy", f"ocidir://{layout}:v1", f"{name}:v1")
    regctl("manifest", "delete", f"{name}@{small_image.digest}")
    assert registry.reader.request(f"/v2/{repository}/manifests/v1").status == 404


def test_an_artifact_with_a_subject_is_listed(
    regctl: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    subject = f"{registry.host}/{repository}:v1"
    layout = write_layout(tmp_path / "pushed", small_image, "v1")
    regctl("image", "copy", f"ocidir://{layout}:v1", subject)
    regctl("artifact", "put", "--artifact-type=application/vnd.example.sbom", "--subject", subject, stdin=b"a list")
    listed = regctl("artifact", "list", "--format={{range .Descriptors}}{{.Digest}} {{end}}", subject).split()
    assert len(listed) == 1
    assert regctl("artifact", "get", f"{registry.host}/{repository}@{listed[0]}") == "a list"
    assert registry.reader.tags(repository) == ["v1"]


def test_a_copy_to_another_repository_holds_the_same(
    regctl: Client, registry: Registry, repository: str, index: Index, tmp_path: Path
) -> None:
    first, second = f"{registry.host}/{repository}:v1", f"{registry.host}/{repository}/copy:v1"
    layout = write_layout(tmp_path / "pushed", index, "v1")
    regctl("image", "copy", f"ocidir://{layout}:v1", first)
    regctl("image", "copy", first, second)
    registry.reader.assert_holds(f"{repository}/copy", "v1", index)
    assert {repository, f"{repository}/copy"} <= set(regctl("repo", "ls", registry.host).split())
