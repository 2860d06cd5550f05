"""Clients pull from a published site, with no registry running: from nginx, from Caddy, and from the bucket itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.clients.test_containerd import content as blob_of
from tests.clients.test_docker import inspect
from tests.clients.test_oras import SBOM
from tests.publish.conftest import Place
from tests.publish.content import CHART, ENGINE, MULTI, VERSION, Content
from tests.publish.layouts import assert_in_layout
from tests.support.clients import Client
from tests.support.images import blob_path, digest_of

EVERYWHERE = ["nginx", "nginx tls", "caddy tls", "bucket", "bucket tls"]
SOME = ["nginx", "nginx tls", "bucket", "bucket tls"]
everywhere = pytest.mark.parametrize("place", EVERYWHERE, indirect=True)
some = pytest.mark.parametrize("place", SOME, indirect=True)


@everywhere
def test_docker_pulls_by_tag_and_by_digest(docker: Client, place: Place, content: Content) -> None:
    for item in content.images():
        for name in (item.name, item.pinned):
            docker("pull", f"{place.host}/{name}")
            found = inspect(docker, f"{place.host}/{name}")
            # Without the image the daemon has no layer of it either, and must fetch each.
            docker("rmi", "--force", found["Id"])
            assert found["Id"] == item.config
            assert found["RootFS"]["Layers"] == item.diff_ids
            assert found["RepoDigests"] == [f"{place.host}/{item.pinned}"]
    item = content.items[ENGINE]
    assert item.digest in docker("pull", "--all-tags", f"{place.host}/{item.repository}")
    docker("rmi", "--force", item.config)


def trusted_by_containerd(place: Place, folder: Path) -> str:
    """An option. Without it containerd takes plain http for granted on this machine."""
    if place.tls is None:
        return "--plain-http"
    hosts = folder / place.host / "hosts.toml"
    hosts.parent.mkdir()
    hosts.write_text(f'[host."{place.url}"]\ncapabilities = ["pull", "resolve"]\nca = "{place.tls.authority}"\n')
    return f"--hosts-dir={folder}"


@some
def test_containerd_pulls_all_platforms_byte_by_byte(
    ctr: Client, place: Place, content: Content, tmp_path: Path
) -> None:
    trusted = trusted_by_containerd(place, tmp_path)
    for item in content.images():
        for name in (item.name, item.pinned):
            full = f"{place.host}/{name}"
            ctr("images", "pull", trusted, "--all-platforms", "--snapshotter=native", full)
            try:
                assert item.digest in ctr("images", "ls", f"name=={full}")
                assert {digest: blob_of(ctr, digest) for digest in item.parts} == item.parts
            finally:
                ctr("images", "rm", "--sync", full)


@some
def test_podman_pulls_by_tag_and_by_digest(podman: Client, place: Place, content: Content) -> None:
    verify = f"--tls-verify={'true' if place.tls else 'false'}"
    for item, name in zip(content.images(), ("name", "pinned", "name"), strict=True):
        full = f"{place.host}/{getattr(item, name)}"
        podman("pull", verify, full)
        found = json.loads(podman("image", "inspect", full))[0]
        assert f"sha256:{found['Id']}" == item.config
        assert found["RootFS"]["Layers"] == item.diff_ids
        assert f"{place.host}/{item.pinned}" in found["RepoDigests"]


@everywhere
def test_skopeo_copies_byte_by_byte(skopeo: Client, place: Place, content: Content, tmp_path: Path) -> None:
    verify = f"--src-tls-verify={'true' if place.tls else 'false'}"
    for number, item in enumerate(content.items.values()):
        repository = f"docker://{place.host}/{item.repository}"
        assert json.loads(skopeo("list-tags", verify.replace("--src-", "--"), repository))["Tags"] == [item.tag]
        folder = tmp_path / str(number)
        name = item.name if number % 2 else item.pinned
        skopeo("copy", "--all", "--preserve-digests", verify, f"docker://{place.host}/{name}", f"dir:{folder}")
        assert (folder / "manifest.json").read_bytes() == item.manifest
        files = {path.name.removesuffix(".manifest.json"): path.read_bytes() for path in folder.iterdir()}
        for digest, data in item.parts.items():
            assert files["manifest.json" if digest == item.digest else digest.removeprefix("sha256:")] == data


@everywhere
def test_crane_pulls_byte_by_byte(crane: Client, place: Place, content: Content, tmp_path: Path) -> None:
    for number, item in enumerate(content.items.values()):
        name = f"{place.host}/{item.pinned if number % 2 else item.name}"
        crane("pull", "--format=oci", name, tmp_path / str(number))
        assert_in_layout(tmp_path / str(number), item)
        assert crane("manifest", name).encode() == item.manifest
        digest, *said = crane("digest", f"{place.host}/{item.name}").split(maxsplit=1)
        assert digest == item.digest
        # It works without that header, by reading the manifest; crane complains of it each time.
        assert ("Docker-Content-Digest" in "".join(said)) is not place.tells_digests
    assert "PASS" in crane("validate", "--remote", f"{place.host}/{content.items[ENGINE].name}")


@everywhere
def test_crane_lists_tags_and_repositories(crane: Client, place: Place, content: Content) -> None:
    for item in content.items.values():
        assert crane("ls", f"{place.host}/{item.repository}").split() == [item.tag]
    assert crane("catalog", place.host).split() == sorted(content.items)


@some
def test_oras_copies_byte_by_byte(oras: Client, place: Place, content: Content, tmp_path: Path) -> None:
    plain = [] if place.tls else ["--from-plain-http"]
    for number, item in enumerate(content.items.values()):
        for name in (item.name, item.pinned):
            layout = tmp_path / f"{number}-{':' in name}"
            oras("copy", *plain, f"{place.host}/{name}", "--to-oci-layout", f"{layout}:x")
            assert_in_layout(layout, item)


@some
def test_oras_pulls_what_was_attached(oras: Client, place: Place, content: Content, tmp_path: Path) -> None:
    plain = [] if place.tls else ["--plain-http"]
    for digest, note in content.notes.items():
        oras("pull", *plain, "--output", tmp_path, f"{place.host}/{MULTI}@{digest}")
        assert (tmp_path / "note.txt").read_bytes() == note


@some
def test_regctl_copies_byte_by_byte(regctl: Client, place: Place, content: Content, tmp_path: Path) -> None:
    for number, item in enumerate(content.items.values()):
        name = f"{place.host}/{item.name if number % 2 else item.pinned}"
        regctl("image", "copy", name, f"ocidir://{tmp_path / str(number)}:x")
        assert_in_layout(tmp_path / str(number), item)
        assert regctl("image", "digest", f"{place.host}/{item.name}").strip() == item.digest
        assert regctl("tag", "ls", f"{place.host}/{item.repository}").split() == [item.tag]
    assert sorted(regctl("repo", "ls", place.host).split()) == sorted(content.items)


@some
def test_helm_pulls_a_chart_byte_by_byte(helm: Client, place: Place, content: Content, tmp_path: Path) -> None:
    plain = [] if place.tls else ["--plain-http"]
    chart = f"oci://{place.host}/{CHART}"
    said = helm("pull", chart, "--version", VERSION, "--destination", tmp_path, *plain)
    assert f"Digest: {content.items[CHART].digest}" in said
    (file,) = tmp_path.glob("*.tgz")
    assert digest_of(file.read_bytes()) in content.items[CHART].parts
    # Without a version the newest is looked for among the tags.
    assert f"version: {VERSION}" in helm("show", "chart", chart, *plain)


@some
def test_referrers_are_discovered(oras: Client, regctl: Client, place: Place, content: Content, tmp_path: Path) -> None:
    """By digest anywhere; by tag where oras gets the digest in a header."""
    plain, from_plain = ([], []) if place.tls else (["--plain-http"], ["--from-plain-http"])
    subject = content.items[MULTI]
    for number, name in enumerate((subject.pinned, subject.name)):
        full = f"{place.host}/{name}"
        layout = tmp_path / str(number)
        discover = ("discover", *plain, "--format", "json", full)
        copy = ("copy", "--recursive", *from_plain, full, "--to-oci-layout", f"{layout}:x")
        resolve = ("resolve", *plain, full)
        if name == subject.pinned or place.tells_digests:
            found = json.loads(oras(*discover))["referrers"]
            assert {entry["digest"]: entry["artifactType"] for entry in found} == content.referrers
            only = json.loads(oras(*discover, "--artifact-type", SBOM))["referrers"]
            assert [entry["artifactType"] for entry in only] == [SBOM]
            assert oras(*resolve).strip() == subject.digest
            oras(*copy)
            assert_in_layout(layout, subject)
            assert all(blob_path(layout, digest).exists() for digest in content.referrers)
        else:
            for command in (discover, copy, resolve):
                assert "Docker-Content-Digest" in oras.fails(*command)
        listed = regctl("artifact", "list", "--format={{range .Descriptors}}{{.Digest}} {{end}}", full)
        assert set(listed.split()) == set(content.referrers)
    for item in content.items.values():
        if item is not subject:
            nothing = json.loads(oras("discover", *plain, "--format", "json", f"{place.host}/{item.pinned}"))
            assert not nothing.get("referrers")


@pytest.mark.parametrize("place", ["closed bucket"], indirect=True)
def test_who_wants_an_answer_at_the_door_pulls_nothing_from_a_bucket_that_has_none(
    docker: Client,
    ctr: Client,
    oras: Client,
    regctl: Client,
    helm: Client,
    skopeo: Client,
    podman: Client,
    crane: Client,
    place: Place,
    content: Content,
    tmp_path: Path,
) -> None:
    """As AWS does, it answers 403 for ``/v2/``, where the bucket of the other tests says 200 of what it has."""
    item = content.items[MULTI]
    name = f"{place.host}/{item.name}"
    docker("pull", name)
    docker("rmi", "--force", inspect(docker, name)["Id"])
    ctr("images", "pull", "--plain-http", "--snapshotter=native", name)
    ctr("images", "rm", "--sync", name)
    oras("copy", "--from-plain-http", name, "--to-oci-layout", f"{tmp_path / 'oras'}:x")
    assert_in_layout(tmp_path / "oras", item)
    regctl("image", "copy", name, f"ocidir://{tmp_path / 'regctl'}:x")
    assert_in_layout(tmp_path / "regctl", item)
    helm("pull", "--plain-http", f"oci://{place.host}/{CHART}", "--version", VERSION, "--destination", tmp_path)

    assert "403" in skopeo.fails("copy", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path / 'skopeo'}")
    assert "403" in podman.fails("pull", "--tls-verify=false", name)
    assert "403" in crane.fails("manifest", name)
