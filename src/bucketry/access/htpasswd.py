"""Users and their passwords: an htpasswd file, as Apache's ``htpasswd -B`` and `bucketry access hash` make it.

bcrypt and argon2id only: the other kinds (MD5, SHA-1, crypt, plain) are guessed in no time once the file is read by
somebody who should not.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bucketry.access.errors import PrincipalInvalid, UsersInvalid
from bucketry.access.principal import check_name

MAX_FILE: Final = 1024 * 1024
"""Characters in a file of users."""

MAX_PASSWORD: Final = 1024
"""Bytes of a password, in UTF-8."""

MAX_BCRYPT_COST: Final = 14
"""About a second of CPU; each one more doubles it."""

MAX_ARGON2_MEMORY: Final = 256 * 1024
"""KiB, for as long as a password is checked."""

MAX_ARGON2_WORK: Final = 1024 * 1024
"""KiB times passes: about a second of CPU."""

MAX_ARGON2_LANES: Final = 16

SALT_SIZE: Final = 16
"""Bytes."""

_ARGON2_MEMORY, _ARGON2_PASSES, _ARGON2_LANES, _HASH_SIZE = 32 * 1024, 3, 1, 32
_BCRYPT_READS: Final = 72
_WEAK_BCRYPT_COST: Final = 10
_BCRYPT: Final = re.compile(r"\$2[aby]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{53}")
_ARGON2ID: Final = re.compile(
    r"\$argon2id\$v=(?P<version>[0-9]{1,3})\$m=(?P<memory>[0-9]{1,10}),t=(?P<passes>[0-9]{1,10}),p=(?P<lanes>[0-9]{1,8})"
    r"\$(?P<salt>[A-Za-z0-9+/]{1,128})\$(?P<hash>[A-Za-z0-9+/]{1,256})"
)
_OTHER_KINDS: Final = (
    ("$2", "a bcrypt hash that was cut off or mistyped"),
    ("$argon2id$", "an argon2id hash that was cut off or mistyped"),
    ("$argon2", "an argon2 hash of another kind than argon2id"),
    ("$apr1$", "an MD5 hash (htpasswd without -B)"),
    ("$1$", "an MD5 hash"),
    ("{SHA}", "a SHA-1 hash (htpasswd -s)"),
    ("$5$", "a SHA-256 hash (htpasswd -2)"),
    ("$6$", "a SHA-512 hash (htpasswd -5)"),
    ("$y$", "a yescrypt hash"),
    ("{", "a hash of an LDAP server"),
)


class Users:
    """Names and hashes of one file. Immutable. ``warnings``: a line each, with path and line."""

    def __init__(self, hashes: Mapping[str, str], warnings: tuple[str, ...] = ()) -> None:
        """``hashes``: by name, as `parse_htpasswd` lets them through."""
        self._hashes: Final = MappingProxyType(dict(hashes))
        self._all: Final = tuple(self._hashes.values())
        self.warnings: Final = warnings

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._hashes)

    def __contains__(self, name: object) -> bool:
        return name in self._hashes

    def __len__(self) -> int:
        return len(self._hashes)

    def __repr__(self) -> str:
        return f"Users({len(self)} names)"

    def stored(self, name: str) -> str:
        """The hash of a user's password, so that a changed one is told from the old; empty where there is no user."""
        return self._hashes.get(name, "")

    def verify(self, name: str, password: str) -> bool:
        """Whether it is this user's password. Takes 20 to 1000 ms of CPU: call it in a thread.

        A name that is not in the file takes as long as one that is: the password is held against the hash of some
        user, the same for every try of that name, and the outcome is not looked at. Passwords that are empty, over
        `MAX_PASSWORD`, or hold a NUL are nobody's, whatever the name.
        """
        try:
            secret = password.encode()
        except UnicodeEncodeError:  # lone surrogates
            return False
        if not 0 < len(secret) <= MAX_PASSWORD or b"\0" in secret:
            return False
        found = self._hashes.get(name)
        if found is not None:
            return _matches(found, secret)
        if self._all:
            _matches(self._all[_number(name) % len(self._all)], secret)
        return False


def parse_htpasswd(text: str, *, path: str) -> Users:
    """Reads the text of the file ``path``, which is for messages only. Raises `UsersInvalid` with all that is wrong.

    One that was not UTF-8 is to be decoded with ``errors="replace"``: the line where it was not is then named.
    No message holds a hash.
    """
    if len(text) > MAX_FILE:
        raise UsersInvalid([f"{path}: has {len(text)} characters: at most {MAX_FILE} are allowed"])
    problems: list[str] = []
    warnings: list[str] = []
    hashes: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, whole in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = whole.rstrip("\r \t")
        if not line or line.lstrip().startswith("#"):
            continue
        name, colon, rest = line.partition(":")
        place = f"{path}: line {number}"
        problem = None if colon else "is not NAME:HASH"
        if problem is None:
            problem = _name_problem(name) or _hash_problem(rest, name)
        if problem is None and name in lines:
            problem = f"{name} is in line {lines[name]} already; leave one of them"
        if problem is not None:
            problems.append(f"{place}: {problem}")
            continue
        hashes[name], lines[name] = rest, number
        match = _BCRYPT.fullmatch(rest)
        if match and int(match["cost"]) < _WEAK_BCRYPT_COST:
            warnings.append(
                f"{place}: the bcrypt cost of {name}'s hash is {int(match['cost'])}, which is soon guessed by whoever "
                f"gets the file; `bucketry access hash {shlex.quote(name)}` makes a better one"
            )
    if problems:
        raise UsersInvalid(problems)
    return Users(hashes, tuple(warnings))


