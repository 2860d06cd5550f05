from __future__ import annotations

import pytest

from bucketry.store.s3.config import Addressing
from bucketry.store.s3.endpoint import is_aws, resolve_address

AWS = "https://s3.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("endpoint", "bucket", "addressing", "url"),
    [
        (AWS, "bucket", "auto", "https://bucket.s3.eu-west-1.amazonaws.com/a/b"),
        (AWS, "bucket", "path", "https://s3.eu-west-1.amazonaws.com/bucket/a/b"),
        (AWS, "my.bucket", "auto", "https://s3.eu-west-1.amazonaws.com/my.bucket/a/b"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "b1", "auto", "https://b1.s3.cn-north-1.amazonaws.com.cn/a/b"),
        ("https://acc.r2.cloudflarestorage.com/", "b1", "auto", "https://acc.r2.cloudflarestorage.com/b1/a/b"),
        ("https://minio.example", "b1", "virtual", "https://b1.minio.example/a/b"),
        ("http://127.0.0.1:9000", "b1", "auto", "http://127.0.0.1:9000/b1/a/b"),
        ("http://[::1]:9000", "b1", "auto", "http://[::1]:9000/b1/a/b"),
        ("https://Minio.example:443", "b1", "auto", "https://minio.example/b1/a/b"),
        ("http://minio.example:80", "b1", "auto", "http://minio.example/b1/a/b"),
        ("https://x.example/storage/v1/s3", "b1", "auto", "https://x.example/storage/v1/s3/b1/a/b"),
        ("https://x.example/s3/", "b1", "virtual", "https://b1.x.example/s3/a/b"),
    ],
)
def test_a_key_has_one_url(endpoint: str, bucket: str, addressing: Addressing, url: str) -> None:
    address = resolve_address(endpoint, bucket, "eu-west-1", addressing)
    assert address.origin + address.key_path("a/b") == url


def test_an_address_has_no_subdomains() -> None:
    for host in ("127.0.0.1", "[::1]"):
        with pytest.raises(ValueError, match="virtual"):
            resolve_address(f"http://{host}:9000", "b1", "us-east-1", "virtual")


def test_aws_is_told_from_others() -> None:
    assert is_aws("s3.us-east-1.amazonaws.com")
    assert not is_aws("amazonaws.com.example")
    assert not is_aws("notamazonaws.com")
