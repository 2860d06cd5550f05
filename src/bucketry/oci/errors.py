"""The errors a registry may answer with (distribution spec 1.1, "Error Codes").

The tree, one class a situation; the server's one table gives each class its HTTP status::

    OCIError
    ├── NameInvalid             NAME_INVALID           a repository name outside the spec's grammar
    ├── NameUnknown             NAME_UNKNOWN           no such repository
    ├── TagInvalid              MANIFEST_INVALID       a tag outside the spec's grammar
    ├── DigestInvalid           DIGEST_INVALID         a digest that is malformed
    │   ├── UnsupportedAlgorithm                       a digest whose algorithm this registry does not compute
    │   └── DigestMismatch                             the bytes do not have the digest they were given
    ├── SizeInvalid             SIZE_INVALID           the bytes do not have the length they were given
    ├── BlobUnknown             BLOB_UNKNOWN           this repository has no such blob
    ├── UploadUnknown           BLOB_UPLOAD_UNKNOWN    no such session here: never was, ended, expired, elsewhere
    ├── UploadInvalid           BLOB_UPLOAD_INVALID    a request the session cannot take
    │   └── RangeInvalid                               a chunk out of order, or lost to a concurrent one
    ├── ManifestUnknown         MANIFEST_UNKNOWN       this repository has no such manifest or tag
    ├── ManifestInvalid         MANIFEST_INVALID       not a manifest this registry can keep
    │   └── ManifestTooLarge                           over the limit
    ├── ManifestBlobUnknown     MANIFEST_BLOB_UNKNOWN  a child of the manifest is not in the repository
    ├── Denied                  DENIED                 refused by configuration or by the store
    ├── Unauthorized            UNAUTHORIZED           credentials are missing or wrong
    ├── Unsupported             UNSUPPORTED            not offered here
    │   ├── ParameterInvalid                           a parameter or header that makes no sense
    │   └── RouteUnknown                               no such path under /v2/
    └── TooManyRequests         TOOMANYREQUESTS        slow down

Every message is written for the person who reads it in a terminal, and says what to do.
"""

from __future__ import annotations

from typing import ClassVar


class OCIError(Exception):
    """An answer of the spec's error form: ``code``, ``message`` and an optional JSON-able ``detail``."""

    code: ClassVar[str] = "UNSUPPORTED"

    def __init__(self, message: str, *, detail: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class NameInvalid(OCIError):
    code = "NAME_INVALID"


class NameUnknown(OCIError):
    code = "NAME_UNKNOWN"


class TagInvalid(OCIError):
    code = "MANIFEST_INVALID"


class DigestInvalid(OCIError):
    code = "DIGEST_INVALID"


class UnsupportedAlgorithm(DigestInvalid):
    pass


class DigestMismatch(DigestInvalid):
    pass


class SizeInvalid(OCIError):
    code = "SIZE_INVALID"


class BlobUnknown(OCIError):
    code = "BLOB_UNKNOWN"


class UploadUnknown(OCIError):
    code = "BLOB_UPLOAD_UNKNOWN"


class UploadInvalid(OCIError):
    code = "BLOB_UPLOAD_INVALID"


class RangeInvalid(UploadInvalid):
    """A chunk that does not begin where the session ends.

    ``offset`` is how many bytes the session holds, where it is known: the next chunk begins there.
    """

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message, detail=None if offset is None else {"offset": offset})
        self.offset = offset


class ManifestUnknown(OCIError):
    code = "MANIFEST_UNKNOWN"


class ManifestInvalid(OCIError):
    code = "MANIFEST_INVALID"


class ManifestTooLarge(ManifestInvalid):
    pass


class ManifestBlobUnknown(OCIError):
    code = "MANIFEST_BLOB_UNKNOWN"


class Denied(OCIError):
    code = "DENIED"


class Unauthorized(OCIError):
    code = "UNAUTHORIZED"


class Unsupported(OCIError):
    code = "UNSUPPORTED"


class ParameterInvalid(Unsupported):
    pass


class RouteUnknown(Unsupported):
    pass


class TooManyRequests(OCIError):
    code = "TOOMANYREQUESTS"
