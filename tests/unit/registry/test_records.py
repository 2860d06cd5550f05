from __future__ import annotations

import pytest

from bucketry.registry.records import BlobRecord, BlobState, FormatFile, Link, decode, encode
from bucketry.store.contract import Corrupt

RECORD = BlobRecord(state=BlobState.LIVE, size=3, data="data/ab/abc", nonce="n", created=1.5)


def test_a_record_is_plain_json_by_the_names_of_the_bucket_format() -> None:
    assert encode(RECORD) == (b'{"state":"live","size":3,"data":"data/ab/abc","nonce":"n","created":1.5,"segment":0}')
    assert encode(Link(size=3, data="d", nonce="n")) == b'{"size":3,"data":"d","nonce":"n"}'
    assert encode(FormatFile(format=1, registry="r", created=0.0)) == b'{"format":1,"registry":"r","created":0.0}'


@pytest.mark.parametrize("state", list(BlobState))
def test_a_record_comes_back_as_it_was(state: BlobState) -> None:
    record = BlobRecord(state=state, size=0, data="d", nonce="n", created=0.0, segment=8)

    assert decode(encode(record), BlobRecord, "k") == record


def test_fields_of_a_later_version_are_no_error() -> None:
    assert decode(b'{"size":3,"data":"d","nonce":"n","more":{}}', Link, "k") == Link(size=3, data="d", nonce="n")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"size":"3","data":"d","nonce":"n"}', b"\xff", b"null"])
def test_anything_else_is_corrupt_and_named(body: bytes) -> None:
    with pytest.raises(Corrupt, match=r"^repos/x is not a valid Link"):
        decode(body, Link, "repos/x")


def test_an_unknown_state_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        decode(encode(RECORD).replace(b"live", b"lost"), BlobRecord, "k")
