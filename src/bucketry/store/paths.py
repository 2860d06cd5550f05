"""Keys as paths of a folder, and back.

A key's segments are its path, but for what file systems cannot tell apart or what has a meaning there:

- an upper-case letter is ``^`` and the lower-case letter, as some file systems fold case;
- a leading ``.`` is ``^.``, so that no key is a dotfile: those are private to bucketry or to the system;
- a name over `MAX_NAME` bytes is cut: every piece but the last is a folder whose name ends with a lone ``^``.

Whatever is not exactly what `key_to_path` makes is a stranger's: it was put there by someone else. Below
`FOREIGN_PREFIX` all is, by a program that knows nothing of this: there a key is its path, as it stands.
"""

from __future__ import annotations

import re

from bucketry.store.contract import FOREIGN_PREFIX

MAX_NAME = 140
"""Bytes of a file name that are used. File systems take 255, eCryptfs 143; a SHA-512 in hex has 128."""

_UPPER = re.compile(r"[A-Z]")
_ESCAPE = re.compile(r"\^([a-z.])")
_PLAIN = re.compile(r"[a-z0-9_~-][a-z0-9._~-]*", re.ASCII)
_NOTHING_TO_DO = re.compile(r"(?:[a-z0-9_~-][a-z0-9._~-]{0,100}/)*[a-z0-9_~-][a-z0-9._~-]{0,100}", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)


def segment_to_names(segment: str) -> tuple[str, ...]:
    """The names, outermost first, that hold a segment of a key: one, or more where it is long."""
    escaped = _UPPER.sub(lambda match: "^" + match[0].lower(), segment)
    names: list[str] = []
    while True:
        if escaped.startswith("."):
            escaped = "^" + escaped
        if len(escaped) <= MAX_NAME:
            return (*names, escaped)
        # An escape is not torn apart.
        cut = MAX_NAME - 1 if escaped[MAX_NAME - 1] == "^" else MAX_NAME
        names.append(escaped[:cut] + "^")
        escaped = escaped[cut:]


def key_to_path(key: str) -> str:
    """The relative path of a key that keeps the contract's grammar."""
    if key.startswith(FOREIGN_PREFIX) or _NOTHING_TO_DO.fullmatch(key):
        return key
    return "/".join(name for segment in key.split("/") for name in segment_to_names(segment))


def is_piece(name: str) -> bool:
    """Whether a folder of this name holds the further pieces of a long segment."""
    return name.endswith("^")


def names_to_segment(names: tuple[str, ...]) -> str | None:
    """The segment that these names hold; None where they are a stranger's."""
    last = names[-1]
    if len(names) == 1 and len(last) <= MAX_NAME and _PLAIN.fullmatch(last):
        return last
    pieces = [name.removesuffix("^") for name in names[:-1]] + [last]
    segment = "".join(_ESCAPE.sub(lambda match: match[1].upper(), piece) for piece in pieces)
    if segment in (".", "..") or _SEGMENT.fullmatch(segment) is None or segment_to_names(segment) != names:
        return None
    return segment
