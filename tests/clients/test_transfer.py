"""bucketry's own client, with the others on the other end: what it pushes they pull, and what they push it pulls.

An image of a Docker Engine goes to a server, and straight to a folder and to a bucket, and comes back byte by byte.
"""

from __future__ import annotations

import gzip
import json
import signal
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.clients.test_containerd import content
from tests.clients.test_docker import inspect, load
from tests.clients.test_oras import SBOM, attach, discovered
from tests.store.seaweed import Seaweed
from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import (
    MIB,
    Content,
    Image,
    Index,
    assert_layout_holds,
    blob_path,
    digest_of,
    make_image,
    write_layout,
)
from tests.support.moving import Mover, Outcome, mover
from tests.support.server import assert_no_fault, bucketry
from tests.support.tools import run, search_path, tool
from tests.transfer.peers import peer
from tests.unit.transfer.local.test_docker_layers import joined

OCI_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
NO_PARTS = "no parallel extension"
BY_OTHERS = pytest.mark.parametrize("pushed", ["local server", "bucket"], indirect=True)
"""What docker pulls from all places, the others pull from two."""


@dataclass(frozen=True)
class Pushed:
    """An image that bucketry took from a Docker Engine. ``name`` is what it was pushed to."""

    name: str
    registry: Registry
    """A server on where it is, which may have come later."""
    repository: str
    outcome: Outcome

    @property
    def remote(self) -> str:
        return f"{self.registry.host}/{self.repository}:v1"

    @property
    def manifest(self) -> Any:
        return json.loads(self.registry.reader.manifest(self.repository, "v1"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, docker_host: str, seaweed: Seaweed) -> Mover:
    """With one cache for all tests of this file, as a person has it."""
    return mover(tmp_path_factory.mktemp("client"), DOCKER_HOST=docker_host, **seaweed.environ())


@pytest.fixture
def stranger(tmp_path: Path, docker_host: str, seaweed: Seaweed) -> Mover:
    """With a cache that is empty."""
    return mover(tmp_path / "stranger", DOCKER_HOST=docker_host, **seaweed.environ())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, docker_host: str) -> Client:
    """The docker command, for the whole file."""
    env = {"PATH": search_path(), "HOME": str(tmp_path_factory.mktemp("engine")), "DOCKER_HOST": docker_host}
    return Client(tool("docker"), env)


@pytest.fixture(scope="module")
def peer_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with peer(tmp_path_factory.mktemp("peer")) as registry:
        yield registry


@pytest.fixture(scope="module", params=["local server", "s3 server", "folder", "bucket"])
def pushed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    client: Mover,
    engine: Client,
    seaweed: Seaweed,
    image: Image,
) -> Iterator[Pushed]:
    """The engine has it no more: whoever pulls it must fetch all of it."""
    folder = tmp_path_factory.mktemp("pushed")
    repository = "tests/transfer/app"
    store = {"folder": f"{folder}/store", "bucket": f"s3://{seaweed.bucket}/transfer/direct"}.get(request.param)
    with ExitStack() as stack:
        if store is None:
            registry: Registry = request.getfixturevalue(f"{request.param.removesuffix(' server')}_registry")
            name = f"{registry.host}/{repository}:v1"
        else:
            # Two slashes: the repository's name has folders, too.
            name = f"{store if '://' in store else f'file:{store}'}//{repository}:v1"
        load(engine, image, "built/app:v1", folder)
        try:
            outcome = client("push", "built/app:v1", name)
        finally:
            engine("rmi", "built/app:v1")
        if store is not None:
            server = stack.enter_context(bucketry(store, folder, env=seaweed.environ()))
            registry = Registry(server.host, "s3" if "://" in store else "local")
        yield Pushed(name, registry, repository, outcome)
        if store is not None:
            assert_no_fault(server)


def test_what_was_pushed_is_the_image(pushed: Pushed, image: Image) -> None:
    pushed.registry.reader.assert_same_image(pushed.repository, "v1", image)
    manifest = pushed.manifest
    assert [layer["mediaType"] for layer in manifest["layers"]] == [OCI_GZIP] * len(image.tars)
    assert digest_of(pushed.registry.reader.manifest(pushed.repository, "v1")) == pushed.outcome.digest
    total = sum(layer["size"] for layer in manifest["layers"])
    assert total <= pushed.outcome.ended["moved"] < total + 100_000
    assert not pushed.outcome.notes


