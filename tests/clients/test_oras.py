"""oras: POST, one PUT a blob; artifacts, and what is attached to an image."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import MIB, Content, Image, Index, assert_layout_holds, digest_of, write_layout

SBOM = "application/vnd.example.sbom"
SIGNATURE = "application/vnd.example.signature"


def push_and_pull(oras: Client, registry: Registry, repository: str, content: Content, folder: Path) -> None:
    remote = f"{registry.host}/{repository}:v1"
    layout = write_layout(folder / "pushed", content, "v1")
    oras("copy", "--from-oci-layout", f"{layout}:v1", "--to-plain-http", remote)
    registry.reader.assert_holds(repository, "v1", content)
    oras("copy", "--from-plain-http", remote, "--to-oci-layout", f"{folder / 'pulled'}:v1")
    assert_layout_holds(folder / "pulled", content)


def attach(oras: Client, subject: str, kind: str, folder: Path) -> str:
    """Attaches a file to an image, and gives the digest of the referrer's manifest."""
    (folder / "note.txt").write_text(f"{kind} of {subject}")
    said = oras("attach", "--plain-http", "--artifact-type", kind, subject, "note.txt:text/plain", cwd=folder)
    return said.split("Digest: ")[1].split()[0]


def discovered(oras: Client, subject: str, *options: str) -> set[tuple[str, str]]:
    """The digest and the artifact type of each referrer that the registry names."""
    found = json.loads(oras("discover", "--plain-http", "--format", "json", *options, subject))
    return {(entry["digest"], entry["artifactType"]) for entry in found["referrers"]}


def test_an_image_comes_back_byte_by_byte(
    oras: Client, registry: Registry, repository: str, image: Image, tmp_path: Path
) -> None:
    push_and_pull(oras, registry, repository, image, tmp_path)


def test_an_index_comes_back_with_all_its_platforms(
    oras: Client, registry: Registry, repository: str, index: Index, tmp_path: Path
) -> None:
    push_and_pull(oras, registry, repository, index, tmp_path)


def test_files_pushed_as_an_artifact_come_back(
    oras: Client, registry: Registry, repository: str, tmp_path: Path
) -> None:
    remote = f"{registry.host}/{repository}:v1"
    sent, received = tmp_path / "sent", tmp_path / "received"
    sent.mkdir()
    files = {"weights.bin": random.Random(5).randbytes(12 * MIB), "empty.txt": b""}
    for name, data in files.items():
        (sent / name).write_bytes(data)
    oras("push", "--plain-http", "--artifact-type", "application/vnd.example.model", remote, *files, cwd=sent)
    for name, data in files.items():
        assert registry.reader.blob(repository, digest_of(data)) == data, name
    oras("pull", "--plain-http", "--output", received, remote)
    assert {path.name: path.read_bytes() for path in received.iterdir()} == files
    assert oras("repo", "tags", "--plain-http", f"{registry.host}/{repository}").split() == ["v1"]


def test_what_is_attached_to_an_image_is_discovered(
    oras: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    subject = f"{registry.host}/{repository}:v1"
    layout = write_layout(tmp_path / "pushed", small_image, "v1")
    oras("copy", "--from-oci-layout", f"{layout}:v1", "--to-plain-http", subject)
    assert discovered(oras, subject) == set()
    sbom = attach(oras, subject, SBOM, tmp_path)
    signature = attach(oras, subject, SIGNATURE, tmp_path)
    assert discovered(oras, subject) == {(sbom, SBOM), (signature, SIGNATURE)}
    assert discovered(oras, subject, "--artifact-type", SBOM) == {(sbom, SBOM)}
    # Not by the tag schema, the client's way around a registry without the referrers API.
    assert registry.reader.tags(repository) == ["v1"]
    listed = registry.reader.json(f"/v2/{repository}/referrers/{small_image.digest}")
    assert {entry["digest"] for entry in listed["manifests"]} == {sbom, signature}

    oras("manifest", "delete", "--plain-http", "--force", f"{registry.host}/{repository}@{sbom}")
    assert discovered(oras, subject) == {(signature, SIGNATURE)}


def test_an_image_is_copied_with_its_referrers(
    oras: Client, registry: Registry, repository: str, small_image: Image, tmp_path: Path
) -> None:
    first, second = f"{registry.host}/{repository}:v1", f"{registry.host}/{repository}/copy:v1"
    layout = write_layout(tmp_path / "pushed", small_image, "v1")
    oras("copy", "--from-oci-layout", f"{layout}:v1", "--to-plain-http", first)
    sbom = attach(oras, first, SBOM, tmp_path)
    oras("copy", "--recursive", "--from-plain-http", first, "--to-plain-http", second)
    registry.reader.assert_holds(f"{repository}/copy", "v1", small_image)
    assert discovered(oras, second) == {(sbom, SBOM)}
