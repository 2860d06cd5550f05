"""A repository of a registry, over the distribution spec's API: to read from, and to push to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec
from yarl import URL

from bucketry.oci import MAX_MANIFEST, Descriptor, Digest, ImageReference, media_types, parse_tag
from bucketry.oci.errors import OCIError
from bucketry.transfer.contract import RawManifest
from bucketry.transfer.errors import (
    ContentMismatch,
    ImageMissing,
    NotAuthenticated,
    Refused,
    SourceDamaged,
    TransferError,
)
from bucketry.transfer.remote.address import shown
from bucketry.transfer.remote.answer import Answer, clean
from bucketry.transfer.remote.auth import Purpose
from bucketry.transfer.remote.blob import RemoteBlob
from bucketry.transfer.remote.endpoint import Endpoint
from bucketry.transfer.remote.extension import Extension, ExtensionUpload
from bucketry.transfer.remote.paging import pages, whole
from bucketry.transfer.remote.session import Session

ACCEPT: Final = ", ".join(
    [
        media_types.OCI_INDEX,
        media_types.OCI_MANIFEST,
        media_types.DOCKER_LIST,
        media_types.DOCKER_MANIFEST,
        media_types.OCI_ARTIFACT,
        "*/*;q=0.1",
    ]
)
"""All types that are known, and, for vendors' own, whatever else there is."""

MAX_PAGE: Final = 16 * 1024 * 1024
"""Bytes of a page of a list; some registries give all tags at once."""

MAX_TAGS: Final = 1_000_000
MAX_REFERRERS: Final = 100_000

_PAGE: Final = 1000
_NO_API: Final = frozenset({400, 404, 405, 406, 501})

_T = TypeVar("_T")


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _Index(msgspec.Struct, rename="camel"):
    manifests: list[Descriptor]


