"""Patterns with ``*`` for claims and tags, and which patterns for repositories can be matched in little time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from bucketry.oci.errors import NameInvalid
from bucketry.oci.glob import RepositoryGlob
from bucketry.oci.text import quoted

MAX_WILDCARDS: Final = 3
"""In one pattern for repositories, without those ``*`` that are a whole part of it, and ``**`` at its end.

Each more multiplies the time that a name made for it takes by up to 255.
"""

_MAX_PATTERN: Final = 1024
_CHEAP: Final = re.compile(r"(?:(?<=/)|^)\*(?=/|$)|(?<!\*)\*\*$")
_WILDCARD: Final = re.compile(r"\*+")


@dataclass(frozen=True, slots=True)
class TextGlob:
    """``*`` stands for any characters, none included; everything else for itself, byte for byte.

    The time to match grows with the length of the text alone, whatever the pattern. Raises `ValueError`.
    """

    pattern: str
    _regex: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.pattern) > _MAX_PATTERN:
            raise ValueError(f"has {len(self.pattern)} characters: at most {_MAX_PATTERN} are allowed")
        first, *rest = map(re.escape, re.split(r"\*+", self.pattern))
        regex = None
        if rest:
            # The leftmost place is as good as any later one, so a group that does not go back misses nothing.
            middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
            regex = re.compile(f"{first}{middle}.*{rest[-1]}", re.DOTALL)
        object.__setattr__(self, "_regex", regex)

    @property
    def is_literal(self) -> bool:
        return self._regex is None

    @property
    def matches_everything(self) -> bool:
        return self.pattern.strip("*") == "" != self.pattern

    def matches(self, text: str) -> bool:
        return text == self.pattern if self._regex is None else self._regex.fullmatch(text) is not None

    def covers(self, other: TextGlob) -> bool:
        """Whether it surely matches all that ``other`` matches. False may also mean that this was not found out."""
        if self.pattern == other.pattern or self.matches_everything:
            return True
        # A pattern that matches the other's text, stars taken for a character that it does not name, matches
        # whatever stands for these stars, as only a star of its own can have taken them.
        return self.matches(other.pattern.replace("*", "\0")) if "\0" not in self.pattern + other.pattern else False


def repository_glob(pattern: str) -> RepositoryGlob:
    """The pattern, where a name made to be slow to match is not. Raises `NameInvalid`."""
    glob = RepositoryGlob(pattern)
    wildcards = len(_WILDCARD.findall(_CHEAP.sub("", pattern)))
    if wildcards > MAX_WILDCARDS:
        raise NameInvalid(
            f"{quoted(pattern)} has {wildcards} wildcards within its parts: at most {MAX_WILDCARDS} are allowed; "
            "write several patterns"
        )
    return glob
