"""The contract of a site: files that a bucket or a web server gives to anyone, under the very paths they are kept at.

A store (`bucketry.store.contract`) is private to bucketry, and its keys and files have a form of their own. A site is
read by others: each file has exactly its path, its bytes, and, where the place can keep them, the headers to serve it
with. It knows no OCI. What every backend promises:

- **Paths** are 1 to 900 characters of ``[A-Za-z0-9._~:@-]`` and ``/``, without empty, ``.`` or ``..`` segments, and
  none begins with `PRIVATE`. In a folder no path may be below another file: `PathTaken` where it would be.
- **Atomic.** A reader sees the old file or the new one, whole; what was acknowledged survives a crash.
- **Conditions** as in the store's contract, where ``conditional`` is true; else they are checked before the write,
  which another writer may overtake.
- **Listing** gives each file whose path begins with a prefix, once, in the backend's order: also what somebody else
  put there, under names that may be no paths (`is_path`), or that is no file (a pipe, a link to elsewhere), then with
  an empty etag. Such can be seen, and nothing else.

All raise `bucketry.store.contract.StoreError`, and `ValueError` for a path that cannot be.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from bucketry.store.contract import OCTET_STREAM, Buffer, Condition, Store, StoreError

PRIVATE: Final = ".bucketry-"
"""Names in a folder that begin so are being written, and are no files of the site."""

MAX_PATH: Final = 900

_PATH: Final = re.compile(r"[A-Za-z0-9._~:@-]+(?:/[A-Za-z0-9._~:@-]+)*", re.ASCII)
_HEADER: Final = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?", re.ASCII)


class PathTaken(StoreError):
    """A file would have to be a folder, or a folder a file."""


@dataclass(frozen=True, slots=True)
class Served:
    """The headers a file is served with. A folder cannot keep them: there the server's configuration gives them."""

    content_type: str = OCTET_STREAM
    cache_control: str | None = None


@dataclass(frozen=True, slots=True)
class SiteFile:
    """``size`` in bytes. ``served`` is None where the place does not keep it, or was not asked for it (listings)."""

    path: str
    size: int
    etag: str
    served: Served | None = None


@dataclass(frozen=True, slots=True)
class SiteContent:
    file: SiteFile
    body: bytes


class SiteUpload(Protocol):
    """A file on its way: part n begins at byte (n - 1) * ``part_size``; all but the last have that size.

    Parts may be put in any order and at once; the same part again, with the same bytes, changes nothing. Nothing can
    be seen before `complete`.
    """

    @property
    def part_size(self) -> int: ...

    @property
    def max_parts(self) -> int: ...

    async def put(self, number: int, body: Buffer) -> None: ...

    async def complete(self) -> None:
        """Makes the file of the parts 1 to n that were put, with none missing."""
        ...

    async def abort(self) -> None:
        """Frees the parts; after `complete`, or a second time, it does nothing."""
        ...


class SiteStore(Protocol):
    @property
    def url(self) -> str:
        """How a person names it: ``s3://bucket/prefix``, ``file:/path``. No secrets."""
        ...

    @property
    def conditional(self) -> bool: ...

    @property
    def refusal(self) -> str | None:
        """Why the place refused a copy, in words for people, where a `copy` or `copy_from` gave False because it has
        not the right, or the place cannot; the last one. None where nothing was refused."""
        ...

    @property
    def keeps_headers(self) -> bool:
        """Whether files are served with `Served`: a bucket does that, a folder cannot."""
        ...

    async def start(self) -> None:
        """Raises with one clear line where it cannot be used at all. Makes no folder."""
        ...

    async def close(self) -> None: ...

    async def get(self, path: str, *, limit: int = 16 * 1024 * 1024) -> SiteContent:
        """Raises `NotFound`; `Corrupt` where it is larger than ``limit`` bytes."""
        ...

    async def head(self, path: str) -> SiteFile:
        """Raises `NotFound`."""
        ...

    def read(self, path: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """As `bucketry.store.contract.ReadStore.read`."""
        ...

    def list(self, prefix: str) -> AsyncIterator[SiteFile]:
        """``prefix`` is empty or ends with ``/``. Pages are fetched as they are needed."""
        ...

    async def put(self, path: str, body: Buffer, *, served: Served, condition: Condition | None = None) -> str:
        """Writes a file, whole, and gives its etag. Raises `PreconditionFailed`, `PathTaken`."""
        ...

    async def begin(self, path: str, *, size: int, served: Served, part_size: int | None = None) -> SiteUpload:
        """A file of ``size`` bytes, in parts. ``part_size`` is a wish."""
        ...

    async def copy(self, source: str, path: str, *, size: int, served: Served) -> bool:
        """Makes ``path`` of another file of the site without its bytes passing through here.

        False where that is not possible: the source is gone or has not ``size`` bytes, or the place cannot.
        """
        ...

    async def copy_from(self, store: Store, key: str, path: str, *, size: int, served: Served) -> bool:
        """The same of a bulk object of a store: of the same service and account, or of the same file system."""
        ...

    async def twin(self, path: str, other: str) -> None:
        """In a folder: makes ``other`` the same file as ``path``, or a copy of it, whole; replaces what is there.

        Where ``keeps_headers`` there is nothing that needs it: `Unsupported`.
        """
        ...

    async def pointed(self, path: str) -> str | None:
        """What a link that `point` made points to; None where there is none."""
        ...

    async def point(self, path: str, target: str, *, current: str | None) -> None:
        """In a folder: makes ``path`` a symbolic link to ``target``, a name beside it, in one step.

        ``current``: what it points to now (None: there is no link); `PreconditionFailed` where that is not so. Such a
        link is listed as a file of no bytes whose etag is `pointer` of its target; it cannot be read. It replaces no
        file and no folder (`PathTaken`). Where ``keeps_headers``: `Unsupported`.
        """
        ...

    async def delete_many(self, paths: Sequence[str]) -> None:
        """Missing ones are no error. Folders that become empty are removed."""
        ...


def pointer(target: str) -> str:
    """The etag of a link to ``target``."""
    return f"->{target}"


def target_of(etag: str) -> str | None:
    """Of a link that was listed, what it points to; None of any other file."""
    return etag.removeprefix("->") if etag.startswith("->") else None


def is_path(text: str) -> bool:
    if not 1 <= len(text) <= MAX_PATH or _PATH.fullmatch(text) is None:
        return False
    return not any(part in (".", "..") or part.startswith(PRIVATE) for part in text.split("/"))


def check_path(text: str) -> None:
    if not is_path(text):
        raise ValueError(f"not a path of a site: {text[:100]!r}")


def check_served(served: Served) -> None:
    if _HEADER.fullmatch(served.content_type) is None:
        raise ValueError(f"not a content type: {served.content_type[:100]!r}")
    if served.cache_control is not None and _HEADER.fullmatch(served.cache_control) is None:
        raise ValueError(f"not a Cache-Control: {served.cache_control[:100]!r}")


def check_target(text: str) -> None:
    if "/" in text or not is_path(text):
        raise ValueError(f"not a name beside a file of a site: {text[:100]!r}")


def check_prefix(text: str) -> None:
    if text and not (text.endswith("/") and is_path(text[:-1])):
        raise ValueError(f"not a prefix of a site: {text[:100]!r}; it is empty or ends with '/'")
