"""The object-store contract: what bucketry asks of S3, of a folder, of memory. It knows no OCI.

A store is a flat map of keys to immutable objects. Keys are ASCII, 1 to 900 characters of ``[A-Za-z0-9._~/-]``,
without empty, ``.`` or ``..`` segments. What every backend promises:

- **Strong reads.** A read that starts after a write was acknowledged sees it (or a later one).
- **Atomic writes.** A reader sees the old object or the new one, whole; an acknowledged write survives a crash.
- **Conditions.** With ``condition=IF_ABSENT`` or ``IfMatch(etag)`` exactly one of any number of racing writers wins;
  the others get `PreconditionFailed`. A condition whose answer was lost is settled by the backend: it reads
  the object back and compares the whole body, so callers make the bodies of conditional writes unique (a nonce).
  What cannot be settled raises `Unavailable`: the write may or may not have happened.
- **Etags** are opaque and change with every write.
- **Order.** ``list`` gives the keys *directly or deeper* below a prefix. Names without a ``/`` after the prefix come in
  byte order; the order of names with ``/`` is the backend's own, but the same on every page.
- **Bulk keys** (`BULK_PREFIX`) hold blob bytes: written once under a random name, by one ``put`` or one multipart
  upload, with no metadata and no content type of their own.
- **Foreign keys** (`FOREIGN_PREFIX`) hold the plain bytes that another program wrote, in a tree of its own. They can be
  read, listed and presigned like any other, with the content type `OCTET_STREAM` and no metadata where the backend
  knows none; every write and every deletion there is a ``ValueError``.
- **Presigned URLs** let anyone who has one do one thing until it expires, whatever happens to the store's callers
  meanwhile: a part may arrive twice under one number, and at any time. Once its upload was completed or aborted a part
  changes nothing. So what came by a URL is judged by what is in the completed object, never by what was said of it.
- **Multipart.** Parts may be put in any order and in parallel. All parts but the last are exactly ``part_size`` bytes
  (R2 needs it), at least `MIN_PART` bytes. Numbers are 1 to `MAX_PARTS`, ascending with the offset, gaps allowed.
  A number is written by one attempt only: a backend may accept a stale etag, and one real store does.

Errors (each says in its message which store, what failed and what to do)::

    StoreError
    ├── NotFound              no such key (or bucket: `BucketMissing`)
    │   └── BucketMissing
    ├── UploadNotFound        no such multipart upload: completed, aborted, never was
    ├── InvalidPart           a part named in complete() is missing, or is not the one that was put
    ├── PreconditionFailed    the condition did not hold, and this write did not happen
    ├── Unavailable           down, slow, throttled: try again later (``retry_after`` seconds)
    │   └── StoreFull         no space, or a quota
    ├── AccessDenied          credentials missing, wrong, expired, or without the right
    │   └── ReadOnly          the store takes no writes
    ├── Unsupported           this store cannot do that
    └── Corrupt               the store answered what it must not (a truncated body, not its protocol)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

Buffer: TypeAlias = bytes | bytearray | memoryview

BULK_PREFIX = "data/"
"""Keys below it hold blob bytes and nothing else."""

FOREIGN_PREFIX = "docker/registry/v2/"
"""Keys below it are another program's: read, never written (docs/rfcs/0005-adoption.md)."""

MIN_PART = 5 * 1024 * 1024
"""Bytes: the smallest part S3 takes, but for the last."""

MAX_PARTS = 10_000
"""The largest part number S3 takes."""

OCTET_STREAM = "application/octet-stream"


class StoreError(Exception):
    """Any failure of a store. The tree is in this module's docstring."""


class NotFound(StoreError):
    pass


class BucketMissing(NotFound):
    pass


class UploadNotFound(StoreError):
    pass


class InvalidPart(StoreError):
    pass


class PreconditionFailed(StoreError):
    pass


class Unavailable(StoreError):
    """Temporary: the same call may work after ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreFull(Unavailable):
    pass


class AccessDenied(StoreError):
    pass


class ReadOnly(AccessDenied):
    pass


class Unsupported(StoreError):
    pass


class Corrupt(StoreError):
    pass


@dataclass(frozen=True, slots=True)
class IfAbsent:
    """The write happens only where no object has the key."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """The write happens only where the object still has this etag. A missing object fails the condition."""

    etag: str


IF_ABSENT = IfAbsent()
Condition: TypeAlias = IfAbsent | IfMatch


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says of an object. ``size`` in bytes; ``modified`` in POSIX seconds by the store's clock."""

    key: str
    size: int
    etag: str
    modified: float
    content_type: str = OCTET_STREAM
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Keys are lower case ``[a-z0-9-]``, values printable ASCII; 2 KiB in all."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    info: ObjectInfo
    body: bytes


