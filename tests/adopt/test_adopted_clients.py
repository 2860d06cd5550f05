"""Adopted images in the hands of docker, skopeo and bucketry's own client: pulled, added to, copied out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.adopt.adopting import adopt, own_bytes
from tests.store.seaweed import Seaweed
from tests.support.clients import Client
from tests.support.images import (
    MIB,
    Content,
    assert_layout_holds,
    make_image,
    make_index,
    write_docker_archive,
    write_layout,
)
from tests.support.moving import moved, mover
from tests.support.old_registry import V3, BucketPlace, FolderPlace, Place, old_registry
from tests.support.reading import Reader
from tests.support.server import assert_no_fault, bucketry

BASE, SHARED = 3 * MIB, 20 * MIB
REPOSITORY = "team/app"


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """What is in the bucket, clients are redirected to; what is in the folder, bucketry sends."""
    if request.param == "folder":
        return FolderPlace(tmp_path / "tree")
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    return BucketPlace(seaweed, f"adopted-clients/{tmp_path.name}")


def test_clients_pull_what_was_adopted_and_push_what_shares_its_layers(
    place: Place, docker: Client, skopeo: Client, tmp_path: Path
) -> None:
    # The first layer is the same in all images of one seed and first size.
    large = make_image(1, (SHARED, 100))
    multi = make_index([large, make_image(2, (200,), architecture="arm64")])
    from_docker = make_image(3, (BASE, 300))
    with old_registry(V3, place, tmp_path / "old") as old:
        skopeo(*_COPY, "--dest-tls-verify=false", _layout(tmp_path, multi), f"docker://{old.host}/{REPOSITORY}:multi")
        name = f"{old.host}/{REPOSITORY}:docker"
        docker("load", "--input", write_docker_archive(tmp_path / "image.tar", from_docker, name))
        docker("push", name)
        digest = json.loads(docker("image", "inspect", name))[0]["RepoDigests"][0].partition("@")[2]
        docker("rmi", name)

    assert adopt(place, "--verify").code == 0

    with bucketry(place.url, tmp_path / "new", env=place.environ()) as server:
        for reference in (":docker", f"@{digest}"):
            docker("pull", f"{server.host}/{REPOSITORY}{reference}")
            found = json.loads(docker("image", "inspect", f"{server.host}/{REPOSITORY}{reference}"))[0]
            assert (found["Id"], found["RootFS"]["Layers"]) == (from_docker.config.digest, from_docker.diff_ids)
            docker("rmi", f"{server.host}/{REPOSITORY}{reference}")
        for number, reference in enumerate((":multi", f"@{multi.digest}")):
            pulled = tmp_path / f"pulled-{number}"
            skopeo(
                *_COPY, "--src-tls-verify=false", f"docker://{server.host}/{REPOSITORY}{reference}", f"oci:{pulled}:v1"
            )
            assert_layout_holds(pulled, multi)

        before = own_bytes(place)
        derived = make_image(1, (SHARED, 500))
        skopeo(
            *_COPY,
            "--dest-tls-verify=false",
            _layout(tmp_path, derived),
            f"docker://{server.host}/{REPOSITORY}:derived",
        )
        Reader(server.url).assert_holds(REPOSITORY, "derived", derived)
        assert own_bytes(place) - before < MIB  # The layer that they share was there.

        client = mover(tmp_path / "mover", **place.environ())
        by_server = client("pull", f"{server.host}/{REPOSITORY}:derived", f"oci:{tmp_path / 'by-server'}:v1")
        assert_layout_holds(tmp_path / "by-server", derived)
        assert moved(by_server.events) >= SHARED
        assert (
            Reader(server.url).request(f"/v2/{REPOSITORY}/_bucketry/checkpoints/{large.layers[0].digest}").status == 200
        )
        assert_no_fault(server)
    # Without a server, and out to another store.
    store = place.url if place.url.startswith("s3:") else f"file:{place.url}"
    client("copy", "--all", store, f"file:{tmp_path / 'out'}")
    with bucketry(str(tmp_path / "out"), tmp_path / "out-log") as server:
        reader = Reader(server.url)
        assert set(reader.tags(REPOSITORY)) == {"docker", "multi", "derived"}
        reader.assert_holds(REPOSITORY, "multi", multi)
        reader.manifest(REPOSITORY, digest)


_COPY = ("copy", "--all", "--preserve-digests")


def _layout(folder: Path, content: Content) -> str:
    """As skopeo names it."""
    return f"oci:{write_layout(folder / f'layout-{content.digest[7:19]}', content, 'v1')}:v1"
