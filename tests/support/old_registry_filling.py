"""What real clients leave in a registry over time, and the record of it that tests compare with.

`fill` does all that the tree of such a registry can show: shared layers, a mount, an index, Docker's own manifests,
moved and deleted tags, deleted manifests, referrers by the fallback tag, an upload that was given up. `fill_more` is
what comes after a first adoption.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.api import Api, noise
from tests.support.images import (
    KIB,
    OCI_MANIFEST,
    Blob,
    Content,
    Image,
    make_image,
    make_index,
    to_json,
    write_layout,
)
from tests.support.old_registry import OldRegistry
from tests.support.tools import run, search_path, tool

TEAM, APP, CHARTS = "team", "team/sub/app", "charts"
"""Repositories that `fill` fills; one lies below another's name."""

SBOM = "application/vnd.example.sbom"
ELSEWHERE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
LAYER = 20 * KIB


@dataclass
class Repository:
    """What a repository is to serve. Everything is a digest, but for the keys of ``tags``, which are names."""

    tags: dict[str, str] = field(default_factory=dict)
    """Those that clients wrote in place of the referrers API among them (`fallback_tags`)."""

    untagged: set[str] = field(default_factory=set)
    """Manifests that no tag names: children of indexes, referrers, and those whose tags moved on or were removed."""

    referrers: dict[str, set[str]] = field(default_factory=dict)
    """Of each subject."""

    deleted: set[str] = field(default_factory=set)
    """Manifests that were deleted; their data may still be in the tree."""

    deleted_tags: set[str] = field(default_factory=set)

    @property
    def manifests(self) -> set[str]:
        return {*self.tags.values(), *self.untagged}

    @property
    def fallback_tags(self) -> set[str]:
        """Of subjects, by the spec's referrers tag schema."""
        return {subject.replace(":", "-") for subject in self.referrers}


