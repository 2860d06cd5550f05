"""A ``docker/registry/v2/`` tree of any size, written without a registry: to measure what reads such trees.

Every digest in it is right, and every manifest is one of OCI's; layers are random bytes. All of it follows from a
`Shape`, so that nothing is kept to compare with: the same shape names the same content again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.images import OCI_CONFIG, OCI_MANIFEST, Blob, Image, to_json

from bucketry.store.contract import WriteStore

TREE = "docker/registry/v2"
"""Where the tree begins, below the root that a registry was given."""

LAYER = "application/vnd.oci.image.layer.v1.tar"
"""Not compressed, so that a layer's digest is its ``diff_id`` too."""


@dataclass(frozen=True)
class Shape:
    """How much of what. Blobs are a config for each manifest, and for the rest layers that images share.

    Image number ``i`` is in repository ``i % repositories``, and has a tag of its own there, but for every
    ``untagged_every``-th one, which has none (0: all have). Sizes in bytes.
    """

    manifests: int = 10_000
    blobs: int = 20_000
    repositories: int = 100
    layers_each: int = 3
    layer_size: int = 400
    untagged_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        # Every layer is to be in some image, and in none twice.
        if not self.layers_each <= self.layers <= self.manifests * self.layers_each:
            raise ValueError(f"{self.manifests} images of {self.layers_each} layers cannot have {self.layers} layers")
        if not 1 <= self.repositories <= self.manifests:
            raise ValueError(f"{self.manifests} manifests do not fill {self.repositories} repositories")

    @property
    def layers(self) -> int:
        """How many there are, each counted once."""
        return self.blobs - self.manifests

    @property
    def tags(self) -> int:
        return sum(self.tagged(number) for number in range(self.manifests))

    @cached_property
    def layer_digests(self) -> tuple[str, ...]:
        return tuple(self.layer(number).digest for number in range(self.layers))

    def layer(self, number: int) -> Blob:
        return Blob(random.Random(f"{self.seed}/{number}").randbytes(self.layer_size), LAYER)

    def repository(self, number: int) -> str:
        """Of an image. Some names have a part more than others."""
        index = number % self.repositories
        return f"team-{index % 7}/app-{index}" if index % 3 else f"team-{index % 7}/sub/app-{index}"

    def tag(self, number: int) -> str:
        return f"v{number // self.repositories}"

    def tagged(self, number: int) -> bool:
        return not self.untagged_every or number % self.untagged_every != self.untagged_every - 1

    def layer_numbers(self, number: int) -> list[int]:
        """The layers of an image."""
        return [(number * self.layers_each + each) % self.layers for each in range(self.layers_each)]

    def image(self, number: int) -> Image:
        """An image, ``number`` from 0."""
        layers = tuple(self.layer(each) for each in self.layer_numbers(number))
        manifest, config = self.documents(number)
        return Image(manifest, config, layers, tuple(layer.data for layer in layers), "amd64")

    def documents(self, number: int) -> tuple[Blob, Blob]:
        """Manifest and config of an image."""
        digests = [self.layer_digests[each] for each in self.layer_numbers(number)]
        config = to_json(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Labels": {"image": f"{self.seed}/{number}"}},
                "rootfs": {"type": "layers", "diff_ids": digests},
            },
            OCI_CONFIG,
        )
        layers = [{"mediaType": LAYER, "digest": digest, "size": self.layer_size} for digest in digests]
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.descriptor(),
            "layers": layers,
        }
        return to_json(document, OCI_MANIFEST), config

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Path and bytes of every file, each once, what a file names before it; paths begin with `TREE`."""
        linked: set[tuple[int, int]] = set()
        for number in range(self.layers):
            yield data_path(self.layer_digests[number]), self.layer(number).data
        for number in range(self.manifests):
            root = f"{TREE}/repositories/{self.repository(number)}"
            manifest, config = self.documents(number)
            for blob in (config, manifest):
                yield data_path(blob.digest), blob.data
            yield _link(f"{root}/_layers", config.digest)
            for layer in self.layer_numbers(number):
                here = (number % self.repositories, layer)
                if here not in linked:
                    linked.add(here)
                    yield _link(f"{root}/_layers", self.layer_digests[layer])
            yield _link(f"{root}/_manifests/revisions", manifest.digest)
            if self.tagged(number):
                tag = f"{root}/_manifests/tags/{self.tag(number)}"
                yield _link(f"{tag}/index", manifest.digest)
                yield f"{tag}/current/link", manifest.digest.encode()


def data_path(digest: str) -> str:
    """Where the bytes with that digest are."""
    algorithm, _, encoded = digest.partition(":")
    return f"{TREE}/blobs/{algorithm}/{encoded[:2]}/{encoded}/data"


def _link(folder: str, digest: str) -> tuple[str, bytes]:
    return f"{folder}/{digest.replace(':', '/')}/link", digest.encode()


def write_tree(folder: Path, shape: Shape) -> int:
    """Writes all of it below an empty or missing folder, and gives the number of files."""
    root, made, count = os.fspath(folder), set[str](), 0
    for path, data in shape.files():
        parent = f"{root}/{path.rpartition('/')[0]}"
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        with open(f"{root}/{path}", "wb", buffering=0) as file:
            file.write(data)
        count += 1
    return count


async def put_tree(store: WriteStore, shape: Shape, *, at_once: int = 32) -> int:
    """Puts all of it, so many objects at a time, and gives the number of objects.

    The root of the started store is the tree itself, so it ends with `TREE`: below its root a store refuses to write
    what is another program's.
    """
    files, count = shape.files(), 0

    async def put_some() -> None:
        nonlocal count
        for path, data in files:
            await store.put(path.removeprefix(f"{TREE}/"), data)
            count += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(put_some())
    return count