@dataclass(frozen=True, slots=True)
class ListedObject:
    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class ListPage:
    """``more`` says that keys follow the last one; an empty page with ``more`` is never given."""

    objects: tuple[ListedObject, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A part that was put: ``number`` 1 to `MAX_PARTS`, ``size`` in bytes, ``etag`` from `MultipartStore.put_part`."""

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class PresignedPut:
    """Where to PUT an object, and the headers that must go with it, exactly these (content-length among them)."""

    url: str
    headers: Mapping[str, str]
    """Names in lower case."""


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A multipart upload that was neither completed nor aborted; ``initiated`` in POSIX seconds."""

    key: str
    upload_id: str
    initiated: float


class ReadStore(Protocol):
    async def get(self, key: str, *, limit: int = 16 * 1024 * 1024) -> StoredObject:
        """The whole object. Raises `NotFound`; `Corrupt` where it is larger than ``limit`` bytes."""
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Raises `NotFound`."""
        ...

    def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Bytes ``start`` up to, not including, ``stop`` (the end where None), in pieces of at most 1 MiB.

        The iterator raises `NotFound` at its first step, and `Corrupt` where the store ends early. A backend resumes a
        connection that broke. Closing the iterator (``aclose``) frees the connection.
        """
        ...


class WriteStore(Protocol):
    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        """Writes the object, whole, and gives its etag. Raises `PreconditionFailed`."""
        ...

    async def delete(self, key: str, *, condition: IfMatch | None = None) -> None:
        """Removes the object; a missing one is no error without a condition, `PreconditionFailed` with one.

        Raises `Unsupported` for a condition where the store cannot (``capabilities.conditional_delete``).
        """
        ...

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Removes any number of objects, in as few requests as the store allows; missing ones are no error."""
        ...


class ListStore(Protocol):
    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        """At most ``limit`` (1 to 1000) objects whose keys begin with ``prefix`` and follow the key ``after``.

        ``prefix`` ends with ``/`` (or is empty). ``after`` is a whole key and need not exist. See "Order".
        """
        ...


class MultipartStore(Protocol):
    async def create_multipart(self, key: str, *, part_size: int) -> str:
        """Begins an upload to a bulk key and gives its id. Nothing is visible before `complete_multipart`."""
        ...

    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        """Writes a part and gives its etag. ``offset`` is where the part's bytes begin in the object.

        The same bytes under the same number and offset again change nothing; where the backend can, the first etag
        stays good (it does not where a store encrypts each part anew).

        Raises `UploadNotFound`. A backend may refuse (`InvalidPart`) a part at an offset where one of a
        higher number was already written: its writer was superseded.
        """
        ...

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        """Every part of a pending upload that is whole in the store now, ascending by number, as `complete_multipart`
        takes them. Sizes are what the store holds: nobody has checked that they fit together. Of two bodies that were
        put under one number within a second, either may be the one that is listed.

        Raises `UploadNotFound`.
        """
        ...

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        """Makes the object of these parts, in order. Takes time that does not grow with the object.

        A second call with the same parts after the first succeeded also succeeds. Raises `UploadNotFound`,
        `InvalidPart`.
        """
        ...

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Frees the parts; an upload that is no more is no error."""
        ...

    async def list_multiparts(self) -> Sequence[PendingUpload]:
        """Every pending upload to a bulk key below this store's root: not those of other programs."""
        ...


class Presigner(Protocol):
    async def presign_get(self, key: str, *, expires: float, response_headers: Mapping[str, str] | None = None) -> str:
        """A URL by which anyone may GET (and HEAD where the store allows) the object for ``expires`` seconds.

        ``response_headers`` (``content-type``, ``cache-control``) are what the store answers with.
        Credentials that would expire first are refreshed first.
        """
        ...

    async def presign_part(self, key: str, upload_id: str, number: int, *, expires: float) -> str:
        """A URL by which anyone may PUT the bytes of that part for ``expires`` seconds; no header is needed.

        The upload is not looked up: the store refuses the PUT where there is none. Its answer has an ``ETag``, but
        what `list_parts` says is what counts. Raises `Unsupported` where ``capabilities.presign_part`` is false.
        """
        ...

    async def presign_put(self, key: str, *, size: int, sha256: bytes, expires: float) -> PresignedPut:
        """By which anyone may PUT a bulk object of ``size`` bytes with that SHA-256 for ``expires`` seconds.

        Size, checksum and ``if-none-match: *`` are part of the signature. A store with ``capabilities.checked_put``
        takes those bytes only, and never where there is an object; of another one nothing is known. Raises
        `Unsupported` where ``capabilities.presign`` is false.
        """
        ...


@runtime_checkable
class LocalFiles(Protocol):
    """Stores whose bulk and foreign objects are plain files of this machine."""

    def file_path(self, key: str) -> str:
        """The absolute path of a bulk or foreign object's file, which holds its bytes and nothing else."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    presign: bool = False
    """Whether the store has URLs of its own."""

    presign_part: bool = False
    """Whether parts can be put by them: not where every body is to go with a checksum."""

    checked_put: bool = False
    """Whether the store is known to enforce all that `Presigner.presign_put` signs."""

    conditional_delete: bool = True


class Store(ReadStore, WriteStore, ListStore, MultipartStore, Presigner, Protocol):
    """All of it. Presigning raises `Unsupported` where ``capabilities`` say that the store cannot."""

    @property
    def url(self) -> str:
        """How a person names this store: ``s3://bucket/prefix``, ``file:/path``, ``memory:``. No secrets."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def start(self) -> None:
        """Opens connections, finds credentials. Raises with one clear line where the store cannot be used at all."""
        ...

    async def close(self) -> None: ...
