"""``docker-daemon:name:tag``: an image of the local Docker Engine.

As a source it is read as the stream that ``docker save`` gets: nothing of it goes to the disk. As a destination its
layers land in an archive in the cache folder, which is then loaded and removed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bucketry.oci import Descriptor, Digest
from bucketry.oci.errors import OCIError
from bucketry.transfer.contract import RawManifest, SavedConfig, SavedLayer, Slot
from bucketry.transfer.errors import SourceDamaged
from bucketry.transfer.files import translated
from bucketry.transfer.local.docker_archive import Streamed, find_image
from bucketry.transfer.local.docker_archive_filling import DockerArchiveFilling
from bucketry.transfer.local.docker_engine import DockerEngine
from bucketry.transfer.local.saved import docker_name
from bucketry.transfer.local.saved_stream import SavedStream
from bucketry.transfer.local.v1_ids import V1Names

READS_ZSTD: Final = (1, 42)
"""The API version of Docker 23, the first that loads layers of zstd."""

_ID: Final = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_BY_DIGEST: Final = ("blobs/sha256/{}", "{}.tar")
"""An uncompressed layer, as Docker since 25 and Podman's engine name it."""


class DockerImage:
    """A `bucketry.transfer.contract.SavedImage`. ``image``: its name, or its id of 64 digits. Ends ``engine``.

    Raises `NameUnusable`.
    """

    def __init__(self, engine: DockerEngine, image: str) -> None:
        self._engine = engine
        self._image = image if _ID.fullmatch(image) else docker_name(image)
        self._diff_ids: tuple[Digest, ...] | None = None
        self._contents: Streamed | None = None

    @property
    def name(self) -> str:
        return f"docker-daemon:{self._image}"

    async def diff_ids(self) -> Sequence[Digest]:
        if self._diff_ids is None:
            facts = await self._engine.inspect(self._image)
            try:
                self._diff_ids = tuple(map(Digest.parse, facts.diff_ids))
            except OCIError:
                self._diff_ids = ()
        return self._diff_ids

    async def layers(self) -> AsyncIterator[SavedLayer]:
        # Asked for first, so that a name that is not there is said before the engine prepares anything.
        diff_ids = await self.diff_ids()
        digests = {name.format(diff_id.hex): diff_id for diff_id in diff_ids for name in _BY_DIGEST}
        names = V1Names(diff_ids)
        stream = SavedStream(self._engine.export(self._image), self.name)
        try:
            async for layer in stream.layers():
                # Older engines call a layer by what binds its digest. Whoever passes one over for its name gets no
                # other image by that: in the end each is held against the config's list.
                known = digests.get(layer.path) or names.diff_id(layer.path, stream.documents)
                yield replace(layer, diff_id=known)
            self._contents = Streamed(stream, self.name)
        finally:
            await stream.close()

    async def config(self) -> SavedConfig:
        if self._contents is None:
            raise RuntimeError("the layers come first")
        found = find_image(self._contents, None).config
        if self._diff_ids and found.diff_ids != self._diff_ids:
            raise SourceDamaged(f"{self.name} became another image while it was read: run this again")
        return found

    async def close(self) -> None:
        await self._engine.close()


class DockerFilling:
    """A `bucketry.transfer.contract.Destination`. ``image``: what it is called there. ``folder``: for the archive."""

    def __init__(self, engine: DockerEngine, image: str, folder: Path) -> None:
        self._engine = engine
        self._image = docker_name(image)
        self._folder = folder
        self._filling: DockerArchiveFilling | None = None

    @property
    def name(self) -> str:
        return f"docker-daemon:{self._image}"

    async def begin(self, root: RawManifest, manifests: Sequence[RawManifest], tag: str | None) -> None:
        try:
            keep_zstd = await self._engine.api_version() >= READS_ZSTD
            with translated(f"cannot write {self._folder}"):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The same file for the same image: a later run goes on with it.
            file = hashlib.sha256(f"{self._image} {root.digest}".encode()).hexdigest()[:24]
            self._filling = DockerArchiveFilling(self._folder / f"{file}.tar", self._image, keep_zstd=keep_zstd)
            await self._filling.begin(root, manifests, None)
        except BaseException:
            await self._engine.close()
            raise

    async def slot(self, blob: Descriptor) -> Slot | None:
        return await self._begun().slot(blob)

    async def landed(self, blob: Descriptor) -> None:
        await self._begun().landed(blob)

    async def finish(self) -> None:
        filling = self._begun()
        await filling.complete()
        await self._engine.load(filling.archive.pieces())
        await filling.archive.discard()
        filling.remove_loose()
        await self._engine.close()

    async def abandon(self) -> None:
        if self._filling is not None:
            await self._filling.abandon()
        await self._engine.close()

    def _begun(self) -> DockerArchiveFilling:
        if self._filling is None:
            raise RuntimeError("it was not begun")
        return self._filling