def test_docker_pulls_it(pushed: Pushed, docker: Client, image: Image) -> None:
    command = pushed.outcome.ended.get("pull")
    if pushed.name == pushed.remote:
        assert command == f"docker pull {pushed.remote}"
    docker("pull", pushed.remote)
    found = inspect(docker, pushed.remote)
    docker("rmi", pushed.remote)
    assert found["Id"] == image.config.digest
    assert found["RootFS"]["Layers"] == image.diff_ids
    assert found["RepoDigests"] == [f"{pushed.remote.removesuffix(':v1')}@{pushed.outcome.digest}"]


@BY_OTHERS
def test_podman_pulls_it(pushed: Pushed, podman: Client, image: Image) -> None:
    podman("pull", "--tls-verify=false", pushed.remote)
    found = json.loads(podman("image", "inspect", pushed.remote))[0]
    assert f"sha256:{found['Id']}" == image.config.digest
    assert found["RootFS"]["Layers"] == image.diff_ids


@BY_OTHERS
def test_containerd_pulls_it(pushed: Pushed, ctr: Client, image: Image, tmp_path: Path) -> None:
    ctr("images", "pull", "--plain-http", "--snapshotter=native", pushed.remote)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    ctr("images", "mount", "--snapshotter=native", pushed.remote, mounted)
    try:
        assert {path: (mounted / path).read_bytes() for path in image.files()} == image.files()
        assert content(ctr, image.config.digest) == image.config.data
    finally:
        ctr("images", "unmount", mounted)
        ctr("images", "rm", "--sync", pushed.remote)


@BY_OTHERS
def test_crane_pulls_it(pushed: Pushed, crane: Client, tmp_path: Path) -> None:
    crane("pull", "--format=oci", pushed.remote, tmp_path / "pulled")
    manifest = pushed.manifest
    for blob in (manifest["config"], *manifest["layers"]):
        assert digest_of(blob_path(tmp_path / "pulled", blob["digest"]).read_bytes()) == blob["digest"]
    assert "PASS" in crane("validate", "--remote", pushed.remote)


def test_it_comes_back_into_the_engine(
    pushed: Pushed, client: Mover, docker: Client, image: Image, tmp_path: Path
) -> None:
    outcome = client("pull", pushed.name, "docker-daemon:back/app:v2")
    found = inspect(docker, "back/app:v2")
    docker("save", "--output", tmp_path / "saved.tar", "back/app:v2")
    docker("rmi", "back/app:v2")
    assert outcome.digest == pushed.outcome.digest
    assert outcome.ended["pull"] == "docker run back/app:v2"
    assert found["Id"] == image.config.digest
    assert found["RootFS"]["Layers"] == image.diff_ids
    assert_archive_holds(tmp_path / "saved.tar", image)
    assert not list((client.cache / "images").iterdir())


def test_it_comes_back_as_an_archive_of_docker(
    pushed: Pushed, client: Mover, docker: Client, skopeo: Client, image: Image, tmp_path: Path
) -> None:
    archive = tmp_path / "app.tar"
    client("pull", pushed.name, f"docker-archive:{archive}:back/app:v3")
    assert_archive_holds(archive, image)
    docker("load", "--input", archive)
    found = inspect(docker, "back/app:v3")
    docker("rmi", "back/app:v3")
    assert found["Id"] == image.config.digest
    assert found["RootFS"]["Layers"] == image.diff_ids
    skopeo("copy", f"docker-archive:{archive}", f"oci:{tmp_path / 'copied'}:v1")
    assert blob_path(tmp_path / "copied", image.config.digest).read_bytes() == image.config.data
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("app.tar")] == ["app.tar"]


