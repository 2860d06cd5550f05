"""Patterns for repository names, as Harbor and others have them: ``team/*``, ``team/**``, ``app-?``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from bucketry.oci.errors import NameInvalid
from bucketry.oci.text import quoted

_ALLOWED: Final = re.compile(r"[a-z0-9._/*?-]{1,255}")
_WILD: Final = re.compile(r"[*?]")
_TOKEN: Final = re.compile(r"/\*\*|\*\*/|\*\*|\*|\?|[^*?]")


@dataclass(frozen=True)
class RepositoryGlob:
    """``*`` stands for any characters but ``/``, ``**`` for any, ``?`` for one that is no ``/``.

    ``team/**`` is ``team`` too, and ``**/app`` is ``app``. The time to match grows with the length of the name alone,
    whatever the pattern. Raises `NameInvalid` for what no name can match.
    """

    pattern: str
    _regex: re.Pattern[str] | None = field(init=False, repr=False, compare=False)
    _states: _States | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Whether any name could match is not decided in full, only what people type by mistake.
        if _ALLOWED.fullmatch(self.pattern) is None or any(part in ("", ".", "..") for part in self.pattern.split("/")):
            raise NameInvalid(
                f"{quoted(self.pattern)} matches no repository: write a name in lower case, with * for any part of it, "
                "such as team/*, or team/** for all that is below team"
            )
        tokens = _TOKEN.findall(self.pattern)
        # One wildcard can be in as many places as the name is long, each further one multiplies that.
        fast = sum("*" in token for token in tokens) <= 1
        object.__setattr__(self, "_regex", re.compile("".join(map(_translated, tokens))) if fast else None)
        object.__setattr__(self, "_states", None if fast else _States(tokens))

    def matches(self, repository: str) -> bool:
        if self._states is not None:
            return self._states.match(repository)
        assert self._regex is not None
        return self._regex.fullmatch(repository) is not None

    @cached_property
    def literal(self) -> str | None:
        """The one name that it matches; None where it is a pattern."""
        return None if _WILD.search(self.pattern) else self.pattern

    @cached_property
    def prefix(self) -> str:
        """All names that it matches begin so: empty, or whole parts of names, such as ``team``."""
        if self.literal is not None:
            return self.literal
        return _WILD.split(self.pattern)[0].rpartition("/")[0]


def _translated(token: str) -> str:
    match token:
        case "/**":
            return "(?:/.*)?"
        case "**/":
            return "(?:.*/)?"
        case "**":
            return ".*"
        case "*":
            return "[^/]*"
        case "?":
            return "[^/]"
    return re.escape(token)


class _States:
    """Goes through a name once, with all the places at once that the pattern may have come to: a bit for each."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._one = self._two = 0
        """From where the next place is come to without a character, and the one behind it."""
        self._any = self._part = 0
        """Where any character, and any but "/", leads nowhere else."""
        self._free = 0
        """Where any character but "/" leads to the next place."""
        self._named: dict[str, int] = {}
        """Where the character leads to the next place."""
        at = 1
        for token in tokens:
            match token:
                case "/**":  # Nothing, or "/" and then anything.
                    self._two |= at
                    self._name("/", at)
                    at <<= 1
                    self._any |= at
                    self._one |= at
                case "**/":  # Nothing, or anything and then "/".
                    self._two |= at
                    self._one |= at
                    at <<= 1
                    self._any |= at
                    self._name("/", at)
                case "**":
                    self._any |= at
                    self._one |= at
                case "*":
                    self._part |= at
                    self._one |= at
                case "?":
                    self._free |= at
                case _:
                    self._name(token, at)
            at <<= 1
        self._end = at

    def _name(self, character: str, at: int) -> None:
        self._named[character] = self._named.get(character, 0) | at

    def match(self, name: str) -> bool:
        places = self._settled(1)
        for character in name:
            go, stay = self._named.get(character, 0), self._any
            if character != "/":
                go |= self._free
                stay |= self._part
            places = self._settled((places & go) << 1 | places & stay)
            if not places:
                return False
        return bool(places & self._end)

    def _settled(self, places: int) -> int:
        while True:
            more = places | (places & self._one) << 1 | (places & self._two) << 2
            if more == places:
                return places
            places = more
