"""The file of rules: TOML, written by a person, read into frozen values.

All that is wrong is told at once: each by its place, what was found, and what is right.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from bucketry.access.access_file import AccessFile
from bucketry.access.actions import Action, nearest_action
from bucketry.access.errors import AccessFileInvalid, PrincipalInvalid
from bucketry.access.patterns import TextGlob, repository_glob
from bucketry.access.policy_warnings import warnings_of
from bucketry.access.principal import PREFIXES, check_name
from bucketry.access.rules import (
    ALL_REPOSITORIES,
    AUTHENTICATED,
    EVERYBODY,
    ClaimGlobs,
    Immutable,
    Rule,
    place,
)
from bucketry.access.sources import Issuer, TokenService
from bucketry.oci.errors import NameInvalid
from bucketry.oci.glob import RepositoryGlob
from bucketry.oci.text import quoted

MAX_FILE: Final = 1024 * 1024
"""Characters in a file of rules."""

MAX_RULES: Final = 2_000

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("users", "groups", "issuer", "rule", "immutable", "token", "certificates"),
    "issuer": ("name", "url", "audience", "keys", "ca"),
    "rule": ("who", "claims", "repositories", "allow"),
    "immutable": ("repositories", "tags"),
    "token": ("realm", "service", "issuer", "jwks"),
}
_WRITTEN: Final[Mapping[str, str]] = {
    "users": 'users = "FILE", before any [section]',
    "groups": "[groups]",
    "issuer": "[[issuer]]",
    "rule": "[[rule]]",
    "immutable": "[[immutable]]",
    "token": "[token]",
    "certificates": "[certificates]",
}
_HEADER: Final = re.compile(r"\s*\[\[\s*(?P<name>[a-z]+)\s*\]\]\s*(?:#.*)?")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAGS: Final = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9._*-]{0,127}")
_HEADER_TEXT: Final = re.compile(r"[ !#-\[\]-~]*")
_MEMBERS: Final = ("user", "robot", "cert")


def parse_access(text: str, *, path: str) -> AccessFile:
    """Reads the text of the file ``path``, which is for messages only. Raises `AccessFileInvalid`."""
    if len(text) > MAX_FILE:
        raise AccessFileInvalid([f"{path}: has {len(text)} characters: at most {MAX_FILE} are allowed"])
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AccessFileInvalid([f"{path}: is not TOML: {error}"]) from None
    except RecursionError:
        raise AccessFileInvalid([f"{path}: is not a file of rules: its lists are nested too deeply"]) from None
    reader = _Reader(path, _lines(text))
    access = reader.read(tables)
    if reader.problems:
        raise AccessFileInvalid(reader.problems)
    return access


def _lines(text: str) -> Mapping[str, Sequence[int]]:
    """Of each kind of table that is written ``[[name]]``: the lines where one begins."""
    found: dict[str, list[int]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        match = _HEADER.fullmatch(line)
        if match:
            found.setdefault(match["name"], []).append(number)
    return found


class _Reader:
    """Reads one file. What is wrong is noted, and reading goes on with what is left."""

    def __init__(self, path: str, lines: Mapping[str, Sequence[int]]) -> None:
        self.problems: list[str] = []
        self._path = path
        self._lines = lines

    def read(self, tables: dict[str, Any]) -> AccessFile:
        self._keys("", tables, "")
        groups = self._groups(tables.get("groups", {}))
        access = AccessFile(
            path=self._path,
            users=self._text("", tables, "users", optional=True),
            groups=groups,
            issuers=tuple(self._issuers(tables)),
            rules=tuple(self._rules(tables, groups)),
            immutables=tuple(self._immutables(tables)),
            token=self._token(tables),
            certificates=self._certificates(tables.get("certificates", {})),
        )
        if self.problems:
            return access
        found = warnings_of(access.policy, access.issuers, users=access.users is not None or access.token is not None)
        return replace(access, warnings=tuple(f"{self._path}: {warning}" for warning in found))

    # What holds for every kind of table.

    def _wrong(self, where: str, what: str) -> None:
        self.problems.append(": ".join(part for part in (self._path, where, what) if part))

    def _keys(self, table: str, given: Mapping[str, object], where: str) -> None:
        known = _KEYS[table]
        for key in given:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1)
            if table and key in _KEYS[""]:
                hint = f"it stands by itself: {_WRITTEN[key]}"
            elif near:
                hint = f"did you mean {near[0] if table else _WRITTEN[near[0]]}?"
            else:
                hint = f"there {'are' if len(known) > 1 else 'is'} {_enumerated(known)}"
            self._wrong(where, f"there is no {quoted(key)}; {hint}")

    def _tables(self, tables: Mapping[str, object], name: str) -> Iterator[tuple[int, int | None, dict[str, Any]]]:
        """Number, line and content of each ``[[name]]``."""
        given = tables.get(name, [])
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            self._wrong("", f"{name} is not written [[{name}]], with its keys below it")
            return
        lines = self._lines.get(name, ())
        # Where these differ, something else is written like a table, within a string: better no line than a wrong one.
        known = len(lines) == len(given)
        for index, table in enumerate(given):
            line = lines[index] if known else None
            self._keys(name, table, place(name, index + 1, line))
            yield index + 1, line, table

    def _text(self, where: str, table: Mapping[str, object], key: str, *, optional: bool = False) -> str | None:
        value = table.get(key)
        if value is None and key not in table:
            if not optional:
                self._wrong(where, f"{key} is missing")
            return None
        if not isinstance(value, str):
            self._wrong(where, f"{key} is not text; put it in quotes")
        elif not value or value != value.strip() or not value.isprintable():
            self._wrong(where, f"{key} is empty, or has spaces around it or control characters in it")
        else:
            return value
        return None

    def _texts(
        self, where: str, table: Mapping[str, object], key: str, example: str, *, single: bool = False
    ) -> list[str]:
        value = table.get(key)
        if key not in table:
            self._wrong(where, f"{key} is missing; write {key} = {example}")
            return []
        if single and isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(where, f"{key} is not a list of texts; write {key} = {example}")
            return []
        return list(dict.fromkeys(value))

    def _repositories(self, where: str, table: Mapping[str, object]) -> tuple[RepositoryGlob, ...]:
        globs = []
        for pattern in self._texts(where, table, "repositories", '["team/**"]'):
            try:
                globs.append(repository_glob(pattern))
            except NameInvalid as error:
                self._wrong(where, f"repositories: {error.message}")
        return tuple(globs)

    def _url(self, where: str, table: Mapping[str, object], key: str) -> str:
        text = self._text(where, table, key)
        if text is None:
            return ""
        problem = _url_problem(text)
        if problem:
            self._wrong(where, f"{key}: {problem}")
        return text

    # The tables.

    def _groups(self, tables: object) -> dict[str, frozenset[str]]:
        if not isinstance(tables, dict):
            self._wrong("", 'groups is a section: write [groups], and below it dev = ["user:alice"]')
            return {}
        groups = {}
        for name in tables:
            where = f"group {quoted(name)[1:-1]}"
            if not _NAME.fullmatch(name):
                self._wrong(where, "the name of a group is at most 64 letters, digits, . _ and -")
            members = self._texts(where, {"members": tables[name]}, "members", '["user:alice", "robot:ci"]')
            for member in members:
                self._member(where, member)
            groups[name] = frozenset(members)
        return groups

    def _member(self, where: str, member: str) -> None:
        prefix = member.partition(":")[0]
        if prefix == "group":
            self._wrong(where, f"{quoted(member)}: a group has no groups in it; name both in the rule")
        elif prefix == "oidc" or member in (EVERYBODY, AUTHENTICATED):
            self._wrong(where, f"{quoted(member)} is in no group; name it in the rule")
        else:
            self._principal(where, member, _MEMBERS)

    def _principal(self, where: str, text: str, prefixes: Sequence[str]) -> None:
        """Notes what is wrong with it."""
        prefix, colon, name = text.partition(":")
        if "*" in text:
            self._wrong(
                where,
                f"{quoted(text)}: there are no patterns here; {EVERYBODY} is everybody, {AUTHENTICATED} everybody who "
                "has logged in",
            )
        elif not colon:
            near = difflib.get_close_matches(text.lower(), (EVERYBODY, AUTHENTICATED), n=1)
            hint = near[0] if near else " or ".join(f"{one}:{quoted(text)[1:-1]}" for one in prefixes[:2])
            self._wrong(where, f"{quoted(text)} is nobody; did you mean {hint}?")
        elif prefix not in prefixes:
            near = difflib.get_close_matches(prefix.lower(), prefixes, n=1)
            hint = (
                f"did you mean {near[0]}:{quoted(name)[1:-1]}?"
                if near
                else f"write {_enumerated([f'{one}:' for one in prefixes])}"
            )
            self._wrong(where, f"{quoted(text)} is nobody; {hint}")
        elif prefix != "group":
            try:
                check_name(PREFIXES[prefix], name)
            except PrincipalInvalid as error:
                self._wrong(where, str(error))

    def _issuers(self, tables: Mapping[str, object]) -> Iterator[Issuer]:
        names: dict[str, str] = {}
        pinned: dict[tuple[str, str], str] = {}
        for number, line, table in self._tables(tables, "issuer"):
            where = place("issuer", number, line)
            name = self._text(where, table, "name") or ""
            if name:
                self._principal(where, f"oidc:{name}", ("oidc",))
            if name in names:
                self._wrong(where, f"{names[name]} is called {quoted(name)} too; each needs a name of its own")
            elif name:
                names[name] = where
            url = self._url(where, table, "url")
            audience = self._texts(where, table, "audience", '"registry.example.com"', single=True)
            if "audience" in table and (not audience or not all(audience)):
                self._wrong(where, "audience is empty: it is what tokens for this registry have in aud")
            for one in audience:
                if (url, one) in pinned:
                    self._wrong(where, f"{pinned[url, one]} has the same url and audience: which of them would it be?")
                elif url and one:
                    pinned[url, one] = where
            keys = self._text(where, table, "keys", optional=True)
            ca = self._text(where, table, "ca", optional=True)
            if keys is not None and ca is not None:
                self._wrong(where, "ca is for fetching keys, which keys has in a file already; leave out one of them")
            yield Issuer(name, url, tuple(audience), keys, ca)

    def _rules(self, tables: Mapping[str, object], groups: Mapping[str, object]) -> Iterator[Rule]:
        given = list(self._tables(tables, "rule"))
        if len(given) > MAX_RULES:
            self._wrong("", f"there are {len(given)} rules: at most {MAX_RULES} are allowed")
            return
        for number, line, table in given:
            where = place("rule", number, line)
            who = self._texts(where, table, "who", '["group:dev", "robot:ci"]')
            for one in who:
                self._who(where, one, groups)
            allow = frozenset(self._actions(where, table))
            claims = self._claims(where, table, who)
            if allow and all(action.of_registry for action in allow) and "repositories" not in table:
                repositories: tuple[RepositoryGlob, ...] = (RepositoryGlob(ALL_REPOSITORIES),)
            else:
                repositories = self._repositories(where, table)
            yield Rule(number, tuple(who), repositories, allow, claims, line)

    def _who(self, where: str, who: str, groups: Mapping[str, object]) -> None:
        prefix, _, name = who.partition(":")
        if who in (EVERYBODY, AUTHENTICATED):
            return
        if prefix == "group" and name not in groups and "*" not in who:
            near = difflib.get_close_matches(name, groups, n=1)
            hint = f"did you mean group:{near[0]}?" if near else "name its members in [groups]"
            self._wrong(where, f"{quoted(who)}: there is no such group; {hint}")
        else:
            self._principal(where, who, ("user", "robot", "group", "oidc", "cert"))

    def _actions(self, where: str, table: Mapping[str, object]) -> Iterator[Action]:
        for text in self._texts(where, table, "allow", '["pull", "push"]'):
            try:
                yield Action(text)
            except ValueError:
                near = nearest_action(text)
                hint = f"did you mean {near}?" if near else f"there are {_enumerated(list(Action))}"
                self._wrong(where, f"allow: {quoted(text)} is no action; {hint}")

    def _claims(self, where: str, table: Mapping[str, object], who: Sequence[str]) -> ClaimGlobs:
        given = table.get("claims", {})
        if not isinstance(given, dict):
            self._wrong(where, 'claims is not a table; write claims = { repository_owner = "acme" }')
            return {}
        others = [one for one in who if not one.startswith("oidc:")]
        if given and others:
            self._wrong(
                where,
                f"claims are of ID tokens, and {quoted(others[0])} has none; make a rule of its own for oidc:ISSUER",
            )
        claims = {}
        for name, value in _flat(given):
            if not name or not name.isprintable():
                self._wrong(where, f"claims: {quoted(name)} is not the name of a claim")
                continue
            globs = []
            for pattern in self._texts(where, {f"claims.{name}": value}, f"claims.{name}", '"acme"', single=True):
                try:
                    globs.append(TextGlob(pattern))
                except ValueError as error:
                    self._wrong(where, f"claims.{name}: {quoted(pattern, 20)} {error}")
            if name in claims:
                self._wrong(where, f"claims.{name} is written twice")
            claims[name] = tuple(globs)
        return claims

    def _immutables(self, tables: Mapping[str, object]) -> Iterator[Immutable]:
        for number, line, table in self._tables(tables, "immutable"):
            where = place("immutable", number, line)
            tags = self._texts(where, table, "tags", '["v*"]')
            for tag in tags:
                if not _TAGS.fullmatch(tag):
                    self._wrong(
                        where,
                        f"tags: {quoted(tag)} matches no tag; write letters, digits, . _ -, and * for any part of it",
                    )
            globs = tuple(TextGlob(tag) for tag in tags if _TAGS.fullmatch(tag))
            yield Immutable(number, self._repositories(where, table), globs, line)

    def _token(self, tables: Mapping[str, object]) -> TokenService | None:
        if "token" not in tables:
            return None
        table = tables["token"]
        if not isinstance(table, dict):
            self._wrong("", "token is a section: write [token], and below it realm, service, issuer and jwks")
            return None
        self._keys("token", table, "token")
        realm = self._url("token", table, "realm")
        service = self._text("token", table, "service") or ""
        if not _HEADER_TEXT.fullmatch(service):
            self._wrong("token", "service has other characters than printable ASCII, or quotes: it is sent in a header")
        issuer = self._text("token", table, "issuer") or ""
        jwks = self._text("token", table, "jwks") or ""
        if "://" in jwks and (problem := _url_problem(jwks)):
            self._wrong("token", f"jwks: {problem}, or the path of a file")
        return TokenService(realm, service, issuer, jwks)

    def _certificates(self, table: object) -> dict[str, str]:
        if not isinstance(table, dict):
            self._wrong("", 'certificates is a section: write [certificates], and below it "CN=alice" = "user:alice"')
            return {}
        found = {}
        for name in table:
            where = f"certificates, {quoted(name)}"
            user = self._text(where, {"its user": table[name]}, "its user")
            try:
                check_name("certificate", name)
            except PrincipalInvalid as error:
                self._wrong("certificates", str(error))
            if user is not None:
                self._principal(where, user, ("user",))
                found[name] = user.removeprefix("user:")
        return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """``kubernetes.io.namespace``, without quotes, is a table in TOML, and the name of one claim here."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _url_problem(text: str) -> str:
    """What keeps it from being the URL of something that is trusted; empty where nothing does."""
    right = "write https://host/path"
    try:
        parts = urlsplit(text)
        valid = (
            bool(parts.hostname) and parts.port != 0 and _HEADER_TEXT.fullmatch(text) is not None and " " not in text
        )
    except ValueError:  # brackets that do not match, a port that is no number
        return f"{quoted(text)} is not a URL; {right}"
    if parts.scheme != "https" or not valid:
        return f"{quoted(text)} is not an https URL; {right}"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return f"the URL has a user, a query or a fragment; {right}"
    return ""


def _enumerated(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
