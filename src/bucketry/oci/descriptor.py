"""Descriptors: media type, digest and size of some content (image spec, "OCI Content Descriptors")."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from bucketry.oci.digest import Digest
from bucketry.oci.errors import DigestInvalid

MAX_SIZE: Final = 2**63 - 1
"""The largest size a descriptor can name, in bytes (the spec's int64)."""

Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a manifest of an index runs on (image spec, "Image Index": platform).

    The spec wants ``architecture`` and ``os``, but indexes without them are in use, so each may be empty.
    """

    architecture: str = ""
    os: str = ""
    os_version: str | None = msgspec.field(default=None, name="os.version")
    os_features: tuple[str, ...] | None = msgspec.field(default=None, name="os.features")
    variant: str | None = None


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One descriptor, in JSON by the spec's names. Fields it does not know are skipped.

    ``digest`` is text, `parsed` is the `Digest`. ``size`` is in bytes. ``data`` is the content in base64,
    as it was written: clients verify it by digest and size.

    A digest that `Digest.parse` refuses, an empty media type or a size outside 0 to `MAX_SIZE` raises
    ``ValueError``, from a decoder ``msgspec.ValidationError``. With annotations it is not hashable.
    """

    media_type: str
    digest: str
    size: Size
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    data: str | None = None
    platform: Platform | None = None
    artifact_type: str | None = None

    def __post_init__(self) -> None:
        if not self.media_type:
            raise ValueError("mediaType must not be empty")
        if not 0 <= self.size <= MAX_SIZE:
            raise ValueError(f"size must be from 0 to {MAX_SIZE}")
        try:
            Digest.parse(self.digest)
        except DigestInvalid as error:
            # msgspec turns a ValueError into its own error and adds the place in the document.
            raise ValueError(error.message) from error

    @property
    def parsed(self) -> Digest:
        """The digest, parsed."""
        return Digest.parse(self.digest)
