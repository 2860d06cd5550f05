"""What a transfer says of itself while it runs: for a terminal, for a log, for ``--json``.

An item is one blob (or manifest) on its way; its ``item`` is the same in all its events: the digest, or, before that is
known, the path in the archive. Bytes in events of one item add up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["layer", "config", "manifest", "blob", "repository"]
Action: TypeAlias = Literal["push", "pull", "copy", "publish"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    pass


class Began(_Event, frozen=True, kw_only=True, tag="began"):
    """The first event. ``source`` and ``target`` as a person names them."""

    action: Action
    source: str
    target: str


class Found(_Event, frozen=True, kw_only=True, tag="found"):
    """Something that belongs to the image. ``size`` in bytes as it will travel, None where it is not known yet."""

    item: str
    kind: Kind
    size: int | None = None


class Skipped(_Event, frozen=True, kw_only=True, tag="skipped"):
    """Nothing travels: ``why`` says it in a few words ("already there")."""

    item: str
    why: str
    size: int | None = None


class Resumed(_Event, frozen=True, kw_only=True, tag="resumed"):
    """So many bytes of the item are there from an earlier run."""

    item: str
    size: int


class Read(_Event, frozen=True, kw_only=True, tag="read"):
    """Bytes of the source that were read, compressed and hashed (before they travel)."""

    item: str
    size: int


class Moved(_Event, frozen=True, kw_only=True, tag="moved"):
    """Bytes that arrived."""

    item: str
    size: int


class Again(_Event, frozen=True, kw_only=True, tag="again"):
    """A piece is tried again; ``size`` bytes of `Moved` are taken back (0: none were counted)."""

    item: str
    why: str
    size: int = 0


class Verified(_Event, frozen=True, kw_only=True, tag="verified"):
    """Bytes whose hash was checked on the receiving side."""

    item: str
    size: int


class Done(_Event, frozen=True, kw_only=True, tag="done"):
    """The item is there, whole and verified. ``digest`` and ``size`` as it is there."""

    item: str
    digest: str
    size: int


class Note(_Event, frozen=True, kw_only=True, tag="note"):
    """Something a person should know ("the registry has no parallel extension: layers travel whole")."""

    text: str


class Ended(_Event, frozen=True, kw_only=True, tag="ended"):
    """The last event of a transfer that worked.

    ``moved``: bytes that travelled. ``skipped``: bytes that were there. ``seconds``: wall-clock time. ``pull``: what
    a person types to use the image; None where there is nothing to type.
    """

    digest: str
    moved: int
    skipped: int
    seconds: float
    parallel: int
    """The most pieces that were on their way at once."""
    pull: str | None = None


Event: TypeAlias = Began | Found | Skipped | Resumed | Read | Moved | Again | Verified | Done | Note | Ended
Listener: TypeAlias = Callable[[Event], None]


def encode(event: Event) -> bytes:
    """One line of ``--json``, without the line's end."""
    return msgspec.json.encode(event)
