"""What an answer, or the lack of one, means in the contract's errors: the only place where S3's codes are read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import urlsplit

import aiohttp

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
from bucketry.store.s3.transport import never_sent
from bucketry.store.s3.xml import Fault, parse_fault

_BUSY = frozenset(
    {
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "ServiceUnavailable",
        "ServerBusy",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "RequestTimeout",
        "RequestTimeoutException",
        "OperationAborted",
        "OperationTimedOut",
        "ConditionalRequestConflict",
        "TooManyRequests",
        "TooManyRequestsException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "XMinioServerNotInitialized",
        "IncompleteBody",
    }
)
_FULL = frozenset(
    {
        "QuotaExceeded",
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "InsufficientCapacity",
        "InsufficientStorage",
        "StorageFull",
    }
)
_DAMAGED = frozenset(
    {
        "BadDigest",
        "InvalidDigest",
        "XAmzContentSHA256Mismatch",
        "XAmzContentChecksumMismatch",
        "ContentMD5Mismatch",
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_RENEWABLE = _EXPIRED | {"InvalidToken", "InvalidAccessKeyId", "InvalidClientTokenId"}
_PARTS = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "InvalidPartNumber"})
_TOO_LARGE = frozenset({"EntityTooLarge", "MaxMessageLengthExceeded", "MetadataTooLarge", "KeyTooLongError"})
_CANNOT = frozenset({"NotImplemented", "MethodNotAllowed", "UnsupportedOperation"})
_DENIALS: Mapping[str, str] = {
    "InvalidAccessKeyId": "the store does not know this access key",
    "InvalidClientTokenId": "the store does not know this access key",
    "SignatureDoesNotMatch": (
        "the signature does not match: the secret key is wrong, or a proxy on the way changes requests"
    ),
    "InvalidToken": "the session token is not valid",
    "InvalidObjectState": "the object is archived: restore it, and use a storage class that can be read at once",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to make of a try that failed.

    ``retry``: the same request may work in a moment. ``uncertain``: the request may have taken effect all the same.
    ``renew``: other credentials may help. ``after``: the seconds the store asks to wait for, where it does.
    """

    error: StoreError
    retry: bool = False
    uncertain: bool = False
    renew: bool = False
    after: float | None = None


