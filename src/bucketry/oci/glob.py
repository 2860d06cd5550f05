"""Patterns for repository names, as Harbor and others have them: ``team/*``, ``team/**``, ``app-?``."""

from __future__ import annotations

import re
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

    ``team/**`` is ``team`` too, and ``**/app`` is ``app``. Raises `NameInvalid` for what no name can match.
    """

    pattern: str
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Whether any name could match is not decided in full, only what people type by mistake.
        if _ALLOWED.fullmatch(self.pattern) is None or any(part in ("", ".", "..") for part in self.pattern.split("/")):
            raise NameInvalid(
                f"{quoted(self.pattern)} matches no repository: write a name in lower case, with * for any part of it, "
                "such as team/*, or team/** for all that is below team"
            )
        object.__setattr__(self, "_regex", re.compile("".join(map(_translated, _TOKEN.findall(self.pattern)))))

    def matches(self, repository: str) -> bool:
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
