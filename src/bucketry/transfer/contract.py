"""What images are moved between. Sources are read, targets are pushed to, destinations are files that are filled.

- A `Source` has manifests: a repository of a registry, of a bucket, an OCI layout.
- A `SavedImage` has none yet: what a Docker Engine or ``docker save`` gives, layers as tar files in one stream.
- A `Target` is a repository that takes blobs and manifests: of a registry (over HTTP), of a bucket (in this process).
- A `Destination` is filled file by file: an OCI layout, an archive, what is loaded into a Docker Engine.

All raise `bucketry.transfer.errors.TransferError` and nothing of the libraries below. ``name`` is how a person names
the thing, without secrets. Retries are the engine's: every call here is one attempt, and may be made again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

from bucketry.hashing import Checkpoints
from bucketry.oci import Descriptor, Digest
from bucketry.oci.manifest import Manifest, parse_manifest

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True)
class RawManifest:
    """A manifest's exact bytes, verified against ``digest``."""

    body: bytes
    media_type: str
    digest: Digest

    @cached_property
    def parsed(self) -> Manifest:
        """Raises `bucketry.oci.errors.ManifestInvalid`."""
        return parse_manifest(self.body, self.media_type)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=str(self.digest), size=len(self.body))


def is_list_of(checkpoints: Checkpoints, blob: Descriptor) -> bool:
    """Whether the checkpoints say that they are of just this blob; its bytes are still to be verified by them."""
    wanted = blob.parsed
    return (wanted.algorithm, wanted.hex, blob.size) == ("sha256", checkpoints.digest, checkpoints.size)


class BlobReader(Protocol):
    """The bytes of one blob. They are not verified: whoever reads them does that."""

    @property
    def ranged(self) -> bool:
        """Whether ``read`` may begin anywhere, and several reads may run at once."""
        ...

    def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Bytes ``start`` up to, not including, ``stop`` (None: the end), in pieces of at most 1 MiB.

        Raises `Unreachable` where the connection broke or the source ended early; closing the iterator frees it.
        """
        ...

    async def checkpoints(self) -> Checkpoints | None:
        """Where the source has them and they are of this digest and size; else None, never an error."""
        ...


class Source(Protocol):
    @property
    def name(self) -> str: ...

    async def manifest(self, reference: Digest | str | None = None) -> RawManifest:
        """None: the one that the source's name says. Raises `ImageMissing`, `ContentMismatch`."""
        ...

    async def tags(self) -> Sequence[str]:
        """All tags of the repository, in order."""
        ...

    async def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """Signatures, SBOMs and the like; none where the source cannot say."""
        ...

    def blob(self, blob: Descriptor) -> BlobReader: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SavedLayer:
    """A layer as it comes. ``path`` is its name in the archive; ``size`` the bytes as they are there.

    ``read`` gives the bytes once, in order; a layer that was not read is passed over when the next is asked for.
    ``diff_id`` is the digest of its uncompressed tar where the source knows it before it is read: a layer that the
    target has is not read then.
    """

    path: str
    size: int
    read: Callable[[], AsyncIterator[bytes]]
    diff_id: Digest | None = None


@dataclass(frozen=True, slots=True)
class SavedConfig:
    """What a saved image says of itself once its layers have passed.

    ``layers`` are the paths of its layers in the image's order, ``diff_ids`` the digests of their uncompressed tars.
    A path may be one that was not given by ``layers()``, where ``aliases`` says which it stands for.
    """

    config: bytes
    layers: tuple[str, ...]
    diff_ids: tuple[Digest, ...]
    tags: tuple[str, ...]
    aliases: Mapping[str, str]


class SavedImage(Protocol):
    @property
    def name(self) -> str: ...

    async def diff_ids(self) -> Sequence[Digest]:
        """Of the layers in the image's order, where the source can say before it is read; else none."""
        ...

    def layers(self) -> AsyncIterator[SavedLayer]:
        """In the order of the stream. Raises `ImageMissing`, `SourceDamaged`."""
        ...

    async def config(self) -> SavedConfig:
        """After ``layers`` has ended. Raises `SourceDamaged`."""
        ...

    async def close(self) -> None: ...


