"""Every answer a store may give, and what it means."""

from __future__ import annotations

import errno
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from bucketry.store.contract import (
    AccessDenied,
    BucketMissing,
    Corrupt,
    InvalidPart,
    NotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
    UploadNotFound,
)
from bucketry.store.s3.errors import Judge, Verdict, http_time
from bucketry.store.s3.transport import Broken

NOW = 1_800_000_000.0
JUDGE = Judge(
    url="s3://bucket/p",
    origin="https://s3.example",
    bucket="bucket",
    region="us-east-1",
    source=lambda: "the environment (AWS_ACCESS_KEY_ID)",
    clock=lambda: NOW,
)
KEY = ConnectionKey("s3.example", 443, True, True, None, None, None)


def answer(status: int, code: str = "", more: str = "", headers: dict[str, str] | None = None) -> Verdict:
    body = f"<Error><Code>{code}</Code><Message>as S3 says</Message>{more}</Error>".encode() if code else b""
    return JUDGE.answer("get a/b", status, headers or {}, body)


FAULTS: list[tuple[int, str, type[StoreError], str]] = [
    (404, "NoSuchKey", NotFound, "get a/b"),
    (404, "", NotFound, "get a/b"),
    (404, "NoSuchBucket", BucketMissing, "no bucket 'bucket' at https://s3.example"),
    (400, "InvalidBucketName", BucketMissing, "bucket"),
    (404, "NoSuchUpload", UploadNotFound, "aborted"),
    (400, "InvalidPart", InvalidPart, "InvalidPart"),
    (400, "InvalidPartOrder", InvalidPart, "InvalidPartOrder"),
    (400, "EntityTooSmall", InvalidPart, "EntityTooSmall"),
    (412, "PreconditionFailed", PreconditionFailed, "a/b"),
    (412, "", PreconditionFailed, "a/b"),
    (403, "AccessDenied", AccessDenied, "s3:ListBucket"),
    (403, "", AccessDenied, "s3:ListBucket"),
    (401, "", AccessDenied, "answered 401"),
    (403, "InvalidAccessKeyId", AccessDenied, "does not know this access key"),
    (403, "SignatureDoesNotMatch", AccessDenied, "the secret key is wrong"),
    (400, "ExpiredToken", AccessDenied, "have expired"),
    (400, "InvalidToken", AccessDenied, "session token"),
    (400, "KMS.DisabledException", AccessDenied, "KMS.DisabledException"),
    (403, "AllAccessDisabled", AccessDenied, "AllAccessDisabled"),
    (403, "InvalidObjectState", Unsupported, "archived"),
    (400, "EntityTooLarge", Unsupported, "takes nothing as large"),
    (400, "MetadataTooLarge", Unsupported, "takes nothing as large"),
    (501, "NotImplemented", Unsupported, "cannot do that"),
    (405, "MethodNotAllowed", Unsupported, "cannot do that"),
    (501, "", Unsupported, "cannot do that"),
    (403, "QuotaExceeded", StoreFull, "is full"),
    (507, "XMinioStorageFull", StoreFull, "is full"),
    (507, "", StoreFull, "is full"),
    (400, "BadDigest", Corrupt, "changed on their way"),
    (400, "XAmzContentSHA256Mismatch", Corrupt, "changed on their way"),
    (503, "SlowDown", Unavailable, "SlowDown"),
    (503, "", Unavailable, "answered 503"),
    (500, "InternalError", Unavailable, "InternalError"),
    (502, "", Unavailable, "answered 502"),
    (504, "", Unavailable, "answered 504"),
    (429, "TooManyRequests", Unavailable, "TooManyRequests"),
    (400, "RequestTimeout", Unavailable, "RequestTimeout"),
    (409, "ConditionalRequestConflict", Unavailable, "ConditionalRequestConflict"),
    (409, "OperationAborted", Unavailable, "OperationAborted"),
    (409, "", Unavailable, "conflict"),
    (400, "InvalidArgument", StoreError, "InvalidArgument: as S3 says"),
    (400, "", StoreError, "answered 400"),
]


@pytest.mark.parametrize(("status", "code", "error", "says"), FAULTS)
def test_each_code_is_one_error(status: int, code: str, error: type[StoreError], says: str) -> None:
    verdict = answer(status, code)
    assert type(verdict.error) is error
    assert says in str(verdict.error)
    assert "bucket" in str(verdict.error), "which store"


RETRIED = {
    "SlowDown": True,
    "InternalError": True,
    "TooManyRequests": False,
    "RequestTimeout": False,
    "ConditionalRequestConflict": False,
    "OperationAborted": False,
    "BadDigest": False,
    "XAmzContentSHA256Mismatch": False,
}


@pytest.mark.parametrize(("status", "code"), [(status, code) for status, code, _, _ in FAULTS if code])
def test_what_passes_is_tried_again_and_what_may_have_happened_is_uncertain(status: int, code: str) -> None:
    verdict = answer(status, code)
    assert verdict.retry == (code in RETRIED)
    assert verdict.uncertain == RETRIED.get(code, False)


@pytest.mark.parametrize(("status", "uncertain"), [(500, True), (502, True), (503, True), (504, True), (429, False)])
def test_a_proxys_answers_are_tried_again_too(status: int, uncertain: bool) -> None:
    verdict = JUDGE.answer("put a", status, {}, b"<html>nginx</html>")
    assert (type(verdict.error), verdict.retry, verdict.uncertain) == (Unavailable, True, uncertain)


