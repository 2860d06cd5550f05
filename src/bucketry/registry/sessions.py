"""Upload sessions: what a client has sent so far, kept in the store so that any replica takes the next chunk.

The id a client gets is checked without a read: it carries when the session began, the digest algorithm, and a MAC over
these, the repository and the principal. So beginning an upload costs no store request, and an id that was made up,
belongs to another repository or to another principal is unknown. The object appears with the first chunk.

Every change is a compare-and-swap: of two requests that continue the same state, one wins.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from bucketry.oci.errors import UploadInvalid, UploadUnknown
from bucketry.registry import layout
from bucketry.registry.records import decode
from bucketry.registry.settings import Clock, Ids
from bucketry.store.checks import is_bulk
from bucketry.store.contract import (
    IF_ABSENT,
    Buffer,
    Corrupt,
    IfMatch,
    InvalidPart,
    NotFound,
    Part,
    Store,
    UploadNotFound,
)

_MAC_DIGITS = 32
_ID = re.compile(
    r"(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(?P<created>[0-9a-f]{1,12})"
    r"\.(?P<algorithm>[a-z0-9]{1,16})\.(?P<mac>[0-9a-f]{32})",
    re.ASCII,
)
_MOST = 6 * 1024**3
"""Bytes: more than the largest tail, one part."""
RECENT_BYTES = 8 * 1024 * 1024
"""Of tails that a process remembers."""
RECENT_SESSIONS = 256
UNDECLARED = "any"
"""In place of an algorithm where the client did not say which digest it will commit: sha256 is the guess."""
CHECKED = "checked"
"""In place of an algorithm where the blob is one PUT that the store checks (`bucketry.registry.checked`)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a session is for. It enters the MAC of its id: requests of one kind know no session of the other."""

    name: str
    begun_by: str
    """The request that begins one, for messages."""

    def unknown(self, why: str) -> UploadUnknown:
        return UploadUnknown(f"{why}. Start again with {self.begun_by}")


STREAM = Kind("", "POST …/blobs/uploads/")
"""The spec's uploads: one chunk after the other."""
PARALLEL = Kind("parallel", "POST …/_bucketry/uploads")
"""Parts in any order and at the same time (RFC 3)."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A checked session id. ``created`` in POSIX seconds."""

    session_id: str
    key: str
    repository: str
    created: int
    algorithm: str
    """As declared, or `UNDECLARED`, or `CHECKED`."""


class State(Enum):
    OPEN = "open"
    COMMITTING = "committing"
    """Claimed by a commit: no chunk is taken any more, and the same commit may be tried again."""
    CANCELLED = "cancelled"
    DONE = "done"
    """Parallel only: its blob is published."""
    FAILED = "failed"
    """Parallel only: its bytes were other ones, and are deleted; ``verification`` says why."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """Of a parallel session that is claimed: who reads its bytes back, and what came of it."""

    worker: str | None = None
    """A token of the process that is at it; None where it gave the claim back, or is done."""
    verified: int = 0
    """Bytes that were read back so far and held."""
    error: str | None = None
    detail: dict[str, Any] = {}
    """Of the error, as its client got it."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of ``uploads/<uuid>``; ``tail`` bytes follow it."""

    nonce: str
    repository: str
    state: State = State.OPEN
    size: int = 0
    """Bytes the client has had acknowledged."""
    algorithm: str = "sha256"
    """What ``hash`` is a state of."""
    hash: bytes | None = None
    """State of the hash over all ``size`` bytes; None where it cannot be carried on: then a commit reads back."""
    segment: int = 0
    """Bytes between two of ``states``."""
    states: bytes | None = None
    """SHA-256 checkpoints noted so far; None where none are."""
    data: str | None = None
    """The bulk key: of a whole object where ``sealed``, of a multipart upload where ``upload`` is set; of an object
    that may be there where a parallel session has no ``upload``."""
    sealed: bool = False
    upload: str | None = None
    part_size: int = 0
    parts: tuple[tuple[int, int, str], ...] = ()
    """Number, size, etag of the parts in the store; ``tail`` follows them."""
    next_number: int = 1
    """Part numbers from here on were never given out; but see `unreserved_number`."""
    reserved: bool = False
    """A chunk is on its way under numbers below ``next_number``, or died on it."""
    tail: int = 0
    digest: str | None = None
    """What a commit claimed the session for; of a parallel session also what its client announced."""
    expected: int | None = None
    """Parallel only: the size of the whole blob, where its client announced it."""
    verification: Verification | None = None
    """Parallel only: set once the session is claimed. Its ``tail`` then is the client's list of checkpoints."""

    def unreserved_number(self) -> int:
        """The first part number that nobody can have used.

        A commit of a state with a tail sends the tail as part ``next_number`` without reserving it.
        """
        return self.next_number + (1 if self.tail and not self.reserved else 0)

    def stored_parts(self) -> list[Part]:
        return [Part(number, size, etag) for number, size, etag in self.parts]