class PartUpload(Protocol):
    """A blob on its way as parts: part n begins at byte (n - 1) * ``part_size``, all but the last have that size."""

    @property
    def session(self) -> str:
        """What `Target.resume` takes, in another process too."""
        ...

    @property
    def part_size(self) -> int: ...

    @property
    def max_parts(self) -> int: ...

    async def sent(self) -> Mapping[int, int]:
        """Number and size of each part that has arrived, by whichever process."""
        ...

    async def put(self, number: int, body: Buffer) -> None:
        """Sends a part, the same bytes each time. Raises `Unreachable`; `PartLost` where the session has ended."""
        ...

    async def complete(
        self, digest: Digest, size: int, checkpoints: Checkpoints | None, *, verified: Callable[[int], None]
    ) -> None:
        """Makes the parts the blob, and waits until it is verified; ``verified`` hears how many bytes are.

        Raises `ContentMismatch` where the bytes that arrived have another digest: the session is of no use then.
        May be called again after `Unreachable`.
        """
        ...

    async def cancel(self) -> None: ...


@runtime_checkable
class HashedUpload(PartUpload, Protocol):
    """A `PartUpload` whose other side is this very process, which need not read back what it hashed on its way."""

    async def complete_hashed(self, digest: Digest, size: int, checkpoints: Checkpoints | None) -> None:
        """As ``complete``, by whoever began the session and hashed the very bytes of all parts that were put."""
        ...


class Target(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def pull_command(self) -> str | None:
        """What a person types to pull what is pushed here, without the tag; None where there is nothing to type."""
        ...

    async def takes_parts(self) -> bool:
        """Whether ``begin`` and ``resume`` work: asked once, then known."""
        ...

    async def has_blob(self, blob: Descriptor, *, mount_from: str | None = None) -> bool:
        """Whether the blob need not be sent. It may be mounted from ``mount_from``, a repository there."""
        ...

    async def begin(
        self, *, digest: Digest | None = None, size: int | None = None, part_size: int | None = None
    ) -> PartUpload | None:
        """A new session; None where the blob is there already. ``part_size`` is a wish."""
        ...

    async def resume(self, session: str) -> PartUpload | None:
        """The session of an earlier run; None where it has ended or is unknown."""
        ...

    async def put_blob(self, blob: Descriptor, body: AsyncIterator[bytes]) -> None:
        """A whole blob, of a known digest, in one stream. Raises `ContentMismatch`."""
        ...

    async def has_manifest(self, digest: Digest) -> bool: ...

    async def put_manifest(self, manifest: RawManifest, tag: str | None = None) -> None:
        """After everything it names. Under its digest, and under ``tag``."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class CheckedTarget(Target, Protocol):
    """A `Target` that may have small blobs sent past it, to a bucket that checks them itself."""

    async def takes_put(self, size: int) -> bool:
        """Whether a blob of ``size`` bytes and known SHA-256 goes so, by ``begin`` and its part 1."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the bytes of a blob go: into the file ``path``, which exists, from byte ``offset`` on."""

    path: str
    offset: int


@dataclass(frozen=True, slots=True)
class Held:
    """A blob that need not land, for who reads the image has it. ``why``: so, in a few words for a person."""

    why: str


class Destination(Protocol):
    """Filled by several tasks at once; what is not finished leaves nothing that looks whole."""

    @property
    def name(self) -> str: ...

    async def begin(self, root: RawManifest, manifests: Sequence[RawManifest], tag: str | None) -> None:
        """Says what will come: the root (an image or an index) and, below it, the manifests that were chosen."""
        ...

    async def slot(self, blob: Descriptor) -> Slot | Held | None:
        """Where to write it; None where it is there already, whole. Raises `NoSpace`.

        Configs are asked for first: a layer's slot may wait until the config of its image has landed.
        """
        ...

    async def landed(self, blob: Descriptor) -> None:
        """The slot holds the blob's bytes, and they were verified."""
        ...

    async def finish(self) -> Sequence[Descriptor] | None:
        """All blobs landed: makes the image visible. Raises `TransferError`.

        Where it gives blobs, they were `Held` and are gone: they are to land, and then it is called again.
        """
        ...

    async def abandon(self) -> None:
        """Removes what is of no use to a later run, and keeps what one can go on with."""
        ...


@runtime_checkable
class ReferringDestination(Destination, Protocol):
    """A `Destination` that has a place for what refers to an image, beside the image."""

    def take_along(self, referring: Sequence[tuple[str | None, RawManifest]]) -> None:
        """Said before `begin`: signatures, SBOMs and the like, with the tags that they are found by, if any.

        Children come before their parents; the blobs of all of them come with those of the image.
        """
        ...