class Judge:
    """Speaks for one store: ``url`` and ``origin`` go into the messages, ``source`` says where credentials are from."""

    def __init__(
        self,
        *,
        url: str,
        origin: str,
        bucket: str,
        region: str,
        source: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._url = url
        self._origin = origin
        self._bucket = bucket
        self._region = region
        self._source = source
        self._clock = clock

    def no_answer(self, what: str, error: BaseException) -> Verdict:
        """No answer at all. ``what`` is the request in words, such as ``get a/key``."""
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            hint = "set ca_bundle=… or AWS_CA_BUNDLE where the store has a certificate of your own"
            if getattr(error.os_error, "reason", None) == "WRONG_VERSION_NUMBER":
                hint = "the endpoint seems to speak http, not https"
            return Verdict(Unavailable(f"{self._url}: no secure connection to {self._origin}: {error}; {hint}"))
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            text = f"{self._url}: the host of {self._origin} cannot be resolved: check endpoint and region"
            return Verdict(Unavailable(text), retry=True)
        if never_sent(error):
            number = error.errno if isinstance(error, OSError) else None
            reason = os.strerror(number).lower() if number is not None else "it does not answer"
            return Verdict(Unavailable(f"{self._url}: cannot connect to {self._origin}: {reason}"), retry=True)
        if isinstance(error, aiohttp.ClientResponseError):
            text = f"{self._url}: {what}: {self._origin} does not answer in HTTP: {error.message[:200]}"
            return Verdict(Corrupt(text), retry=True, uncertain=True)
        if isinstance(error, asyncio.TimeoutError):
            text = f"{self._url}: {what}: {self._origin} was silent for too long"
        else:
            text = f"{self._url}: {what}: the connection to {self._origin} broke: {str(error)[:200]}"
        return Verdict(Unavailable(text), retry=True, uncertain=True)

    def malformed(self, what: str, error: Exception) -> Verdict:
        """A success whose document is none of S3's. A proxy in between may have sent it, so it is asked again."""
        text = f"{self._url}: {what}: {self._origin} answered with something else than S3 does: {error}"
        return Verdict(Corrupt(text), retry=True, uncertain=True)

    def too_large(self, what: str, limit: int) -> Verdict:
        return Verdict(Corrupt(f"{self._url}: {what}: more than the {limit} bytes that were expected"))

    def answer(self, what: str, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """An answer that is not a success. ``headers`` ignore case."""
        fault = parse_fault(body)
        if 300 <= status < 400 and status != 304:
            return self._redirected(headers, fault)
        if fault is None:
            return self._unexplained(what, status, headers, body)
        return self.fault(what, status, headers, fault)

    def fault(self, what: str, status: int, headers: Mapping[str, str], fault: Fault) -> Verdict:
        """An answer that says what failed; ``status`` may be 200, for errors that come after the head was sent."""
        code = fault.code
        said = f"{code}: {fault.message}" if fault.message else code
        text = f"{self._url}: {what}: {said}"
        if code == "NoSuchKey":
            return Verdict(NotFound(f"{self._url}: {what}: no such object"))
        if code in ("NoSuchBucket", "InvalidBucketName"):
            return Verdict(BucketMissing(f"there is no bucket {self._bucket!r} at {self._origin}: {said}"))
        if code == "NoSuchUpload":
            return Verdict(UploadNotFound(f"{text} (completed, aborted, or it never was)"))
        if code in _PARTS:
            return Verdict(InvalidPart(text))
        if code == "PreconditionFailed" or status == 412:
            return Verdict(PreconditionFailed(f"{self._url}: {what}: the object is not as the write expects it"))
        if code == "RequestTimeTooSkewed":
            return Verdict(AccessDenied(self._skewed(headers)))
        if code == "AuthorizationHeaderMalformed" and fault.region:
            return Verdict(BucketMissing(self._elsewhere(fault.region)))
        if code in _EXPIRED:
            why = f"{self._url}: {what}: the credentials from {self._source()} have expired; renew them ({said})"
            return Verdict(AccessDenied(why), renew=True)
        if code == "InvalidObjectState":
            return Verdict(Unsupported(f"{self._url}: {what}: {_DENIALS[code]} ({said})"))
        if code in _FULL or status == 507:
            return Verdict(StoreFull(f"{self._url} is full: {said}", retry_after=30.0))
        if code in _DAMAGED:
            return Verdict(Corrupt(f"{text}: the bytes changed on their way to the store"), retry=True)
        if code in _TOO_LARGE:
            return Verdict(Unsupported(f"{text}: this store takes nothing as large"))
        if code in _CANNOT or status in (405, 501):
            return Verdict(Unsupported(f"{self._url} cannot do that: {what}: {said}"))
        if code in _BUSY or status in (429, 500, 502, 503, 504):
            return self._busy(text, status, headers)
        if code in _DENIALS or status in (401, 403) or code == "AccessDenied" or code.startswith("KMS."):
            return Verdict(AccessDenied(self._denied(what, code, said)), renew=code in _RENEWABLE)
        return Verdict(StoreError(text))

    def _unexplained(self, what: str, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """Without an error document: answers to HEAD have none, and whoever sends another kind is no S3."""
        text = f"{self._url}: {what}: {self._origin} answered {status}"
        if status in (429, 500, 502, 503, 504):
            return self._busy(text, status, headers)
        if status == 404 and not body:
            return Verdict(NotFound(f"{self._url}: {what}: no such object"))
        if status == 412:
            return Verdict(PreconditionFailed(f"{self._url}: {what}: the object is not as the write expects it"))
        if status in (401, 403):
            return Verdict(AccessDenied(self._denied(what, "", f"answered {status}")))
        if status == 507:
            return Verdict(StoreFull(f"{self._url} is full", retry_after=30.0))
        if status in (405, 501):
            return Verdict(Unsupported(f"{self._url} cannot do that: {what}: answered {status}"))
        if status == 409:
            return Verdict(Unavailable(f"{text} (a conflict with another request)"), retry=True)
        if status == 400 and not body:
            # To HEAD, S3 answers expired credentials so.
            return Verdict(StoreError(text), renew=True)
        said = body[:120].decode("ascii", "replace").replace("\n", " ")
        return Verdict(Corrupt(f"{text}, not in the protocol of S3; is it an S3 endpoint? It said: {said!r}"))

    def _busy(self, text: str, status: int, headers: Mapping[str, str]) -> Verdict:
        after = _seconds(headers.get("Retry-After"))
        # Answers of 5xx are no proof that nothing happened: a store that lost its quorum halfway sends them too.
        return Verdict(
            Unavailable(text, retry_after=after or 1.0),
            retry=True,
            uncertain=status == 200 or status >= 500,
            after=after,
        )

    def _redirected(self, headers: Mapping[str, str], fault: Fault | None) -> Verdict:
        region = headers.get("x-amz-bucket-region") or (fault.region if fault is not None else "")
        if region and region != self._region:
            return Verdict(BucketMissing(self._elsewhere(region)))
        target = urlsplit(headers.get("Location", ""))
        if not target.hostname:
            said = f": {fault.code}: {fault.message}" if fault is not None else ""
            text = f"{self._url}: {self._origin} says that the bucket is elsewhere{said}; check region and endpoint"
            return Verdict(BucketMissing(text))
        text = (
            f"{self._url}: {self._origin} redirects to {target.scheme}://{target.netloc.rpartition('@')[2]}, "
            "which is not followed with credentials; set that as the endpoint, if it is yours"
        )
        return Verdict(BucketMissing(text))

    def _elsewhere(self, region: str) -> str:
        return (
            f"bucket {self._bucket!r} is in region {region!r}, not {self._region!r}: "
            f"set region={region} (or AWS_REGION)"
        )

    def _denied(self, what: str, code: str, said: str) -> str:
        why = _DENIALS.get(code, "not allowed")
        text = f"{self._url}: {what}: {why} ({said}); credentials are from {self._source()}"
        if not code or code == "AccessDenied":
            text += "; without s3:ListBucket S3 also refuses to tell that a key is missing"
        return text

    def _skewed(self, headers: Mapping[str, str]) -> str:
        theirs = http_time(headers.get("Date"))
        if theirs is None:
            return f"{self._url}: the clock of this machine is wrong (RequestTimeTooSkewed): set it right"
        off = self._clock() - theirs
        return (
            f"{self._url}: the clock of this machine is {abs(off):.0f} seconds "
            f"{'ahead of' if off > 0 else 'behind'} the store's (RequestTimeTooSkewed): set it right"
        )


@lru_cache(maxsize=4096)
def http_time(text: str | None) -> float | None:
    """POSIX seconds of a Date or Last-Modified header."""
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; its other form, a date, is not used by stores."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
