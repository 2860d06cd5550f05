"""The endpoints of the distribution spec over a `Registry`: what a request says, and what the answer says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import Response

from bucketry.oci import Digest, parse_reference, parse_repository, parse_tag
from bucketry.oci.errors import (
    DigestInvalid,
    ManifestTooLarge,
    NameInvalid,
    ParameterInvalid,
    RangeInvalid,
    SizeInvalid,
    UnsupportedAlgorithm,
)
from bucketry.oci.media_types import OCI_INDEX
from bucketry.registry import Chunk, MemoryBudget, Progress, Registry
from bucketry.registry.listing import NamesPage
from bucketry.server.call import Call, Handler
from bucketry.server.delivery import IMMUTABLE, Delivery
from bucketry.server.errors import oci_error_response
from bucketry.server.extension import ExtensionHandlers
from bucketry.server.ranges import parse_content_range
from bucketry.server.routes import Route

if TYPE_CHECKING:
    from bucketry.server.auth.visitor import Visitor

CHUNK_MIN = 64 * 1024
"""Bytes that a client is asked to put into a chunk at the least; smaller ones are taken all the same."""

MANIFESTS_AT_ONCE = 8
"""So many of the largest size are taken in at the same time; others wait."""

SMALL_MANIFEST = 64 * 1024
"""Bytes: as nearly all are. They wait for nobody, so that a few clients that stall cannot stop all pushes."""

_CONTINUED = ".more"
"""Ends the session id of a Location that a client gets after its first chunk: then the store has the session."""


class Handlers:
    """One method an endpoint; ``table`` says which for a route and a method."""

    def __init__(
        self,
        registry: Registry,
        delivery: Delivery,
        *,
        public_url: str | None,
        catalog: bool,
        presign_expires: float,
    ) -> None:
        self._registry = registry
        self._delivery = delivery
        self._public_url = (public_url or "").rstrip("/")
        self._manifest_memory = MemoryBudget(MANIFESTS_AT_ONCE * registry.settings.max_manifest)
        extension = ExtensionHandlers(
            registry, self._manifest_memory, public_url=self._public_url, presign_expires=presign_expires
        )
        self.table: Mapping[Route, Mapping[str, Handler]] = {
            Route.BASE: {"GET": self.base, "HEAD": self.base},
            Route.CATALOG: {"GET": self.catalog} if catalog else {},
            Route.TAGS: {"GET": self.tags},
            Route.MANIFEST: {
                "GET": self.get_manifest,
                "HEAD": self.get_manifest,
                "PUT": self.put_manifest,
                "DELETE": self.delete_manifest,
            },
            Route.BLOB: {"GET": self.get_blob, "HEAD": self.head_blob, "DELETE": self.delete_blob},
            Route.UPLOADS: {"POST": self.begin_upload},
            Route.UPLOAD: {
                "GET": self.upload_status,
                "PATCH": self.append_upload,
                "PUT": self.commit_upload,
                "DELETE": self.cancel_upload,
            },
            Route.REFERRERS: {"GET": self.referrers},
            **extension.table,
        }

    async def base(self, call: Call) -> Response:
        return Response(b"{}", media_type="application/json")

    # Listing

    async def catalog(self, call: Call) -> Response:
        last = call.query("last") or None
        if last is not None:
            parse_repository(last)
        if call.visitor is None:
            page = await self._registry.listing.repositories(limit=_limit(call), after=last)
        else:
            page = await self._visible(call, call.visitor, last)
        more = page.names[-1] if page.more else None
        return self._listing({"repositories": page.names}, "/v2/_catalog", call, more)

    async def _visible(self, call: Call, visitor: Visitor, after: str | None) -> NamesPage:
        """Of the repositories those that the visitor may pull from; what lies between is not told of."""
        most = self._registry.settings.max_page
        limit = min(most if (asked := _limit(call)) is None else asked, most)
        names: list[str] = []
        while limit:
            page = await self._registry.listing.repositories(after=after)
            for name in page.names:
                if visitor.sees(name):
                    if len(names) == limit:
                        return NamesPage(tuple(names), more=True)
                    names.append(name)
            if not page.more:
                break
            after = page.names[-1]
        return NamesPage(tuple(names), more=False)

    async def tags(self, call: Call) -> Response:
        last = call.query("last") or None
        if last is not None:
            parse_tag(last)
        page = await self._registry.listing.tags(call.repository, limit=_limit(call), after=last)
        more = page.names[-1] if page.more else None
        body = {"name": call.repository, "tags": page.names}
        return self._listing(body, f"/v2/{call.repository}/tags/list", call, more)

    async def referrers(self, call: Call) -> Response:
        subject, last = call.digest(), call.query("last") or None
        artifact_type = call.query("artifactType") or None
        page = await self._registry.referrers.page(
            call.repository,
            subject,
            artifact_type=artifact_type,
            limit=_limit(call),
            after=None if last is None else Digest.parse(last),
        )
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page.descriptors}
        more = None if page.last is None else str(page.last)
        path = f"/v2/{call.repository}/referrers/{subject}"
        response = self._listing(body, path, call, more, artifactType=artifact_type)
        response.headers["content-type"] = OCI_INDEX
        if artifact_type is not None:
            response.headers["oci-filters-applied"] = "artifactType"
        return response

    def _listing(self, body: object, path: str, call: Call, last: str | None, **also: str | None) -> Response:
        response = Response(msgspec.json.encode(body), media_type="application/json")
        if last is not None:
            query = {"n": call.query("n"), "last": last, **also}
            given = {name: value for name, value in query.items() if value is not None}
            response.headers["link"] = f'<{self._public_url}{path}?{urlencode(given)}>; rel="next"'
        return response

    # Manifests

    async def get_manifest(self, call: Call) -> Response:
        reference = parse_reference(call.target.reference)
        manifest = await self._registry.manifests.get(call.repository, reference)
        headers = {
            "docker-content-digest": str(manifest.digest),
            "etag": f'"{manifest.digest}"',
            "cache-control": _kept(call) if isinstance(reference, Digest) else "no-cache",
        }
        if _matches(call.header("if-none-match"), manifest.digest):
            return Response(None, 304, headers)
        # Not `media_type`, to which a charset would be added where the type is text.
        headers["content-type"] = manifest.media_type
        return Response(manifest.body, 200, headers)

    async def put_manifest(self, call: Call) -> Response:
        reference = parse_reference(call.target.reference)
        tags = [parse_tag(tag) for tag in call.request.query_params.getlist("tag")]
        if tags and not isinstance(reference, Digest):
            raise ParameterInvalid("?tag= goes with a push by digest: this one is by tag already")
        limit, length = self._registry.settings.max_manifest, call.content_length()
        too_large = ManifestTooLarge(f"the manifest has more than {limit} bytes, the most this registry takes")
        if length is not None and length > limit:
            raise too_large
        small = length is not None and length <= SMALL_MANIFEST
        with nullcontext() if small else await self._manifest_memory.reserve(limit if length is None else length):
            body = await call.body.whole(limit)
            if body is None:
                raise too_large
            pushed = await self._registry.manifests.push(
                call.repository, reference, body, call.header("content-type"), tags=tags, guard=call.guard
            )
        headers = {
            "location": f"{self._public_url}/v2/{call.repository}/manifests/{pushed.digest}",
            "docker-content-digest": str(pushed.digest),
        }
        if pushed.subject is not None:
            headers["oci-subject"] = str(pushed.subject)
        if tags:
            headers["oci-tag"] = ", ".join(pushed.tags)
        return Response(None, 201, headers)

    async def delete_manifest(self, call: Call) -> Response:
        reference = parse_reference(call.target.reference)
        await self._registry.manifests.delete(call.repository, reference, guard=call.guard)
        return Response(None, 202)

    # Blobs

    async def get_blob(self, call: Call) -> Response:
        digest = call.digest()
        blob = await self._registry.blobs.find(call.repository, digest)
        headers = _blob_headers(call, digest)
        if _matches(call.header("if-none-match"), digest):
            return Response(None, 304, headers)
        range_header = call.header("range")
        if range_header is not None and not _if_range(call.header("if-range"), digest):
            range_header = None
        return await self._delivery.respond(
            blob,
            headers,
            client=call.client,
            range_header=range_header,
            sendfile="http.response.pathsend" in call.request.scope.get("extensions", {}),
        )

    async def head_blob(self, call: Call) -> Response:
        digest = call.digest()
        blob = await self._registry.blobs.stat(call.repository, digest)
        headers = _blob_headers(call, digest)
        if _matches(call.header("if-none-match"), digest):
            return Response(None, 304, headers)
        headers |= {
            "content-length": str(blob.size),
            "content-type": "application/octet-stream",
            "accept-ranges": "bytes",
        }
        return Response(None, 200, headers)

    async def delete_blob(self, call: Call) -> Response:
        await self._registry.blobs.delete(call.repository, call.digest(), guard=call.guard)
        return Response(None, 202)

    # Uploads

    async def begin_upload(self, call: Call) -> Response:
        mount, digest = call.query("mount"), call.query("digest")
        if mount is not None:
            wanted, source = Digest.parse(mount), call.query("from")
            source = None if source is None else _source(source)
            if call.may_mount(source):
                blob = await self._registry.blobs.mount(call.repository, wanted, source)
                if blob is not None:
                    return self._created(call, blob.digest)
        length = call.content_length()
        algorithm = call.query("digest-algorithm")
        if digest is not None:
            wanted = Digest.parse(digest)
            # A client that sends no bytes with a digest of some is asking for a session.
            if length != 0 or wanted == Digest.of(b"", wanted.algorithm):
                pushed = await self._registry.uploads.push(call.repository, wanted, Chunk(aiter(call.body), length))
                return self._created(call, pushed.digest)
            algorithm = wanted.algorithm
        progress = self._registry.uploads.begin(call.repository, call.principal, _algorithm(algorithm))
        return self._progress(call, progress, 202, {"oci-chunk-min-length": str(CHUNK_MIN)})

    async def append_upload(self, call: Call) -> Response:
        session, continued = _session(call)
        chunk = _chunk(call)
        if chunk is None:
            chunk = Chunk(aiter(call.body), 0, None)
        try:
            progress = await self._registry.uploads.append(
                call.repository, call.principal, session, chunk, continued=continued
            )
        except RangeInvalid as error:
            return self._out_of_order(call, session, error)
        return self._progress(call, progress, 202)

    async def commit_upload(self, call: Call) -> Response:
        session, continued = _session(call)
        text = call.query("digest")
        if text is None:
            raise DigestInvalid("the request that ends an upload needs ?digest=, the digest of the whole blob")
        digest = Digest.parse(text)
        chunk = _chunk(call)
        try:
            blob = await self._registry.uploads.commit(
                call.repository, call.principal, session, digest, chunk, continued=continued
            )
        except RangeInvalid as error:
            return self._out_of_order(call, session, error)
        response = self._created(call, blob.digest)
        if chunk is None and not self._registry.uploads.hashed_as(session, digest):
            response.headers["warning"] = (
                f'299 - "the blob was read back to compute its {digest.algorithm}: begin such an upload with '
                f'POST ...?digest-algorithm={digest.algorithm}"'
            )
        return response

    async def upload_status(self, call: Call) -> Response:
        session, continued = _session(call)
        progress = await self._registry.uploads.status(call.repository, call.principal, session, continued=continued)
        return self._progress(call, progress, 204)

    async def cancel_upload(self, call: Call) -> Response:
        session, _ = _session(call)
        await self._registry.uploads.cancel(call.repository, call.principal, session)
        return Response(None, 204)

    def _created(self, call: Call, digest: Digest) -> Response:
        return Response(
            None,
            201,
            {
                "location": f"{self._public_url}/v2/{call.repository}/blobs/{digest}",
                "docker-content-digest": str(digest),
            },
        )

    def _progress(self, call: Call, progress: Progress, status: int, also: Mapping[str, str] | None = None) -> Response:
        session = progress.session_id + (_CONTINUED if progress.stored else "")
        return Response(
            None,
            status,
            {
                "location": f"{self._public_url}/v2/{call.repository}/blobs/uploads/{quote(session)}",
                "range": f"0-{max(0, progress.offset - 1)}",
                "docker-upload-uuid": progress.session_id.partition(".")[0],
                **(also or {}),
            },
        )

    def _out_of_order(self, call: Call, session: str, error: RangeInvalid) -> Response:
        """416, with where the upload stands, so that a client can go on."""
        response = oci_error_response(error)
        if error.offset is not None:
            stands = self._progress(call, Progress(session, error.offset, error.offset > 0), 416)
            for name in ("location", "range", "docker-upload-uuid"):
                response.headers[name] = stands.headers[name]
        return response


def _kept(call: Call) -> str:
    """How long what never changes may be kept: by caches between the client and the server only where strangers get it.

    Some look at no Authorization, and a client's certificate is no header at all.
    """
    is_public = call.visitor is None or call.visitor.principal.is_anonymous
    return IMMUTABLE if is_public else f"private, {IMMUTABLE}"


def _blob_headers(call: Call, digest: Digest) -> dict[str, str]:
    return {"docker-content-digest": str(digest), "etag": f'"{digest}"', "cache-control": _kept(call)}


def _matches(header: str | None, digest: Digest) -> bool:
    """If-None-Match (RFC 9110, section 13.1.2), by weak comparison."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return any(tag.strip().removeprefix("W/") == f'"{digest}"' for tag in header.split(","))