@dataclass(frozen=True, slots=True)
class Held:
    """A session as it was read: what it says, its tail's bytes, and the etag that a change must match."""

    session: Session
    tail: memoryview
    etag: str


class RecentSessions:
    """What this process saved last, so that the commit that follows need not read it again, with up to a part of bytes.

    Only for who changes the session by compare-and-swap next: another replica may have moved it on, or ended it.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._size = 0

    def keep(self, key: str, held: Held) -> None:
        self.take(key)
        # A copy: the tail is a view of the buffer of a whole part.
        self._held[key] = Held(held.session, memoryview(bytes(held.tail)), held.etag)
        self._size += len(held.tail)
        while self._size > RECENT_BYTES or len(self._held) > RECENT_SESSIONS:
            self._size -= len(self._held.popitem(last=False)[1].tail)

    def take(self, key: str) -> Held | None:
        """The session, which is forgotten with that."""
        held = self._held.pop(key, None)
        if held is not None:
            self._size -= len(held.tail)
        return held


class Sessions:
    """Those of one kind."""

    def __init__(
        self, store: Store, *, clock: Clock, ids: Ids, secret: bytes, expiry: float, kind: Kind = STREAM
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._secret = secret
        self._expiry = expiry
        self._kind = kind

    def begin(self, repository: str, principal: str, algorithm: str | None) -> str:
        """A new session's id. Nothing is written."""
        declared = algorithm or UNDECLARED
        unique, created = self._ids.uuid(), f"{int(self._clock.now()):x}"
        return f"{unique}.{created}.{declared}.{self._mac(unique, created, declared, repository, principal)}"

    def check(self, session_id: str, repository: str, principal: str) -> Ticket:
        """Raises `UploadUnknown` for an id that this registry did not give to this principal for this repository."""
        found = _ID.fullmatch(session_id)
        if found is None:
            raise self._kind.unknown("that is no id of an upload session")
        unique, created, algorithm = found["uuid"], found["created"], found["algorithm"]
        if not hmac.compare_digest(found["mac"], self._mac(unique, created, algorithm, repository, principal)):
            raise self._kind.unknown("no such upload session in this repository")
        ticket = Ticket(session_id, layout.upload(unique), repository, int(created, 16), algorithm)
        if self._clock.now() > ticket.created + self._expiry:
            raise self._kind.unknown(f"the upload session has expired: it lasted {self._expiry / 3600:g} hours")
        return ticket

    async def load(self, ticket: Ticket) -> Held | None:
        """The session, or None before its first chunk."""
        try:
            stored = await self._store.get(ticket.key, limit=_MOST)
        except NotFound:
            return None
        return parse(ticket.key, stored.body, stored.info.etag)

    async def save(self, key: str, session: Session, tail: Buffer, etag: str | None) -> Held:
        """Writes the session if its etag still is ``etag`` (None: if there is none). Raises `PreconditionFailed`."""
        saved = msgspec.structs.replace(session, nonce=self._ids.token(), tail=len(tail))
        body = b"".join((msgspec.json.encode(saved), b"\n", tail))
        condition = IF_ABSENT if etag is None else IfMatch(etag)
        return Held(saved, memoryview(tail), await self._store.put(key, body, condition=condition))

    def _mac(self, unique: str, created: str, algorithm: str, repository: str, principal: str) -> str:
        # No kind's name is a UUID, so no two kinds ever have the same text.
        kind = (self._kind.name,) if self._kind.name else ()
        text = "\0".join((*kind, unique, created, algorithm, repository, principal)).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:_MAC_DIGITS]


def parse(key: str, body: bytes, etag: str) -> Held:
    """Raises `Corrupt`."""
    end = body.find(b"\n")
    session = decode(body[: max(end, 0)], Session, key)
    tail = memoryview(body)[end + 1 :]
    if session.data is not None and not is_bulk(session.data):
        # Whoever ends a session deletes its bytes: adopted ones are no session's.
        raise Corrupt(f"{key} says that its bytes are at {session.data[:200]!r}, which is no key of an upload")
    if len(tail) != session.tail:
        raise Corrupt(f"{key} says that {session.tail} bytes follow its first line, and {len(tail)} do")
    return Held(session, tail, etag)


def check_not_cancelled(session: Session) -> None:
    """Raises `UploadUnknown`."""
    if session.state is State.CANCELLED:
        raise STREAM.unknown("the upload was cancelled")


def check_open(session: Session) -> None:
    """Raises `UploadUnknown`, `UploadInvalid`."""
    check_not_cancelled(session)
    if session.state is State.COMMITTING:
        raise UploadInvalid("the upload is being committed, and takes no more chunks")


def ended() -> UploadUnknown:
    """The error of a session that was there and is no more."""
    return STREAM.unknown("the upload has ended")


@contextmanager
def translated(kind: Kind = STREAM) -> Iterator[None]:
    """A session whose bytes the store no longer has is no session: the sweeper or another request ended it."""
    try:
        yield
    except (UploadNotFound, InvalidPart, NotFound) as error:
        raise kind.unknown(f"the upload has ended, or another request took it over ({error})") from error
