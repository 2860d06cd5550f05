"""Robots: tokens for programs, and the records of them in the store.

A token is ``bktr_<name>_<secret>_<crc>``: 256 random bits and a checksum, both in digits and letters of fixed number.
Scanners for leaked secrets find it by its form, and one that was cut off is told from one that is wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import string
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from bucketry.access.actions import Action
from bucketry.access.errors import AccessError, PrincipalInvalid, TokenInvalid
from bucketry.access.patterns import repository_glob
from bucketry.access.principal import Grant, Method, Principal, check_name
from bucketry.oci.errors import NameInvalid

PREFIX: Final = "bktr_"
SECRET_SIZE: Final = 32
"""Random bytes in a token."""

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_DIGITS: Final = 43  # the fewest that hold 256 bits
_CRC_DIGITS: Final = 6
_MAX_TOKEN: Final = len(PREFIX) + 64 + 1 + _SECRET_DIGITS + 1 + _CRC_DIGITS

TOKEN_PATTERN: Final = rf"{PREFIX}[a-z0-9._-]{{1,64}}_[0-9A-Za-z]{{{_SECRET_DIGITS}}}_[0-9A-Za-z]{{{_CRC_DIGITS}}}"
"""A regular expression for scanners."""


@dataclass(frozen=True, slots=True)
class RobotToken:
    """What a token says: whose it is. ``digest``: SHA-256 of the whole text, in hex, as the record has it."""

    name: str
    digest: str


class Standing(Enum):
    """What a record says about a token."""

    GOOD = "good"
    WRONG = "wrong"
    """It is not this robot's token, or no longer. Told to clients as if there were no such robot."""
    EXPIRED = "expired"
    REVOKED = "revoked"


class RobotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``access/robots/<name>``. Times are Unix seconds. Raises `ValueError` for what cannot be, so when decoded too."""

    name: str
    repositories: tuple[str, ...]
    """Patterns, as in rules."""
    actions: tuple[Action, ...]
    created: float
    digest: str
    """SHA-256 of the token, in hex. The token has 256 random bits, so nobody can guess one from it."""
    expires: float | None = None
    revoked: float | None = None

    def __post_init__(self) -> None:
        try:
            check_name("robot", self.name)
            for pattern in self.repositories:
                repository_glob(pattern)
        except (PrincipalInvalid, NameInvalid) as error:
            raise ValueError(str(error)) from None
        if len(self.digest) != 64 or set(self.digest) - set("0123456789abcdef"):
            raise ValueError("the digest of the token is not one of SHA-256, in hex")

    def standing(self, token: RobotToken, now: float) -> Standing:
        """Whether this is the robot's token, and may be used at ``now`` (Unix seconds)."""
        # Both are always compared, and in constant time. Only whoever has the right one is told more.
        if not (hmac.compare_digest(self.digest, token.digest) & (self.name == token.name)):
            return Standing.WRONG
        if self.revoked is not None:
            return Standing.REVOKED
        if self.expires is not None and now >= self.expires:
            return Standing.EXPIRED
        return Standing.GOOD

    def principal(self) -> Principal:
        """Who uses it, with its own list of rights."""
        grant = Grant(tuple(repository_glob(pattern) for pattern in self.repositories), frozenset(self.actions))
        return Principal("robot", self.name, method=Method.ROBOT_TOKEN, grant=grant)

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> RobotRecord:
        """Raises `AccessError`."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AccessError(f"a robot's record in the store cannot be read: {error}") from None


def make_token(name: str, secret: bytes) -> str:
    """The text of a token. ``secret``: `SECRET_SIZE` random bytes. Raises `PrincipalInvalid`, `ValueError`."""
    check_name("robot", name)
    if len(secret) != SECRET_SIZE:
        raise ValueError(f"a token needs {SECRET_SIZE} random bytes")
    body = f"{PREFIX}{name}_{_written(int.from_bytes(secret, 'big'), _SECRET_DIGITS)}"
    return f"{body}_{_crc(body)}"


def is_token(text: str) -> bool:
    """Whether it is meant to be a robot's token, right or not, and no password of a user."""
    return text.startswith(PREFIX)


def parse_token(text: str) -> RobotToken:
    """Whose token it is, before anybody knows whether it is a right one.

    Raises `TokenInvalid` where it was cut off or mistyped, so nobody's. The message does not repeat it.
    """
    damaged = TokenInvalid(
        f"this token of a robot was cut off or mistyped: all of it begins with {PREFIX} and its last {_CRC_DIGITS} "
        "characters fit the rest"
    )
    if not is_token(text) or len(text) > _MAX_TOKEN or not text.isascii():
        raise damaged
    body, _, crc = text.rpartition("_")
    name, _, secret = body.removeprefix(PREFIX).rpartition("_")
    if len(secret) != _SECRET_DIGITS or not hmac.compare_digest(crc, _crc(body)):
        raise damaged
    try:
        check_name("robot", name)
    except PrincipalInvalid:
        raise damaged from None
    return RobotToken(name, token_digest(text))


def token_digest(text: str) -> str:
    """What the record keeps of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def _crc(body: str) -> str:
    return _written(zlib.crc32(body.encode()), _CRC_DIGITS)


def _written(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))
