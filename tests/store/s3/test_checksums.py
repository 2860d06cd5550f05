from __future__ import annotations

import base64
import hashlib
import zlib

import pytest

from bucketry.store.s3.checksums import HEADERS, PartTag, Sum, checksum


@pytest.mark.parametrize("size", [0, 1, 300_000])
async def test_sums_are_those_of_the_bytes(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for given in (body, bytearray(body), memoryview(body)):
        assert await checksum("md5", given) == base64.b64encode(hashlib.md5(body).digest()).decode()
        assert await checksum("sha256", given) == base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert await checksum("crc32", given) == base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    assert set(HEADERS) == {"md5", "crc32", "sha256"}


@pytest.mark.parametrize("etag", ["", "abc", "abc;x=y", 'W/"a;b"', "a;7;crc32=b", "a;7"])
@pytest.mark.parametrize(("kind", "element"), [("crc32", "ChecksumCRC32"), ("sha256", "ChecksumSHA256")])
def test_a_part_keeps_its_size_and_checksum_beside_its_etag(etag: str, kind: Sum, element: str) -> None:
    tag = PartTag(etag, 5, kind, "AbC+/9==")
    assert PartTag.split(tag.join()) == tag
    assert tag.element == (element, "AbC+/9==")


@pytest.mark.parametrize("kind", [None, "md5"])
def test_other_parts_have_no_checksum(kind: Sum | None) -> None:
    found = PartTag.split(PartTag("abc", 5, kind, "AbC=").join())
    assert (found, found.element) == (PartTag("abc", 5), None)


def test_an_etag_of_someone_else_stays_as_it_is() -> None:
    for etag in ("x", "abc-2", "abc;", "abc;five"):
        assert PartTag.split(etag) == PartTag(etag)
