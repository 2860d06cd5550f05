"""Uploads whose parts come in any order and at the same time: the registry's half of the extension (RFC 3).

A session is a multipart upload under a random key. Parts go to the store by URLs that it presigned, or through
`Parallel.put_part`. Who sent which part when is never trusted: `Parallel.complete` takes those that the store lists,
completes the multipart upload, and only then reads the bytes back, so that what is hashed is what is committed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import msgspec

from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, ParameterInvalid, SizeInvalid, UploadInvalid
from bucketry.registry import layout
from bucketry.registry.blobs import Blob, Blobs
from bucketry.registry.budget import MemoryBudget
from bucketry.registry.checked import CheckedPuts, SignedPut, is_checked
from bucketry.registry.chunks import Chunk
from bucketry.registry.completion import Asked, Completions, Verifying
from bucketry.registry.ended import EndedSessions
from bucketry.registry.noting import Hashes
from bucketry.registry.partition import expected_size, part_count, part_size_for
from bucketry.registry.readback import ReadBack
from bucketry.registry.received import receive
from bucketry.registry.sessions import PARALLEL, UNDECLARED, Session, Sessions, State, Ticket
from bucketry.registry.settings import Clock, Ids, RegistrySettings
from bucketry.store.contract import (
    MAX_PARTS,
    InvalidPart,
    Part,
    PreconditionFailed,
    Store,
    UploadNotFound,
)

__all__ = ["MAX_URLS", "Opened", "Parallel", "SignedPut", "Stage", "Status", "Verifying"]

MAX_URLS = 1000
"""Part numbers of one `Parallel.urls`."""
_REMEMBERED = 1_000
"""Sessions of its own that a process knows without asking the store."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that takes parts: part n begins at byte (n - 1) * ``part_size``; all but the last have that size."""

    session_id: str
    part_size: int
    max_parts: int
    """The highest number a part may have: of this blob where its size is known, else of any."""
    segment: int
    """Bytes between two checkpoints, as this registry would like them; ``part_size`` is a multiple."""
    direct: bool
    """Whether the bucket takes the parts by URLs of its own."""
    put: SignedPut | None = None
    """Where the blob is one PUT, which the store checks: as `Parallel.signed_put`."""


class Stage(Enum):
    OPEN = "open"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    state: Stage
    part_size: int
    parts: tuple[Part, ...]
    """Those in the store, by number; those of the blob once it is claimed; none when all is over."""
    digest: Digest | None
    """As it was announced, or completed."""
    size: int | None
    """Of the blob, as it was announced, or completed."""
    verified: int
    """Bytes that were read back and held."""
    error: str | None


_STAGES = {
    State.OPEN: Stage.OPEN,
    State.COMMITTING: Stage.VERIFYING,
    State.DONE: Stage.DONE,
    State.FAILED: Stage.FAILED,
}


