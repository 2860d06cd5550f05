"""The signature is botocore's, bit by bit."""

from __future__ import annotations

import datetime
import string
from unittest.mock import patch
from urllib.parse import parse_qsl, urlsplit

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from bucketry.store.s3.signing import EMPTY_PAYLOAD, Identity, Signer, encode_path, encode_query

HOST = "bucket.s3.eu-west-1.amazonaws.com"

keys = st.text(string.ascii_letters + string.digits + "/-_.~ +%&=?#'()*!:@$,;äß漢", min_size=1, max_size=60)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=0, max_size=30)
names = st.from_regex(r"x-amz-meta-[a-z0-9-]{1,10}", fullmatch=True)
secrets = st.text(string.ascii_letters + string.digits + "/+=", min_size=1, max_size=40)
times = st.integers(min_value=1_000_000_000, max_value=4_000_000_000)


def at(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def headers_of(value: str) -> str:
    return " ".join(value.split())


@given(
    key=keys,
    query=st.lists(st.tuples(values.filter(bool), values), max_size=4, unique_by=lambda pair: pair[0]),
    headers=st.dictionaries(names, st.text(" " + string.printable[:94], max_size=20).map(headers_of), max_size=4),
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"]),
    payload=st.sampled_from([EMPTY_PAYLOAD, "UNSIGNED-PAYLOAD", "ab" * 32]),
    secret=secrets,
    token=st.none() | secrets,
    now=times,
)
def test_headers_are_signed_as_botocore_signs_them(
    key: str,
    query: list[tuple[str, str]],
    headers: dict[str, str],
    method: str,
    payload: str,
    secret: str,
    token: str | None,
    now: int,
) -> None:
    path, encoded = encode_path(f"/{key}"), encode_query(query)
    signer = Signer("eu-west-1")
    ours = signer.headers(
        Identity("AKID", secret, token), method, HOST, path, encoded, headers, payload=payload, now=now
    )

    request = AWSRequest(method, f"https://{HOST}{path}" + (f"?{encoded}" if encoded else ""), headers=headers)
    auth = S3SigV4Auth(Credentials("AKID", secret, token), "s3", "eu-west-1")
    with (
        patch.object(botocore.auth, "get_current_datetime", lambda: at(now)),
        patch.object(auth, "payload", lambda request: payload),
    ):
        auth.add_auth(request)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    assert ours == theirs


@given(
    key=keys,
    query=st.dictionaries(
        st.sampled_from(["response-content-type", "response-cache-control"]), values.filter(bool), max_size=2
    ),
    headers=st.dictionaries(
        st.sampled_from(["content-length", "if-none-match", "x-amz-checksum-sha256", "x-amz-storage-class"]),
        values.filter(bool),
        max_size=4,
    ),
    method=st.sampled_from(["GET", "PUT"]),
    secret=secrets,
    token=st.none() | secrets,
    now=times,
    expires=st.integers(min_value=1, max_value=604_800),
)
def test_urls_are_signed_as_botocore_signs_them(
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    method: str,
    secret: str,
    token: str | None,
    now: int,
    expires: int,
) -> None:
    path = encode_path(f"/{key}")
    ours = Signer("eu-west-1").presign(
        Identity("AKID", secret, token), method, HOST, path, query.items(), expires=expires, now=now, headers=headers
    )

    request = AWSRequest(method, f"https://{HOST}{path}", params=query, headers=headers)
    auth = S3SigV4QueryAuth(Credentials("AKID", secret, token), "s3", "eu-west-1", expires=expires)
    with patch.object(botocore.auth, "get_current_datetime", lambda: at(now)):
        auth.add_auth(request)
    theirs = urlsplit(request.url)
    assert theirs.path == path
    assert sorted(parse_qsl(ours)) == sorted(parse_qsl(theirs.query))


def test_a_key_that_is_kept_is_not_used_for_another_day_secret_or_region() -> None:
    signer = Signer("eu-west-1")
    one, other = Identity("AKID", "secret"), Identity("AKID", "another")

    def sign(signer: Signer, identity: Identity, now: float) -> str:
        return signer.presign(identity, "GET", HOST, "/key", (), expires=60, now=now)

    for identity, now in [(one, 0), (one, 86_400), (other, 86_400), (one, 0), (other, 0)]:
        assert sign(signer, identity, now) == sign(Signer("eu-west-1"), identity, now)
    assert sign(signer, one, 0) != sign(Signer("us-east-1"), one, 0)


def test_what_proxies_change_is_not_signed() -> None:
    plain = {"range": "bytes=0-1"}
    proxied = {**plain, "accept-encoding": "identity", "user-agent": "x", "expect": "100-continue"}
    identity = Identity("AKID", "secret")

    def signature(headers: dict[str, str]) -> str:
        signed = Signer("us-east-1").headers(identity, "GET", HOST, "/k", "", headers, payload=EMPTY_PAYLOAD, now=0)
        return signed["authorization"]

    assert signature(plain) == signature(proxied)
    assert "range" in signature(plain)


@pytest.mark.parametrize("secret", ["s3cr3t", "t0k3n"])
def test_an_identity_does_not_show_its_secrets(secret: str) -> None:
    assert secret not in repr(Identity("AKID", "s3cr3t", "t0k3n"))


def test_paths_are_encoded_once_and_slashes_kept() -> None:
    assert encode_path("/bucket/repos/a/~blobs/sha256/0aF_-.") == "/bucket/repos/a/~blobs/sha256/0aF_-."
    assert encode_path("/a b+c%é\n") == "/a%20b%2Bc%25%C3%A9%0A"
    assert encode_path("/a\n") == "/a%0A"
    assert encode_path("/١") == "/%D9%A1"  # A digit, and not of ASCII.
