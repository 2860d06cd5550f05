"""What the contract asks of the arguments of a store call, checked the same way in every backend.

A broken rule is a mistake of the calling code, not a state of a store, so all of these raise `ValueError`
before anything is sent or touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bucketry.store.contract import BULK_PREFIX, FOREIGN_PREFIX, MAX_PARTS, OCTET_STREAM

MAX_KEY = 900
"""Characters of a key."""

MAX_PUT = 5 * 1024**3
"""Bytes: the largest object that S3 takes in one PUT."""

MAX_METADATA = 2048
"""Bytes of an object's metadata: all names and values together."""

MAX_LIST = 1000
"""Objects of a page of `list`."""

_KEY = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
_NAME = re.compile(r"[a-z0-9-]+", re.ASCII)
_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?", re.ASCII)


def is_key(text: str) -> bool:
    """Whether the text keeps the grammar of keys."""
    if not 1 <= len(text) <= MAX_KEY or _KEY.fullmatch(text) is None:
        return False
    return "." not in text or not any(segment in (".", "..") for segment in text.split("/"))


def check_key(key: str) -> None:
    if not is_key(key):
        raise ValueError(
            f"not a store key: {key[:100]!r}; keys are 1 to {MAX_KEY} characters of [A-Za-z0-9._~/-] "
            "without empty, '.' or '..' segments"
        )


def is_bulk(key: str) -> bool:
    return key.startswith(BULK_PREFIX)


def is_foreign(key: str) -> bool:
    return key.startswith(FOREIGN_PREFIX)


def check_own_key(key: str) -> None:
    """What may be written and deleted: nothing of the tree of another program."""
    check_key(key)
    if is_foreign(key):
        raise ValueError(f"not this store's to change: {key!r}; keys below {FOREIGN_PREFIX!r} are another program's")


def check_plain_key(key: str) -> None:
    """Plain files hold the bytes of bulk keys and of foreign ones."""
    check_key(key)
    if not (is_bulk(key) or is_foreign(key)):
        raise ValueError(
            f"not the key of plain bytes: {key!r}; those begin with {BULK_PREFIX!r} or with {FOREIGN_PREFIX!r}"
        )


def check_bulk_key(key: str) -> None:
    """Multipart uploads exist for bulk keys only."""
    check_key(key)
    if not is_bulk(key):
        raise ValueError(f"not a bulk key: {key!r}; bulk keys begin with {BULK_PREFIX!r}")


def check_put(key: str, content_type: str, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The metadata to store. Bulk keys take none, and no content type of their own."""
    check_own_key(key)
    metadata = dict(metadata) if metadata else {}
    if is_bulk(key) and (metadata or content_type != OCTET_STREAM):
        raise ValueError(f"a bulk key takes no metadata and no content type: {key!r}")
    if not content_type or len(content_type) > 255 or _VALUE.fullmatch(content_type) is None:
        raise ValueError(f"not a content type: {content_type[:100]!r}")
    for name, value in metadata.items():
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"not a metadata name: {name[:100]!r}; names are of [a-z0-9-]")
        # S3 carries metadata in HTTP headers, which lose blanks at the ends of a value.
        if _VALUE.fullmatch(value) is None:
            raise ValueError(f"metadata {name!r} is not printable ASCII without blanks at its ends")
    if sum(len(name) + len(value) for name, value in metadata.items()) > MAX_METADATA:
        raise ValueError(f"metadata of {key!r} is over {MAX_METADATA} bytes")
    return metadata


def check_range(start: int, stop: int | None) -> None:
    if start < 0 or (stop is not None and stop < start):
        raise ValueError(f"not a range of bytes: {start} to {stop}")


def check_list(prefix: str, limit: int) -> None:
    if prefix and not (prefix.endswith("/") and is_key(prefix[:-1])):
        raise ValueError(f"not a prefix to list: {prefix[:100]!r}; it is empty or ends with '/'")
    if not 1 <= limit <= MAX_LIST:
        raise ValueError(f"not a number of objects to list: {limit}; 1 to {MAX_LIST}")


def check_part_size(part_size: int, min_part: int) -> None:
    if part_size < min_part:
        raise ValueError(f"parts of {part_size} bytes are too small: at least {min_part}")


def check_part_number(number: int) -> None:
    if not 1 <= number <= MAX_PARTS:
        raise ValueError(f"not a part number: {number}; 1 to {MAX_PARTS}")


def check_presigned_put(key: str, size: int, sha256: bytes) -> None:
    check_bulk_key(key)
    if not 0 <= size <= MAX_PUT:
        raise ValueError(f"not the size of one PUT: {size}; at most {MAX_PUT} bytes")
    if len(sha256) != 32:
        raise ValueError(f"not a SHA-256: {len(sha256)} bytes instead of 32")


def check_part(number: int, size: int, *, offset: int, part_size: int) -> None:
    check_part_number(number)
    if size > part_size:
        raise ValueError(f"part {number} has {size} bytes, this upload's parts have at most {part_size}")
    if offset < 0 or offset % part_size or offset // part_size >= MAX_PARTS:
        raise ValueError(f"part {number} begins at {offset}, which is no multiple of {part_size}")
