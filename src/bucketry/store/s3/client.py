"""One operation on the store: sign, send, judge, report, and try again where that can help."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from bucketry import __version__
from bucketry.store.contract import Buffer, Corrupt, StoreError, Unavailable
from bucketry.store.observe import StoreObserver
from bucketry.store.s3.credentials import Credentials
from bucketry.store.s3.endpoint import Address
from bucketry.store.s3.errors import Judge, Verdict
from bucketry.store.s3.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD, Signer, encode_query
from bucketry.store.s3.transport import Body, Transport
from bucketry.store.s3.xml import Malformed

FIRST_DELAY = 0.1
"""Seconds: the upper bound of the first wait before a retry; it doubles with each, up to `LONGEST_DELAY`."""

LONGEST_DELAY = 5.0
"""Seconds."""

LONGEST_WAIT = 10.0
"""Seconds: a store that asks to wait longer is not waited for here, but by the caller (`Unavailable.retry_after`)."""

SMALL_BODY = 64 * 1024
"""Bytes: bodies up to it are hashed at once and signed, larger ones only where the settings say so, in a thread."""

MAX_DOCUMENT = 16 * 1024 * 1024
"""Bytes: no list or other document of the protocol is larger."""

_MAX_ERROR = 64 * 1024

_USER_AGENT = f"bucketry/{__version__}"

_T = TypeVar("_T")

FAILURES = (aiohttp.ClientError, OSError)
"""What a request that gets no answer, or a body that breaks off, ends with; timeouts are OSErrors."""


class Failed(Exception):
    """A try failed."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict.error))
        self.verdict = verdict


