from __future__ import annotations

from dataclasses import fields

import pytest

from bucketry.store.s3 import S3Settings
from bucketry.store.s3.config import _OPTIONS

SECRETS = {"access_key", "secret_key", "session_token"}


def test_a_url_names_bucket_and_prefix() -> None:
    settings = S3Settings.from_url("s3://my-bucket/team/registry/")
    assert (settings.bucket, settings.prefix, settings.root) == ("my-bucket", "team/registry", "team/registry/")
    assert settings.url == "s3://my-bucket/team/registry"
    whole = S3Settings.from_url("s3://my-bucket")
    assert (whole.prefix, whole.root, whole.url) == ("", "", "s3://my-bucket")


def test_every_setting_but_the_secrets_is_an_option_of_the_url() -> None:
    assert set(_OPTIONS) == {field.name for field in fields(S3Settings)} - SECRETS - {"bucket", "prefix"}
    url = (
        "s3://bucket/p?endpoint=http://s3.example&region=eu-west-1&addressing=virtual&checksum=sha256&sign_payload=yes"
        "&sse=aws:kms&sse_kms_key_id=arn:aws:kms:eu-west-1:1:key/x&storage_class=STANDARD_IA"
        "&public_endpoint=https://cdn.example&profile=work&anonymous=false&conditional_delete=false&ca_bundle=/ca.pem"
        "&max_connections=8&connect_timeout=1.5&read_timeout=2&retries=0&deadline=3"
    )
    assert S3Settings.from_url(url) == S3Settings(
        bucket="bucket",
        prefix="p",
        endpoint="http://s3.example",
        region="eu-west-1",
        addressing="virtual",
        checksum="sha256",
        sign_payload=True,
        sse="aws:kms",
        sse_kms_key_id="arn:aws:kms:eu-west-1:1:key/x",
        storage_class="STANDARD_IA",
        public_endpoint="https://cdn.example",
        profile="work",
        anonymous=False,
        conditional_delete=False,
        ca_bundle="/ca.pem",
        max_connections=8,
        connect_timeout=1.5,
        read_timeout=2.0,
        retries=0,
        deadline=3.0,
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://b?endpiont=http://x", "did you mean endpoint?"),
        ("s3://b?path-style=true", "unknown option 'path-style'"),
        ("s3://b?max-connections=3", "did you mean max_connections?"),
        ("s3://b?secret_key=hunter2", "set AWS_ACCESS_KEY_ID"),
        ("s3://AKID:hunter2@b/p", "set AWS_ACCESS_KEY_ID"),
        ("s3://b?region=a&region=b", "given twice"),
        ("s3://b?anonymous=perhaps", "anonymous=perhaps is not true or false"),
        ("s3://b?retries=many", "retries=many is not a whole number"),
        ("s3://b?deadline=soon", "deadline=soon is not a number of seconds"),
        ("s3://b?deadline=nan", "deadline=nan must be at least 0"),
        ("s3://b?region=", "region= is not a value"),
        ("s3://b?region", "name=value"),
        ("s3://b#x", "no fragment"),
        ("s3://", "no bucket"),
        ("s3:///prefix", "no bucket"),
        ("s3://localhost:9000/b", "s3://bucket?endpoint="),
        ("http://b/p", "not an s3:// URL"),
        ("s3://b/p", "not the name of a bucket"),
        ("s3://b%20c/p", "not the name of a bucket"),
        ("s3://bucket/a b", "not a prefix"),
        ("s3://bucket/a//b", "not a prefix"),
        ("s3://bucket/../x", "not a prefix"),
        ("s3://bucket/" + "p" * 101, "not a prefix"),
        ("s3://bucket?endpoint=localhost:9000", "did you mean https://localhost:9000"),
        ("s3://bucket?endpoint=ftp://x", "not of the form"),
        ("s3://bucket?endpoint=http://", "not of the form"),
        ("s3://bucket?endpoint=http://x:y", "is not a URL"),
        ("s3://bucket?endpoint=http://u:hunter2@x", "without credentials"),
        ("s3://bucket?endpoint=http://x/?q", "without a query"),
        ("s3://bucket?endpoint=http://x/a%2520b", "cannot be signed"),
        ("s3://bucket?public_endpoint=cdn.example", "public_endpoint"),
        ("s3://bucket?addressing=dns", "auto, path, virtual"),
        ("s3://bucket?checksum=crc64", "auto, none, md5, crc32, sha256"),
        ("s3://bucket?sse=aes", "AES256, aws:kms"),
        ("s3://bucket?sse_kms_key_id=x", "needs sse=aws:kms"),
        ("s3://bucket?storage_class=DEEP_ARCHIVE", "GLACIER_IR"),
        ("s3://bucket?storage_class=a%0ab", "not a storage_class"),
        ("s3://bucket?max_connections=0", "at least 1"),
        ("s3://bucket?read_timeout=0", "at least"),
    ],
)
def test_what_cannot_work_is_refused_with_a_hint(url: str, says: str) -> None:
    if url.startswith(("s3://b?", "s3://b#")):
        url = url.replace("s3://b", "s3://bucket", 1)
    with pytest.raises(ValueError) as raised:
        S3Settings.from_url(url)
    assert says in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"access_key": "a"},
        {"secret_key": "s"},
        {"session_token": "t"},
        {"anonymous": True, "access_key": "a", "secret_key": "s"},
    ],
)
def test_credentials_are_given_whole_or_not_at_all(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        S3Settings(bucket="bucket", **changes)  # type: ignore[arg-type]


def test_secrets_are_never_shown() -> None:
    settings = S3Settings(bucket="bucket", access_key="AKID", secret_key="hunter2", session_token="t0k3n")
    assert "hunter2" not in f"{settings!r} {settings} {settings.url}"
    assert "t0k3n" not in repr(settings)
