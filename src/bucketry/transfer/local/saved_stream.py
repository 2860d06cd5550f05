"""A saved image that arrives as a stream, and is read once: from the Docker Engine, or out of a compressed archive.

Which of the members are layers is said by ``manifest.json``, which comes after them. So a member's first bytes decide:
a JSON document is kept in memory, within limits, and everything else is given as a layer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container
from typing import Final

from bucketry.transfer.contract import SavedLayer
from bucketry.transfer.errors import SourceDamaged
from bucketry.transfer.local.saved import LISTING, MAX_DOCUMENT
from bucketry.transfer.local.tar import BLOCK, Extension, Headers, Kind, Member, padded

MAX_DOCUMENTS: Final = 64 * 1024 * 1024
"""Bytes of all documents that are kept."""

_SNIFFED: Final = 2 * BLOCK
_PIECE: Final = 1024 * 1024
_TAIL: Final = 16 * 1024 * 1024
_DOCUMENTS: Final = frozenset({LISTING, "repositories", "index.json", "oci-layout", "VERSION", "json"})


class SavedStream:
    """``pieces`` are the archive's bytes; they are ended by `close`."""

    def __init__(self, pieces: AsyncIterator[bytes], archive: str) -> None:
        self._pieces = pieces
        self._archive = archive
        self._buffer = memoryview(b"")
        self._headers = Headers(archive)
        self._passing: Member | None = None
        self._left = 0
        self._kept = 0
        self.documents: dict[str, bytes] = {}
        """By path, what is no layer. All of it once `layers` has ended."""
        self.layers_seen: list[str] = []
        """Paths of what was taken for layers."""
        self.links: dict[str, str] = {}

    async def layers(self, only: Container[str] | None = None) -> AsyncIterator[SavedLayer]:
        """In the stream's order; ``only`` those paths, where they are known. Raises `SourceDamaged`."""
        while True:
            await self._skip(self._left)
            self._left = 0
            self._passing = member = await self._member()
            if member is None:
                await self._end()
                return
            if member.kind is Kind.LINK:
                self.links[member.name] = member.target
            elif member.kind is Kind.FILE:
                self._left = padded(member.size)
                if _is_named_document(member) or await self._looks_like_document(member):
                    await self._keep(member)
                    continue
                self.layers_seen.append(member.name)
                if only is None or member.name in only:
                    yield SavedLayer(member.name, member.size, _Once(self, member).read)

    async def close(self) -> None:
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()

    async def _member(self) -> Member | None:
        while True:
            found = self._headers.take(await self._exactly(BLOCK))
            if not isinstance(found, Extension):
                return found
            data = await self._exactly(padded(found.size))
            self._headers.extend(found, data[: found.size])

    async def _looks_like_document(self, member: Member) -> bool:
        head = await self._peek(min(_SNIFFED, member.size))
        # A tar may begin with the name of a file that begins so, but has its mark where a document has text.
        return head.lstrip()[:1] in (b"{", b"[") and head[257:262] != b"ustar" and b"\0" not in head

    async def _keep(self, member: Member) -> None:
        fits = member.size <= MAX_DOCUMENT and self._kept + member.size <= MAX_DOCUMENTS
        if fits:
            self._kept += member.size
            self.documents[member.name] = await self._exactly(member.size)
            self._left -= member.size
        elif _is_named_document(member):
            raise SourceDamaged(
                f"{self._archive} has a {member.name} of {member.size:,} bytes: at most {MAX_DOCUMENT:,} are read, "
                f"and {MAX_DOCUMENTS:,} of all such documents"
            )
        # Else it is passed over: a long list of what is in an image, say, which newer engines keep beside it.

    async def take(self, member: Member, left: int) -> bytes:
        """The next piece of the layer that passes, of which ``left`` bytes were not read yet."""
        if member is not self._passing:
            raise RuntimeError(f"{member.name} has passed")
        piece = await self._some(min(left, _PIECE))
        self._left -= len(piece)
        return piece

    async def _end(self) -> None:
        """Reads what pads the archive: so a checksum at the end of its compression is checked."""
        most = _TAIL
        while most > 0 and (await self._fill()):
            most -= len(self._buffer)
            if bytes(self._buffer).strip(b"\0"):
                raise SourceDamaged(f"{self._archive} has other bytes behind its end: it is not used")
            self._buffer = memoryview(b"")

    async def _fill(self) -> bool:
        """Whether there is something in the buffer."""
        while not self._buffer:
            try:
                self._buffer = memoryview(await anext(self._pieces))
            except StopAsyncIteration:
                return False
        return True

    async def _some(self, most: int) -> bytes:
        if not await self._fill():
            raise SourceDamaged(f"{self._archive} ends too early: it was cut short, or is no tar")
        piece = bytes(self._buffer[:most])
        self._buffer = self._buffer[most:]
        return piece

    async def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            parts.append(await self._some(size))
            size -= len(parts[-1])
        return b"".join(parts)

    async def _peek(self, size: int) -> bytes:
        head = await self._exactly(size)
        self._buffer = memoryview(head + bytes(self._buffer)) if self._buffer else memoryview(head)
        return head

    async def _skip(self, size: int) -> None:
        while size:
            size -= len(await self._some(size))


def _is_named_document(member: Member) -> bool:
    return member.name.rpartition("/")[2] in _DOCUMENTS or member.name.endswith(".json")


class _Once:
    """The bytes of one layer, while it is the one that passes."""

    def __init__(self, stream: SavedStream, member: Member) -> None:
        self._stream = stream
        self._member = member
        self._left = member.size

    async def read(self) -> AsyncIterator[bytes]:
        while self._left:
            piece = await self._stream.take(self._member, self._left)
            self._left -= len(piece)
            yield piece