@pytest.mark.parametrize(
    ("code", "renew"),
    [("ExpiredToken", True), ("InvalidToken", True), ("InvalidAccessKeyId", True), ("AccessDenied", False)],
)
def test_only_stale_credentials_are_renewed(code: str, renew: bool) -> None:
    assert answer(403, code).renew == renew
    assert "the environment (AWS_ACCESS_KEY_ID)" in str(answer(403, code).error)


def test_a_head_that_is_answered_400_may_mean_stale_credentials() -> None:
    assert answer(400).renew


@pytest.mark.parametrize("status", [200, 400, 404])
def test_who_answers_something_else_than_s3_is_no_s3(status: int) -> None:
    verdict = JUDGE.answer("get a", status, {}, b"<html>\n<b>Welcome to nginx</b>")
    assert type(verdict.error) is Corrupt, "and above all not NotFound"
    assert "is it an S3 endpoint?" in str(verdict.error)
    assert "Welcome" in str(verdict.error)
    assert "\n" not in str(verdict.error)
    assert not verdict.retry


@pytest.mark.parametrize(
    ("status", "code", "more", "headers"),
    [
        (301, "PermanentRedirect", "", {"x-amz-bucket-region": "eu-west-1"}),
        (307, "TemporaryRedirect", "", {"x-amz-bucket-region": "eu-west-1", "Location": "https://evil.example/"}),
        (301, "", "", {"x-amz-bucket-region": "eu-west-1"}),
        (400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>", {}),
    ],
)
def test_a_bucket_in_another_region_names_it(status: int, code: str, more: str, headers: dict[str, str]) -> None:
    verdict = answer(status, code, more, headers)
    assert type(verdict.error) is BucketMissing
    assert "is in region 'eu-west-1', not 'us-east-1': set region=eu-west-1" in str(verdict.error)
    assert not verdict.retry


def test_a_redirect_names_where_to_and_no_secret_of_its_url() -> None:
    verdict = answer(308, headers={"Location": "https://user:hunter2@other.example:8443/bucket/a?X-Amz-Signature=abc"})
    assert "redirects to https://other.example:8443," in str(verdict.error)
    assert "hunter2" not in str(verdict.error)
    assert "abc" not in str(verdict.error)
    assert "check region and endpoint" in str(answer(301, "PermanentRedirect").error)


@pytest.mark.parametrize(
    ("date", "says"),
    [
        ("Fri, 15 Jan 2027 08:16:40 GMT", "1000 seconds behind the store's"),
        ("Fri, 15 Jan 2027 07:43:20 GMT", "1000 seconds ahead of the store's"),
        ("", "is wrong"),
    ],
)
def test_a_wrong_clock_is_told_by_how_much(date: str, says: str) -> None:
    verdict = answer(403, "RequestTimeTooSkewed", headers={"Date": date} if date else {})
    assert type(verdict.error) is AccessDenied
    assert says in str(verdict.error)
    assert not verdict.renew


@pytest.mark.parametrize(("text", "after"), [("7", 7.0), ("0", 0.0), ("soon", None), ("-1", None)])
def test_how_long_to_wait_is_passed_on(text: str, after: float | None) -> None:
    verdict = answer(503, "SlowDown", headers={"Retry-After": text})
    assert verdict.after == after
    assert isinstance(verdict.error, Unavailable)
    assert verdict.error.retry_after == (after or 1.0)


def os_error(number: int) -> OSError:
    return OSError(number, errno.errorcode[number])


@pytest.mark.parametrize(
    ("error", "says", "retry", "uncertain"),
    [
        (
            aiohttp.ClientConnectorError(KEY, os_error(errno.ECONNREFUSED)),
            "cannot connect to https://s3.example",
            True,
            False,
        ),
        (aiohttp.ClientConnectorDNSError(KEY, os_error(errno.ENOENT)), "cannot be resolved", True, False),
        (aiohttp.ConnectionTimeoutError(), "cannot connect to https://s3.example: it does not answer", True, False),
        (aiohttp.SocketTimeoutError(), "silent", True, True),
        (TimeoutError(), "silent", True, True),
        (Broken("Server disconnected"), "Server disconnected", True, True),
        (aiohttp.ClientPayloadError("not enough"), "not enough", True, True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "reset", True, True),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "handshake")), "no secure connection", False, False),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("self-signed")),
            "AWS_CA_BUNDLE",
            False,
            False,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_no_answer_is_unavailable(error: Exception, says: str, retry: bool, uncertain: bool) -> None:
    verdict = JUDGE.no_answer("put a", error)
    assert type(verdict.error) is Unavailable
    assert says in str(verdict.error)
    assert (verdict.retry, verdict.uncertain) == (retry, uncertain)


def test_an_answer_that_is_not_http_is_corrupt() -> None:
    info = aiohttp.RequestInfo(URL("https://s3.example"), "GET", CIMultiDictProxy(CIMultiDict()))
    verdict = JUDGE.no_answer("get a", aiohttp.ClientResponseError(info, (), message="Bad status line"))
    assert type(verdict.error) is Corrupt
    assert (verdict.retry, verdict.uncertain) == (True, True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("Fri, 15 Jan 2027 08:00:00 GMT", NOW), (None, None), ("", None), ("yesterday", None)],
)
def test_times_of_headers_are_read(text: str | None, seconds: float | None) -> None:
    assert http_time(text) == seconds
