"""A blob of a registry, read by ranges, straight from where the registry keeps it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final

from yarl import URL

from bucketry.hashing import Checkpoints
from bucketry.oci import Descriptor
from bucketry.transfer.errors import ContentMismatch, Refused, Unreachable
from bucketry.transfer.remote.answer import Answer
from bucketry.transfer.remote.auth import Purpose
from bucketry.transfer.remote.endpoint import REDIRECTS, Endpoint
from bucketry.transfer.remote.extension import Extension

ENDED: Final = frozenset({401, 403, 404, 410})
"""Statuses of an address that has expired: the registry gives a new one."""

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


class RemoteBlob:
    """``path``: of the blob's address at the registry.

    Where the registry redirects, its word is taken once: all further ranges are read from there, without asking the
    registry, until the address has expired. Then one task asks for a new one, and the others wait for it.
    """

    def __init__(self, endpoint: Endpoint, path: str, purpose: Purpose, extension: Extension, blob: Descriptor) -> None:
        self._endpoint = endpoint
        self._path = path
        self._purpose = purpose
        self._extension = extension
        self._blob = blob
        self._doing = f"reading {blob.digest}"
        self._ranged = True
        self._served = False
        """Whether the registry sends the bytes itself."""
        self._target: URL | None = None
        self._asked = 0
        """How often the registry was asked where the bytes are."""
        self._asking = asyncio.Lock()

    @property
    def ranged(self) -> bool:
        """False once the other side was seen to ignore what was asked for, and send everything."""
        return self._ranged

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """As `BlobReader.read`. Also raises `Refused` where not ``ranged`` and ``start`` is not 0, and
        `ContentMismatch` where the other side says that the blob has another size."""
        size = self._blob.size
        stop = size if stop is None else min(stop, size)
        if start >= stop:
            return
        async with await self._open(start, stop) as answer:
            missing = stop - start
            async for piece in answer.pieces():
                if len(piece) >= missing:
                    yield piece[:missing]
                    return
                missing -= len(piece)
                yield piece
        raise Unreachable(f"{answer.host}: {self._doing}: the answer ended {missing} bytes early")

    async def checkpoints(self) -> Checkpoints | None:
        return await self._extension.checkpoints(self._blob)

    async def _open(self, start: int, stop: int) -> Answer:
        headers = {"Accept-Encoding": "identity"}
        if (start, stop) != (0, self._blob.size):
            headers["Range"] = f"bytes={start}-{stop - 1}"
        answer = await self._answer(headers)
        try:
            if answer.status not in (200, 206):
                raise await self._endpoint.failure(answer, self._doing)
            self._check(answer, start, stop)
        except BaseException:
            answer.close()
            raise
        return answer

    async def _answer(self, headers: dict[str, str]) -> Answer:
        expired = 0
        while True:
            asked, target = self._asked, self._target
            if target is None or asked == expired:
                answer = await self._ask(headers, expired)
                if answer is not None:
                    return answer
                asked, target = self._asked, self._target
                assert target is not None, "who gave no answer gave an address"
            answer = await self._endpoint.request("GET", target, self._purpose, headers=headers)
            if answer.status not in ENDED or expired:
                return answer
            await answer.discard()
            expired = asked

    async def _ask(self, headers: dict[str, str], expired: int) -> Answer | None:
        """The registry's own answer; None where `_target` is known now."""
        if not self._is_served():
            async with self._asking:
                if self._target is not None and self._asked != expired:
                    return None
                # To find out where the bytes are, one task goes ahead. From the registry itself several may read.
                if not self._is_served():
                    return await self._request(headers)
        return await self._request(headers)

    def _is_served(self) -> bool:
        return self._served

    async def _request(self, headers: dict[str, str]) -> Answer | None:
        answer = await self._endpoint.request("GET", self._path, self._purpose, headers=headers, follow=False)
        if answer.status not in REDIRECTS:
            self._served = answer.status in (200, 206)
            return answer
        try:
            self._target = self._endpoint.location(answer)
        finally:
            await answer.discard()
        self._asked += 1
        self._served = False
        return None

    def _check(self, answer: Answer, start: int, stop: int) -> None:
        """Whether an answer is that to the question. Raises `Refused`, `ContentMismatch`."""
        size = self._blob.size
        told = answer.length
        if answer.status == 206:
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start or int(found[2]) != stop - 1:
                raise Refused(f"{answer.host}: {self._doing}: another range came than the one that was asked for")
            told = None if found[3] == "*" else int(found[3])
        elif start > 0 or stop < size:
            self._ranged = False
            if start > 0:
                raise Refused(
                    f"{answer.host}: {self._doing}: it sends whole blobs only, not ranges: read from the beginning"
                )
        if told is not None and told != size:
            raise ContentMismatch(f"{answer.host}: {self._doing}: it has {told} bytes there, and {size} are expected")
