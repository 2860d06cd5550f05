"""The header ``WWW-Authenticate``: how a server wants to be convinced (RFC 9110, 11.6.1; RFC 6750, 3).

The text comes from strangers. It is read once from left to right, in time that grows with its length only, and
reading ends at the first thing that is no challenge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

MAX_HEADER: Final = 16 * 1024
"""Characters of one header that are read; a longer one is as good as none."""

MAX_CHALLENGES: Final = 16
_MAX_PARAMETERS: Final = 16

# All repetitions are possessive: what does not match is given up without trying shorter ways.
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_GAP: Final = re.compile(r"[ \t,]*+")
_SCHEME: Final = re.compile(rf"({_TOKEN})(?:[ \t]++|(?=,)|\Z)")
_PARAMETER: Final = re.compile(rf'({_TOKEN})[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|({_TOKEN}))', re.DOTALL)
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]++=*+[ \t]*+(?=,|\Z)")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """``scheme`` and the names of ``parameters`` are in lower case; of a parameter given twice, the first counts."""

    scheme: str
    parameters: Mapping[str, str]

    def get(self, name: str) -> str | None:
        return self.parameters.get(name)


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges in all ``WWW-Authenticate`` headers of an answer, in order, at most `MAX_CHALLENGES`."""
    found: list[Challenge] = []
    for header in headers:
        if len(header) <= MAX_HEADER:
            # What is not ASCII is in no part that is used; as surrogates it could not be sent anywhere.
            found += _read(header.encode("ascii", "replace").decode())
    return tuple(found[:MAX_CHALLENGES])


def _read(header: str) -> Iterator[Challenge]:
    at = _skip(header, 0)
    while scheme := _SCHEME.match(header, at):
        parameters: dict[str, str] = {}
        at = _skip(header, scheme.end())
        while parameter := _PARAMETER.match(header, at):
            name, quoted, token = parameter.groups()
            if len(parameters) < _MAX_PARAMETERS:
                parameters.setdefault(name.lower(), token if quoted is None else _ESCAPED.sub(r"\1", quoted))
            at = _skip(header, parameter.end())
        if not parameters and _SCHEME.match(header, at) is None and (data := _TOKEN68.match(header, at)):
            at = _skip(header, data.end())
        yield Challenge(scheme[1].lower(), MappingProxyType(parameters))


def _skip(header: str, at: int) -> int:
    gap = _GAP.match(header, at)
    return at if gap is None else gap.end()