class Parallel:
    """Every verb raises `UploadUnknown` for a session that this registry did not give to this principal for this
    repository, or that has ended, and whatever the store raises."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        sessions: Sessions,
        ended: EndedSessions,
        budget: MemoryBudget,
        hashes: Hashes,
        *,
        clock: Clock,
        ids: Ids,
        settings: RegistrySettings,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._sessions = sessions
        self._ended = ended
        self._budget = budget
        self._ids = ids
        self._settings = settings
        self._readback = ReadBack(store, budget, hashes, readers=settings.verify_readers, segment=settings.segment)
        self._completions = Completions(
            store, blobs, sessions, ended, self._readback, clock=clock, ids=ids, settings=settings
        )
        self._checked = CheckedPuts(store, blobs, sessions, ended, clock=clock, ids=ids, settings=settings)
        self._own: OrderedDict[str, Session] = OrderedDict()
        """Sessions that began here, and whose parts nobody else was told how to send."""

    @property
    def direct(self) -> bool:
        """Whether parts go to the store by URLs of its own."""
        return self._store.capabilities.presign_part

    @property
    def put_up_to(self) -> int:
        """Bytes of the longest blob that may go to the store by one PUT, unread by anybody; 0 where none does."""
        return self._checked.most

    async def close(self) -> None:
        """Gives up what is being verified, so that another replica goes on with it at once."""
        await self._completions.close()

    async def begin(
        self,
        repository: str,
        principal: str,
        *,
        digest: Digest | None = None,
        size: int | None = None,
        part_size: int | None = None,
        expires: float | None = None,
        mount: bool = True,
    ) -> Blob | Opened:
        """The blob, where the repository has it or may mount it from any other; else a session for it.

        ``mount``: whether whoever asks may read every repository, so that another one's blob may be mounted.
        ``part_size`` is a wish; see `bucketry.registry.partition.part_size_for` for what becomes of it. ``expires``:
        seconds that `Opened.put` is wanted for; None where the caller has no use for one. It is given for a SHA-256
        and a size up to `put_up_to`: then part 1 is the whole blob, and nothing is read back.
        Raises `SizeInvalid` for a blob that cannot be.
        """
        direct = self.direct
        chosen = part_size_for(
            size,
            part_size,
            segment=self._settings.segment,
            least=self._settings.part_size,
            most=None if direct else self._settings.memory,
        )
        if digest is not None:
            found = await self._present(repository, digest, mount=mount)
            if found is not None:
                return found
            if expires is not None and size is not None and self._checked.takes(digest, size):
                session_id, put = await self._checked.begin(
                    repository, principal, digest, size, part_size=chosen, expires=expires
                )
                return Opened(session_id, chosen, 1, self._settings.segment, direct=True, put=put)
        session_id = self._sessions.begin(repository, principal, None if digest is None else digest.algorithm)
        ticket = self._sessions.check(session_id, repository, principal)
        data = layout.data(self._ids.token())
        session = Session(
            nonce="",
            repository=repository,
            algorithm="sha256" if ticket.algorithm == UNDECLARED else ticket.algorithm,
            data=data,
            upload=await self._store.create_multipart(data, part_size=chosen),
            part_size=chosen,
            digest=None if digest is None else str(digest),
            expected=size,
        )
        # Where this fails the multipart upload is left to the sweeper: its session may be there all the same.
        held = await self._sessions.save(ticket.key, session, b"", None)
        self._own[session_id] = held.session
        if len(self._own) > _REMEMBERED:
            self._own.popitem(last=False)
        return Opened(session_id, chosen, _max_parts(session), self._settings.segment, direct)

    async def status(self, repository: str, principal: str, session_id: str) -> Status:
        """Where the session stands. One that is done is known for a while, then unknown: `complete` still answers."""
        # Asked of the store: a session that ended here is as done as it is to any other replica.
        ticket = self._sessions.check(session_id, repository, principal)
        seen = ""
        while True:
            held = await self._sessions.load(ticket)
            if held is None or held.session.state is State.CANCELLED or held.etag == seen:
                raise PARALLEL.unknown("the upload has ended")
            session = held.session
            parts = session.stored_parts()
            if session.state is not State.OPEN:
                break
            if is_checked(ticket):
                parts = await self._checked.arrived(session)
                break
            assert session.data is not None
            assert session.upload is not None
            try:
                parts = list(await self._store.list_parts(session.data, session.upload))
                break
            except UploadNotFound:
                seen = held.etag  # It is claimed by now, or swept.
        verification = session.verification
        return Status(
            state=_STAGES[session.state],
            part_size=session.part_size,
            parts=tuple(parts),
            digest=None if session.digest is None else Digest.parse(session.digest),
            size=session.expected,
            verified=self._completions.verified(ticket, 0 if verification is None else verification.verified),
            error=None if verification is None else verification.error,
        )

    async def urls(
        self, repository: str, principal: str, session_id: str, numbers: Iterable[int], *, expires: float
    ) -> dict[int, str] | None:
        """Where to PUT each part, by its number, for ``expires`` seconds; None where the store has no such URLs.

        They need no header. Raises `ParameterInvalid` for a number that the blob has not, more than `MAX_URLS`, or a
        session that has a `signed_put` instead.
        """
        ticket = self._check(session_id, repository, principal)
        session = await self._open(ticket)
        wanted = sorted(set(numbers))
        if len(wanted) > MAX_URLS:
            raise ParameterInvalid(f"{len(wanted)} parts at once: ask for at most {MAX_URLS}")
        for number in wanted:
            _check_number(session, number)
        if is_checked(ticket):
            raise ParameterInvalid("this upload is one PUT, whose URL is of use with its headers only")
        if not self.direct:
            return None
        self._own.pop(session_id, None)
        assert session.data is not None
        assert session.upload is not None
        return {
            number: await self._store.presign_part(session.data, session.upload, number, expires=expires)
            for number in wanted
        }

    async def signed_put(self, repository: str, principal: str, session_id: str, *, expires: float) -> SignedPut | None:
        """Where to PUT the blob, for ``expires`` seconds or less; None where the session is one of parts."""
        ticket = self._check(session_id, repository, principal)
        if not is_checked(ticket):
            return None
        return await self._checked.sign(ticket, await self._open(ticket), expires)

    async def put_part(self, repository: str, principal: str, session_id: str, number: int, chunk: Chunk) -> Part:
        """Takes a part, the same bytes each time it is sent. ``chunk.start`` is not looked at.

        Raises `SizeInvalid` for a part that is longer than the session's are, not as long as announced, or as its
        place in a blob of known size wants it; `ParameterInvalid` for a number that the blob has not;
        `UploadInvalid` once the session is being completed; `DigestMismatch` for other bytes than were announced,
        where the blob is one PUT.
        """
        ticket = self._check(session_id, repository, principal)
        session = self._own.get(session_id) or await self._open(ticket)
        _check_number(session, number)
        exact = None if session.expected is None else expected_size(number, session.part_size, session.expected)
        self._check_buffered(session.part_size if chunk.length is None else chunk.length)
        async with receive(chunk, self._budget, most=session.part_size, exact=exact) as body:
            if is_checked(ticket):
                return await self._checked.put(session, body)
            assert session.data is not None
            assert session.upload is not None
            try:
                etag = await self._store.put_part(
                    session.data, session.upload, number, body, offset=(number - 1) * session.part_size
                )
            except (UploadNotFound, InvalidPart):
                await self._open(ticket)  # It has a better word for why.
                raise PARALLEL.unknown("the upload has ended") from None
            return Part(number, len(body), etag)

    async def complete(
        self,
        repository: str,
        principal: str,
        session_id: str,
        digest: Digest,
        size: int,
        checkpoints: bytes | None,
        *,
        wait: float,
        hashed: bool = False,
    ) -> Blob | Verifying:
        """Makes the parts the blob ``digest`` of ``size`` bytes, waiting at most ``wait`` seconds for it.

        Where it takes longer, `Verifying`: the work goes on, and the same call again, to any replica, asks for it.
        ``checkpoints``: what `bucketry.hashing.Checkpoints.encode` gave; with them the bytes are read back in
        parallel. ``hashed``: the caller has hashed every part on its way, so nothing is read back where this very
        object began the session and gave no URLs out for it; elsewhere it changes nothing.

        Raises `UploadInvalid` where parts are missing (``detail["missing"]``: at most 100 of their numbers), or
        where the session is completed, or was announced, as another blob; `SizeInvalid` where the parts do not make
        ``size`` bytes (``detail["parts"]``: at most 100 that have another size): the session stays open. Raises
        `ParameterInvalid` or `DigestMismatch` for checkpoints that cannot be of this blob, before anything is read;
        `DigestMismatch` where the bytes are others (``detail["segments"]``: numbers, from 0, of those found bad):
        the session has failed then, and the bytes are deleted.
        """
        ticket = self._sessions.check(session_id, repository, principal)
        if self._ended.digest(session_id) == digest:
            return await self._blobs.stat(repository, digest)
        self._check_not_ended(ticket)
        if size < 0:
            raise SizeInvalid(f"no blob has {size} bytes")
        given = None if checkpoints is None else self._readback.parse_list(checkpoints, digest, size)
        if is_checked(ticket):
            return await self._checked.complete(ticket, digest, size)
        asked = Asked(digest, size, given, trusted=hashed and session_id in self._own)
        answer = await self._completions.complete(ticket, asked, wait=wait)
        if isinstance(answer, Blob):
            self._own.pop(session_id, None)
        return answer

    async def cancel(self, repository: str, principal: str, session_id: str) -> None:
        """Ends the session and frees its parts; a blob that is one PUT is freed once the session has expired.

        Raises `UploadInvalid` where it is being verified.
        """
        ticket = self._check(session_id, repository, principal)
        self._own.pop(session_id, None)
        while True:
            held = await self._sessions.load(ticket)
            if held is None or held.session.state in (State.CANCELLED, State.DONE):
                raise PARALLEL.unknown("the upload has ended")
            session = held.session
            if session.state is State.COMMITTING:
                raise UploadInvalid("the upload is being verified and cannot be cancelled any more")
            cancelled = msgspec.structs.replace(session, state=State.CANCELLED)
            try:
                await self._sessions.save(ticket.key, cancelled, b"", held.etag)
            except PreconditionFailed:
                continue
            if session.state is State.OPEN and session.data is not None and session.upload is not None:
                await self._store.abort_multipart(session.data, session.upload)
            self._checked.forget(ticket)
            # The sweeper finds what one PUT brought, or may still bring, by the session.
            self._ended.add(session_id, None, None if is_checked(ticket) else ticket.key)
            return

    async def _present(self, repository: str, digest: Digest, *, mount: bool) -> Blob | None:
        try:
            return await self._blobs.stat(repository, digest)
        except BlobUnknown:
            return await self._blobs.mount(repository, digest, None) if mount else None

    async def _open(self, ticket: Ticket) -> Session:
        """The session, where it takes parts."""
        held = await self._sessions.load(ticket)
        if held is None or held.session.state in (State.CANCELLED, State.DONE):
            raise PARALLEL.unknown("the upload has ended")
        if held.session.state is State.FAILED:
            raise UploadInvalid("the bytes had another digest, and the upload has failed: begin another one")
        if held.session.state is State.COMMITTING:
            raise UploadInvalid("the upload is being completed, and takes no more parts")
        return held.session

    def _check_buffered(self, size: int) -> None:
        """A part is whole in memory here. Parts that go to the bucket may be longer than that allows."""
        most = max(self._budget.total, self._settings.part_size, self._settings.segment)
        if self.direct and size > most:
            raise SizeInvalid(
                f"the part has {size} bytes, and this registry buffers {most}: send it by the bucket's URL for it",
                detail={"most": most},
            )

    def _check(self, session_id: str, repository: str, principal: str) -> Ticket:
        ticket = self._sessions.check(session_id, repository, principal)
        self._check_not_ended(ticket)
        return ticket

    def _check_not_ended(self, ticket: Ticket) -> None:
        if ticket.session_id in self._ended:
            raise PARALLEL.unknown("the upload has ended")


def _check_number(session: Session, number: int) -> None:
    most = _max_parts(session)
    if not 1 <= number <= most:
        raise ParameterInvalid(f"there is no part {number}: the parts of this upload are 1 to {most}")


def _max_parts(session: Session) -> int:
    return MAX_PARTS if session.expected is None else max(1, part_count(session.expected, session.part_size))
