"""The documents of S3's protocol: read with care, since whoever answers wrote them, and written.

No document may have a DOCTYPE, so there are no entities to expand; the caller bounds the size.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class Malformed(Exception):
    """Not a document of S3's protocol."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An ``<Error>``: its code and message, and where the bucket really is, if S3 says so."""

    code: str
    message: str
    region: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of a list; the key is whole, as the bucket has it."""

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Listing:
    """``markers`` counts the markers of folders that were left out: names that end with a slash, which some tools
    make. ``last`` is the last name of the page, be it an object's or a marker's; empty where there is none."""

    entries: tuple[Entry, ...]
    truncated: bool
    markers: int
    last: str


@dataclass(frozen=True, slots=True)
class Upload:
    key: str
    upload_id: str
    initiated: float


@dataclass(frozen=True, slots=True)
class UploadListing:
    uploads: tuple[Upload, ...]
    truncated: bool
    next_key: str
    next_upload_id: str


@dataclass(frozen=True, slots=True)
class ListedPart:
    """A part of a pending upload. ``sums``: its checksums, by the names of their elements (``ChecksumSHA256``).

    ``modified`` in POSIX seconds, 0 where the store does not say.
    """

    number: int
    size: int
    etag: str
    sums: Mapping[str, str]
    modified: float


@dataclass(frozen=True, slots=True)
class PartListing:
    parts: tuple[ListedPart, ...]
    truncated: bool


def parse(body: bytes) -> ElementTree.Element:
    """The root element, names without their namespace. Raises `Malformed`."""
    body = body.strip()  # CompleteMultipartUpload sends blanks to keep a connection alive
    # Other encodings could hide a DOCTYPE from this search: expat takes UTF-16 whatever it is told.
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body or b"\0" in body:
        raise Malformed("a document with a DOCTYPE, or not in UTF-8")
    parser = ElementTree.XMLParser(encoding="utf-8")
    try:
        parser.feed(body)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Malformed(str(error)) from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def parse_as(body: bytes, name: str) -> ElementTree.Element:
    """As `parse`; the root element must have this name."""
    root = parse(body)
    if root.tag != name:
        raise Malformed(f"<{root.tag[:50]}> instead of <{name}>")
    return root


def parse_fault(body: bytes) -> Fault | None:
    """The error a body describes, or None where it describes none."""
    try:
        root = parse_as(body, "Error")
    except Malformed:
        return None
    code = _text(root, "Code")
    return Fault(code, _text(root, "Message"), _text(root, "Region")) if code else None


def parse_listing(body: bytes) -> Listing:
    """ListObjectsV2, without the markers of folders."""
    root = parse_as(body, "ListBucketResult")
    decode = _decoder(root)
    entries = []
    markers, key = 0, ""
    for element in root.iterfind("Contents"):
        key = decode(_need(element, "Key"))
        if key.endswith("/"):
            markers += 1
            continue
        modified = parse_time(_need(element, "LastModified"))
        entries.append(Entry(key, _number(element, "Size"), strip_etag(_text(element, "ETag")), modified))
    return Listing(tuple(entries), _text(root, "IsTruncated") == "true", markers, key)


def parse_uploads(body: bytes) -> UploadListing:
    """ListMultipartUploads."""
    root = parse_as(body, "ListMultipartUploadsResult")
    decode = _decoder(root)
    uploads = tuple(
        Upload(
            decode(_need(element, "Key")),
            _need(element, "UploadId"),
            parse_time(_need(element, "Initiated")),
        )
        for element in root.iterfind("Upload")
    )
    return UploadListing(
        uploads,
        _text(root, "IsTruncated") == "true",
        decode(_text(root, "NextKeyMarker")),
        _text(root, "NextUploadIdMarker"),
    )


def parse_parts(body: bytes) -> PartListing:
    """ListParts."""
    root = parse_as(body, "ListPartsResult")
    parts = tuple(
        ListedPart(
            _number(element, "PartNumber"),
            _number(element, "Size"),
            strip_etag(_need(element, "ETag")),
            {child.tag: (child.text or "").strip() for child in element if child.tag.startswith("Checksum")},
            parse_time(modified) if (modified := _text(element, "LastModified")) else 0.0,
        )
        for element in root.iterfind("Part")
    )
    return PartListing(parts, _text(root, "IsTruncated") == "true")


def parse_upload_id(body: bytes) -> str:
    """CreateMultipartUpload."""
    return _need(parse_as(body, "InitiateMultipartUploadResult"), "UploadId")


def parse_completed(body: bytes) -> None:
    """CompleteMultipartUpload. Raises `Malformed` for anything but the answer of a success."""
    parse_as(body, "CompleteMultipartUploadResult")


def parse_copied(body: bytes) -> str:
    """CopyObject and UploadPartCopy: the etag of what was copied."""
    root = parse(body)
    if root.tag not in ("CopyObjectResult", "CopyPartResult"):
        raise Malformed(f"<{root.tag[:50]}> instead of <CopyObjectResult>")
    return strip_etag(_need(root, "ETag"))


def parse_deletions(body: bytes) -> tuple[tuple[str, Fault], ...]:
    """DeleteObjects: the keys that could not be deleted, and why."""
    root = parse_as(body, "DeleteResult")
    return tuple(
        (_text(element, "Key"), Fault(_text(element, "Code") or "Unknown", _text(element, "Message")))
        for element in root.iterfind("Error")
    )


def completion(parts: Iterable[tuple[int, str, tuple[str, str] | None]]) -> bytes:
    """The body of CompleteMultipartUpload: number, etag, and the name and value of a checksum where there is one."""
    lines = [f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">']
    for number, etag, checksum in parts:
        extra = "" if checksum is None else f"<{checksum[0]}>{escape(checksum[1])}</{checksum[0]}>"
        lines.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(quote_etag(etag))}</ETag>{extra}</Part>")
    lines.append("</CompleteMultipartUpload>")
    return "".join(lines).encode()


def deletion(keys: Sequence[str]) -> bytes:
    """The body of DeleteObjects: at most 1,000 keys, and only failures are reported."""
    objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
    return f'<Delete xmlns="{_NAMESPACE}">{objects}<Quiet>true</Quiet></Delete>'.encode()


def strip_etag(text: str) -> str:
    """An etag without its quotes, as the contract carries it."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text


def quote_etag(etag: str) -> str:
    """An etag as HTTP carries it. Weak ones (``W/"…"``, which some proxies make) were never stripped."""
    return etag if etag.endswith('"') else f'"{etag}"'


def parse_time(text: str) -> float:
    """POSIX seconds of an ISO 8601 time."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise Malformed(f"not a time: {text[:40]!r}") from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return found.timestamp()


def _decoder(root: ElementTree.Element) -> Callable[[str], str]:
    """Keys are percent-encoded where the answer says so: stores may ignore that it was asked for."""
    return unquote if _text(root, "EncodingType") == "url" else str


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _need(element: ElementTree.Element, name: str) -> str:
    text = _text(element, name)
    if not text:
        raise Malformed(f"<{element.tag}> without <{name}>")
    return text


def _number(element: ElementTree.Element, name: str) -> int:
    text = _text(element, name)
    if not text.isascii() or not text.isdigit():
        raise Malformed(f"<{name}> is not a number: {text[:40]!r}")
    return int(text)
