"""The parallel extension over HTTP (docs/rfcs/0003-parallel-extension.md): what requests say, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TypeVar
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from bucketry.oci import Digest
from bucketry.oci.errors import ParameterInvalid, SizeInvalid
from bucketry.registry import Blob, Chunk, MemoryBudget, Registry
from bucketry.registry.parallel import SignedPut, Verifying
from bucketry.server.call import Call, Handler
from bucketry.server.routes import Route
from bucketry.transfer import wire

WAIT = 10.0
"""Seconds that `complete` waits for a verification before it answers 202: most layers take less."""

SMALL_JSON = 64 * 1024
"""Bytes of a body that waits for nobody, as in `bucketry.server.handlers`."""

ASK_AGAIN = 1
"""Seconds, in Retry-After: such an answer has waited already."""

_T = TypeVar("_T", bound=msgspec.Struct)


class ExtensionHandlers:
    """One method an endpoint; ``table`` says which for a route and a method. ``memory`` bounds bodies of JSON."""

    def __init__(self, registry: Registry, memory: MemoryBudget, *, public_url: str, presign_expires: float) -> None:
        self._registry = registry
        self._memory = memory
        self._public_url = public_url
        self._presign_expires = presign_expires
        self.table: Mapping[Route, Mapping[str, Handler]] = {
            Route.EXTENSIONS: {"GET": self.discover},
            Route.PARALLEL: {"POST": self.begin},
            Route.PARALLEL_UPLOAD: {"GET": self.status, "DELETE": self.cancel},
            Route.PARALLEL_URLS: {"POST": self.urls},
            Route.PARALLEL_PART: {"PUT": self.put_part},
            Route.PARALLEL_COMPLETE: {"POST": self.complete},
            Route.CHECKPOINTS: {"GET": self.checkpoints},
        }

    async def discover(self, call: Call) -> Response:
        about = wire.Extension(
            name=wire.NAME,
            description="Parts of one blob in parallel, verified by SHA-256 checkpoints (version 1)",
            url="docs/rfcs/0003-parallel-extension.md",
            endpoints=(wire.UPLOADS, wire.CHECKPOINTS),
            put_up_to=self._registry.parallel.put_up_to,
        )
        return Response(msgspec.json.encode(wire.Extensions(extensions=(about,))), media_type="application/json")

    async def begin(self, call: Call) -> Response:
        asked = await self._read(call, wire.Begin)
        found = await self._registry.parallel.begin(
            call.repository,
            call.principal,
            digest=None if asked.digest is None else Digest.parse(asked.digest),
            size=asked.size,
            part_size=asked.part_size,
            expires=self._presign_expires,
            mount=call.may_mount(None),
        )
        if isinstance(found, Blob):
            return _answer(wire.Present(digest=str(found.digest), size=found.size), 200)
        opened = wire.Opened(
            session=found.session_id,
            part_size=found.part_size,
            max_parts=found.max_parts,
            segment=found.segment,
            direct=found.direct,
            put=msgspec.UNSET if found.put is None else _signed(found.put),
        )
        headers = {"location": self._location(call, found.session_id), "cache-control": "no-store"}
        return _answer(opened, 201, headers)

    async def status(self, call: Call) -> Response:
        found = await self._registry.parallel.status(call.repository, call.principal, call.target.reference)
        return _answer(
            wire.Status(
                state=found.state.value,
                part_size=found.part_size,
                parts=tuple(wire.SentPart(number=part.number, size=part.size) for part in found.parts),
                digest=None if found.digest is None else str(found.digest),
                size=found.size,
                verified=found.verified,
                error=found.error,
            ),
            200,
            {"cache-control": "no-store"},
        )

    async def cancel(self, call: Call) -> Response:
        await self._registry.parallel.cancel(call.repository, call.principal, call.target.reference)
        return Response(None, 204)

    async def urls(self, call: Call) -> Response:
        asked = await self._read(call, wire.UrlsWanted)
        session = call.target.reference
        expires = self._presign_expires
        put = await self._registry.parallel.signed_put(call.repository, call.principal, session, expires=expires)
        if put is not None:
            if asked.parts != (1,):
                raise ParameterInvalid("the blob of this upload is one part: ask for part 1")
            return _answer(_signed(put), 200, {"cache-control": "no-store"})
        urls = await self._registry.parallel.urls(
            call.repository, call.principal, session, asked.parts, expires=expires
        )
        if urls is None:
            path = f"/v2/{call.repository}/{wire.NAME}/uploads/{quote(session)}/parts"
            own = {str(number): f"{path}/{number}" for number in asked.parts}
            return _answer(wire.Urls(urls=own), 200, {"cache-control": "no-store"})
        presigned = {str(number): url for number, url in urls.items()}
        return _answer(wire.Urls(urls=presigned, expires=expires), 200, {"cache-control": "no-store"})

    async def put_part(self, call: Call) -> Response:
        length = call.content_length()
        part = await self._registry.parallel.put_part(
            call.repository,
            call.principal,
            call.target.reference,
            call.target.part,
            Chunk(aiter(call.body), length),
        )
        return Response(None, 201, {"etag": f'"{part.etag}"'})

    async def complete(self, call: Call) -> Response:
        asked = await self._read(call, wire.Complete)
        digest = Digest.parse(asked.digest)
        found = await self._registry.parallel.complete(
            call.repository,
            call.principal,
            call.target.reference,
            digest,
            asked.size,
            asked.checkpoints,
            wait=WAIT,
        )
        if isinstance(found, Verifying):
            verifying = wire.Status(state="verifying", digest=str(digest), size=found.size, verified=found.verified)
            location = self._location(call, call.target.reference)
            return _answer(verifying, 202, {"location": location, "retry-after": str(ASK_AGAIN)})
        headers = {
            "location": f"{self._public_url}/v2/{call.repository}/blobs/{found.digest}",
            "docker-content-digest": str(found.digest),
        }
        done = wire.Status(state="done", digest=str(found.digest), size=found.size, verified=found.size)
        return _answer(done, 201, headers)

    async def checkpoints(self, call: Call) -> Response:
        digest = call.digest()
        body = await self._registry.blobs.checkpoints(call.repository, digest)
        # Not for the caches of others: whether this repository has the blob is asked each time.
        headers = {"content-type": wire.CHECKPOINTS_TYPE, "cache-control": "no-cache", "etag": f'"{digest}"'}
        return Response(body, 200, headers)

    def _location(self, call: Call, session: str) -> str:
        return f"{self._public_url}/v2/{call.repository}/{wire.NAME}/uploads/{quote(session)}"

    async def _read(self, call: Call, kind: type[_T]) -> _T:
        """The request's JSON. Raises `ParameterInvalid`, `SizeInvalid`."""
        length = call.content_length()
        too_large = SizeInvalid(f"the request's JSON has more than {wire.MOST_JSON} bytes")
        if length is not None and length > wire.MOST_JSON:
            raise too_large
        small = length is not None and length <= SMALL_JSON
        with nullcontext() if small else await self._memory.reserve(wire.MOST_JSON if length is None else length):
            body = await call.body.whole(wire.MOST_JSON)
            if body is None:
                raise too_large
            try:
                return msgspec.json.decode(body or b"{}", type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ParameterInvalid(
                    f"the body is not what this request takes: {_wrong(error)}. It is JSON, {wire.UPLOAD_TYPE}"
                ) from None


def _signed(put: SignedPut) -> wire.Urls:
    """Without the length, which is signed, too: every client's HTTP sends it, and would send it twice."""
    headers = {name: value for name, value in put.headers.items() if name != "content-length"}
    return wire.Urls(urls={"1": put.url}, expires=put.expires, headers=headers)


def _wrong(error: Exception) -> str:
    """What is wrong with JSON that could not be read."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _answer(body: msgspec.Struct, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, {"content-type": wire.UPLOAD_TYPE, **(headers or {})})