@dataclass
class Contents:
    """``repositories`` by name. ``absent`` are blobs that manifests name and no registry has: they lie elsewhere."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def __iter__(self) -> Iterator[tuple[str, Repository]]:
        return iter(self.repositories.items())


@dataclass(frozen=True)
class Clients:
    """crane, skopeo and oras with a home of their own below ``folder``, driven against one registry."""

    registry: OldRegistry
    folder: Path
    contents: Contents

    def crane(self, *arguments: str | Path) -> str:
        return run([tool("crane"), "--insecure", *arguments], env=self._env())

    def skopeo(self, *arguments: str | Path) -> str:
        return run([tool("skopeo"), "--insecure-policy", *arguments], env=self._env())

    def oras(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        return run([tool("oras"), *arguments], env=self._env(), cwd=cwd)

    def name(self, repository: str, tag: str) -> str:
        return f"{self.registry.host}/{repository}:{tag}"

    def layout(self, content: Content, tag: str) -> Path:
        return write_layout(self.folder / f"layout-{content.digest[7:19]}", content, tag)

    def push(self, repository: str, tag: str, content: Content) -> str:
        """By crane, which sends what the registry lacks; the digest. A manifest that had the tag is untagged now."""
        self.crane("push", self.layout(content, tag), self.name(repository, tag))
        return self.tagged(repository, tag, content)

    def push_as_docker(self, repository: str, tag: str, image: Image) -> str:
        """By skopeo, which turns the manifest into Docker's schema 2."""
        said = self.folder / "digest"
        source = f"oci:{self.layout(image, tag)}:{tag}"
        remote = f"docker://{self.name(repository, tag)}"
        self.skopeo("copy", "--dest-tls-verify=false", "--format=v2s2", f"--digestfile={said}", source, remote)
        return self._tag(repository, tag, said.read_text().strip())

    def push_file(self, repository: str, tag: str, kind: str, files: Mapping[str, bytes]) -> str:
        """By oras: an artifact of that type."""
        self._write(files)
        remote = self.name(repository, tag)
        said = self.oras("push", "--plain-http", "--artifact-type", kind, remote, *files, cwd=self.folder)
        return self._tag(repository, tag, _digest_said(said))

    def copy(self, source: str, repository: str, tag: str, content: Content) -> str:
        """By crane, which mounts the blobs of another repository."""
        said = self.crane("copy", source, self.name(repository, tag))
        assert "mounted blob" in said, said
        return self.tagged(repository, tag, content)

    def attach(self, repository: str, subject: str, kind: str, files: Mapping[str, bytes]) -> str:
        """By oras, which finds no referrers API and so keeps their list under a tag."""
        self._write(files)
        remote = f"{self.registry.host}/{repository}@{subject}"
        said = self.oras("attach", "--plain-http", "--artifact-type", kind, remote, *files, cwd=self.folder)
        digest = _digest_said(said)
        held = self.contents[repository]
        held.untagged.add(digest)
        held.referrers.setdefault(subject, set()).add(digest)
        # The list that it replaces stays, without a tag.
        fallback = subject.replace(":", "-")
        self._tag(repository, fallback, self.crane("digest", self.name(repository, fallback)).strip())
        return digest

    def delete(self, repository: str, digest: str) -> None:
        """By crane, a manifest, and with it every tag that names it."""
        self.crane("delete", f"{self.registry.host}/{repository}@{digest}")
        held = self.contents[repository]
        gone = {tag for tag, named in held.tags.items() if named == digest}
        held.tags = {tag: named for tag, named in held.tags.items() if tag not in gone}
        held.deleted_tags |= gone
        held.untagged.discard(digest)
        held.deleted.add(digest)

    def delete_tag(self, repository: str, tag: str) -> None:
        """By crane, a tag: alone where the registry can, which leaves its manifest, else with its manifest."""
        held = self.contents[repository]
        if not self.registry.version.deletes_tags:
            self.delete(repository, held.tags[tag])
            return
        self.crane("delete", self.name(repository, tag))
        digest = held.tags.pop(tag)
        held.deleted_tags.add(tag)
        if digest not in held.tags.values():
            held.untagged.add(digest)

    def give_up_upload(self, repository: str, data: bytes) -> None:
        """As a client does that dies in the middle of a layer."""
        api = Api(int(self.registry.host.rpartition(":")[2]))
        # The location is absolute; this client sends what it is given.
        location = api.begin(repository).partition(self.registry.host)[2]
        answer = api.patch(location, data, content_range=f"0-{len(data) - 1}")
        assert answer.status == 202, answer

    def tagged(self, repository: str, tag: str, content: Content) -> str:
        """Records what was pushed."""
        held = self.contents[repository]
        if not isinstance(content, Image):
            held.untagged |= {image.digest for image in content.images} - set(held.tags.values())
        return self._tag(repository, tag, content.digest)

    def _tag(self, repository: str, tag: str, digest: str) -> str:
        held = self.contents[repository]
        before = held.tags.get(tag)
        held.tags[tag] = digest
        held.untagged.discard(digest)
        if before is not None and before not in held.tags.values():
            held.untagged.add(before)
        return digest

    def _write(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            (self.folder / name).write_bytes(data)

    def _env(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        return {**kept, "PATH": search_path(), "HOME": str(self.folder)}


def fill(registry: OldRegistry, folder: Path, *, layer: int = LAYER) -> Contents:
    """Fills an empty registry through crane, skopeo and oras, in about a second; ``folder`` is for their files.

    ``layer`` in bytes, of the layer that most images share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clients = Clients(registry, folder, Contents())
    # The first layer is the same in all of one seed and first size.
    first, second = make_image(100, (layer, 100)), make_image(100, (layer, 200, 300))
    clients.push(TEAM, "v1", first)
    clients.push(TEAM, "v2", second)
    clients.push(TEAM, "latest", second)
    clients.copy(clients.name(TEAM, "v1"), APP, "v1", first)
    clients.push(TEAM, "elsewhere", _with_layer_elsewhere(first, clients.contents))

    platforms = [make_image(101, (layer, 100)), make_image(102, (400, 500), architecture="arm64")]
    clients.push(APP, "multi", make_index(platforms))
    clients.push_as_docker(APP, "docker", make_image(103, (600,)))

    clients.push(APP, "moving", make_image(104, (700,)))
    clients.push(APP, "moving", make_image(105, (800,)))
    clients.push(APP, "removed", make_image(106, (900,)))
    clients.delete_tag(APP, "removed")
    clients.delete(APP, clients.push(APP, "deleted", make_image(107, (1000,))))

    subject = clients.contents[TEAM].tags["v1"]
    clients.attach(TEAM, subject, SBOM, {"sbom.json": b'{"of": "v1"}'})
    clients.attach(TEAM, subject, SBOM, {"sbom.json": b'{"of": "v1", "again": true}'})
    empty = {"empty": b""} if registry.takes_empty_blobs else {}
    clients.push_file(CHARTS, "model", "application/vnd.example.model", {"weights": noise(5, KIB), **empty})
    clients.give_up_upload(CHARTS, noise(6, KIB))
    return clients.contents


def fill_more(registry: OldRegistry, folder: Path, contents: Contents) -> None:
    """Pushes on, and adds to ``contents``: a new tag, a moved one, a deleted one, a referrer, a new repository."""
    clients = Clients(registry, folder, contents)
    newer = make_image(200, (LAYER, 100))
    clients.push(TEAM, "v3", newer)
    clients.push(TEAM, "latest", newer)
    clients.copy(clients.name(TEAM, "v2"), "team/sub/later", "v1", make_image(100, (LAYER, 200, 300)))
    clients.delete_tag(APP, "v1")
    clients.attach(TEAM, newer.digest, SBOM, {"sbom.json": b'{"of": "v3"}'})


def _with_layer_elsewhere(image: Image, contents: Contents) -> Image:
    """The image with a further layer, which no registry has: it is named with where it can be had."""
    layer = Blob(noise(7, 100), ELSEWHERE)
    contents.absent.add(layer.digest)
    document = json.loads(image.manifest.data)
    document["layers"].append({**layer.descriptor(), "urls": ["https://layers.example/layer"]})
    return Image(to_json(document, OCI_MANIFEST), image.config, image.layers, image.tars, image.architecture)


def _digest_said(said: str) -> str:
    """What oras prints of what it pushed."""
    return said.split("Digest: ")[1].split()[0]