@dataclass(slots=True)
class Tries:
    """The tries of one operation. ``uncertain``: one that failed may have taken effect. ``once``: no second one."""

    failed: int = 0
    uncertain: bool = False
    renewed: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """``what`` is the request in words; ``operation`` its name for the observer. ``key`` is whole, or empty for the
    bucket itself. ``accept`` are statuses besides 2xx that are no failure."""

    operation: str
    what: str
    method: str
    key: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] | None = None
    body: Buffer | None = None
    accept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream:
    """A body that arrives, and its head. It is over, and reported, with `finish`."""

    def __init__(self, response: aiohttp.ClientResponse, report: _Report) -> None:
        self._response = response
        self._report = report
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def piece(self) -> bytes:
        """The bytes that have arrived, at least one; empty at the end. Raises `FAILURES`."""
        piece = await self._response.content.readany()
        self._report.received += len(piece)
        return piece

    async def end(self) -> None:
        """Takes note of the end of a body whose bytes have all been read, so that its connection is kept."""
        if not self._response.content.at_eof():
            with suppress(*FAILURES):
                await self.piece()

    def finish(self, outcome: str = "ok") -> None:
        """Frees the connection; one whose body was not read to its end is closed."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
        self._report.end(outcome)


class _Report:
    """Tells the observer of one try, once."""

    def __init__(self, observer: StoreObserver, operation: str, monotonic: Callable[[], float]) -> None:
        self._observer = observer
        self._operation = operation
        self._monotonic = monotonic
        self._started = monotonic()
        self._over = False
        self.body: Body | None = None
        self.received = 0

    def end(self, outcome: str) -> None:
        if self._over:
            return
        self._over = True
        self._observer.request(
            self._operation,
            seconds=self._monotonic() - self._started,
            sent=self.body.sent if self.body is not None else 0,
            received=self.received,
            outcome=outcome,
        )


class Client:
    """Requests to one bucket. Every try goes to the observer."""

    def __init__(
        self,
        *,
        address: Address,
        credentials: Credentials,
        transport: Transport,
        judge: Judge,
        observer: StoreObserver,
        sign_payload: bool,
        retries: int,
        deadline: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
        random: Callable[[], float],
    ) -> None:
        self._address = address
        self._credentials = credentials
        self._transport = transport
        self.judge = judge
        self._observer = observer
        self._sign_payload = sign_payload
        self._retries = retries
        self._deadline = deadline
        self._clock = clock
        self.monotonic = monotonic
        self._sleep = sleep
        self._random = random
        self._signer = Signer(address.region)

    async def call(self, request: Request, *, limit: int = MAX_DOCUMENT, tries: Tries | None = None) -> Reply:
        """Sends the request and gives the whole answer, of at most ``limit`` bytes (else `Corrupt`)."""
        return await self.fetch(request, lambda reply: reply, limit=limit, tries=tries)

    async def fetch(
        self,
        request: Request,
        read: Callable[[Reply], _T],
        *,
        limit: int = MAX_DOCUMENT,
        tries: Tries | None = None,
    ) -> _T:
        """As `call`, and reads the answer. ``read`` raises `Malformed`, or `Failed` for an answer that tells of an
        error though its status is a success."""

        async def attempt() -> _T:
            stream = await self._open(request)
            try:
                body = await self._whole(request, stream, limit)
                result = read(Reply(stream.status, stream.headers, body))
            except Malformed as error:
                stream.finish(_name(Corrupt("")))
                raise Failed(self.judge.malformed(request.what, error)) from error
            except BaseException as error:
                stream.finish(_outcome(error))
                raise
            stream.finish()
            return result

        return await self.retrying(tries if tries is not None else Tries(), attempt)

    async def open(self, request: Request, *, tries: Tries) -> Stream:
        """Sends the request and gives the answer's head; the caller reads the body, and must `Stream.finish`."""
        return await self.retrying(tries, lambda: self._open(request, stream=True))

    async def retrying(self, tries: Tries, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Makes the attempt, and again while its verdict allows and time is left."""
        started = self.monotonic()
        while True:
            try:
                return await attempt()
            except Failed as failed:
                await self.wait(tries, failed.verdict, started)

    async def wait(self, tries: Tries, verdict: Verdict, started: float) -> None:
        """Returns when it is time for the next try, raises the error where there is none.

        ``started`` is the operation's beginning, by this client's monotonic clock.
        """
        tries.uncertain = tries.uncertain or verdict.uncertain
        if verdict.renew and not tries.renewed:
            tries.renewed = True
            if await self._credentials.renew():
                return
        tries.failed += 1
        if not verdict.retry or tries.once or tries.failed > self._retries:
            raise _final(verdict.error, tries) from None
        # Full jitter: clients that were turned away together do not come back together.
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (tries.failed - 1)) * self._random()
        if verdict.after is not None:
            delay = max(delay, verdict.after)
        left = self._deadline - (self.monotonic() - started)
        if delay > left or delay > LONGEST_WAIT:
            raise _final(verdict.error, tries) from None
        await self._sleep(delay)

    async def _open(self, request: Request, *, stream: bool = False) -> Stream:
        """One try, up to the head of a success. Raises `Failed`."""
        query = encode_query(request.query)
        path = self._address.key_path(request.key)
        body = self._transport.body(request.body) if request.body is not None else None
        headers = await self._signed(request, path, query)
        report = _Report(self._observer, request.operation, self.monotonic)
        report.body = body
        try:
            response = await self._transport.send(request.method, path, query, headers, body, stream=stream)
        except FAILURES as error:
            verdict = self.judge.no_answer(request.what, error)
            report.end(_name(verdict.error))
            raise Failed(verdict) from error
        except BaseException as error:
            report.end(_outcome(error))
            raise
        opened = Stream(response, report)
        if 200 <= response.status < 300 or response.status in request.accept:
            return opened
        try:
            said = await self._said(opened)
        except BaseException as error:
            opened.finish(_outcome(error))
            raise
        verdict = self.judge.answer(request.what, response.status, response.headers, said)
        opened.finish(_name(verdict.error))
        raise Failed(verdict)

    async def _signed(self, request: Request, path: str, query: str) -> dict[str, str]:
        headers = dict(request.headers) if request.headers is not None else {}
        identity = self._credentials.current() or await self._credentials.get()
        if identity is not None:
            headers = self._signer.headers(
                identity,
                request.method,
                self._address.host,
                path,
                query,
                headers,
                payload=await self._payload(request.body),
                now=self._clock(),
            )
        headers["user-agent"] = _USER_AGENT
        headers["accept-encoding"] = "identity"
        return headers

    async def _payload(self, body: Buffer | None) -> str:
        if body is None:
            return EMPTY_PAYLOAD
        if memoryview(body).nbytes <= SMALL_BODY:
            return hashlib.sha256(body).hexdigest()
        if self._sign_payload:
            return await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())
        return UNSIGNED_PAYLOAD

    async def _whole(self, request: Request, stream: Stream, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := await stream.piece():
                size += len(piece)
                if size > limit:
                    raise Failed(self.judge.too_large(request.what, limit))
                pieces.append(piece)
        except FAILURES as error:
            # The store had begun to answer with a success, so a write has happened; its answer is what is lost.
            raise Failed(self.judge.no_answer(request.what, error)) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _said(self, stream: Stream) -> bytes:
        """What an error's body says: cut off where it is too long or breaks, the status still counts."""
        said = bytearray()
        with suppress(*FAILURES):
            while len(said) < _MAX_ERROR and (piece := await stream.piece()):
                said += piece
        return bytes(said)


def _final(error: StoreError, tries: Tries) -> StoreError:
    if tries.failed <= 1:
        return error
    text = f"{error} ({tries.failed} tries)"
    if isinstance(error, Unavailable):
        return type(error)(text, retry_after=error.retry_after)
    return type(error)(text)


def _name(error: StoreError) -> str:
    return type(error).__name__.lower()


def _outcome(error: BaseException) -> str:
    """What the observer is told of a try that was cancelled or failed."""
    return _name(error.verdict.error) if isinstance(error, Failed) else Unavailable.__name__.lower()
