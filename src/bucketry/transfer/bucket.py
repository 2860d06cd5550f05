"""A repository of a bucket (or of a folder), by a registry that is opened in this process: no server runs.

Parts go straight to the bucket. Where this process hashed every part of a session that it began, nothing is read back
(docs/rfcs/0003-parallel-extension.md, rule 7).
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final, cast

from bucketry.hashing import Checkpoints
from bucketry.oci import Descriptor, Digest
from bucketry.oci import errors as oci
from bucketry.registry import Blob, Chunk, Registry, layout
from bucketry.store import contract as store
from bucketry.store.open import StoreNameInvalid
from bucketry.transfer.contract import Buffer, RawManifest, is_list_of
from bucketry.transfer.crew import closing
from bucketry.transfer.errors import (
    ContentMismatch,
    ImageMissing,
    NameUnusable,
    NoSpace,
    NotPermitted,
    PartLost,
    Refused,
    SourceDamaged,
    TransferError,
    Unreachable,
)
from bucketry.transfer.judging import Judging

PRINCIPAL: Final = "bucketry"
"""Whose the sessions are that are begun here: nobody's who comes through a server."""

WAIT: Final = 2.0
"""Seconds between two looks at how far a verification is."""


@contextmanager
def translated() -> Iterator[None]:
    """Gives what a registry and its store raise as `TransferError`."""
    try:
        yield
    except oci.OCIError as error:
        raise _of_registry(error) from error
    except store.StoreError as error:
        raise of_store(error) from error


def _of_registry(error: oci.OCIError) -> TransferError:
    message = error.message
    match error:
        case oci.BlobUnknown() | oci.ManifestUnknown() | oci.NameUnknown():
            return ImageMissing(message)
        case oci.DigestMismatch():
            return ContentMismatch(message)
        case oci.UploadUnknown() | oci.UploadInvalid():
            return PartLost(message)
        case oci.Denied() | oci.Unauthorized():
            return NotPermitted(message)
        case oci.TooManyRequests():
            return Unreachable(message)
        case oci.NameInvalid() | oci.TagInvalid():
            return NameUnusable(message)
    return Refused(message)


def of_store(error: store.StoreError) -> TransferError:
    message = str(error)
    match error:
        case StoreNameInvalid():
            return NameUnusable(message)
        case store.StoreFull():
            return NoSpace(message)
        case store.Unavailable():
            return Unreachable(message, retry_after=error.retry_after)
        case store.Corrupt():
            return Unreachable(message)
        case store.UploadNotFound():
            return PartLost(message)
        case store.NotFound():
            return ImageMissing(message)
        case store.AccessDenied():
            return NotPermitted(message)
    return Refused(message)


