"""What requests and answers say of an object in their headers."""

from __future__ import annotations

from collections.abc import Mapping

from bucketry.store.contract import OCTET_STREAM, Condition, IfAbsent, IfMatch, ObjectInfo
from bucketry.store.s3.checksums import Sum
from bucketry.store.s3.config import S3Settings
from bucketry.store.s3.errors import http_time
from bucketry.store.s3.xml import quote_etag, strip_etag

METADATA = "x-amz-meta-"


def conditions(condition: Condition | None) -> dict[str, str]:
    if isinstance(condition, IfAbsent):
        return {"if-none-match": "*"}
    if isinstance(condition, IfMatch):
        return {"if-match": quote_etag(condition.etag)}
    return {}


def at_rest(settings: S3Settings, *, bulk: bool) -> dict[str, str]:
    """How an object is to be kept: encryption, and for blob bytes (``bulk``) the storage class."""
    headers: dict[str, str] = {}
    if settings.sse is not None:
        headers["x-amz-server-side-encryption"] = settings.sse
    if settings.sse_kms_key_id is not None:
        headers["x-amz-server-side-encryption-aws-kms-key-id"] = settings.sse_kms_key_id
    if settings.storage_class is not None and bulk:
        headers["x-amz-storage-class"] = settings.storage_class
    return headers


def sum_of(settings: S3Settings, *, bulk: bool) -> Sum | None:
    """The checksum that a body goes with; ``bulk`` as above."""
    kind = settings.checksum
    if kind == "none":
        return None
    if kind == "auto":
        return None if bulk else "md5"
    return kind


def object_info(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """What an answer to GET or HEAD says of its object."""
    start = len(METADATA)
    return ObjectInfo(
        key,
        size,
        strip_etag(headers.get("ETag", "")),
        http_time(headers.get("Last-Modified")) or 0.0,
        headers.get("Content-Type", OCTET_STREAM),
        {name[start:].lower(): value for name, value in headers.items() if name[:start].lower() == METADATA},
    )
