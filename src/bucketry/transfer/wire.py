"""The JSON of the parallel extension, for both ends (docs/rfcs/0003-parallel-extension.md).

Field names are camelCase on the wire. A reader skips fields it does not know: they are how version 1 may grow.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from bucketry.oci.descriptor import MAX_SIZE

NAME = "_bucketry"
"""Of the extension, in paths and in the list of extensions."""

DISCOVER = "_oci/ext/discover"
"""Below ``/v2/``: where a registry lists its extensions (the distribution spec's extension document)."""

UPLOADS = f"{NAME}/uploads"
CHECKPOINTS = f"{NAME}/checkpoints"
"""Endpoints of the extension, as a registry lists them. A published site has the second alone."""

UPLOAD_TYPE = "application/vnd.bucketry.upload.v1+json"
CHECKPOINTS_TYPE = "application/vnd.bucketry.checkpoints.v1"

MOST_URLS = 1000
"""Part numbers in one request for URLs."""

MOST_JSON = 4 * 1024 * 1024
"""Bytes of a request's JSON: checkpoints of a blob of 760 GiB, every 8 MiB."""

Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE, description="Bytes.")]
PartNumber = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
DigestText = Annotated[str, msgspec.Meta(max_length=160, description="As in a descriptor: sha256:…")]


class Begin(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a client says at the beginning. Digest and size may be left to `Complete`."""

    digest: DigestText | None = None
    size: Size | None = None
    part_size: Size | None = None
    """A wish. The answer says what it is."""


class Present(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The repository has the blob: nothing needs to be sent."""

    digest: DigestText
    size: Size
    state: Literal["present"] = "present"


class Urls(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where to PUT parts, by number. A URL without a host is the registry's own.

    The client sends ``headers`` along, and its credentials to the registry's own URLs only. What frames a request
    (Content-Length, which may be signed) is not among them: it follows from the body.
    """

    urls: dict[str, str]
    expires: float | None = None
    """Seconds from now until the URLs end; none: as long as the session."""
    headers: dict[str, str] = {}


class Opened(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A session. Part n begins at byte (n - 1) * partSize; all but the last have that size."""

    session: str
    part_size: Size
    max_parts: int
    segment: Size
    """Bytes between the checkpoints this registry would like."""
    direct: bool
    """Whether part URLs lead to the bucket itself."""
    put: Urls | msgspec.UnsetType = msgspec.UNSET
    """Where the blob goes, which is part 1 and the only one: the bucket takes these bytes alone, and only once."""
    state: Literal["open"] = "open"


class SentPart(msgspec.Struct, frozen=True, kw_only=True):
    number: PartNumber
    size: Size


State = Literal["open", "verifying", "done", "failed"]


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where a session stands. ``parts``: those that are in the store; none once it is done or has failed."""

    state: State
    part_size: Size = 0
    parts: tuple[SentPart, ...] = ()
    digest: DigestText | None = None
    size: Size | None = None
    verified: Size | None = None
    """Bytes that were read back and held."""
    error: str | None = None
    """Why it failed."""


class UrlsWanted(msgspec.Struct, frozen=True, kw_only=True):
    parts: Annotated[tuple[PartNumber, ...], msgspec.Meta(min_length=1, max_length=MOST_URLS)]


class Complete(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The blob's digest and size, and its checkpoints, a file in base64, by which it is verified in parallel."""

    digest: DigestText
    size: Size
    checkpoints: bytes | None = None


class Extension(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    description: str
    url: str
    endpoints: tuple[str, ...]
    put_up_to: Size = 0
    """The longest blob that goes to the bucket by one PUT, where digest and size are known; 0: none does."""


class Extensions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``GET /v2/_oci/ext/discover`` answers."""

    extensions: tuple[Extension, ...]
