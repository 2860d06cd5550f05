"""What is published: images, a list, a chart and what refers to them, put into a registry by the clients of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.test_docker import load
from tests.clients.test_helm import package
from tests.clients.test_oras import SBOM, SIGNATURE, attach
from tests.support.clients import Client
from tests.support.images import KIB, MIB, digest_of, make_image, make_index, write_layout
from tests.support.reading import Reader
from tests.support.server import Server
from tests.support.tools import tool

ENGINE, MULTI, LIST, BIG, CHART = "apps/engine", "apps/multi/v1.0", "apps/list", "big", "charts/greeter"
"""Repositories: pushed by docker; an index of OCI images; the same as a Docker list; a large layer; a chart."""

VERSION = "1.2.3"
"""The chart's tag. All other repositories have ``v1``."""


@dataclass(frozen=True)
class Stored:
    """What a tag names. ``parts``: the bytes of its manifest and of all below it, by digest."""

    repository: str
    tag: str
    digest: str
    parts: Mapping[str, bytes]

    @property
    def manifest(self) -> bytes:
        return self.parts[self.digest]

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"

    @property
    def pinned(self) -> str:
        return f"{self.repository}@{self.digest}"

    @property
    def image(self) -> Any:
        """The manifest of its linux/amd64 image."""
        document = json.loads(self.manifest)
        for entry in document.get("manifests", ()):
            if entry["platform"]["architecture"] == "amd64":
                return json.loads(self.parts[entry["digest"]])
        return document

    @property
    def config(self) -> str:
        """The digest of that image's config."""
        return str(self.image["config"]["digest"])

    @property
    def diff_ids(self) -> list[str]:
        """Of that image's layers, unpacked."""
        found: list[str] = json.loads(self.parts[self.config])["rootfs"]["diff_ids"]
        return found


def stored(reader: Reader, repository: str, tag: str) -> Stored:
    """Reads it all from a registry."""
    root = reader.manifest(repository, tag)
    parts: dict[str, bytes] = {}

    def take(manifest: bytes) -> None:
        parts[digest_of(manifest)] = manifest
        document = json.loads(manifest)
        for entry in document.get("manifests", ()):
            take(reader.manifest(repository, entry["digest"]))
        for entry in (document.get("config"), *document.get("layers", ())):
            if entry is not None:
                parts[entry["digest"]] = reader.blob(repository, entry["digest"])

    take(root)
    return Stored(repository, tag, digest_of(root), parts)


@dataclass(frozen=True)
class Content:
    """``items``: by repository. ``referrers``: of the index, artifact type by digest. ``notes``: what those say."""

    items: Mapping[str, Stored]
    referrers: Mapping[str, str]
    notes: Mapping[str, bytes] = field(default_factory=dict)

    def images(self) -> Iterator[Stored]:
        """Those that a container can be made of."""
        yield from (self.items[name] for name in (ENGINE, MULTI, LIST))


def fill(server: Server, docker: Client, env: Mapping[str, str], folder: Path) -> Content:
    """Pushes everything, and reads it back."""
    index = make_index(
        [
            make_image(seed=31, sizes=(100, 300 * KIB), architecture="amd64"),
            make_image(seed=32, sizes=(100, 300 * KIB), architecture="arm64"),
        ]
    )
    engine = f"{server.host}/{ENGINE}:v1"
    load(docker, make_image(seed=30, sizes=(300, 2 * MIB)), engine, folder)
    try:
        docker("push", engine)
    finally:
        docker("rmi", engine)
    crane = Client(tool("crane"), env, ["--insecure"])
    layout = write_layout(folder / "index", index, "v1")
    crane("push", layout, f"{server.host}/{MULTI}:v1")
    crane(
        "push",
        write_layout(folder / "big", make_image(seed=33, sizes=(100, 20 * MIB)), "v1"),
        f"{server.host}/{BIG}:v1",
    )
    as_docker = ("copy", "--all", "--format=v2s2", "--dest-tls-verify=false")
    Client(tool("skopeo"), env)(*as_docker, f"oci:{layout}:v1", f"docker://{server.host}/{LIST}:v1")
    helm = Client(tool("helm"), env)
    helm("push", "--plain-http", package(helm, folder, VERSION), f"oci://{server.host}/{CHART.rpartition('/')[0]}")
    oras = Client(tool("oras"), env)
    referrers, notes = {}, {}
    for kind in (SBOM, SIGNATURE):
        digest = attach(oras, f"{server.host}/{MULTI}:v1", kind, folder)
        referrers[digest] = kind
        notes[digest] = (folder / "note.txt").read_bytes()
    reader = Reader(server.url)
    tags = {ENGINE: "v1", MULTI: "v1", LIST: "v1", BIG: "v1", CHART: VERSION}
    return Content({name: stored(reader, name, tag) for name, tag in tags.items()}, referrers, notes)