class RemoteRepository:
    """``reference``'s repository, as `Source` and as `Target`. The session is its owner's to close.

    ``endpoint``: where it is, if not at the registry that the reference names; it is called ``name`` then.
    """

    def __init__(
        self, session: Session, reference: ImageReference, *, endpoint: Endpoint | None = None, name: str | None = None
    ) -> None:
        self._endpoint = session.registry(reference.registry) if endpoint is None else endpoint
        self._name = str(reference) if name is None else name
        self._session = session
        self._reference = reference
        self._repository = reference.repository
        self._path = f"/v2/{reference.repository}"
        self._reading = Purpose(self._repository, (f"repository:{self._repository}:pull",))
        self._writing = Purpose(self._repository, (f"repository:{self._repository}:pull,push",))
        self._tagging = asyncio.Lock()
        self._extension = Extension(self._endpoint, self._repository, self._writing, self._reading)

    @property
    def name(self) -> str:
        return self._name

    @property
    def reference(self) -> ImageReference:
        return self._reference

    @property
    def pull_command(self) -> str:
        return f"docker pull {self._reference.registry}/{self._repository}"

    async def manifest(self, reference: Digest | str | None = None) -> RawManifest:
        wanted = self._reference.reference if reference is None else reference
        doing = f"reading {self._named(wanted)}"
        target = f"{self._path}/manifests/{quote(str(wanted), safe=':')}"
        async with await self._endpoint.request("GET", target, self._reading, headers={"Accept": ACCEPT}) as answer:
            if answer.status != 200:
                raise await self._endpoint.failure(answer, doing)
            body = await answer.read(MAX_MANIFEST)
            if body is None:
                raise ContentMismatch(
                    f"{self._endpoint.host}: {doing}: no manifest has more than {MAX_MANIFEST} bytes, this one does"
                )
            return self._verified(answer, body, wanted, doing)

    async def tags(self) -> Sequence[str]:
        doing = f"listing the tags of {self._repository}"
        tags: dict[str, None] = {}
        async with aclosing(
            pages(self._endpoint, f"{self._path}/tags/list?n={_PAGE}", self._reading, doing)
        ) as listing:
            async for answer in listing:
                page = await self._page(answer, _Tags, doing)
                tags.update((tag, None) for tag in page.tags or () if _is_tag(tag))
                if len(tags) > MAX_TAGS:
                    raise Refused(f"{self._endpoint.host}: {doing}: more than {MAX_TAGS}")
        return tuple(tags)

    async def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """By the API, else by the tag that stands for it (spec, "Unavailable Referrers API")."""
        doing = f"listing what refers to {subject} in {self._repository}"
        found: dict[str, Descriptor] = {}
        async with aclosing(
            pages(self._endpoint, f"{self._path}/referrers/{subject}", self._reading, doing)
        ) as listing:
            async for answer in listing:
                # Not every registry has the API, and some answer every path with something.
                strange = answer.status == 200 and answer.media_type != media_types.OCI_INDEX
                if not found and (strange or answer.status in _NO_API):
                    return await self._tagged_referrers(subject)
                page = await self._page(answer, _Index, doing)
                found.update((referrer.digest, referrer) for referrer in page.manifests)
                if len(found) > MAX_REFERRERS:
                    raise Refused(f"{self._endpoint.host}: {doing}: more than {MAX_REFERRERS}")
        return tuple(found.values())

    def blob(self, blob: Descriptor) -> RemoteBlob:
        return RemoteBlob(self._endpoint, f"{self._path}/blobs/{blob.digest}", self._reading, self._extension, blob)

    async def takes_parts(self) -> bool:
        return await self._extension.offered()

    async def takes_put(self, size: int) -> bool:
        return await self._extension.takes_put(size)

    async def has_blob(self, blob: Descriptor, *, mount_from: str | None = None) -> bool:
        target = f"{self._path}/blobs/{blob.digest}"
        async with await self._endpoint.request("HEAD", target, self._writing) as answer:
            if answer.status == 200:
                return True
            if answer.status not in (404, 405, 501) and not (answer.foreign and answer.status == 403):
                raise await self._endpoint.failure(answer, f"looking for {blob.digest} in {self._repository}")
        if mount_from is None or mount_from == self._repository:
            return False
        return await self._mounted(blob, mount_from)

    async def begin(
        self, *, digest: Digest | None = None, size: int | None = None, part_size: int | None = None
    ) -> ExtensionUpload | None:
        return await self._extension.begin(digest=digest, size=size, part_size=part_size)

    async def resume(self, session: str) -> ExtensionUpload | None:
        return await self._extension.resume(session)

    async def put_blob(self, blob: Descriptor, body: AsyncIterator[bytes]) -> None:
        """POST for a session, PUT with all bytes (spec, "POST then PUT")."""
        doing = f"writing {blob.digest} to {self._repository}"
        async with await self._endpoint.request("POST", f"{self._path}/blobs/uploads/", self._writing) as answer:
            if answer.status not in (201, 202):
                raise await self._endpoint.failure(answer, doing)
            if answer.status == 201:
                raise Refused(f"{self._endpoint.host}: {doing}: it claims to have a blob that it was not given")
            upload = self._endpoint.location(answer)
            await answer.discard()
        if self._endpoint.origin.scheme == "https" and upload.scheme != "https":
            raise Refused(
                f"{self._endpoint.host}: {doing}: the upload is to go to {shown(upload)}, without TLS; if a proxy is "
                "in front of the registry, it must say so (X-Forwarded-Proto)"
            )
        headers = {"Content-Type": media_types.OCTET_STREAM}
        stream = self._session.stream(body, blob.size)
        async with await self._endpoint.request(
            "PUT", _with_digest(upload, blob.digest), self._writing, headers=headers, body=stream
        ) as answer:
            if answer.status not in (201, 204):
                raise await self._endpoint.failure(answer, doing)

    async def has_manifest(self, digest: Digest) -> bool:
        target = f"{self._path}/manifests/{digest}"
        async with await self._endpoint.request("HEAD", target, self._writing, headers={"Accept": ACCEPT}) as answer:
            if answer.status in (200, 404, 405, 501):
                return answer.status == 200
            raise await self._endpoint.failure(answer, f"looking for {digest} in {self._repository}")

    async def put_manifest(self, manifest: RawManifest, tag: str | None = None) -> None:
        references: list[Digest | str] = [] if tag is None else [tag]
        # What is put by a tag is kept under its SHA-256, whatever digest it is known by.
        if tag is None or manifest.digest.algorithm != "sha256":
            references.insert(0, manifest.digest)
        indexed = False
        for reference in references:
            indexed = await self._put(manifest, reference)
        subject = _subject(manifest)
        if subject is not None and not indexed:
            await self._tag_referrer(subject, manifest)

    async def close(self) -> None:
        """Nothing of its own."""

    async def _put(self, manifest: RawManifest, reference: Digest | str) -> bool:
        """Whether the registry says that it keeps referrers itself (``OCI-Subject``)."""
        doing = f"writing {self._named(reference)}"
        target = f"{self._path}/manifests/{quote(str(reference), safe=':')}"
        headers = {"Content-Type": manifest.media_type}
        async with await self._endpoint.request(
            "PUT", target, self._writing, headers=headers, body=manifest.body
        ) as answer:
            if answer.status not in (200, 201, 202, 204):
                error = await self._endpoint.failure(answer, doing)
                # Something that it names is missing there: not the image that somebody asked for.
                raise Refused(str(error)) if isinstance(error, ImageMissing) else error
            said = _digest(answer.headers.get("Docker-Content-Digest"))
            if said is not None and said != Digest.of(manifest.body, said.algorithm):
                raise ContentMismatch(f"{self._endpoint.host}: {doing}: it keeps {said}, which is not what was sent")
            await answer.discard()
            return "OCI-Subject" in answer.headers

    async def _mounted(self, blob: Descriptor, source: str) -> bool:
        scopes = (*self._writing.scopes, f"repository:{source}:pull")
        target = f"{self._path}/blobs/uploads/?mount={blob.digest}&from={quote(source, safe='')}"
        try:
            async with await self._endpoint.request("POST", target, Purpose(self._repository, scopes)) as answer:
                if answer.status != 202:
                    # Refused or not, the blob can still be sent.
                    return answer.status == 201
                session = self._endpoint.location(answer)
                await answer.discard()
        except NotAuthenticated:
            return False
        if self._endpoint.owns(session):
            # It opened an upload instead. That it ends by itself, too, makes a failure here no failure.
            with suppress(TransferError):
                (await self._endpoint.request("DELETE", session, self._writing)).close()
        return False

    def _verified(self, answer: Answer, body: bytes, wanted: Digest | str, doing: str) -> RawManifest:
        said = _digest(answer.headers.get("Docker-Content-Digest"))
        expected = wanted if isinstance(wanted, Digest) else said
        digest = Digest.of(body, "sha256" if expected is None else expected.algorithm)
        if expected is not None and digest != expected:
            raise ContentMismatch(f"{self._endpoint.host}: {doing}: {digest} came, not {expected}")
        media_type = answer.media_type
        if not media_types.may_be_manifest(media_type):
            try:
                media_type = RawManifest(body, media_types.JSON, digest).parsed.media_type
            except OCIError as error:
                raise SourceDamaged(f"{self._endpoint.host}: {doing}: {error.message}") from None
        return RawManifest(body, media_type, digest)

    async def _tagged_referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        try:
            index = await self.manifest(_referrers_tag(subject))
        except ImageMissing:
            return ()
        doing = f"reading {self._named(_referrers_tag(subject))}"
        return tuple(self._decoded(index.body, _Index, doing).manifests)

    async def _tag_referrer(self, subject: Digest, manifest: RawManifest) -> None:
        """Adds a referrer to the tag that stands for the API (spec, "Pushing Manifests with Subject")."""
        # One at a time: the tag is read, and then written. Against other processes nothing can be done.
        async with self._tagging:
            known = await self._tagged_referrers(subject)
            if any(referrer.digest == str(manifest.digest) for referrer in known):
                return
            added = manifest.parsed.referrer(manifest.digest, len(manifest.body))
            document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [*known, added]}
            body = msgspec.json.encode(document)
            await self._put(RawManifest(body, media_types.OCI_INDEX, Digest.of(body)), _referrers_tag(subject))

    def _named(self, reference: Digest | str) -> str:
        return f"{self._repository}{'@' if isinstance(reference, Digest) else ':'}{reference}"

    async def _page(self, answer: Answer, kind: type[_T], doing: str) -> _T:
        if answer.status != 200:
            raise await self._endpoint.failure(answer, doing)
        return self._decoded(await whole(self._endpoint, answer, MAX_PAGE, doing), kind, doing)

    def _decoded(self, body: bytes, kind: type[_T], doing: str) -> _T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            why = clean(str(error))
            raise Refused(f"{self._endpoint.host}: {doing}: an answer outside the spec ({why})") from None


def _with_digest(upload: URL, digest: str) -> URL:
    """The rest of an upload's address stays as it is written: it may be signed."""
    text = str(upload)
    return URL(f"{text}{'&' if '?' in text else '?'}digest={quote(digest, safe='')}", encoded=True)


def _is_tag(text: str) -> bool:
    try:
        parse_tag(text)
    except OCIError:
        return False
    return True


def _digest(text: str | None) -> Digest | None:
    try:
        return None if text is None else Digest.parse(text)
    except OCIError:
        return None


def _subject(manifest: RawManifest) -> Digest | None:
    try:
        subject = manifest.parsed.subject
    except OCIError:
        # Whether it may be kept is the registry's to say.
        return None
    return None if subject is None else subject.parsed


def _referrers_tag(subject: Digest) -> str:
    return f"{subject.algorithm}-{subject.hex[:64]}"
