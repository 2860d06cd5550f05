from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.store.s3 import xml
from bucketry.store.s3.xml import Malformed

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><Error><Code>&b;</Code></Error>'


def test_an_error_is_read_with_and_without_a_namespace() -> None:
    for space in ("", f" {NAMESPACE}"):
        body = f"<Error{space}><Code>NoSuchKey</Code><Message>no &amp; never</Message></Error>".encode()
        assert xml.parse_fault(body) == xml.Fault("NoSuchKey", "no & never")
    malformed = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
    assert xml.parse_fault(malformed) == xml.Fault("AuthorizationHeaderMalformed", "", "eu-west-1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Bad Gateway",
        b"<html><body>404</body></html>",
        b"<Error></Error>",
        b"<Error><Message>no code</Message></Error>",
        b"<Error><Code>NoSuchKey</Code>",
        b"\xff\xfe<\x00E\x00",
        b"\x00" * 100,
        BOMB,
    ],
)
def test_what_is_no_error_document_is_none(body: bytes) -> None:
    assert xml.parse_fault(body) is None


@pytest.mark.parametrize(
    "body",
    [
        BOMB,
        b'<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><ListBucketResult/>',
        '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE x><ListBucketResult/>'.encode("utf-16"),
        b'<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE x+AD4-<ListBucketResult/>',
    ],
)
def test_documents_with_a_doctype_are_refused_in_any_encoding(body: bytes) -> None:
    with pytest.raises(Malformed):
        xml.parse_listing(body)


@given(st.binary(max_size=200) | st.text("<>/!&;abDOCTYPE \n\"'=", max_size=80).map(str.encode))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    for parse in (
        xml.parse_listing,
        xml.parse_uploads,
        xml.parse_parts,
        xml.parse_upload_id,
        xml.parse_completed,
        xml.parse_deletions,
    ):
        with pytest.raises(Malformed):
            parse(body)
    assert xml.parse_fault(body) is None


def listing(contents: str, more: str = "false", encoding: str = "url") -> bytes:
    return (
        f'<?xml version="1.0"?>\n<ListBucketResult {NAMESPACE}><EncodingType>{encoding}</EncodingType>'
        f"<IsTruncated>{more}</IsTruncated>{contents}</ListBucketResult>"
    ).encode()


def content(key: str, size: str = "3", modified: str = "2026-11-24T07:00:00.000Z") -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>&quot;abc&quot;</ETag><Size>{size}</Size></Contents>"
    )


def test_a_listing_is_read() -> None:
    found = xml.parse_listing(listing(content("a%2Fb%7E") + content("c"), "true"))
    assert found.entries[0] == xml.Entry("a/b~", 3, "abc", 1795503600.0)
    assert (found.truncated, found.last) == (True, "c")
    # A store that ignores encoding-type says so by leaving it out.
    assert xml.parse_listing(listing(content("a%2Fb"), encoding="")).entries[0].key == "a%2Fb"


def test_folder_markers_are_left_out_but_end_a_page() -> None:
    found = xml.parse_listing(listing(content("a/", "0") + content("a/b") + content("c/", "0"), "true"))
    assert [entry.key for entry in found.entries] == ["a/b"]
    assert (found.markers, found.last) == (2, "c/")


@pytest.mark.parametrize(
    "contents",
    [
        content(""),
        content("a", size=""),
        content("a", size="-1"),
        content("a", size="x"),
        content("a", modified="then"),
    ],
)
def test_a_listing_that_makes_no_sense_is_refused(contents: str) -> None:
    with pytest.raises(Malformed):
        xml.parse_listing(listing(contents))


def test_uploads_are_read() -> None:
    body = (
        "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"
        "<NextUploadIdMarker>2</NextUploadIdMarker><Upload><Key>data/a</Key><UploadId>1</UploadId>"
        "<Initiated>2026-11-24T07:00:00Z</Initiated></Upload></ListMultipartUploadsResult>"
    )
    found = xml.parse_uploads(body.encode())
    assert found == xml.UploadListing((xml.Upload("data/a", "1", 1795503600.0),), True, "k", "2")


def test_blanks_before_a_document_are_no_error() -> None:
    """CompleteMultipartUpload keeps its connection alive with them."""
    xml.parse_completed(b"  \n \n<?xml version='1.0'?><CompleteMultipartUploadResult/>\n")


def test_failed_deletions_are_named() -> None:
    deleted, failed = b"<Deleted><Key>a</Key></Deleted>", b"<Error><Key>b</Key><Code>AccessDenied</Code></Error>"
    body = b"<DeleteResult>" + deleted + failed + b"</DeleteResult>"
    assert xml.parse_deletions(body) == (("b", xml.Fault("AccessDenied", "")),)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20))
def test_what_is_written_is_read_back(text: str) -> None:
    deletion = xml.parse(xml.deletion([text, "b"]))
    assert [element.findtext("Key") for element in deletion.iterfind("Object")] == [text, "b"]
    assert deletion.findtext("Quiet") == "true"
    etag = text.strip('"')
    completion = ElementTree.fromstring(xml.completion([(1, etag, None), (7, "x", ("ChecksumCRC32", "AA=="))]))
    space = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    parts = [
        {child.tag.removeprefix(space): child.text for child in part} for part in completion.iterfind(f"{space}Part")
    ]
    assert parts == [
        {"PartNumber": "1", "ETag": f'"{etag}"'},
        {"PartNumber": "7", "ETag": '"x"', "ChecksumCRC32": "AA=="},
    ]


@pytest.mark.parametrize(("sent", "kept"), [('"abc-2"', "abc-2"), ("abc", "abc"), ('W/"abc"', 'W/"abc"'), ('"', '"')])
def test_etags_lose_their_quotes_and_get_them_back(sent: str, kept: str) -> None:
    assert xml.strip_etag(sent) == kept
    if sent.startswith('"') and len(sent) > 1:
        assert xml.quote_etag(kept) == sent
    if sent.startswith("W/"):
        assert xml.quote_etag(kept) == sent
