"""A repository of a published site, read and written as files: no registry serves it, and none is opened."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from bucketry import hashing
from bucketry.hashing import MAX_ENCODED, Checkpoints, NotingHasher
from bucketry.oci import MAX_MANIFEST, Descriptor, Digest, media_types
from bucketry.oci.errors import OCIError
from bucketry.oci.manifest import parse_manifest
from bucketry.store.contract import NotFound, StoreError
from bucketry.store.site import SiteContent, SiteStore, SiteUpload
from bucketry.transfer.bucket import translated
from bucketry.transfer.contract import Buffer, RawManifest, is_list_of
from bucketry.transfer.crew import closing, in_thread
from bucketry.transfer.errors import ContentMismatch, ImageMissing, Refused, SourceDamaged, TransferError
from bucketry.transfer.site import paths
from bucketry.transfer.site.state import Entry, StateFile

WHOLE: Final = 16 * 1024 * 1024
"""Bytes: a blob in one stream that is larger goes as parts, so that memory stays bounded."""

_REFERRERS: Final = 64 * 1024 * 1024
"""Bytes of a list of referrers that is read."""


class SiteRepository:
    """A `bucketry.transfer.contract.Source` and `Target`. The store is started and closed by whoever opened it.

    ``reference``: what `manifest` gives without one. ``sizes``: the files of the repository and their sizes, as they
    were listed, where they were; it is kept up with what is written here.
    """

    def __init__(
        self,
        site: SiteStore,
        repository: str,
        *,
        reference: Digest | str = "latest",
        name: str | None = None,
        sizes: dict[str, int] | None = None,
    ) -> None:
        self._site = site
        self._repository = repository
        self._reference = reference
        self._name = name or f"{site.url}//{repository}"
        self._sizes = sizes
        self._state = StateFile(site, ids=str)
        self._uploads: dict[Digest, SiteUpload] = {}
        self._begun: set[Digest] = set()

    @property
    def name(self) -> str:
        return self._name

    @property
    def repository(self) -> str:
        return self._repository

    @property
    def pull_command(self) -> str:
        return f"bucketry pull {shlex.quote(f'{self._site.url}//{self._repository}')}"

    # What is read.

    async def manifest(self, reference: Digest | str | None = None) -> RawManifest:
        """Of a tag, what `bucketry-site.json` says of it: that is true before the tag's own file is."""
        wanted = reference or self._reference
        if isinstance(wanted, Digest):
            return await self._by_digest(wanted)
        held = await self._state.read()
        if held is None:
            return await self._by_file(wanted)
        entry = held.state.tag(self._repository, wanted)
        if entry is None:
            raise ImageMissing(f"{self._site.url} publishes no {self._repository}:{wanted}")
        return await self._by_digest(Digest.parse(entry.digest), entry)

    async def _by_digest(self, digest: Digest, entry: Entry | None = None) -> RawManifest:
        found = await self._content(paths.manifest(self._repository, digest), f"{self._repository}@{digest}")
        if Digest.of(found.body, digest.algorithm) != digest:
            raise SourceDamaged(f"{self._name} is damaged: manifest {digest} has other bytes than that")
        media_type = entry.media_type if entry else await self._media_type(found, digest)
        manifest = RawManifest(found.body, media_type, digest)
        try:
            _ = manifest.parsed
        except OCIError as error:
            raise SourceDamaged(f"{self._name} is damaged: manifest {digest}: {error.message}") from error
        return manifest

    async def _by_file(self, tag: str) -> RawManifest:
        found = await self._content(paths.manifest(self._repository, tag), f"{self._repository}:{tag}")
        return RawManifest(found.body, await self._media_type(found, tag), Digest.of(found.body))

    async def _content(self, path: str, what: str) -> SiteContent:
        with translated():
            try:
                return await self._site.get(path, limit=MAX_MANIFEST)
            except NotFound:
                raise ImageMissing(f"{self._site.url} publishes no {what}") from None

    async def _media_type(self, found: SiteContent, reference: Digest | str) -> str:
        """As it is served; where the place keeps no headers, what the body says, or else its twin's name."""
        served = found.file.served
        if served is not None and media_types.may_be_manifest(media_types.essence(served.content_type)):
            return media_types.essence(served.content_type)
        try:
            manifest = parse_manifest(found.body, None)
        except OCIError as error:
            raise SourceDamaged(f"{self._name}: manifest {reference}: {error.message}") from error
        if _says_type(found.body):
            return manifest.media_type
        digest = reference if isinstance(reference, Digest) else Digest.of(found.body)
        with translated():
            for media_type in paths.KINDS:
                with suppress(NotFound):
                    await self._site.head(paths.twin(self._repository, digest, media_type))
                    return media_type
        return manifest.media_type

    async def tags(self) -> Sequence[str]:
        held = await self._state.read()
        if held is not None:
            repository = held.state.repositories.get(self._repository)
            if repository is None or not repository.visible:
                raise ImageMissing(f"{self._site.url} publishes no {self._repository}")
            return sorted(repository.tags)
        found = await self._content(paths.tags(self._repository), self._repository)
        try:
            return sorted(msgspec.json.decode(found.body, type=_Tags).tags)
        except msgspec.MsgspecError as error:
            raise SourceDamaged(f"{self._name}: {paths.tags(self._repository)}: {error}") from error

    async def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        path = paths.referrers(self._repository, subject)
        with translated():
            try:
                found = await self._site.get(path, limit=_REFERRERS)
            except NotFound:
                return ()
        try:
            return msgspec.json.decode(found.body, type=_Index).manifests
        except (msgspec.MsgspecError, OCIError) as error:
            raise SourceDamaged(f"{self._name}: {path}: {error}") from error

    def blob(self, blob: Descriptor) -> SiteBlob:
        return SiteBlob(self._site, self._repository, blob)

    # What is written.

    async def takes_parts(self) -> bool:
        return True

    async def has_blob(self, blob: Descriptor, *, mount_from: str | None = None) -> bool:
        return await self._is_there(paths.blob(self._repository, blob.parsed), blob.size)

    async def _is_there(self, path: str, size: int | None = None) -> bool:
        if self._sizes is not None:
            found = self._sizes.get(path)
        else:
            with translated():
                try:
                    found = (await self._site.head(path)).size
                except NotFound:
                    found = None
        return found is not None and size in (None, found)

    async def begin(
        self, *, digest: Digest | None = None, size: int | None = None, part_size: int | None = None
    ) -> SiteRepositoryUpload | None:
        """Only of a blob whose digest and size are known: its file has the digest as its name from the beginning."""
        if digest is None or size is None:
            raise Refused(f"{self._name}: a site takes a blob only once its digest is known")
        path = paths.blob(self._repository, digest)
        with translated():
            if digest in self._begun:
                # An upload that ended may have ended well, with its answer lost.
                with suppress(NotFound):
                    if (await self._site.head(path)).size == size:
                        self._note(path, size)
                        return None
            self._begun.add(digest)
            upload = await self._site.begin(path, size=size, served=paths.of_digest(paths.OCTETS), part_size=part_size)
        self._uploads[digest] = upload
        return SiteRepositoryUpload(self, upload, digest)

    async def resume(self, session: str) -> None:
        """No session: what an earlier run sent was hashed there, and nobody here could vouch for it."""
        return

    async def put_blob(self, blob: Descriptor, body: AsyncIterator[bytes]) -> None:
        if blob.size > WHOLE:
            await self._in_parts(blob, body)
            return
        data = bytearray()
        async for piece in body:
            data += piece
            if len(data) > blob.size:
                break
        hasher = NotingHasher(hashing.new(blob.parsed.algorithm))
        await in_thread(hasher.update, data)
        _check(blob, hasher)
        await self.put_checkpoints(blob.parsed, hasher.checkpoints())
        path = paths.blob(self._repository, blob.parsed)
        with translated():
            await self._site.put(path, data, served=paths.of_digest(paths.OCTETS))
        self._note(path, blob.size)

    async def _in_parts(self, blob: Descriptor, body: AsyncIterator[bytes]) -> None:
        hasher = NotingHasher(hashing.new(blob.parsed.algorithm))
        upload = await self.begin(digest=blob.parsed, size=blob.size, part_size=WHOLE // 2)
        if upload is None:
            return
        try:
            data, number = bytearray(), 0
            async for piece in body:
                data += piece
                if hasher.length + len(data) > blob.size:
                    break
                while len(data) >= upload.part_size:
                    part = bytes(data[: upload.part_size])
                    del data[: upload.part_size]
                    number += 1
                    await in_thread(hasher.update, part)
                    await upload.put(number, part)
            if data:
                await in_thread(hasher.update, data)
                await upload.put(number + 1, data)
            _check(blob, hasher)
            await upload.complete_hashed(blob.parsed, blob.size, hasher.checkpoints())
        except BaseException:
            with suppress(TransferError):
                await upload.cancel()
            raise

    async def put_checkpoints(self, digest: Digest, checkpoints: Checkpoints | None) -> None:
        """Before the blob, so that a blob that is there has those that it ever had. One segment needs none."""
        if checkpoints is None or checkpoints.count < 2:
            return
        path, body = paths.checkpoints(self._repository, digest), checkpoints.encode()
        if self._sizes is not None and self._sizes.get(path) == len(body):
            return
        with translated():
            await self._site.put(path, body, served=paths.of_digest(paths.OCTETS))
        self._note(path, len(body))

    async def has_manifest(self, digest: Digest) -> bool:
        return await self._is_there(paths.manifest(self._repository, digest))

    async def put_manifest(self, manifest: RawManifest, tag: str | None = None) -> None:
        """By its digest, with its twin. `bucketry-site.json`, tags and lists are for `publish` to change."""
        if tag is not None:
            raise Refused(f"{self._name}: tags of a site are set by bucketry publish")
        path, size = paths.manifest(self._repository, manifest.digest), len(manifest.body)
        with translated():
            if self._sizes is None or self._sizes.get(path) != size:
                await self._site.put(path, manifest.body, served=paths.of_digest(manifest.media_type))
                self._note(path, size)
            if not self._site.keeps_headers:
                twin = paths.twin(self._repository, manifest.digest, manifest.media_type)
                await self._site.twin(path, twin)
                self._note(twin, size)

    def _note(self, path: str, size: int) -> None:
        if self._sizes is not None:
            self._sizes[path] = size

    def ended(self, digest: Digest, size: int | None = None) -> None:
        """An upload is over: with so many bytes that are there, or with nothing."""
        self._uploads.pop(digest, None)
        if size is not None:
            self._note(paths.blob(self._repository, digest), size)

    async def close(self) -> None:
        """Frees what uploads that did not end have left. The store stays open."""
        uploads = list(self._uploads.values())
        self._uploads.clear()
        with translated():
            await asyncio.gather(*(upload.abort() for upload in uploads))


class _Tags(msgspec.Struct):
    tags: list[str]


class _Typed(msgspec.Struct, rename="camel"):
    media_type: str = ""


def _says_type(body: bytes) -> bool:
    return bool(msgspec.json.decode(body, type=_Typed).media_type)


class _Index(msgspec.Struct):
    manifests: tuple[Descriptor, ...]


def _check(blob: Descriptor, hasher: NotingHasher) -> None:
    if hasher.length != blob.size or hasher.hexdigest() != blob.parsed.hex:
        raise ContentMismatch(f"what came for blob {blob.digest} of {blob.size} bytes are other bytes")


class SiteBlob:
    """A `bucketry.transfer.contract.BlobReader`."""

    ranged = True

    def __init__(self, site: SiteStore, repository: str, blob: Descriptor) -> None:
        self._site = site
        self._repository = repository
        self._blob = blob

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        size = self._blob.size
        stop = size if stop is None else min(stop, size)
        if start >= stop:
            return
        with translated():
            async with closing(self._site.read(paths.blob(self._repository, self._blob.parsed), start, stop)) as pieces:
                async for piece in pieces:
                    yield piece

    async def checkpoints(self) -> Checkpoints | None:
        try:
            path = paths.checkpoints(self._repository, self._blob.parsed)
            found = Checkpoints.parse((await self._site.get(path, limit=MAX_ENCODED)).body)
        except (StoreError, ValueError):
            return None
        return found if is_list_of(found, self._blob) else None


class SiteRepositoryUpload:
    """A `bucketry.transfer.contract.HashedUpload`: this process hashed all its parts, or there is no blob."""

    session = "of this process alone"

    def __init__(self, repository: SiteRepository, upload: SiteUpload, digest: Digest) -> None:
        self._repository = repository
        self._upload = upload
        self._digest = digest
        self._sent: dict[int, int] = {}

    @property
    def part_size(self) -> int:
        return self._upload.part_size

    @property
    def max_parts(self) -> int:
        return self._upload.max_parts

    async def sent(self) -> Mapping[int, int]:
        return dict(self._sent)

    async def put(self, number: int, body: Buffer) -> None:
        with translated():
            await self._upload.put(number, body)
        self._sent[number] = len(body)

    async def complete(
        self, digest: Digest, size: int, checkpoints: Checkpoints | None, *, verified: Callable[[int], None]
    ) -> None:
        """Refused: what is there cannot be read before it can be seen, so it must have been hashed on its way."""
        raise Refused(f"{self._repository.name} takes only what was hashed on its way: blob {digest} was not")

    async def complete_hashed(self, digest: Digest, size: int, checkpoints: Checkpoints | None) -> None:
        if digest != self._digest or sum(self._sent.values()) != size:
            raise ContentMismatch(f"the parts that were sent are not blob {digest} of {size} bytes")
        await self._repository.put_checkpoints(digest, checkpoints)
        with translated():
            await self._upload.complete()
        self._repository.ended(digest, size)

    async def cancel(self) -> None:
        with translated():
            await self._upload.abort()
        self._repository.ended(self._digest)
