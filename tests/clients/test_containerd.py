"""containerd by its ctr: what Kubernetes nodes pull with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import Content, Image, Index, write_layout


def content(ctr: Client, digest: str) -> bytes:
    """A blob of containerd's own store."""
    command = [ctr.program, *map(str, ctr.options), "content", "get", digest]
    return subprocess.run(command, env=dict(ctr.env), check=True, capture_output=True, timeout=60).stdout


def push(skopeo: Client, registry: Registry, repository: str, pushed: Content, folder: Path) -> str:
    """Puts content into the registry, and gives its name there."""
    name = f"{registry.host}/{repository}:v1"
    layout = write_layout(folder / "pushed", pushed, "v1")
    skopeo("copy", "--all", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:v1", f"docker://{name}")
    return name


def test_an_image_is_pulled_byte_by_byte_and_unpacked(
    ctr: Client, skopeo: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    name = push(skopeo, registry, repository, image, tmp_path)
    ctr("images", "pull", "--plain-http", "--snapshotter=native", name)
    for blob in image.blobs():
        assert content(ctr, blob.digest) == blob.data
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    ctr("images", "mount", "--snapshotter=native", name, mounted)
    try:
        assert {path: (mounted / path).read_bytes() for path in image.files()} == image.files()
    finally:
        ctr("images", "unmount", mounted)
        # The next test must fetch the same blobs again, so the store is emptied of them.
        ctr("images", "rm", "--sync", name)


def test_an_index_is_pulled_with_all_its_platforms(
    ctr: Client, skopeo: Client, registry: Registry, repository: str, index: Index, tmp_path: Path
) -> None:
    name = push(skopeo, registry, repository, index, tmp_path)
    ctr("images", "pull", "--plain-http", "--all-platforms", "--snapshotter=native", name)
    for blob in index.blobs():
        assert content(ctr, blob.digest) == blob.data
    ctr("images", "rm", "--sync", name)


def test_an_image_is_pushed_byte_by_byte(
    ctr: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    name = f"{registry.host}/{repository}:v1"
    layout = write_layout(tmp_path / "pushed", image, name)
    archive = tmp_path / "image.tar"
    subprocess.run(["tar", "--create", f"--file={archive}", f"--directory={layout}", "."], check=True)
    ctr("images", "import", "--no-unpack", archive)
    ctr("images", "push", "--plain-http", name)
    registry.reader.assert_holds(repository, "v1", image)
    ctr("images", "rm", "--sync", name)
