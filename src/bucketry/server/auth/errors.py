"""Why credentials were not taken. No message repeats any part of what was presented, but for names that are checked.

The tree::

    bucketry.oci.errors.Unauthorized
    ├── Challenged              ``challenge``: how to come back (``WWW-Authenticate``)
    └── CredentialsRefused      ``reason`` says which kind, in one word, for counters and the audit log
        └── TokenRefused        a token that is none of ours, not now, or not for us
    IssuerUnavailable           it cannot be known now: keys are not to be had (``retry_after`` seconds)
    TooManyAttempts             an `bucketry.oci.errors.TooManyRequests`: wait ``retry_after`` seconds
"""

from __future__ import annotations

from enum import StrEnum

from bucketry.oci.errors import TooManyRequests, Unauthorized


class Reason(StrEnum):
    MALFORMED = "malformed"
    TOO_LARGE = "too large"
    ALGORITHM = "algorithm"
    KEY = "unknown key"
    SIGNATURE = "signature"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRED = "expired"
    NOT_YET = "not yet valid"
    LIFETIME = "lifetime"
    CLAIMS = "claims"
    PASSWORD = "password"
    GONE = "gone"
    """Whoever it was for is there no more, or not any more: a user removed, a robot revoked, an issuer not trusted."""


class RulesUnusable(Exception):
    """The file of rules, or the file of users that it names, cannot be used: what is wrong, a line each."""


class Challenged(Unauthorized):
    def __init__(self, message: str, challenge: str, *, reason: Reason | None = None) -> None:
        """``reason``: why credentials that came were not taken."""
        super().__init__(message)
        self.challenge = challenge
        self.reason = reason


class CredentialsRefused(Unauthorized):
    def __init__(self, message: str, *, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class TokenRefused(CredentialsRefused):
    pass


class IssuerUnavailable(Exception):
    """Keys of a pinned issuer cannot be had, so nothing can be said of its tokens."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyAttempts(TooManyRequests):
    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
