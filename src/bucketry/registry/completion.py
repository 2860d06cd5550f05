"""How a parallel session becomes a blob: claimed, completed, read back, published, by one replica at a time.

The work is a task of its own, which outlives the request that began it, and which every request for the same session
waits for. Whoever is at work says so in the session every few seconds. Where another replica sees a session that does
not change, by its own clock, it takes the session over by compare-and-swap; the one that lost it stops when it next
writes. Two that read back at once do no harm: the object can change no more, and publishing it twice is one blob.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
import structlog

from bucketry.hashing import Checkpoints
from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, DigestMismatch, OCIError, SizeInvalid, UploadInvalid, UploadUnknown
from bucketry.registry import noting
from bucketry.registry.blobs import Blob, Blobs
from bucketry.registry.ended import EndedSessions
from bucketry.registry.partition import check_parts
from bucketry.registry.readback import ReadBack
from bucketry.registry.sessions import PARALLEL, Held, Session, Sessions, State, Ticket, Verification, translated
from bucketry.registry.settings import Clock, Ids, RegistrySettings
from bucketry.store.contract import InvalidPart, PreconditionFailed, Store, StoreError, UploadNotFound

_LOOK_AGAIN = 1.0
"""Seconds between two looks at a session that another replica works on, while a request waits."""
_ATTEMPTS = 3
"""Times a multipart upload is completed whose parts change meanwhile."""
_REMEMBERED = 10_000

_log = structlog.get_logger("bucketry.registry")


@dataclass(frozen=True, slots=True)
class Verifying:
    """The blob is being read back: so many of its bytes so far. Ask again."""

    verified: int
    size: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants a session to become. ``trusted``: its bytes need not be read back."""

    digest: Digest
    size: int
    checkpoints: Checkpoints | None = None
    trusted: bool = False

    def check_same(self, digest: str | None, size: int | None) -> None:
        """Raises `UploadInvalid`, where the session was announced or claimed as another blob."""
        if digest is not None and digest != str(self.digest):
            raise UploadInvalid(f"the upload is of {digest}, and cannot become {self.digest}: begin another one")
        if size is not None and size != self.size:
            raise SizeInvalid(f"the upload is of {size} bytes, and cannot become {self.size}: begin another one")


class _Superseded(Exception):
    """The session is another's by now, or not as it was claimed."""


class _PartsChanged(Exception):
    """A part was sent again after the parts were listed."""


class _Claim:
    """A session that this process works on. ``held`` is its newest state."""

    def __init__(self, ticket: Ticket, held: Held, *, taken_over: bool, now: float) -> None:
        self.ticket = ticket
        self.held = held
        self.taken_over = taken_over
        self.said = now
        """When the session last was written, by the monotonic clock."""

    @property
    def session(self) -> Session:
        return self.held.session

    @property
    def data(self) -> str:
        assert self.session.data is not None
        return self.session.data


_Answer: TypeAlias = Blob | Verifying


