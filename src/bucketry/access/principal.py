"""Who sends a request, once that is known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from bucketry.access.actions import Action
from bucketry.access.errors import PrincipalInvalid
from bucketry.oci.glob import RepositoryGlob
from bucketry.oci.text import quoted

Kind: TypeAlias = Literal["anonymous", "user", "robot", "oidc", "certificate"]
Claims: TypeAlias = Mapping[str, str | tuple[str, ...]]

PREFIXES: Final[Mapping[str, Kind]] = MappingProxyType(
    {"user": "user", "robot": "robot", "oidc": "oidc", "cert": "certificate"}
)
"""What stands before the colon, and the kind that it means. Anonymous has no name."""

MAX_NAME: Final = 255
"""Characters in a name of any kind; robots and issuers have fewer."""

MAX_CLAIMS: Final = 200
"""Claims of one token that rules can see, lists counted by their members."""

MAX_CLAIM: Final = 1024
"""Characters in the value of a claim that rules can see."""

_MAX_DEPTH: Final = 4
_NAMES: Final[Mapping[Kind, tuple[re.Pattern[str], str]]] = {
    "user": (
        re.compile(rf"(?!.*[:*])[!-~]{{1,{MAX_NAME}}}"),
        "printable ASCII without spaces, : and *, such as alice",
    ),
    "robot": (
        re.compile(r"(?=.{1,64}\Z)[a-z0-9]+(?:[._-][a-z0-9]+)*"),
        "at most 64 lower-case letters and digits, with single . _ - between them, such as ci-main",
    ),
    "oidc": (
        re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
        "at most 64 letters, digits, . _ and -, such as github",
    ),
    "certificate": (
        re.compile(rf"(?=.{{1,{MAX_NAME}}}\Z)(?:CN=|DNS:|URI:|EMAIL:)[!-)+-~](?:[ -)+-~]*[!-)+-~])?"),
        "CN=, DNS:, URI: or EMAIL: and what the certificate says there, in printable ASCII, such as CN=builder",
    ),
}


class Method(StrEnum):
    """How somebody was authenticated, for the audit log."""

    NONE = "none"
    PASSWORD = "password"
    ROBOT_TOKEN = "robot token"
    ID_TOKEN = "id token"
    CERTIFICATE = "certificate"
    EXTERNAL_TOKEN = "external token"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a robot brings along: these actions on these repositories."""

    repositories: tuple[RepositoryGlob, ...]
    actions: frozenset[Action]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request.

    ``name``: of the user, the robot, the issuer, or the certificate (``CN=builder``). ``claims``: of an ID token;
    see `claims_of`. ``grant``: a robot's own list. Raises `PrincipalInvalid` for a name that is none.

    Two are equal where every rule treats them alike, so however they were authenticated.
    """

    kind: Kind
    name: str = ""
    claims: Claims = field(default_factory=dict, compare=False)
    method: Method = field(default=Method.NONE, compare=False)
    grant: Grant | None = None
    _claims: tuple[tuple[str, str | tuple[str, ...]], ...] = field(init=False, repr=False)
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind == "anonymous":
            if self.name:
                raise PrincipalInvalid("anonymous has no name")
            text = "anonymous"
        else:
            check_name(self.kind, self.name)
            text = f"{'cert' if self.kind == 'certificate' else self.kind}:{self.name}"
        if self.claims and self.kind != "oidc":
            raise PrincipalInvalid(f"{text} has claims, which only an ID token has")
        if self.grant is not None and self.kind != "robot":
            raise PrincipalInvalid(f"{text} has a list of its own, which only a robot has")
        object.__setattr__(self, "claims", MappingProxyType(dict(self.claims)))
        object.__setattr__(self, "_claims", tuple(sorted(self.claims.items())))
        object.__setattr__(self, "_text", text)

    @classmethod
    def parse(cls, text: str, *, claims: Claims | None = None, method: Method = Method.NONE) -> Principal:
        """What ``str()`` gives: ``anonymous``, ``user:alice``, ``robot:ci``, ``oidc:github``, ``cert:CN=builder``.

        Raises `PrincipalInvalid`, whose message says what is right.
        """
        if text == "anonymous":
            return cls("anonymous", claims=claims or {}, method=method)
        prefix, colon, name = text.partition(":")
        if not colon or prefix not in PREFIXES:
            raise PrincipalInvalid(
                f"{quoted(text)} is no principal: write anonymous, user:NAME, robot:NAME, oidc:ISSUER, cert:CN=NAME "
                "or cert:DNS:HOST"
            )
        return cls(PREFIXES[prefix], name, claims or {}, method)

    @property
    def is_anonymous(self) -> bool:
        return self.kind == "anonymous"

    def __str__(self) -> str:
        return self._text


def check_name(kind: Kind, name: str) -> str:
    """``name``, where it is one for this kind. Raises `PrincipalInvalid`.

    All of it is printable ASCII, so no name looks like another one, and none has two encodings.
    """
    pattern, right = _NAMES[kind]
    if pattern.fullmatch(name) is None:
        raise PrincipalInvalid(f"{quoted(name)} is no name of {_ARTICLES[kind]}: it is {right}")
    if kind == "certificate" and name.startswith("DNS:") and name != "DNS:" + name[4:].lower():
        raise PrincipalInvalid(f"{quoted(name)} is no name of a certificate: write the host in lower case")
    return name


_ARTICLES: Final[Mapping[Kind, str]] = {
    "user": "a user",
    "robot": "a robot",
    "oidc": "an issuer",
    "certificate": "a certificate",
}

ANONYMOUS: Final = Principal("anonymous")


def claims_of(token: Mapping[str, object]) -> Claims:
    """The claims of a verified ID token as rules see them: text, or a tuple of texts.

    Those of objects within are named with dots (Kubernetes: ``kubernetes.io.namespace``); numbers are written in
    decimal digits, booleans as ``true`` and ``false``. What has another form, has a name that two claims share in
    this way, or is over `MAX_CLAIM` or `MAX_CLAIMS`, is left out: rules only allow, so what they do not see gives
    nobody anything.
    """
    pairs = list(_flat(token, "", _MAX_DEPTH))
    times = Counter(name for name, _ in pairs)
    found: dict[str, str | tuple[str, ...]] = {}
    budget = MAX_CLAIMS
    for name, value in pairs:
        texts = _texts(value)
        if texts is None or times[name] > 1:
            continue
        budget -= 1 if isinstance(texts, str) else len(texts) or 1
        if budget < 0:
            break
        found[name] = texts
    return found


def _flat(token: Mapping[str, object], prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    for key, value in token.items():
        name = prefix + key
        if len(name) > MAX_NAME:
            continue
        if isinstance(value, Mapping):
            if depth > 1:
                yield from _flat(value, f"{name}.", depth - 1)
        else:
            yield name, value


def _texts(value: object) -> str | tuple[str, ...] | None:
    if isinstance(value, list | tuple):
        return tuple(_members(value))
    return _text(value)


def _members(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        text = _text(value)
        if text is not None:
            yield text


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 10**30:
        return str(value)
    if isinstance(value, str) and len(value) <= MAX_CLAIM:
        return value
    return None
