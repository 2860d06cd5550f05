"""The client of the parallel extension (docs/rfcs/0003-parallel-extension.md)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
from yarl import URL

from bucketry.hashing import MAX_ENCODED, Checkpoints
from bucketry.oci import Descriptor, Digest
from bucketry.transfer import wire
from bucketry.transfer.contract import Buffer, is_list_of
from bucketry.transfer.errors import ContentMismatch, NotAuthenticated, PartLost, Refused, TransferError, Unreachable
from bucketry.transfer.remote.address import resolve
from bucketry.transfer.remote.answer import Answer, clean
from bucketry.transfer.remote.auth import Purpose
from bucketry.transfer.remote.endpoint import Endpoint

BATCH: Final = 64
"""URLs asked for at once: a part is on its way far longer than a request for this many takes."""

MAX_PARTS: Final = 10_000
MIN_SEGMENT: Final = 64 * 1024
"""Bytes: shorter segments than this are not worth their list."""

STANDSTILL: Final = 600.0
"""Seconds of verification without a byte more: the registry is given up."""

_HEADER: Final = 56
_STATE: Final = 32
_MAX_JSON: Final = 4 * 1024 * 1024
_EXPIRY_MARGIN: Final = 30.0
_SESSION: Final = re.compile(r"[A-Za-z0-9._~=-]{1,1024}")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]{0,4096}")
_FRAMING: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "te"})
_ENDED: Final = frozenset({404, 410})
_ONCE: Final = "if-none-match"
"""The header of a PUT that the bucket takes once, and for the right bytes only."""
_SUMS: Final = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_EXPIRED: Final = frozenset({"ExpiredToken", "RequestExpired", "TokenRefreshRequired"})

_T = TypeVar("_T")


@dataclass(slots=True)
class _Reach:
    """Whether a bucket that takes small blobs answers from here. Where it never did, the registry takes them."""

    reached: bool = False
    missed: bool = False


class _NoAnswer(Unreachable):
    """The bucket gave none to a PUT that it takes once."""


class Extension:
    """What the registry ``endpoint`` offers for a repository beside the spec."""

    def __init__(self, endpoint: Endpoint, repository: str, purpose: Purpose, reading: Purpose) -> None:
        self._endpoint = endpoint
        self._repository = repository
        self._path = f"/v2/{repository}/{wire.NAME}"
        self._purpose = purpose
        self._reading = reading
        self._offered: frozenset[str] | None = None
        self._put_up_to = 0
        self._reach = _Reach()
        self._asking = asyncio.Lock()

    async def offered(self) -> bool:
        """Whether blobs can be sent in parts: asked once. What does not say so does not take them.

        Raises `Unreachable`, and `NotAuthenticated` where the registry lets nobody in with these credentials.
        """
        return wire.UPLOADS in await self._endpoints(self._purpose)

    async def _endpoints(self, purpose: Purpose) -> frozenset[str]:
        async with self._asking:
            if self._offered is None:
                self._offered = await self._discover(purpose)
        return self._offered

    async def takes_put(self, size: int) -> bool:
        """Whether a blob of known SHA-256 goes to the bucket by one PUT."""
        return await self.offered() and size <= self._put_up_to and not self._reach.missed

    async def begin(self, *, digest: Digest | None, size: int | None, part_size: int | None) -> ExtensionUpload | None:
        doing = f"beginning an upload to {self._repository}"
        wanted = wire.Begin(digest=None if digest is None else str(digest), size=size, part_size=part_size)
        async with await self._post(f"{self._path}/uploads", wanted) as answer:
            if answer.status == 200:
                await answer.discard()
                return None
            if answer.status != 201:
                raise await self._endpoint.failure(answer, doing)
            opened = await self._decoded(answer, wire.Opened, doing)
        if opened.part_size < 1 or opened.max_parts < 1 or _SESSION.fullmatch(opened.session) is None:
            raise Refused(f"{self._endpoint.host}: {doing}: a session that cannot be")
        upload = self._upload(opened.session, opened.part_size, opened.max_parts, size)
        if opened.put is not msgspec.UNSET:
            upload.learn(opened.put, {1})
        return upload

    async def resume(self, session: str) -> ExtensionUpload | None:
        if _SESSION.fullmatch(session) is None:
            return None
        doing = f"going on with an upload to {self._repository}"
        async with await self._endpoint.request("GET", f"{self._path}/uploads/{session}", self._purpose) as answer:
            if answer.status in _ENDED:
                return None
            if answer.status != 200:
                raise await self._endpoint.failure(answer, doing)
            status = await self._decoded(answer, wire.Status, doing)
        if status.state not in ("open", "verifying") or status.part_size < 1:
            return None
        return self._upload(session, status.part_size, MAX_PARTS, status.size)

    async def checkpoints(self, blob: Descriptor) -> Checkpoints | None:
        """Those of a blob; None where there are none that are of use, whatever the reason is."""
        if blob.parsed.algorithm != "sha256":
            return None
        limit = min(MAX_ENCODED, _HEADER + _STATE * -(-blob.size // MIN_SEGMENT))
        try:
            # Nothing will be written.
            if wire.CHECKPOINTS not in await self._endpoints(self._reading):
                return None
            target = f"{self._path}/checkpoints/{blob.digest}"
            headers = {"Accept": wire.CHECKPOINTS_TYPE}
            async with await self._endpoint.request("GET", target, self._reading, headers=headers) as answer:
                body = await answer.read(limit) if answer.status == 200 else None
                if body is None:
                    await answer.discard()
                    return None
        except TransferError:
            # They make a pull faster. What is wrong with the registry is said by who reads the blob.
            return None
        try:
            found = Checkpoints.parse(body)
        except ValueError:
            return None
        fits = is_list_of(found, blob) and (found.segment >= MIN_SEGMENT or found.count == 1)
        return found if fits else None

    async def _discover(self, purpose: Purpose) -> frozenset[str]:
        try:
            async with await self._endpoint.request("GET", f"/v2/{wire.DISCOVER}", purpose) as answer:
                if answer.status != 200 or answer.foreign:
                    await answer.discard()
                    return frozenset()
                found = await self._decoded(answer, wire.Extensions, "asking for extensions")
        except Unreachable:
            # Nobody knows yet: the layers of a registry that starts again shall not travel whole for that.
            raise
        except NotAuthenticated:
            # Some let nobody in at paths they do not know. Where they do not at their door either, that is to be said.
            await self._at_the_door(purpose)
            return frozenset()
        except TransferError:
            return frozenset()
        for extension in found.extensions:
            if extension.name == wire.NAME:
                self._put_up_to = extension.put_up_to
                return frozenset(extension.endpoints)
        return frozenset()

    async def _at_the_door(self, purpose: Purpose) -> None:
        """Raises `NotAuthenticated` where the registry does not take these credentials at all."""
        try:
            async with await self._endpoint.request("GET", "/v2/", purpose) as answer:
                await answer.discard()
        except NotAuthenticated:
            raise
        except TransferError:
            return

    def _upload(self, session: str, part_size: int, max_parts: int, size: int | None) -> ExtensionUpload:
        return ExtensionUpload(
            self._endpoint,
            f"{self._path}/uploads/{session}",
            self._purpose,
            session,
            part_size,
            max_parts,
            size,
            self._reach,
        )

    async def _post(self, path: str, body: msgspec.Struct) -> Answer:
        return await post(self._endpoint, path, self._purpose, body)

    async def _decoded(self, answer: Answer, kind: type[_T], doing: str) -> _T:
        return await decoded(self._endpoint, answer, kind, doing)


async def post(endpoint: Endpoint, path: str, purpose: Purpose, body: msgspec.Struct) -> Answer:
    headers = {"Content-Type": wire.UPLOAD_TYPE, "Accept": wire.UPLOAD_TYPE}
    return await endpoint.request("POST", path, purpose, headers=headers, body=msgspec.json.encode(body))


async def decoded(endpoint: Endpoint, answer: Answer, kind: type[_T], doing: str) -> _T:
    body = await answer.read(_MAX_JSON)
    try:
        return msgspec.json.decode(body or b"", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"{endpoint.host}: {doing}: an answer that is not understood ({clean(str(error))})") from None


@dataclass(frozen=True, slots=True)
class _Address:
    """Where a part goes. ``batch``: which answer it came with."""

    url: URL = field(repr=False)
    own: bool
    headers: Mapping[str, str] = field(repr=False)
    batch: int
    until: float

    @property
    def once(self) -> bool:
        """Whether the bucket takes it once: where there is something, it is what was to be sent."""
        return not self.own and any(name.lower() == _ONCE for name in self.headers)


class ExtensionUpload:
    """One session, as `PartUpload`. ``path``: of its address at the registry."""

    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        purpose: Purpose,
        session: str,
        part_size: int,
        max_parts: int,
        size: int | None,
        reach: _Reach,
    ) -> None:
        self._endpoint = endpoint
        self._path = path
        self._reach = reach
        self._purpose = purpose
        self._session = session
        self._part_size = part_size
        self._max_parts = max_parts
        # Beyond the last part nobody needs a URL.
        self._last = max_parts if size is None else max(1, min(max_parts, -(-size // part_size)))
        self._addresses: dict[int, _Address] = {}
        self._under_way: set[int] = set()
        self._batch = 0
        self._fetching = asyncio.Lock()
        self._doing = "sending a layer in parts"

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
        async with await self._endpoint.request("GET", self._path, self._purpose) as answer:
            if answer.status in _ENDED:
                raise self._ended()
            if answer.status != 200:
                raise await self._endpoint.failure(answer, self._doing)
            status = await decoded(self._endpoint, answer, wire.Status, self._doing)
        return {part.number: part.size for part in status.parts}

    async def put(self, number: int, body: Buffer) -> None:
        """As `PartUpload.put`. Also raises `Refused` where the bucket takes no part, with new URLs neither, and
        `ContentMismatch` where it checks the bytes, and they are others."""
        self._under_way.add(number)
        try:
            address = await self._address(number, lost=0)
            try:
                if not await self._put(address, number, body, last=False):
                    address = await self._address(number, lost=address.batch)
                    await self._put(address, number, body, last=True)
            except _NoAnswer:
                # Perhaps the registry alone reaches it. It takes small blobs, and checks them, too.
                self._reach.missed = not self._reach.reached
                await self._put(self._own(number), number, body, last=True)
        finally:
            self._under_way.discard(number)
        self._addresses.pop(number, None)

    async def complete(
        self, digest: Digest, size: int, checkpoints: Checkpoints | None, *, verified: Callable[[int], None]
    ) -> None:
        session = self._endpoint.session
        encoded = None if checkpoints is None else checkpoints.encode()
        wanted = wire.Complete(digest=str(digest), size=size, checkpoints=encoded)
        doing = f"verifying {digest}"
        reached, since = -1, session.monotonic()
        while True:
            async with await post(self._endpoint, f"{self._path}/complete", self._purpose, wanted) as answer:
                if answer.status in (200, 201):
                    await answer.discard()
                    verified(size)
                    return
                if answer.status != 202:
                    raise await self._incomplete(answer, doing)
                status = await decoded(self._endpoint, answer, wire.Status, doing)
                wait = answer.retry_after()
            if status.state == "failed":
                raise ContentMismatch(f"{self._endpoint.host}: {doing}: {clean(status.error or 'it failed')}")
            if (status.verified or 0) > reached:
                reached, since = status.verified or 0, session.monotonic()
                verified(min(reached, size))
            elif session.monotonic() - since > STANDSTILL:
                raise Unreachable(
                    f"{self._endpoint.host}: {doing}: it stands still since {STANDSTILL / 60:.0f} minutes"
                )
            await session.sleep(1.0 if wait is None else max(0.1, wait))

    async def cancel(self) -> None:
        async with await self._endpoint.request("DELETE", self._path, self._purpose) as answer:
            if answer.status not in (200, 202, 204, *_ENDED):
                raise await self._endpoint.failure(answer, "giving up an upload")

    async def _incomplete(self, answer: Answer, doing: str) -> TransferError:
        trouble = await answer.trouble(self._endpoint.hide)
        if answer.status in _ENDED:
            return self._ended()
        detail = trouble.detail if isinstance(trouble.detail, dict) else {}
        numbers = detail.get("missing") or detail.get("parts")
        if isinstance(numbers, list):
            # The session is open still, and takes them.
            which = ", ".join(str(number) for number in numbers[:10] if isinstance(number, int))
            what = "are missing" if detail.get("missing") else "have another size"
            return Unreachable(f"{self._endpoint.host}: {doing}: parts {what} ({which}): they must be sent again")
        return self._endpoint.error(answer, doing, trouble)

    async def _put(self, address: _Address, number: int, body: Buffer, *, last: bool) -> bool:
        """False where the URL has expired and this is not the ``last`` try."""
        doing = f"sending part {number}"
        if address.own:
            request = self._endpoint.request("PUT", address.url, self._purpose, headers=address.headers, body=body)
        else:
            request = self._endpoint.session.send("PUT", address.url, headers=address.headers, body=body)
        try:
            answer = await request
        except Unreachable as error:
            if not address.once:
                raise
            raise _NoAnswer(str(error)) from error
        async with answer:
            answer.foreign = not address.own
            self._reach.reached = self._reach.reached or address.once
            if answer.status in (200, 201, 204):
                await answer.discard()
                return True
            if address.once and answer.status == 412:
                await answer.discard()
                return True
            trouble = await answer.trouble(self._endpoint.hide)
            if answer.status in _ENDED:
                raise self._ended()
            if address.once and _SUMS & set(trouble.codes):
                raise ContentMismatch(f"{self._endpoint.host}: {doing}: other bytes than its digest ({trouble.text})")
            expired = answer.foreign and (answer.status in (401, 403) or bool(_EXPIRED & set(trouble.codes)))
            if expired and not last:
                return False
            # A conflict: the bucket is at another attempt to put the same object.
            if "RequestTimeout" in trouble.codes or (address.once and answer.status == 409):
                raise Unreachable(f"{self._endpoint.host}: {doing}: {trouble.text}")
            raise self._endpoint.error(answer, doing, trouble)

    async def _address(self, number: int, *, lost: int) -> _Address:
        """Where to put a part; not one of batch ``lost`` or before. Tasks that need one at once share a request."""
        async with self._fetching:
            address = self._addresses.get(number)
            if address is None or address.batch <= lost or address.until <= self._endpoint.session.monotonic():
                await self._fetch(number)
                address = self._addresses.get(number)
            if address is None:
                raise Refused(f"{self._endpoint.host}: {self._doing}: it gives no address for part {number}")
            return address

    async def _fetch(self, number: int) -> None:
        # With those under way: where one URL has expired, those of its neighbours have too.
        following = range(number, min(number + BATCH, self._last + 1))
        wanted = sorted({number, *list(self._under_way)[:BATCH], *following})
        body = wire.UrlsWanted(parts=tuple(wanted))
        async with await post(self._endpoint, f"{self._path}/urls", self._purpose, body) as answer:
            if answer.status in _ENDED:
                raise self._ended()
            if answer.status != 200:
                raise await self._endpoint.failure(answer, self._doing)
            urls = await decoded(self._endpoint, answer, wire.Urls, self._doing)
        self.learn(urls, wanted)

    def learn(self, urls: wire.Urls, wanted: Container[int]) -> None:
        """Takes where the ``wanted`` parts go. Raises `Refused` for what cannot be."""
        self._batch += 1
        until = float("inf")
        if urls.expires is not None:
            margin = min(_EXPIRY_MARGIN, urls.expires / 4)
            until = self._endpoint.session.monotonic() + urls.expires - margin
        headers = self._headers(urls.headers)
        for key, text in urls.urls.items():
            with suppress(ValueError):
                if (part := int(key)) in wanted:
                    url, own = self._resolved(text)
                    self._addresses[part] = _Address(url, own, headers, self._batch, until)

    def _own(self, number: int) -> _Address:
        url = resolve(self._endpoint.origin, f"{self._path}/parts/{number}")
        return _Address(url, True, {}, self._batch, float("inf"))

    def _resolved(self, text: str) -> tuple[URL, bool]:
        """A part's address, and whether it is the registry's own. Raises `Refused`."""
        try:
            if text.startswith("/") and not text.startswith("//"):
                return resolve(self._endpoint.origin, text), True
            url = URL(text, encoded=True)
            if not url.absolute or not url.scheme:
                raise ValueError("it is neither a path nor an address in full")
            return resolve(self._endpoint.origin, text), False
        except ValueError as error:
            raise Refused(f"{self._endpoint.host}: {self._doing}: an address that cannot be used: {error}") from None

    def _headers(self, given: Mapping[str, str]) -> dict[str, str]:
        """What is to be sent along. Raises `Refused` for what would change how the request is read."""
        for name, value in given.items():
            if (
                _HEADER_NAME.fullmatch(name) is None
                or _HEADER_VALUE.fullmatch(value) is None
                or name.lower() in _FRAMING
            ):
                raise Refused(
                    f"{self._endpoint.host}: {self._doing}: a header that cannot be sent: {clean(ascii(name))}"
                )
        return dict(given)

    def _ended(self) -> PartLost:
        return PartLost(f"{self._endpoint.host}: the upload has ended or expired: begin it again")
