"""buildah: an image built from nothing, pushed, pulled and unpacked."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import MIB

INSECURE = "--tls-verify=false"


def test_a_built_image_comes_back_with_its_files(
    buildah: Client, registry: Registry, repository: str, tmp_path: Path
) -> None:
    name = f"docker://{registry.host}/{repository}:v1"
    data = tmp_path / "data.bin"
    data.write_bytes(random.Random(6).randbytes(20 * MIB))
    container = buildah("from", "scratch").split()[-1]
    buildah("copy", container, data, "/srv/data.bin")
    buildah("config", "--label", "made=here", container)
    image = buildah("commit", "--quiet", container).split()[-1]
    buildah("push", INSECURE, image, name)
    buildah("rm", "--all")
    buildah("rmi", "--all", "--force")

    assert buildah("pull", "--quiet", INSECURE, name).split()[-1] == image
    container = buildah("from", f"{registry.host}/{repository}:v1").split()[-1]
    mounted = Path(buildah("mount", container).split()[-1])
    assert (mounted / "srv" / "data.bin").read_bytes() == data.read_bytes()
    buildah("umount", container)


def test_a_pushed_manifest_has_the_digest_that_buildah_says(
    buildah: Client, registry: Registry, repository: str, tmp_path: Path
) -> None:
    container = buildah("from", "scratch").split()[-1]
    (tmp_path / "file").write_text("small")
    buildah("copy", container, tmp_path / "file", "/file")
    image = buildah("commit", "--quiet", container).split()[-1]
    noted = tmp_path / "digest"
    for form in ("oci", "v2s2"):
        buildah(
            "push",
            INSECURE,
            f"--format={form}",
            f"--digestfile={noted}",
            image,
            f"docker://{registry.host}/{repository}:{form}",
        )
        assert registry.reader.manifest(repository, form) == registry.reader.manifest(repository, noted.read_text())
