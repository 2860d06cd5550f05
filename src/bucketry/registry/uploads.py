"""The upload engine: the spec's ways to push a blob ("Pushing blobs"), over any store, continued by any replica.

What is hashed is what is committed (invariant 1), because of who may write what:

- Bulk keys are random and made by one attempt. A first chunk that is larger than a part makes a multipart upload
  of its own; it becomes the session's by the compare-and-swap that saves the session, or is aborted.
- A later chunk that has a part to send reserves part numbers in the session first, by compare-and-swap. Numbers are
  never given out twice, so a writer that was superseded cannot touch what its successor sent.
- The number of the last part of a commit is no other's: a commit of just that state of the session may use it without
  reserving it, as any two such commits send the same bytes. Whoever moves the session on skips it.
- A commit of a multipart upload claims the session, with its final list of parts, before it completes it.

No blob is read back, but where its hash could not be carried along: the client committed an algorithm that it
had not declared, or a replica has no libcrypto. Then the bytes are hashed from the store before they are published.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bucketry.hashing import Hasher
from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, OCIError, RangeInvalid, UploadInvalid, UploadUnknown
from bucketry.registry import layout, noting
from bucketry.registry.blobs import Blob, Blobs
from bucketry.registry.budget import MemoryBudget, Reservation
from bucketry.registry.chunks import Chunk, Progress, check_digest, check_length, check_start
from bucketry.registry.commits import Commits
from bucketry.registry.ended import EndedSessions
from bucketry.registry.noting import Hashes
from bucketry.registry.parts import PartStream, too_many_parts
from bucketry.registry.sessions import (
    UNDECLARED,
    Held,
    RecentSessions,
    Session,
    Sessions,
    State,
    Ticket,
    check_not_cancelled,
    check_open,
    ended,
    translated,
)
from bucketry.registry.settings import Ids, RegistrySettings
from bucketry.store.contract import MAX_PARTS, Buffer, PreconditionFailed, Store

RESERVED_NUMBERS = 64
"""Part numbers that a chunk of unknown length reserves at a time."""


DEFAULT_ALGORITHM = "sha256"


class Uploads:
    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        sessions: Sessions,
        ended: EndedSessions,
        hashes: Hashes,
        *,
        ids: Ids,
        settings: RegistrySettings,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._sessions = sessions
        self._recent = RecentSessions()
        self._ended = ended
        self._ids = ids
        self._settings = settings
        self._hashes = hashes
        self._commits = Commits(store, blobs, ended, hashes)
        self.budget = MemoryBudget(settings.memory)

    def begin(self, repository: str, principal: str, algorithm: str | None = None) -> Progress:
        """A new session ("Pushing a blob in chunks"), for a digest of ``algorithm`` where the client says so."""
        return Progress(self._sessions.begin(repository, principal, algorithm), 0, False)

    def hashed_as(self, session_id: str, digest: Digest) -> bool:
        """Whether a session was hashed for this digest's algorithm from its beginning, so that nothing is read back."""
        declared = session_id.split(".")[2]
        return digest.algorithm == (DEFAULT_ALGORITHM if declared == UNDECLARED else declared)

    async def status(self, repository: str, principal: str, session_id: str, *, continued: bool = False) -> Progress:
        """``continued`` says that the client has been told of a chunk before. Raises `UploadUnknown`."""
        ticket = self._check(session_id, repository, principal)
        held = await self._sessions.load(ticket)
        session = self._session(ticket, held, continued=continued)
        check_not_cancelled(session)
        return Progress(session_id, session.size, held is not None)

    async def cancel(self, repository: str, principal: str, session_id: str) -> None:
        """Ends the session. Bytes that a commit may be publishing right now are left to the sweeper."""
        ticket = self._check(session_id, repository, principal)
        while True:
            held = await self._sessions.load(ticket)
            session = self._new_session(ticket) if held is None else held.session
            check_not_cancelled(session)
            if session.state is State.COMMITTING:
                raise UploadInvalid("the upload is being committed and cannot be cancelled any more")
            cancelled = msgspec.structs.replace(session, state=State.CANCELLED)
            try:
                await self._sessions.save(ticket.key, cancelled, b"", None if held is None else held.etag)
            except PreconditionFailed:
                continue
            if session.upload is not None and session.data is not None:
                await self._store.abort_multipart(session.data, session.upload)
            return

    async def append(
        self, repository: str, principal: str, session_id: str, chunk: Chunk, *, continued: bool
    ) -> Progress:
        """Takes a chunk (PATCH). ``continued`` says that the client has been told of a chunk before.

        What arrived of a chunk that is interrupted is kept, and the interruption raised.
        Raises `RangeInvalid` for a chunk out of order, or one that lost to a concurrent one; `UploadUnknown`.
        """
        ticket = self._check(session_id, repository, principal)
        if continued or chunk.start:
            with await self.budget.reserve(self._settings.part_size) as reservation:
                held = await self._sessions.load(ticket)
                session = self._session(ticket, held, continued=continued)
                check_open(session)
                check_start(chunk, session.size)
                with translated():
                    stream, keeper = await self._continue(ticket, held, session, chunk, reservation)
        else:
            session = self._new_session(ticket)
            stream, keeper = await self._continue(ticket, None, session, chunk, None)
        with translated():
            try:
                interrupted = await stream.feed(chunk.body, length=chunk.length)
                if interrupted is None:
                    check_length(chunk, stream.size - session.size)
                if stream.size > session.size:
                    await self._save(
                        ticket, keeper, session, stream, streamed=chunk.start is None and interrupted is None
                    )
                else:
                    await stream.settle()
                    if keeper.held is None:  # No write says where the upload really stands.
                        keeper.held = await self._sessions.load(ticket)
                        if keeper.held is not None:
                            check_open(keeper.held.session)
                            check_start(chunk, keeper.held.session.size)
            except BaseException:
                await stream.discard()
                raise
        stream.release()
        if interrupted is not None:
            raise interrupted
        if keeper.held is None:
            return Progress(session_id, 0, False)
        return Progress(session_id, keeper.held.session.size, True)

    async def push(self, repository: str, digest: Digest, chunk: Chunk) -> Blob:
        """A whole blob in one request (a single POST, or a PUT to a session that has had no chunk)."""
        stream = self._stream(self._hashes.new(digest.algorithm))
        with translated():
            try:
                interrupted = await stream.feed(chunk.body, length=chunk.length)
                if interrupted is not None:
                    raise interrupted
                check_length(chunk, stream.size)
                if stream.upload is None:
                    await stream.settle()
                    check_digest(digest, stream.hasher.hexdigest())
                    await self._store.put(stream.key, stream.rest())
                else:
                    await stream.ship()
                    await stream.settle()
                    check_digest(digest, stream.hasher.hexdigest())
                    await self._store.complete_multipart(stream.key, stream.upload, stream.shipped)
                    stream.made_upload = False
            except BaseException:
                await stream.discard()
                raise
            size = stream.size
            stream.release()
            noted = noting.checkpoints(stream.hasher)
            return await self._blobs.publish(repository, digest, size, stream.key, exclusive=True, checkpoints=noted)

    async def commit(
        self,
        repository: str,
        principal: str,
        session_id: str,
        digest: Digest,
        chunk: Chunk | None,
        *,
        continued: bool,
    ) -> Blob:
        """Closes a session (PUT), after a last ``chunk`` where the request has one. May be tried again after a failure.

        Raises `DigestMismatch`: the session stays open where no more was sent; `UploadUnknown`, `RangeInvalid`.
        """
        ticket = self._sessions.check(session_id, repository, principal)
        if self._ended.digest(session_id) == digest:
            return await self._blobs.stat(repository, digest)  # Its answer was lost, and it is asked again.
        self._check_not_ended(ticket)
        try:
            claimed = await self._take(ticket, digest, chunk, continued=continued)
        except (UploadUnknown, UploadInvalid):
            found = await self._taken(ticket, digest)
            if found is None:
                raise
            claimed = found
        if isinstance(claimed, Blob):
            return claimed
        with translated():
            return await self._commits.claimed(ticket, claimed, digest)

    async def _taken(self, ticket: Ticket, digest: Digest) -> Blob | Session | None:
        """What another request made of the session, where that was the same commit: claimed, or ended and removed.

        A client whose first answer was lost asks again, perhaps while the first request is still at work.
        """
        held = await self._sessions.load(ticket)
        if held is None:
            try:
                return await self._blobs.stat(ticket.repository, digest)
            except BlobUnknown:
                return None
        session = held.session
        return session if session.state is State.COMMITTING and session.digest == str(digest) else None

    async def _take(self, ticket: Ticket, digest: Digest, chunk: Chunk | None, *, continued: bool) -> Blob | Session:
        """The blob, where that is all; else the session, claimed with all its parts, which `Commits` completes."""
        if chunk is not None and not continued and not chunk.start and await self._sessions.load(ticket) is None:
            blob = await self.push(ticket.repository, digest, chunk)
            self._ended.add(ticket.session_id, digest, None)
            return blob
        recent = self._recent.take(ticket.key)
        if recent is not None and chunk is None:
            try:
                return await self._take_from(ticket, recent, digest, None, continued=continued)
            except OCIError:
                pass  # Another replica may have moved the session on: what the store says counts.
        return await self._take_from(ticket, None, digest, chunk, continued=continued)

    async def _take_from(
        self, ticket: Ticket, recent: Held | None, digest: Digest, chunk: Chunk | None, *, continued: bool
    ) -> Blob | Session:
        """``recent``: the session as this process saved it last; None: as the store has it."""
        with await self.budget.reserve(self._settings.part_size) as reservation:
            held = recent or await self._sessions.load(ticket)
            session = self._session(ticket, held, continued=continued)
            check_not_cancelled(session)
            if session.state is State.COMMITTING:
                return session
            if chunk is not None:
                check_start(chunk, session.size)
            elif session.sealed and session.data is not None:
                with translated():
                    return await self._commits.sealed(ticket, session, digest)
            with translated():
                stream, keeper = await self._continue(ticket, held, session, chunk, reservation)
        with translated():
            try:
                if chunk is not None:
                    await self._feed_last(ticket, keeper, session, stream, chunk)
                if stream.upload is None:
                    return await self._commits.buffered(ticket, stream, digest)
                claimed = await self._claim(ticket, keeper, session, stream, digest)
            except BaseException:
                await stream.discard()
                raise
            stream.release()
            return claimed

    async def _feed_last(
        self, ticket: Ticket, keeper: _Keeper, session: Session, stream: PartStream, chunk: Chunk
    ) -> None:
        interrupted = await stream.feed(chunk.body, length=chunk.length)
        received = stream.size - session.size
        if interrupted is None:
            check_length(chunk, received)
            return
        if received:
            await self._save(ticket, keeper, session, stream, streamed=False)
        raise interrupted

    async def _claim(
        self, ticket: Ticket, keeper: _Keeper, session: Session, stream: PartStream, digest: Digest
    ) -> Session:
        """Freezes the session with all its parts, so that nothing can be added between the check and the commit."""
        if stream.rest():
            await stream.ship()
        await stream.settle()
        claim = msgspec.structs.replace(
            noting.kept(_with_parts(session, stream), stream.hasher, stream.size),
            state=State.COMMITTING,
            digest=str(digest),
            size=stream.size,
        )
        if claim.hash is not None and claim.algorithm == digest.algorithm:
            check_digest(digest, stream.hasher.hexdigest())
        with _handed_over(stream):
            return (await self._replace(ticket, keeper, claim, b"")).session

    async def _save(
        self, ticket: Ticket, keeper: _Keeper, session: Session, stream: PartStream, *, streamed: bool
    ) -> None:
        """Keeps what a chunk brought. ``streamed``: the client sends all in one chunk, so no other will follow."""
        if stream.rest_is_full() and (stream.upload is not None or not streamed):
            await stream.ship()  # A tail is written, read and written again.
        await stream.settle()
        kept = msgspec.structs.replace(
            noting.kept(_with_parts(session, stream), stream.hasher, stream.size),
            size=stream.size,
            # Before the first part left there is no upload whose numbers a commit of the old state could use.
            next_number=max(stream.next_number, session.unreserved_number()) if session.upload else stream.next_number,
        )
        if streamed and stream.upload is None and keeper.held is None:
            await self._store.put(stream.key, stream.rest())
            kept = msgspec.structs.replace(kept, sealed=True, data=stream.key)
            try:
                await self._replace(ticket, keeper, kept, b"")
            except (UploadInvalid, UploadUnknown):
                await self._store.delete(stream.key)
                raise
        else:
            with _handed_over(stream):
                held = await self._replace(ticket, keeper, kept, stream.rest())
            if kept.upload is not None:
                self._recent.keep(ticket.key, held)

    async def _replace(self, ticket: Ticket, keeper: _Keeper, session: Session, tail: Buffer) -> Held:
        try:
            keeper.held = await self._sessions.save(ticket.key, session, tail, keeper.etag)
        except PreconditionFailed:
            now = await self._sessions.load(ticket)
            if now is not None:
                check_open(now.session)
            raise RangeInvalid(
                "another request continued this upload meanwhile, and this one was not taken. "
                "Ask for the status of the upload, and go on from there.",
                offset=None if now is None else now.session.size,
            ) from None
        return keeper.held

    async def _continue(
        self,
        ticket: Ticket,
        held: Held | None,
        session: Session,
        chunk: Chunk | None,
        reservation: Reservation | None,
    ) -> tuple[PartStream, _Keeper]:
        """A stream that goes on where the session stands, to take a chunk or (None) to close the session."""
        keeper = _Keeper(held)
        tail: Buffer = b"" if held is None else held.tail
        if session.sealed and session.data is not None:
            tail = (await self._store.get(session.data, limit=session.size)).body
        # A tail may be longer than a part of today: the owner made parts smaller since it was sent.
        part_size = session.part_size or max(self._settings.part_size, len(tail))

        async def reserve() -> tuple[int, int]:
            now = session if keeper.held is None else keeper.held.session
            count = RESERVED_NUMBERS
            if chunk is None:
                count = 1
            elif chunk.length is not None and not now.reserved:
                count = -(-(len(tail) + chunk.length) // part_size)
            first = now.unreserved_number()
            last = min(first + count - 1, MAX_PARTS)
            if last < first:
                raise too_many_parts(part_size)
            wider = msgspec.structs.replace(session, next_number=last + 1, reserved=True)
            await self._replace(ticket, keeper, wider, tail)
            return first, last

        shared = session.upload is not None and (chunk is not None or session.reserved)
        stream = PartStream(
            self._store,
            self.budget,
            self._hashes.restored(session) or self._hashes.new(session.algorithm),
            key=session.data if session.upload and session.data else layout.data(self._ids.token()),
            part_size=part_size,
            parallel=self._settings.parallel_parts,
            offset=session.size - len(tail),
            tail=tail,
            upload=session.upload,
            first_number=session.next_number,
            numbers=reserve if shared else None,
            reservation=None if reservation is None else reservation.hand_over(),
        )
        return stream, keeper

    def _stream(self, hasher: Hasher) -> PartStream:
        return PartStream(
            self._store,
            self.budget,
            hasher,
            key=layout.data(self._ids.token()),
            part_size=self._settings.part_size,
            parallel=self._settings.parallel_parts,
        )

    def _session(self, ticket: Ticket, held: Held | None, *, continued: bool) -> Session:
        """The session as it stands. Raises `UploadUnknown` where it was there once and is no more."""
        if held is not None:
            return held.session
        if continued:
            raise ended()
        return self._new_session(ticket)

    def _new_session(self, ticket: Ticket) -> Session:
        return Session(
            nonce="",
            repository=ticket.repository,
            algorithm=DEFAULT_ALGORITHM if ticket.algorithm == UNDECLARED else ticket.algorithm,
        )

    def _check(self, session_id: str, repository: str, principal: str) -> Ticket:
        ticket = self._sessions.check(session_id, repository, principal)
        self._check_not_ended(ticket)
        return ticket

    def _check_not_ended(self, ticket: Ticket) -> None:
        if ticket.session_id in self._ended:
            raise ended()


class _Keeper:
    """The session's newest state that this request knows of: what its next compare-and-swap must match."""

    def __init__(self, held: Held | None) -> None:
        self.held = held

    @property
    def etag(self) -> str | None:
        return None if self.held is None else self.held.etag


def _with_parts(session: Session, stream: PartStream) -> Session:
    """The session with what the stream shipped, and no reservation any more."""
    shipped = tuple((part.number, part.size, part.etag) for part in stream.shipped)
    return msgspec.structs.replace(
        session,
        sealed=False,
        data=stream.key if stream.upload is not None else None,
        upload=stream.upload,
        part_size=stream.part_size if stream.upload is not None else 0,
        parts=session.parts + shipped,
        next_number=stream.next_number,
        reserved=False,
    )


@contextmanager
def _handed_over(stream: PartStream) -> Iterator[None]:
    """While the session is saved, and after: a multipart upload that it may name is not the stream's to abort any more.

    Where another request was first it does not; where the answer was lost it may.
    """
    made, stream.made_upload = stream.made_upload, False
    try:
        yield
    except (UploadInvalid, UploadUnknown):
        stream.made_upload = made
        raise
