"""The bytes of an object, as a stream that goes on where a connection broke."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import replace

from bucketry.store.contract import Corrupt, NotFound, PreconditionFailed
from bucketry.store.s3.client import FAILURES, Client, Request, Stream, Tries
from bucketry.store.s3.errors import Verdict
from bucketry.store.s3.xml import quote_etag, strip_etag

PIECE = 1024 * 1024
"""Bytes: the largest piece that is given."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)", re.ASCII)


async def read_object(
    client: Client, request: Request, start: int, stop: int | None, *, url: str
) -> AsyncGenerator[bytes, None]:
    """Bytes ``start`` up to ``stop``, or to the end; none where ``start`` is beyond it.

    After a connection broke the rest is asked for with If-Match, so that an object that changed is `Corrupt` and not
    a mixture of two. Each connection that brought bytes grants the next failure all retries again.
    """
    tries = Tries()
    began = client.monotonic()
    offset = start
    end: int | None = None
    etag = ""
    while True:
        try:
            stream = await client.open(_ranged(request, offset, stop, etag), tries=tries)
        except (NotFound, PreconditionFailed) as error:
            if not etag:
                raise
            raise Corrupt(f"{url}: {request.what}: the object changed while it was read") from error
        outcome, progress = "corrupt", False
        try:
            if stream.status == 416:
                if etag:
                    raise Corrupt(f"{url}: {request.what}: the object became shorter while it was read")
                outcome = "ok"
                return
            end = _end(stream, offset, stop, end, f"{url}: {request.what}")
            etag = etag or strip_etag(stream.headers.get("ETag", ""))
            verdict = Verdict(Corrupt(f"{url}: {request.what}: the store ended early"), retry=True)
            while end is None or offset < end:
                try:
                    piece = await stream.piece()
                except FAILURES as error:
                    verdict = client.judge.no_answer(request.what, error)
                    outcome = "unavailable"
                    break
                if not piece:
                    break
                offset, progress = offset + len(piece), True
                if end is not None and offset > end:
                    raise Corrupt(f"{url}: {request.what}: the store sent more than was asked for")
                for begin in range(0, len(piece), PIECE):
                    yield piece if len(piece) <= PIECE else piece[begin : begin + PIECE]
            else:
                outcome = "ok"
                await stream.end()
                return
            if end is None and outcome == "corrupt":
                outcome = "ok"  # without a length, the end of the body is the end
                return
        except (GeneratorExit, asyncio.CancelledError):
            # Nobody wants the rest.
            outcome = "ok"
            raise
        finally:
            stream.finish(outcome)
        if not etag:
            raise verdict.error
        if progress:
            tries, began = Tries(), client.monotonic()
        await client.wait(tries, verdict, began)


def _ranged(request: Request, offset: int, stop: int | None, etag: str) -> Request:
    headers: dict[str, str] = {}
    if offset or stop is not None:
        headers["range"] = f"bytes={offset}-" if stop is None else f"bytes={offset}-{stop - 1}"
    if etag:
        headers["if-match"] = quote_etag(etag)
    return replace(request, headers=headers)


def _end(stream: Stream, offset: int, stop: int | None, known: int | None, what: str) -> int | None:
    """Where the body that arrives ends in the object; None where the store does not say. Raises `Corrupt`."""
    if stream.status == 206:
        found = _CONTENT_RANGE.fullmatch(stream.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset:
            raise Corrupt(f"{what}: asked for bytes from {offset} on, the store sent others")
        end = int(found[2]) + 1
        if (stop is not None and end > stop) or (known is not None and end != known):
            raise Corrupt(f"{what}: the store sent another range than was asked for")
        return end
    if offset or stop is not None:
        raise Corrupt(f"{what}: the store ignores ranges")
    length = stream.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None