def _if_range(header: str | None, digest: Digest) -> bool:
    """Whether a Range applies (RFC 9110, section 13.1.5); a date never does, as blobs have none."""
    return header is None or header.strip() == f'"{digest}"'


def _limit(call: Call) -> int | None:
    text = call.query("n")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ParameterInvalid(f"n={text[:40]!r} is no number of entries")
    return int(text)


def _algorithm(name: str | None) -> str | None:
    if name is None:
        return None
    if name not in ("sha256", "sha512"):
        raise UnsupportedAlgorithm(f"digest-algorithm={name[:40]!r} is not offered: sha256 and sha512 are")
    return name


def _source(name: str) -> str:
    try:
        return parse_repository(name)
    except NameInvalid as error:
        raise NameInvalid(f"from={name[:80]!r}: {error.message}") from error


def _session(call: Call) -> tuple[str, bool]:
    session = call.target.reference
    return session.removesuffix(_CONTINUED), session.endswith(_CONTINUED)


def _chunk(call: Call) -> Chunk | None:
    """The chunk a request brings; None where it brings none. Raises `SizeInvalid`, `UploadInvalid`."""
    placed = parse_content_range(call.header("content-range"))
    length = call.content_length()
    if placed is not None and length is not None and placed.size != length:
        raise SizeInvalid(f"the Content-Range has {placed.size} bytes, and the Content-Length says {length}")
    if length == 0 and placed is None:
        return None
    size = placed.size if placed is not None else length
    return Chunk(aiter(call.body), size, None if placed is None else placed.start)