@dataclass(eq=False)
class _Run:
    ticket: Ticket
    asked: Asked
    verified: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the session is claimed: what is wrong with the request itself was found by then."""
    task: asyncio.Task[_Answer] = field(init=False)


class Completions:
    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        sessions: Sessions,
        ended: EndedSessions,
        readback: ReadBack,
        *,
        clock: Clock,
        ids: Ids,
        settings: RegistrySettings,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._sessions = sessions
        self._ended = ended
        self._readback = readback
        self._clock = clock
        self._settings = settings
        self._worker = ids.token()
        self._turns = asyncio.Semaphore(settings.verify_at_once)
        self._runs: dict[str, _Run] = {}
        self._closed = False
        self._seen: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """The etag of each session that others work on, and when it was first seen by the monotonic clock."""

    def verified(self, ticket: Ticket, otherwise: int) -> int:
        """How far this process is with a session; ``otherwise`` where it is not at work on it."""
        run = self._runs.get(ticket.key)
        return otherwise if run is None else run.verified

    async def complete(self, ticket: Ticket, asked: Asked, *, wait: float) -> _Answer:
        """See `bucketry.registry.parallel.Parallel.complete`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + max(wait, 0.0)
        while True:
            run = self._runs.get(ticket.key)
            if run is None:
                if self._closed:
                    return Verifying(0, asked.size)
                run = self._start(ticket, asked)
            await self._begun(run)
            if not run.task.done():
                asked.check_same(str(run.asked.digest), run.asked.size)
                await asyncio.wait((run.task,), timeout=max(until - loop.time(), 0.0))
            if not run.task.done():
                return Verifying(run.verified, asked.size)
            if run.asked != asked and not run.task.cancelled():
                run.task.exception()
                continue  # That was another request's; what came of it is in the session.
            if run.task.cancelled():
                return Verifying(run.verified, asked.size)
            answer = run.task.result()
            if isinstance(answer, Blob) or loop.time() >= until:
                return answer
            await asyncio.sleep(min(_LOOK_AGAIN, until - loop.time()))

    async def close(self) -> None:
        """Gives all claims back. Whoever waits, or asks from now on, is told to ask again, as another replica will
        answer. May be called more than once."""
        runs = list(self._runs.values())
        if not self._closed:
            # Once only: what is cancelled is writing that it gives its claim back.
            self._closed = True
            for run in runs:
                run.task.cancel()
        if runs:
            await asyncio.wait([run.task for run in runs])

    async def _begun(self, run: _Run) -> None:
        """Waits until the session is claimed, or cannot be."""
        begun = asyncio.create_task(run.begun.wait())
        try:
            await asyncio.wait((run.task, begun), return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()

    def _start(self, ticket: Ticket, asked: Asked) -> _Run:
        run = _Run(ticket, asked)
        run.task = asyncio.create_task(self._complete(run))
        self._runs[ticket.key] = run
        run.task.add_done_callback(lambda _: self._finished(run))
        return run

    def _finished(self, run: _Run) -> None:
        del self._runs[run.ticket.key]
        error = None if run.task.cancelled() else run.task.exception()
        if isinstance(error, StoreError):
            # Perhaps nobody waits for it any more.
            _log.warning("a blob could not be read back", digest=str(run.asked.digest), error=str(error))

    async def _complete(self, run: _Run) -> _Answer:
        for attempt in range(_ATTEMPTS):
            found = await self._claimed(run)
            if not isinstance(found, _Claim):
                return found
            run.begun.set()
            with suppress(_Superseded):
                return await self._work(run, found, last=attempt == _ATTEMPTS - 1)
        return Verifying(run.verified, run.asked.size)

    async def _claimed(self, run: _Run) -> _Answer | _Claim:
        """As `_claim`. Where this is cancelled meanwhile, what was claimed all the same is given back."""
        claiming = asyncio.create_task(self._claim(run))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await asyncio.wait((claiming,))
            if claiming.exception() is None and isinstance(claim := claiming.result(), _Claim):
                await self._give_back(run, claim)
            raise

    async def _claim(self, run: _Run) -> _Answer | _Claim:
        """The session as this process's; else what there is to answer."""
        ticket, asked = run.ticket, run.asked
        gone = ""
        while True:
            held = await self._sessions.load(ticket)
            if held is None:
                return await self._published(ticket, asked.digest)
            session = held.session
            taken_over = False
            tail = bytes(held.tail)
            match session.state:
                case State.CANCELLED:
                    raise PARALLEL.unknown("the upload was cancelled")
                case State.FAILED:
                    raise _failure(session)
                case State.OPEN:
                    asked.check_same(session.digest, session.expected)
                    assert session.data is not None
                    assert session.upload is not None
                    try:
                        listed = await self._store.list_parts(session.data, session.upload)
                    except UploadNotFound as error:
                        if held.etag == gone:
                            raise PARALLEL.unknown("the upload has ended") from error
                        gone = held.etag  # Another replica may have claimed and completed it meanwhile.
                        continue
                    parts = check_parts(listed, session.part_size, asked.size)
                    session = msgspec.structs.replace(
                        session,
                        state=State.COMMITTING,
                        digest=str(asked.digest),
                        size=asked.size,
                        expected=asked.size,
                        parts=tuple((part.number, part.size, part.etag) for part in parts),
                    )
                    tail = b"" if asked.checkpoints is None else asked.checkpoints.encode()
                case _:
                    asked.check_same(session.digest, session.expected)
                    if session.state is State.DONE:
                        return await self._published(ticket, asked.digest)
                    assert session.verification is not None
                    if not self._may_take(ticket, held, session.verification):
                        return Verifying(session.verification.verified, asked.size)
                    taken_over = True
            claimed = msgspec.structs.replace(session, verification=Verification(worker=self._worker))
            try:
                held = await self._sessions.save(ticket.key, claimed, tail, held.etag)
            except PreconditionFailed:
                continue
            self._seen.pop(ticket.key, None)
            return _Claim(ticket, held, taken_over=taken_over, now=self._clock.monotonic())

    async def _published(self, ticket: Ticket, digest: Digest) -> Blob:
        """The blob of a session that is over, where it became that one. Raises `UploadUnknown`."""
        try:
            blob = await self._blobs.stat(ticket.repository, digest)
        except BlobUnknown:
            raise PARALLEL.unknown("the upload has ended") from None
        self._ended.add(ticket.session_id, digest, None)
        return blob

    def _may_take(self, ticket: Ticket, held: Held, verification: Verification) -> bool:
        """Whether nobody is at work on a claimed session: given back, this process's own, or silent for long."""
        if verification.worker in (None, self._worker):
            return True
        now = self._clock.monotonic()
        etag, since = self._seen.get(ticket.key, ("", now))
        if etag != held.etag:
            self._seen[ticket.key] = (held.etag, now)
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            return False
        return now - since >= self._settings.verify_takeover

    async def _work(self, run: _Run, claim: _Claim, *, last: bool) -> Blob:
        """What remains of a claimed session. Raises `_Superseded` where it is to be looked at again."""
        run.verified = 0
        try:
            try:
                with translated(PARALLEL):
                    checkpoints = await self._while_saying_so(run, claim)
                    return await self._publish(run, claim, checkpoints)
            except UploadUnknown:
                # Its bytes are gone: another replica published it, had no use for them, and this one came late.
                return await self._published(claim.ticket, run.asked.digest)
        except _PartsChanged as error:
            await self._write(claim, msgspec.structs.replace(claim.session, state=State.OPEN, verification=None))
            if last:
                raise UploadInvalid(
                    "parts were sent while the upload was completed: wait for them, and complete it again"
                ) from error
            raise _Superseded from error
        except DigestMismatch as error:
            await self._fail(claim, error)
            raise
        except (StoreError, OCIError, asyncio.CancelledError):
            await self._give_back(run, claim)
            raise

    async def _while_saying_so(self, run: _Run, claim: _Claim) -> Checkpoints | None:
        """Reads back, and keeps the claim alive meanwhile."""
        reading = asyncio.create_task(self._read_back(run, claim))
        try:
            while True:
                done, _ = await asyncio.wait((reading,), timeout=self._settings.verify_beat)
                # Who fell silent for long may have lost the session, and must see that before it publishes.
                if not done or self._clock.monotonic() - claim.said > self._settings.verify_beat:
                    try:
                        await self._say(run, claim)
                    except StoreError as error:
                        _log.warning("a sign of life could not be written", error=str(error))
                if done:
                    return reading.result()
        finally:
            reading.cancel()
            await asyncio.wait((reading,))
            if not reading.cancelled():
                reading.exception()  # Where the claim was lost, nobody else looks at it.

    async def _read_back(self, run: _Run, claim: _Claim) -> Checkpoints | None:
        session, asked = claim.session, run.asked
        if claim.taken_over and await self._blobs.published_data(asked.digest) == claim.data:
            return None  # Whoever had it died after it had published the record.
        assert session.upload is not None
        if session.parts:
            try:
                await self._store.complete_multipart(claim.data, session.upload, session.stored_parts())
            except InvalidPart as error:
                raise _PartsChanged from error
        else:  # No store completes an upload without parts.
            await self._store.abort_multipart(claim.data, session.upload)
            await self._store.put(claim.data, b"")
        if asked.trusted and not claim.taken_over:
            return None if asked.checkpoints is None else noting.to_keep(asked.checkpoints, self._settings.segment)

        def verified(size: int) -> None:
            run.verified += size

        given = Checkpoints.parse(bytes(claim.held.tail)) if claim.held.tail else None
        async with self._turns:
            return await self._readback.verify(claim.data, asked.digest, asked.size, given, verified)

    async def _publish(self, run: _Run, claim: _Claim, checkpoints: Checkpoints | None) -> Blob:
        ticket, asked = claim.ticket, run.asked
        blob = await self._blobs.publish(
            ticket.repository, asked.digest, asked.size, claim.data, exclusive=False, checkpoints=checkpoints
        )
        done = msgspec.structs.replace(
            claim.session, state=State.DONE, parts=(), verification=Verification(verified=asked.size)
        )
        try:
            await self._write(claim, done, tail=b"")
        except _Superseded:
            return blob  # Whoever has the session finds the blob.
        if blob.data != claim.data:
            await self._store.delete(claim.data)
        self._ended.add(ticket.session_id, asked.digest, ticket.key)
        return blob

    async def _fail(self, claim: _Claim, error: DigestMismatch) -> None:
        detail = error.detail if isinstance(error.detail, dict) else {}
        why = Verification(error=error.message, detail=detail)
        failed = msgspec.structs.replace(claim.session, state=State.FAILED, parts=(), verification=why)
        try:
            await self._write(claim, failed, tail=b"")
        except _Superseded:
            return  # Whoever has the session finds the same.
        await self._store.delete(claim.data)

    async def _give_back(self, run: _Run, claim: _Claim) -> None:
        """Writes that nobody is at work."""
        idle = Verification(verified=run.verified)
        with suppress(StoreError, _Superseded):
            await self._write(claim, msgspec.structs.replace(claim.session, verification=idle))

    async def _say(self, run: _Run, claim: _Claim) -> None:
        """Writes that this process is at work. Raises `_Superseded`."""
        saying = Verification(worker=self._worker, verified=run.verified)
        await self._write(claim, msgspec.structs.replace(claim.session, verification=saying))

    async def _write(self, claim: _Claim, session: Session, *, tail: bytes | None = None) -> None:
        """Writes a claimed session. Raises `_Superseded`."""
        body = bytes(claim.held.tail) if tail is None else tail
        key = claim.ticket.key
        try:
            claim.held = await self._sessions.save(key, session, body, claim.held.etag)
        except PreconditionFailed:
            # The answer to an earlier write may have been lost.
            now = await self._sessions.load(claim.ticket)
            if now is None or now.session.state is not State.COMMITTING or now.session.verification is None:
                raise _Superseded from None
            if now.session.verification.worker != self._worker:
                raise _Superseded from None
            try:
                claim.held = await self._sessions.save(key, session, body, now.etag)
            except PreconditionFailed:
                raise _Superseded from None
        claim.said = self._clock.monotonic()


def _failure(session: Session) -> DigestMismatch:
    why = session.verification or Verification()
    return DigestMismatch(why.error or "the bytes had another digest", detail=why.detail)
