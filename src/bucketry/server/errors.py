"""The one place that turns an error into an answer: the table of statuses, and the spec's JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from bucketry.oci import errors as oci
from bucketry.store import contract as store

STATUS: Mapping[type[oci.OCIError], int] = {
    oci.NameInvalid: 400,
    oci.NameUnknown: 404,
    oci.TagInvalid: 400,
    oci.DigestInvalid: 400,
    oci.UnsupportedAlgorithm: 400,
    oci.DigestMismatch: 400,
    oci.SizeInvalid: 400,
    oci.BlobUnknown: 404,
    oci.UploadUnknown: 404,
    oci.UploadInvalid: 400,
    oci.RangeInvalid: 416,
    oci.ManifestUnknown: 404,
    oci.ManifestInvalid: 400,
    oci.ManifestTooLarge: 413,
    oci.ManifestBlobUnknown: 404,
    oci.Denied: 403,
    oci.Unauthorized: 401,
    oci.Unsupported: 405,
    oci.ParameterInvalid: 400,
    oci.RouteUnknown: 404,
    oci.TooManyRequests: 429,
}
"""Of every error of `bucketry.oci.errors`."""

STORE_STATUS: Mapping[type[store.StoreError], tuple[int, str, str]] = {
    store.StoreFull: (507, "UNAVAILABLE", "the registry's store is full: nothing was kept; its owner must make room"),
    store.Unavailable: (503, "UNAVAILABLE", "the registry cannot reach its store right now: try again"),
    store.ReadOnly: (403, "DENIED", "the registry's store takes no writes: it can only be pulled from"),
    store.AccessDenied: (
        503,
        "UNAVAILABLE",
        "the registry's store refuses the registry: its owner must look at its log",
    ),
    store.StoreError: (
        500,
        "UNKNOWN",
        "the registry's store answered what it must not: its owner must look at its log",
    ),
}
"""Status, code and message by the nearest class. What the store said goes to the log, not to the client."""


def error_response(status: int, code: str, message: str, detail: object = None) -> Response:
    """The spec's error form (section "Error Codes")."""
    error: dict[str, object] = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = detail
    return Response(msgspec.json.encode({"errors": [error]}), status, media_type="application/json")


def oci_error_response(error: oci.OCIError) -> Response:
    kind = next(kind for kind in type(error).__mro__ if kind in STATUS)
    return error_response(STATUS[kind], error.code, error.message, error.detail)


def store_error_response(error: store.StoreError) -> Response:
    kind = next(kind for kind in type(error).__mro__ if kind in STORE_STATUS)
    status, code, message = STORE_STATUS[kind]
    response = error_response(status, code, message)
    if isinstance(error, store.Unavailable):
        response.headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    elif status == 503:
        response.headers["retry-after"] = "30"
    return response