class BucketRepository:
    """A `bucketry.transfer.contract.Source` and `Target`.

    ``name``: as a person names it; ``reference``: what `manifest` gives without one. ``close_store``: the store is
    closed with it. ``judging``: of a store that is still looked at, and a registry that was made for this push: where
    the store is refused, nothing stays of it.
    """

    def __init__(
        self,
        registry: Registry,
        repository: str,
        *,
        name: str,
        reference: Digest | str = "latest",
        close_store: bool = False,
        judging: Judging | None = None,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._name = name
        self._reference = reference
        self._close_store = close_store
        self._judging = judging
        self._begun: set[str] = set()

    @property
    def name(self) -> str:
        return self._name

    @property
    def repository(self) -> str:
        return self._repository

    @property
    def pull_command(self) -> str:
        return f"bucketry pull {shlex.quote(f'{self._registry.store.url}/{self._repository}')}"

    async def manifest(self, reference: Digest | str | None = None) -> RawManifest:
        try:
            with translated():
                found = await self._registry.manifests.get(self._repository, reference or self._reference)
        except ImageMissing as error:
            raise ImageMissing(f"{self._registry.store.url}: {error}") from error
        if Digest.of(found.body, found.digest.algorithm) != found.digest:
            raise SourceDamaged(f"{self._name} is damaged: manifest {found.digest} has other bytes than that")
        return RawManifest(found.body, found.media_type, found.digest)

    async def tags(self) -> Sequence[str]:
        names: list[str] = []
        while True:
            with translated():
                page = await self._registry.listing.tags(self._repository, after=names[-1] if names else None)
            names += page.names
            if not page.more:
                return names

    async def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        found: list[Descriptor] = []
        after: Digest | None = None
        while True:
            with translated():
                page = await self._registry.referrers.page(self._repository, subject, after=after)
            found += page.descriptors
            after = page.last
            if after is None:
                return found

    def blob(self, blob: Descriptor) -> BucketBlob:
        return BucketBlob(self._registry, self._repository, blob)

    async def stored(self, blob: Descriptor) -> tuple[store.Store, str] | None:
        """The store, and the key of the blob's bytes in it; None where it has other bytes than the blob."""
        with translated():
            found = await self._registry.blobs.find(self._repository, blob.parsed)
        return (self._registry.store, found.data) if found.size == blob.size else None

    async def takes_parts(self) -> bool:
        return True

    async def has_blob(self, blob: Descriptor, *, mount_from: str | None = None) -> bool:
        """A blob of any repository is there: whoever may write to the bucket may read all of it."""
        with translated():
            try:
                await self._registry.blobs.stat(self._repository, blob.parsed)
            except oci.BlobUnknown:
                return await self._registry.blobs.mount(self._repository, blob.parsed, mount_from) is not None
        return True

    async def begin(
        self, *, digest: Digest | None = None, size: int | None = None, part_size: int | None = None
    ) -> BucketUpload | None:
        with translated():
            opened = await self._registry.parallel.begin(
                self._repository, PRINCIPAL, digest=digest, size=size, part_size=part_size
            )
        if isinstance(opened, Blob):
            return None
        self._begun.add(opened.session_id)
        return self._upload(opened.session_id, opened.part_size, opened.max_parts)

    def _upload(self, session: str, part_size: int, max_parts: int) -> BucketUpload:
        return BucketUpload(self._registry, self._repository, session, part_size, max_parts, self._allowed)

    async def _allowed(self) -> None:
        """Before anything becomes visible. Raises `Refused`."""
        if self._judging is not None:
            await self._judging.passed()

    async def resume(self, session: str) -> BucketUpload | None:
        try:
            with translated():
                status = await self._registry.parallel.status(self._repository, PRINCIPAL, session)
        except PartLost:
            return None
        if status.state.value not in ("open", "verifying"):
            return None
        return self._upload(session, status.part_size, store.MAX_PARTS)

    async def put_blob(self, blob: Descriptor, body: AsyncIterator[bytes]) -> None:
        await self._allowed()
        with translated():
            await self._registry.uploads.push(self._repository, blob.parsed, Chunk(body, blob.size))

    async def has_manifest(self, digest: Digest) -> bool:
        try:
            with translated():
                await self._registry.manifests.get(self._repository, digest)
        except ImageMissing:
            return False
        return True

    async def put_manifest(self, manifest: RawManifest, tag: str | None = None) -> None:
        await self._allowed()
        with translated():
            await self._registry.manifests.push(
                self._repository,
                manifest.digest,
                manifest.body,
                manifest.media_type,
                tags=() if tag is None else (tag,),
            )

    async def close(self) -> None:
        with translated():
            try:
                if self._judging is not None:
                    await self._judging.close()
                    if self._judging.refused:
                        await self._remove_traces()
                await self._registry.close()
            finally:
                if self._close_store:
                    await self._registry.store.close()

    async def _remove_traces(self) -> None:
        for session in self._begun:
            with suppress(oci.OCIError):
                await self._registry.parallel.cancel(self._repository, PRINCIPAL, session)
        await self._registry.store.delete(layout.FORMAT_KEY)


class BucketBlob:
    """A `bucketry.transfer.contract.BlobReader`."""

    ranged = True

    def __init__(self, registry: Registry, repository: str, blob: Descriptor) -> None:
        self._registry = registry
        self._repository = repository
        self._blob = blob
        self._found: Blob | None = None

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        size = self._blob.size
        stop = size if stop is None else min(stop, size)
        if start >= stop:
            return
        with translated():
            found = self._found or await self._registry.blobs.find(self._repository, self._blob.parsed)
            if found.size != size:
                raise ContentMismatch(f"blob {found.digest} has {found.size} bytes, and {size} are expected")
            self._found = found
            async with closing(self._registry.blobs.read(found, start, stop)) as pieces:
                async for piece in pieces:
                    yield piece

    async def checkpoints(self) -> Checkpoints | None:
        try:
            encoded = await self._registry.blobs.checkpoints(self._repository, self._blob.parsed)
            found = Checkpoints.parse(encoded)
        except (oci.OCIError, store.StoreError, ValueError):
            return None
        return found if is_list_of(found, self._blob) else None


class BucketUpload:
    """A `bucketry.transfer.contract.HashedUpload`."""

    def __init__(
        self,
        registry: Registry,
        repository: str,
        session: str,
        part_size: int,
        max_parts: int,
        allowed: Callable[[], Awaitable[None]],
    ) -> None:
        """``allowed`` raises where the parts may not become a blob."""
        self._registry = registry
        self._repository = repository
        self._session = session
        self._part_size = part_size
        self._max_parts = max_parts
        self._allowed = allowed

    @property
    def session(self) -> str:
        return self._session

    @property
    def part_size(self) -> int:
        return self._part_size

    @property
    def max_parts(self) -> int:
        return self._max_parts

    async def sent(self) -> Mapping[int, int]:
        with translated():
            status = await self._registry.parallel.status(self._repository, PRINCIPAL, self._session)
        return {part.number: part.size for part in status.parts}

    async def put(self, number: int, body: Buffer) -> None:
        with translated():
            await self._registry.parallel.put_part(
                self._repository, PRINCIPAL, self._session, number, Chunk(_once(body), len(body))
            )

    async def complete(
        self, digest: Digest, size: int, checkpoints: Checkpoints | None, *, verified: Callable[[int], None]
    ) -> None:
        await self._complete(digest, size, checkpoints, verified, hashed=False)

    async def complete_hashed(self, digest: Digest, size: int, checkpoints: Checkpoints | None) -> None:
        await self._complete(digest, size, checkpoints, lambda size: None, hashed=True)

    async def _complete(
        self,
        digest: Digest,
        size: int,
        checkpoints: Checkpoints | None,
        verified: Callable[[int], None],
        *,
        hashed: bool,
    ) -> None:
        await self._allowed()
        encoded = None if checkpoints is None else checkpoints.encode()
        while True:
            with translated():
                answer = await self._registry.parallel.complete(
                    self._repository, PRINCIPAL, self._session, digest, size, encoded, wait=WAIT, hashed=hashed
                )
            if isinstance(answer, Blob):
                return
            verified(answer.verified)

    async def cancel(self) -> None:
        with translated():
            try:
                await self._registry.parallel.cancel(self._repository, PRINCIPAL, self._session)
            except (oci.UploadUnknown, oci.UploadInvalid):
                pass  # It has ended, or ends by itself.


async def _once(body: Buffer) -> AsyncIterator[bytes]:
    # In one piece, which the registry takes where it lies, whatever buffer it is.
    yield cast(bytes, body)