def test_it_comes_back_as_a_layout(pushed: Pushed, client: Mover, skopeo: Client, image: Image, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    client("pull", pushed.name, f"oci:{layout}:v4")
    assert_layout_has(layout, pushed, image)
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    assert (entry["digest"], entry["annotations"]) == (
        pushed.outcome.digest,
        {"org.opencontainers.image.ref.name": "v4"},
    )
    assert_skopeo_reads(skopeo, f"oci:{layout}:v4", pushed, tmp_path)


def test_it_comes_back_as_an_archive_of_a_layout(
    pushed: Pushed, client: Mover, skopeo: Client, image: Image, tmp_path: Path
) -> None:
    archive = tmp_path / "layout.tar"
    client("pull", pushed.name, f"oci-archive:{archive}:v5")
    layout = tmp_path / "layout"
    with tarfile.open(archive) as tar:
        tar.extractall(layout, filter="data")
    assert_layout_has(layout, pushed, image)
    assert_skopeo_reads(skopeo, f"oci-archive:{archive}:v5", pushed, tmp_path)


def assert_layout_has(layout: Path, pushed: Pushed, image: Image) -> None:
    """Every blob of the image as it is in the registry, and no other file."""
    reader, manifest = pushed.registry.reader, pushed.manifest
    assert blob_path(layout, pushed.outcome.digest).read_bytes() == reader.manifest(pushed.repository, "v1")
    blobs = [blob["digest"] for blob in (manifest["config"], *manifest["layers"])]
    for digest in blobs:
        assert blob_path(layout, digest).read_bytes() == reader.blob(pushed.repository, digest)
    assert [
        digest_of(gzip.decompress(blob_path(layout, digest).read_bytes())) for digest in blobs[1:]
    ] == image.diff_ids
    found = {path.name for path in layout.rglob("*") if path.is_file()}
    digests = {digest.removeprefix("sha256:") for digest in (*blobs, pushed.outcome.digest)}
    assert found == digests | {"index.json", "oci-layout"}


def assert_skopeo_reads(skopeo: Client, name: str, pushed: Pushed, folder: Path) -> None:
    """skopeo verifies every digest on the way."""
    skopeo("copy", "--preserve-digests", name, f"dir:{folder / 'read'}")
    assert digest_of((folder / "read" / "manifest.json").read_bytes()) == pushed.outcome.digest


def assert_archive_holds(archive: Path, image: Image) -> None:
    """What ``docker load`` takes: the config's very bytes, and the layers, compressed or not."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        (entry,) = json.loads(read("manifest.json"))
        assert read(entry["Config"]) == image.config.data
        layers = [read(name) for name in entry["Layers"]]
    assert [digest_of(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data) for data in layers] == image.diff_ids


# What was pushed before


@pytest.mark.parametrize("form", ["gzip", "zstd:6"])
def test_a_layer_compressed_again_has_the_same_digest_and_is_not_sent_again(
    form: str, local_registry: Registry, client: Mover, stranger: Mover, engine: Client, repository: str, tmp_path: Path
) -> None:
    made = make_image(seed=31, sizes=(300, 9 * MIB))
    name = f"{local_registry.host}/{repository}"
    load(engine, made, f"built/{form.replace(':', '-')}:v1", tmp_path)
    source = f"docker-daemon:built/{form.replace(':', '-')}:v1"
    first = client("push", source, f"{name}:v1", "--compression", form)
    again = client("push", source, f"{name}:v2", "--compression", form)
    elsewhere = stranger("push", source, f"{name}/elsewhere:v1", "--compression", form)
    engine("rmi", source.removeprefix("docker-daemon:"))

    assert first.ended["moved"] > 9 * MIB
    assert again.digest == elsewhere.digest == first.digest
    reader = local_registry.reader
    body = reader.manifest(repository, "v1")
    assert again.ended["moved"] == len(body)  # A manifest goes under its tag.
    skipped = [event["item"] for event in again.of("skipped")]
    assert len(skipped) == len(made.tars) + 1
    assert {event["why"] for event in again.of("skipped")} == {"already there"}
    layers = json.loads(body)["layers"]
    assert {layer["mediaType"] for layer in layers} == {OCI_GZIP if form == "gzip" else OCI_ZSTD}
    assert json.loads(reader.manifest(f"{repository}/elsewhere", "v1"))["layers"] == layers


def test_of_an_image_that_was_built_on_another_only_what_is_new_is_sent(
    local_registry: Registry, client: Mover, engine: Client, repository: str, tmp_path: Path
) -> None:
    base = make_image(seed=32, sizes=(300, 9 * MIB, 3 * MIB))
    name = f"{local_registry.host}/{repository}"
    load(engine, base, "built/on:v1", tmp_path)
    client("push", "docker-daemon:built/on:v1", f"{name}:v1")
    (tmp_path / "new").write_bytes(bytes(200_000))
    container = engine("create", "built/on:v1", "command").strip()
    try:
        engine("cp", tmp_path / "new", f"{container}:/new")
        engine("commit", container, "built/on:v2")
        diff_ids = inspect(engine, "built/on:v2")["RootFS"]["Layers"]
        second = client("push", "docker-daemon:built/on:v2", f"{name}:v2")
    finally:
        engine("rm", container)
    engine("rmi", "built/on:v1", "built/on:v2")

    reader = local_registry.reader
    before, after = (json.loads(reader.manifest(repository, tag))["layers"] for tag in ("v1", "v2"))
    assert diff_ids[:-1] == base.diff_ids
    assert after[:-1] == before
    assert digest_of(gzip.decompress(reader.blob(repository, after[-1]["digest"]))) == diff_ids[-1]
    layers = {event["item"] for event in second.of("found") if event["kind"] == "layer"}
    skipped = {event["item"]: event for event in second.of("skipped")}
    (new,) = layers - skipped.keys()
    assert {event["why"] for event in skipped.values()} == {"already there"}
    assert sorted(event["size"] for event in skipped.values()) == sorted(layer["size"] for layer in before)
    assert {event["item"] for event in second.of("read")} == {new}
    assert second.ended["moved"] < 50_000


def test_layers_of_zstd_come_back_where_docker_has_no_zstd(
    local_registry: Registry,
    client: Mover,
    docker: Client,
    podman: Client,
    small_image: Image,
    repository: str,
    tmp_path: Path,
) -> None:
    name = f"{local_registry.host}/{repository}:v1"
    load(docker, small_image, "built/zstd:v1", tmp_path)
    client("push", "docker-daemon:built/zstd:v1", name, "--compression", "zstd")
    docker("rmi", "built/zstd:v1")
    client("pull", name, "docker-daemon:back/zstd:v1")
    found = inspect(docker, "back/zstd:v1")
    docker("rmi", "back/zstd:v1")
    assert found["Id"] == small_image.config.digest
    assert found["RootFS"]["Layers"] == small_image.diff_ids
    podman("pull", "--tls-verify=false", name)
    assert json.loads(podman("image", "inspect", name))[0]["RootFS"]["Layers"] == small_image.diff_ids


def test_what_docker_pushed_has_checkpoints_and_comes_back(
    registry: Registry, client: Mover, docker: Client, image: Image, repository: str, tmp_path: Path
) -> None:
    name = f"{registry.host}/{repository}:v1"
    load(docker, image, name, tmp_path)
    docker("push", name)
    docker("rmi", name)
    about = shown(client, name)
    large = [layer for layer in about["layers"] if layer["size"] > 8 * MIB]
    assert [layer["segments"] for layer in large] == [-(-layer["size"] // (8 * MIB)) for layer in large] != []

    outcome = client("pull", name, f"oci:{tmp_path / 'back'}:v1")
    manifest = json.loads(registry.reader.manifest(repository, "v1"))
    for blob in (manifest["config"], *manifest["layers"]):
        assert blob_path(tmp_path / "back", blob["digest"]).read_bytes() == registry.reader.blob(
            repository, blob["digest"]
        )
    verified = sorted(event["size"] for event in outcome.of("verified") if event["item"] == large[0]["digest"])
    assert len(verified) == large[0]["segments"]
    assert sum(verified) == large[0]["size"]


def shown(client: Mover, name: str) -> Any:
    """What ``bucketry inspect`` tells."""
    return json.loads(run([Path(search_path().split(":")[0], "bucketry"), "inspect", name, "--json"], env=client.env))


# Indexes, referrers, tags


def test_an_index_goes_whole_or_by_platform(
    registry: Registry, client: Mover, skopeo: Client, index: Index, repository: str, tmp_path: Path
) -> None:
    layout = write_layout(tmp_path / "built", index, "v1")
    whole, one = f"{registry.host}/{repository}:v1", f"{registry.host}/{repository}/one:v1"
    arm = index.images[1]
    assert client("push", f"oci:{layout}:v1", whole).digest == index.digest
    assert client("push", f"oci:{layout}:v1", one, "--platform", "linux/arm64").digest == arm.digest
    registry.reader.assert_holds(repository, "v1", index)
    registry.reader.assert_holds(f"{repository}/one", "v1", arm)
    assert registry.reader.request(f"/v2/{repository}/one/manifests/{index.images[0].digest}").status == 404

    client("pull", whole, f"oci:{tmp_path / 'all'}:v1", "--all-platforms")
    assert_layout_holds(tmp_path / "all", index)
    client("pull", whole, f"oci-archive:{tmp_path / 'arm.tar'}:v1", "--platform", "linux/arm64")
    skopeo("copy", f"oci-archive:{tmp_path / 'arm.tar'}:v1", f"oci:{tmp_path / 'arm'}:v1")
    assert_layout_holds(tmp_path / "arm", arm)
    client("pull", whole, f"docker-archive:{tmp_path / 'arm-docker.tar'}:arm:v1", "--platform", "linux/arm64")
    assert_archive_holds(tmp_path / "arm-docker.tar", arm)
    said = client.fails("pull", whole, f"oci:{tmp_path / 'none'}", "--platform", "linux/riscv64").said
    assert "linux/amd64, linux/arm64" in said
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("to", ["s3", "peer"])
def test_an_image_is_copied_with_what_refers_to_it(
    to: str,
    local_registry: Registry,
    request: pytest.FixtureRequest,
    client: Mover,
    oras: Client,
    small_image: Image,
    repository: str,
    tmp_path: Path,
) -> None:
    target: Registry = request.getfixturevalue(f"{to}_registry")
    first, second = f"{local_registry.host}/{repository}:v1", f"{target.host}/{repository}:v1"
    layout = write_layout(tmp_path / "built", small_image, "v1")
    client("push", f"oci:{layout}:v1", first)
    sbom = attach(oras, first, SBOM, tmp_path)
    signed = attach(oras, first.replace(":v1", f"@{sbom}"), "application/vnd.example.signature", tmp_path)

    outcome = client("copy", first, second, "--referrers")

    assert outcome.digest == small_image.digest
    target.reader.assert_holds(repository, "v1", small_image)
    assert discovered(oras, second) == {(sbom, SBOM)}
    assert {digest for digest, _ in discovered(oras, second.replace(":v1", f"@{sbom}"))} == {signed}
    for digest in (sbom, signed):
        assert target.reader.manifest(repository, digest) == local_registry.reader.manifest(repository, digest)
    assert [NO_PARTS in note for note in outcome.notes] == ([True] if to == "peer" else [])


@pytest.mark.parametrize("to", ["s3", "peer", "bucket"])
def test_all_tags_are_copied(
    to: str,
    local_registry: Registry,
    request: pytest.FixtureRequest,
    client: Mover,
    seaweed: Seaweed,
    image: Image,
    index: Index,
    small_image: Image,
    repository: str,
    tmp_path: Path,
) -> None:
    contents: dict[str, Content] = {"v1": small_image, "v2": index, "v3": image, "latest": image}
    first = f"{local_registry.host}/{repository}"
    for tag, held in contents.items():
        client("push", f"oci:{write_layout(tmp_path / tag, held, tag)}:{tag}", f"{first}:{tag}")
    # A bucket is written to while a server runs on it.
    target: Registry = request.getfixturevalue(f"{'s3' if to == 'bucket' else to}_registry")
    whither = f"s3://{seaweed.bucket}/clients/" if to == "bucket" else target.host

    outcome = client("copy", first, f"{whither}/{repository}", "--all-tags")

    assert sorted(target.reader.tags(repository)) == sorted(contents)
    for tag, held in contents.items():
        target.reader.assert_holds(repository, tag, held)
    assert [NO_PARTS in note for note in outcome.notes] == ([True] if to == "peer" else [])
    assert outcome.ended["moved"] < 32 * MIB  # What two tags have in common travels once.


def test_a_registry_without_the_extension_gets_whole_layers(
    peer_registry: Registry, client: Mover, docker: Client, image: Image, repository: str, tmp_path: Path
) -> None:
    name = f"{peer_registry.host}/{repository}:v1"
    load(docker, image, name, tmp_path)
    first = client("push", name)
    assert [NO_PARTS in note for note in first.notes] == [True]
    docker("rmi", name)
    peer_registry.reader.assert_same_image(repository, "v1", image)
    client("pull", name)
    assert inspect(docker, name)["RootFS"]["Layers"] == image.diff_ids
    again = client("push", name)
    docker("rmi", name)
    assert again.digest == first.digest
    assert not list(client.scratch.iterdir())


# What the engine has, and what refers to an image


def test_what_the_engine_has_is_not_fetched(
    registry: Registry, client: Mover, docker: Client, repository: str, tmp_path: Path
) -> None:
    """A second version above the same base: by its own layer only. The first again, under another name: by nothing."""
    name = f"{registry.host}/{repository}"
    base = make_image(seed=51, sizes=(300, 9 * MIB))
    above = joined((base, 0), (base, 1), (make_image(seed=52, sizes=(MIB,)), 0))
    for tag, made in (("v1", base), ("v2", above)):
        client("push", f"oci:{write_layout(tmp_path / tag, made, tag)}:{tag}", f"{name}:{tag}")

    first = client("pull", f"{name}:v1")
    second = client("pull", f"{name}:v2")
    again = client("pull", f"{name}:v1", "docker-daemon:back/base:v1")
    found = [inspect(docker, called)["Id"] for called in (f"{name}:v1", f"{name}:v2", "back/base:v1")]
    docker("rmi", f"{name}:v1", f"{name}:v2", "back/base:v1")

    assert found == [base.config.digest, above.config.digest, base.config.digest]
    assert first.ended["moved"] > 9 * MIB
    assert second.ended["moved"] == len(above.config.data) + len(above.layers[2].data) < 2 * MIB
    assert {event["item"]: event["why"] for event in second.of("skipped")} == {
        layer.digest: "the Docker Engine has it" for layer in base.layers
    }
    assert (again.ended["moved"], len(again.of("skipped"))) == (0, 3)
    assert not list((client.cache / "images").iterdir())


def test_layers_that_the_engine_loses_meanwhile_are_fetched_after_all(
    local_registry: Registry, client: Mover, docker: Client, repository: str, tmp_path: Path
) -> None:
    name = f"{local_registry.host}/{repository}"
    base = make_image(seed=53, sizes=(300, MIB))
    above = joined((base, 0), (base, 1), (make_image(seed=54, sizes=(24 * MIB,)), 0))
    client("push", f"oci:{write_layout(tmp_path / 'built', above, 'v2')}:v2", f"{name}:v2")
    load(docker, base, "lost/base:v1", tmp_path)

    with client.start("pull", f"{name}:v2", "docker-daemon:lost/app:v2", "--parallel", "1") as running:
        running.wait_for(lambda events: any(event["event"] == "skipped" for event in events))
        running.process.send_signal(signal.SIGSTOP)
        docker("rmi", "lost/base:v1")
        running.process.send_signal(signal.SIGCONT)
        outcome = running.end()
    found = inspect(docker, "lost/app:v2")
    docker("rmi", "lost/app:v2")

    assert outcome.status == 0, outcome.said
    assert (found["Id"], found["RootFS"]["Layers"]) == (above.config.digest, above.diff_ids)
    assert len(outcome.of("skipped")) == 2
    assert [note for note in outcome.notes if "what was there is gone since" in note]
    assert outcome.ended["moved"] == sum(len(blob.data) for blob in (above.config, *above.layers))
    assert outcome.ended["skipped"] == 0
    assert not list((client.cache / "images").iterdir())


@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_an_image_is_pulled_with_what_refers_to_it_and_pushed_again(
    kind: str,
    registry: Registry,
    client: Mover,
    oras: Client,
    small_image: Image,
    repository: str,
    tmp_path: Path,
) -> None:
    name = f"{registry.host}/{repository}"
    client("push", f"oci:{write_layout(tmp_path / 'built', small_image, 'v1')}:v1", f"{name}:v1")
    sbom = attach(oras, f"{name}:v1", SBOM, tmp_path)
    signed = attach(oras, f"{name}@{sbom}", "application/vnd.example.signature", tmp_path)
    cosigned, tag = make_image(seed=55, sizes=(200,)), f"{small_image.digest.replace(':', '-')}.sig"
    client("push", f"oci:{write_layout(tmp_path / 'cosigned', cosigned, 'v1')}:v1", f"{name}:{tag}")
    held = f"{kind}:{tmp_path / 'held'}:v1"

    assert client("pull", f"{name}:v1", held, "--referrers").digest == small_image.digest

    found = json.loads(oras("discover", "--format", "json", "--oci-layout", tmp_path / "held:v1"))["referrers"]
    assert {(entry["digest"], entry["artifactType"]) for entry in found} == {(sbom, SBOM)}
    assert signed in oras("discover", "--format", "json", "--oci-layout", tmp_path / f"held@{sbom}")
    assert client("push", held, f"{name}/again:v1", "--referrers").digest == small_image.digest
    assert discovered(oras, f"{name}/again:v1") == {(sbom, SBOM)}
    assert {digest for digest, _ in discovered(oras, f"{name}/again@{sbom}")} == {signed}
    registry.reader.assert_holds(f"{repository}/again", "v1", small_image)
    registry.reader.assert_holds(f"{repository}/again", tag, cosigned)
    # Docker has no place for it, and nothing is fetched to find that out.
    refused = client.fails("pull", f"{name}:v1", "--referrers")
    assert "has no place for signatures and SBOMs" in refused.said
    assert not refused.events
