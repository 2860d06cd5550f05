"""A site in memory, whose calls a test counts, fails, holds up; and what readers must find there at any instant."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from bucketry.oci import Digest
from bucketry.store.contract import (
    Buffer,
    Condition,
    Corrupt,
    IfAbsent,
    NotFound,
    PreconditionFailed,
    Store,
    StoreError,
    Unsupported,
)
from bucketry.store.site import (
    PathTaken,
    Served,
    SiteContent,
    SiteFile,
    check_path,
    check_prefix,
    check_target,
    pointer,
    target_of,
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """Of a link, ``body`` is what it points to."""

    body: bytes
    served: Served
    etag: str

    @property
    def size(self) -> int:
        return len(self.body) if target_of(self.etag) is None else 0


@dataclass
class SiteDisk:
    """The files, as all processes see them. ``changed`` is called after each change.

    ``by_content``: equal bodies have equal etags, as in most buckets.
    """

    files: dict[str, MemoryFile] = field(default_factory=dict)
    changed: Callable[[], None] = lambda: None
    count: int = 0
    by_content: bool = False

    def set(self, path: str, body: bytes, served: Served, etag: str | None = None) -> str:
        self.count += 1
        etag = etag or (hashlib.md5(body).hexdigest() if self.by_content else f"e{self.count}")
        self.files[path] = MemoryFile(body, served, etag)
        self.changed()
        return etag


async def nothing(operation: str, path: str) -> None:
    return


class MemorySite:
    """The contract of `bucketry.store.site`, kept by a dict; one process's view of it.

    ``before`` and ``after`` are hooks for faults: what they raise comes out, instead of the effect or of the answer.
    ``beside``: stores whose objects it can copy by itself. ``log``: the calls, by operation and path.
    """

    def __init__(self, disk: SiteDisk | None = None, *, keeps_headers: bool = True) -> None:
        self.disk = disk or SiteDisk()
        self.keeps_headers = keeps_headers
        self.conditional = True
        self.refusal: str | None = None
        self.beside: tuple[Store, ...] = ()
        self.copies = True
        self.log: list[tuple[str, str]] = []
        self.before: Callable[[str, str], Awaitable[None]] = nothing
        self.after: Callable[[str, str], Awaitable[None]] = nothing
        self.uploads: set[int] = set()
        self._count = 0

    @property
    def url(self) -> str:
        return "memory:site"

    def takes_from(self, store: Store) -> bool:
        return store in self.beside

    async def start(self) -> None:
        return

    async def close(self) -> None:
        return

    async def _call(self, operation: str, path: str, work: Callable[[], _T]) -> _T:
        self.log.append((operation, path))
        await asyncio.sleep(0)
        await self.before(operation, path)
        try:
            result = work()
        except StoreError:
            # An answer too, and lost like any other.
            await self.after(operation, path)
            raise
        await self.after(operation, path)
        return result

    def _find(self, path: str) -> MemoryFile:
        try:
            return self.disk.files[path]
        except KeyError:
            raise NotFound(f"{self.url} {path} does not exist") from None

    def _file(self, path: str, *, asked: bool = True) -> SiteFile:
        found = self._find(path)
        served = found.served if asked and self.keeps_headers else None
        return SiteFile(path, found.size, found.etag, served)

    async def get(self, path: str, *, limit: int = 16 * 1024 * 1024) -> SiteContent:
        check_path(path)

        def work() -> SiteContent:
            found = self._find(path)
            if target_of(found.etag) is not None:
                raise NotFound(f"{path} is a link to a folder")
            if len(found.body) > limit:
                raise Corrupt(f"{path} is larger than {limit} bytes")
            return SiteContent(self._file(path), found.body)

        return await self._call("get", path, work)

    async def head(self, path: str) -> SiteFile:
        check_path(path)
        return await self._call("head", path, lambda: self._file(path))

    async def read(self, path: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        check_path(path)
        yield await self._call("read", path, lambda: self._find(path).body[start:stop])

    async def list(self, prefix: str) -> AsyncIterator[SiteFile]:
        check_prefix(prefix)
        found = await self._call("list", prefix, lambda: [p for p in self.disk.files if p.startswith(prefix)])
        for path in found:
            if path in self.disk.files:
                yield self._file(path, asked=False)

    async def put(self, path: str, body: Buffer, *, served: Served, condition: Condition | None = None) -> str:
        check_path(path)

        def work() -> str:
            held = self.disk.files.get(path)
            if condition is not None and (
                held is not None if isinstance(condition, IfAbsent) else held is None or held.etag != condition.etag
            ):
                raise PreconditionFailed(f"{path} is another file")
            return self._set(path, bytes(body), served)

        return await self._call("put", path, work)

    def _set(self, path: str, body: bytes, served: Served, etag: str | None = None) -> str:
        if not self.keeps_headers:
            parts = path.split("/")
            above = {"/".join(parts[:count]) for count in range(1, len(parts))}
            if not above.isdisjoint(self.disk.files) or any(p.startswith(f"{path}/") for p in self.disk.files):
                raise PathTaken(f"{path} would be a file and a folder")
        return self.disk.set(path, body, served, etag)

    async def begin(self, path: str, *, size: int, served: Served, part_size: int | None = None) -> MemorySiteUpload:
        check_path(path)
        self._count += 1
        number = self._count

        def work() -> MemorySiteUpload:
            self.uploads.add(number)
            return MemorySiteUpload(self, number, path, size, served, part_size or 64 * 1024)

        return await self._call("begin", path, work)

    async def copy(self, source: str, path: str, *, size: int, served: Served) -> bool:
        check_path(source)
        check_path(path)

        def work() -> bool:
            found = self.disk.files.get(source)
            if not self.copies or found is None or len(found.body) != size:
                return False
            self._set(path, found.body, served)
            return True

        return await self._call("copy", path, work)

    async def copy_from(self, store: Store, key: str, path: str, *, size: int, served: Served) -> bool:
        check_path(path)
        if not self.takes_from(store):
            return False
        try:
            body = (await store.get(key)).body
        except StoreError:
            return False

        def work() -> bool:
            if len(body) != size:
                return False
            self._set(path, body, served)
            return True

        return await self._call("copy_from", path, work)

    async def twin(self, path: str, other: str) -> None:
        check_path(path)
        check_path(other)
        if self.keeps_headers:
            raise Unsupported("there are no twins where headers are kept")
        await self._call("twin", other, lambda: self._set(other, self._find(path).body, Served()))

    async def pointed(self, path: str) -> str | None:
        check_path(path)
        return await self._call("pointed", path, lambda: self._pointed(path))

    def _pointed(self, path: str) -> str | None:
        found = self.disk.files.get(path)
        return None if found is None else target_of(found.etag)

    async def point(self, path: str, target: str, *, current: str | None) -> None:
        check_path(path)
        check_target(target)
        if self.keeps_headers:
            raise Unsupported("there are no links where headers are kept")

        def work() -> None:
            if self._pointed(path) != current:
                raise PreconditionFailed(f"{path} points elsewhere")
            self._set(path, target.encode(), Served(), pointer(target))

        await self._call("point", path, work)

    async def delete_many(self, paths: Sequence[str]) -> None:
        for path in paths:
            check_path(path)

        def work() -> None:
            for path in paths:
                if self.disk.files.pop(path, None) is not None:
                    self.disk.changed()

        await self._call("delete_many", paths[0] if paths else "", work)


class MemorySiteUpload:
    def __init__(self, site: MemorySite, number: int, path: str, size: int, served: Served, part_size: int) -> None:
        self._site = site
        self._number = number
        self._path = path
        self._size = size
        self._served = served
        self.part_size = part_size
        self.max_parts = 10_000
        self._parts: dict[int, bytes] = {}

    async def put(self, number: int, body: Buffer) -> None:
        def work() -> None:
            self._parts[number] = bytes(body)

        await self._site._call("put_part", self._path, work)

    async def complete(self) -> None:
        def work() -> None:
            data = b"".join(self._parts[number] for number in sorted(self._parts))
            assert len(data) == self._size, "not all parts were put"
            self._site.uploads.discard(self._number)
            self._site._set(self._path, data, self._served)

        await self._site._call("complete", self._path, work)

    async def abort(self) -> None:
        await self._site._call("abort", self._path, lambda: self._site.uploads.discard(self._number))


@cache
def digest_of(data: bytes) -> str:
    return str(Digest.of(data))


@cache
def parsed(data: bytes) -> Any:
    """Nobody changes it."""
    return json.loads(data)


def problems(files: Mapping[str, bytes], *, twins: bool) -> list[str]:
    """What is missing or wrong of all that can be named: by the catalog, by lists, by tags, by the state.

    Of a link, ``files`` has what it points to.
    """
    found: list[str] = []
    checked: set[tuple[str, str]] = set()

    def document(path: str) -> Any:
        if path not in files:
            found.append(f"{path} is missing")
            return {}
        return parsed(files[path])

    def manifest(name: str, digest: str) -> None:
        if (name, digest) in checked:
            return
        checked.add((name, digest))
        path = f"v2/{name}/manifests/{digest}"
        body = document(path)
        if not body:
            return
        if digest_of(files[path]) != digest:
            found.append(f"{path} has other bytes")
        kinds = [p for p in files if p.startswith(f"v2/{name}/manifests/~/{digest}/{digest}.")]
        if twins and [files[p] for p in kinds] != [files[path]]:
            found.append(f"{path} has twins {kinds}")
        for blob in (body.get("config"), *body.get("layers", ())):
            if blob is not None:
                where = f"v2/{name}/blobs/{blob['digest']}"
                if where not in files or digest_of(files[where]) != blob["digest"]:
                    found.append(f"{where} is missing or has other bytes")
        for child in body.get("manifests", ()):
            manifest(name, child["digest"])
        for referrer in document(f"v2/{name}/referrers/{digest}").get("manifests", ()):
            manifest(name, referrer["digest"])

    def tag(name: str, tag: str) -> None:
        path = f"v2/{name}/manifests/{tag}"
        if path not in files:
            found.append(f"{path} is missing")
            return
        manifest(name, digest_of(files[path]))

    if "v2/_catalog" in files:
        for name in document("v2/_catalog")["repositories"]:
            for each in document(f"v2/{name}/tags/list").get("tags", ()):
                tag(name, each)
                if twins and f"v2/{name}/manifests/~/{each}" not in files:
                    found.append(f"{name}:{each} has no link")
    for path in files:
        before, folder, leaf = path.rpartition("/manifests/")
        if folder and ":" not in leaf and "/" not in leaf:
            tag(before.removeprefix("v2/"), leaf)
        if folder and leaf.startswith("~/") and ":" not in leaf:
            manifest(before.removeprefix("v2/"), files[path].decode())
    if "bucketry-site.json" in files:
        for name, repository in document("bucketry-site.json").get("repositories", {}).items():
            for entry in (*repository.get("tags", {}).values(), *repository.get("digests", {}).values()):
                manifest(name, entry["digest"])
    return found