def hash_password(password: str, *, salt: bytes) -> str:
    """An argon2id hash for the file. ``salt``: `SALT_SIZE` random bytes.

    Raises `ValueError` with the end of a sentence that begins with "the password".
    """
    from argon2.low_level import Type, hash_secret

    if len(salt) != SALT_SIZE:
        raise ValueError(f"needs a salt of {SALT_SIZE} bytes")
    secret = password.encode(errors="surrogatepass")
    if not secret:
        raise ValueError("is empty")
    if len(secret) > MAX_PASSWORD:
        raise ValueError(f"has {len(secret)} bytes: at most {MAX_PASSWORD} are allowed")
    if not password.isprintable():
        raise ValueError("holds control characters, which no client can send")
    return hash_secret(secret, salt, _ARGON2_PASSES, _ARGON2_MEMORY, _ARGON2_LANES, _HASH_SIZE, Type.ID).decode()


def htpasswd_line(name: str, password: str, *, salt: bytes) -> str:
    """``NAME:HASH``. Raises `PrincipalInvalid`, or `ValueError` as `hash_password`."""
    return f"{check_name('user', name)}:{hash_password(password, salt=salt)}"


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8], "big")


def _matches(found: str, secret: bytes) -> bool:
    if found.startswith("$2"):
        import bcrypt

        # bcrypt never saw more than that: htpasswd cut it off when the hash was made, and so does every verifier.
        return bcrypt.checkpw(secret[:_BCRYPT_READS], found.encode())
    from argon2.exceptions import VerificationError
    from argon2.low_level import Type, verify_secret

    try:
        return verify_secret(found.encode(), secret, Type.ID)
    except VerificationError:
        return False


def _name_problem(name: str) -> str | None:
    try:
        check_name("user", name)
    except PrincipalInvalid as error:
        return str(error)
    return None


def _hash_problem(text: str, name: str) -> str | None:
    """What is wrong with what stands behind the colon, without a word of it: it may be a password."""
    bcrypt = _BCRYPT.fullmatch(text)
    if bcrypt is not None:
        cost = int(bcrypt["cost"])
        if cost < 4:
            return f"the bcrypt cost of {name}'s hash is {cost}: there is none below 4{_make(name)}"
        if cost > MAX_BCRYPT_COST:
            seconds = 2 ** (cost - MAX_BCRYPT_COST)
            return (
                f"the bcrypt cost of {name}'s hash is {cost}, so a check would take about {seconds} seconds: at most "
                f"{MAX_BCRYPT_COST} is allowed{_make(name)}"
            )
        return None
    argon2 = _ARGON2ID.fullmatch(text)
    if argon2 is not None:
        problem = _argon2_problem(argon2)
        return None if problem is None else f"the argon2id hash of {name} {problem}{_make(name)}"
    kind = next((kind for prefix, kind in _OTHER_KINDS if text.startswith(prefix)), None)
    if kind is None:
        kind = "no hash of a known kind" if text else "no password"
    return f"{name} has {kind}, and only bcrypt and argon2id are taken{_make(name)}"


def _argon2_problem(match: re.Match[str]) -> str | None:
    memory, passes, lanes = int(match["memory"]), int(match["passes"]), int(match["lanes"])
    if match["version"] != "19":
        return f"is of version {match['version']}: 19 is the only one that is taken"
    if passes < 1 or lanes < 1 or memory < 8 * lanes:
        return "has parameters that cannot be"
    if memory > MAX_ARGON2_MEMORY:
        return f"takes {memory} KiB of memory for each check: at most {MAX_ARGON2_MEMORY} are allowed"
    if memory * passes > MAX_ARGON2_WORK:
        return (
            f"takes {passes} passes over {memory} KiB for each check: at most {MAX_ARGON2_WORK // memory} are allowed"
        )
    if lanes > MAX_ARGON2_LANES:
        return f"takes {lanes} lanes: at most {MAX_ARGON2_LANES} are allowed"
    sizes = [_decoded_size(match[name]) for name in ("salt", "hash")]
    if sizes[0] < 8 or sizes[1] < 16:
        return "was cut off or mistyped"
    return None


def _decoded_size(text: str) -> int:
    """Bytes in it; 0 where it is not base64."""
    try:
        return len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except binascii.Error:
        return 0


def _make(name: str) -> str:
    word = shlex.quote(name)
    return f"; `bucketry access hash {word}` makes a right one (or `htpasswd -nB {word}`)"
