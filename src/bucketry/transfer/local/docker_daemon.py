"""``docker-daemon:name:tag``: an image of the local Docker Engine.

As a source it is read as the stream that ``docker save`` gets: nothing of it goes to the disk. As a destination its
layers, but for those that the engine has, land in an archive in the cache folder, which is then loaded and removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bucketry.oci import Descriptor, Digest
from bucketry.oci.errors import OCIError
from bucketry.transfer.contract import Held, RawManifest, SavedConfig, SavedLayer, Slot
from bucketry.transfer.errors import Refused, SourceDamaged
from bucketry.transfer.files import translated
from bucketry.transfer.local.docker_archive import Streamed, find_image
from bucketry.transfer.local.docker_archive_filling import DockerArchiveFilling, only_image
from bucketry.transfer.local.docker_engine import DockerEngine
from bucketry.transfer.local.docker_layers import layers_held
from bucketry.transfer.local.saved import Entry, diff_ids, docker_name
from bucketry.transfer.local.saved_stream import SavedStream
from bucketry.transfer.local.v1_ids import V1Names

READS_ZSTD: Final = (1, 42)
"""The API version of Docker 23, the first that loads layers of zstd."""

_ID: Final = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_BY_DIGEST: Final = ("blobs/sha256/{}", "{}.tar")
"""An uncompressed layer, as Docker since 25 and Podman's engine name it."""
_HELD: Final = Held("the Docker Engine has it")


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
    """A `bucketry.transfer.contract.Destination`. ``image``: what it is called there. ``folder``: for the archive.

    Layers that the engine has are not wanted; nothing is of an image that it has, which only gets another name.
    """

    def __init__(self, engine: DockerEngine, image: str, folder: Path) -> None:
        self._engine = engine
        self._image = docker_name(image)
        self._folder = folder
        self._manifest: RawManifest | None = None
        self._filling: DockerArchiveFilling | None = None
        self._keeps_chains = False
        self._is_there = False
        self._left_out: frozenset[str] = frozenset()
        self._looked = asyncio.Event()

    @property
    def name(self) -> str:
        return f"docker-daemon:{self._image}"

    async def begin(self, root: RawManifest, manifests: Sequence[RawManifest], tag: str | None) -> None:
        try:
            self._manifest = only_image(root, manifests, self.name)
            self._keeps_chains = await self._engine.keeps_chains()
            # There an image's id is the digest of its config.
            found = await self._engine.find(self._config.digest) if self._keeps_chains else None
            self._is_there = found is not None and found.id == self._config.digest
            if not self._is_there:
                await self._begin_filling()
        except BaseException:
            await self._engine.close()
            raise

    async def slot(self, blob: Descriptor) -> Slot | Held | None:
        if self._is_there:
            return _HELD
        filling = self._begun()
        if blob.digest == self._config.digest:
            slot = await filling.slot(blob)
            if slot is None:
                await self._look()
            return slot
        await self._looked.wait()
        return _HELD if blob.digest in self._left_out else await filling.slot(blob)

    async def landed(self, blob: Descriptor) -> None:
        await self._begun().landed(blob)
        if blob.digest == self._config.digest:
            await self._look()

    async def finish(self) -> Sequence[Descriptor] | None:
        if self._is_there:
            if not await self._engine.tag(self._config.digest, self._image):
                self._is_there = False
                await self._begin_filling()
                return self._begun_image().parsed.blobs()
        else:
            filling = self._begun()
            await filling.complete()
            try:
                await self._engine.load(filling.pieces())
            except Refused:
                if not self._left_out:
                    raise
                # Most likely an image that had these layers was removed since it was looked at.
                missing = [blob for blob in self._begun_image().parsed.blobs() if blob.digest in self._left_out]
                self._left_out = frozenset()
                await filling.leave_out(self._left_out)
                return missing
            await filling.archive.discard()
            filling.remove_loose()
        await self._engine.close()
        return None

    async def abandon(self) -> None:
        if self._filling is not None:
            await self._filling.abandon()
        await self._engine.close()

    async def _begin_filling(self) -> None:
        keep_zstd = await self._engine.api_version() >= READS_ZSTD
        with translated(f"cannot write {self._folder}"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        manifest = self._begun_image()
        # The same file for the same image: a later run goes on with it.
        file = hashlib.sha256(f"{self._image} {manifest.digest}".encode()).hexdigest()[:24]
        self._filling = DockerArchiveFilling(
            self._folder / f"{file}.tar", self._image, keep_zstd=keep_zstd, partly=self._keeps_chains
        )
        await self._filling.begin(manifest, (), None)
        if not self._keeps_chains:
            self._looked.set()

    async def _look(self) -> None:
        """Finds out which layers the engine has, by the config, which is there."""
        if self._looked.is_set():
            return
        filling = self._begun()
        layers = [layer.digest for layer in self._begun_image().parsed.layers]
        wanted = diff_ids(await filling.archive.read(self._config), Entry("config", tuple(layers)), self.name)
        count = await layers_held(self._engine, list(map(str, wanted)), self._image)
        # A layer may be in an image twice, and something else lies below it the second time.
        self._left_out = frozenset(layers[:count]) - frozenset(layers[count:])
        await filling.leave_out(self._left_out)
        self._looked.set()

    @property
    def _config(self) -> Descriptor:
        config = self._begun_image().parsed.config
        assert config is not None
        return config

    def _begun_image(self) -> RawManifest:
        if self._manifest is None:
            raise RuntimeError("it was not begun")
        return self._manifest

    def _begun(self) -> DockerArchiveFilling:
        if self._filling is None:
            raise RuntimeError("it was not begun")
        return self._filling
