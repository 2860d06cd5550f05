"""What an adoption says of itself while it runs: for a terminal, for a log, for ``--json``.

In a dry run the same events say what would happen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["manifest", "blob", "tag"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    pass


class Began(_Event, frozen=True, kw_only=True, tag="began"):
    """The first event. ``store`` as a person names it."""

    store: str
    verify: bool = False
    dry_run: bool = False


class Note(_Event, frozen=True, kw_only=True, tag="note"):
    """Something a person should know."""

    text: str


class Repository(_Event, frozen=True, kw_only=True, tag="repository"):
    """A repository is looked at. Several are at the same time."""

    repository: str


class Taken(_Event, frozen=True, kw_only=True, tag="taken"):
    """``name``: the digest of a manifest or blob, or a tag, whose manifest ``digest`` is then. ``size`` in bytes.

    ``moved_from``: the digest that a tag had before. ``again``: a blob that another repository got in this run, too;
    its bytes were counted.
    """

    kind: Kind
    repository: str
    name: str
    size: int = 0
    digest: str | None = None
    moved_from: str | None = None
    again: bool = False


class Kept(_Event, frozen=True, kw_only=True, tag="kept"):
    """A tag that the old registry has at ``old`` stays as it is here, at ``here`` (None: there is none)."""

    repository: str
    tag: str
    old: str
    here: str | None
    why: str


class Problem(_Event, frozen=True, kw_only=True, tag="problem"):
    """Something is broken, and left out. ``path``: the key of what is broken, below the store's root."""

    path: str
    reason: str
    repository: str


class Verified(_Event, frozen=True, kw_only=True, tag="verified"):
    """So many more bytes of a blob were read and hashed."""

    digest: str
    size: int


class Finished(_Event, frozen=True, kw_only=True, tag="finished"):
    """A repository was looked at to its end. What was taken over of it in this run.

    ``skipped``: manifests and tags that were taken over by an earlier run.
    """

    repository: str
    manifests: int = 0
    tags: int = 0
    blobs: int = 0
    skipped: int = 0
    kept: int = 0
    problems: int = 0


class Report(_Event, frozen=True, kw_only=True, tag="ended"):
    """The last event of an adoption that came to its end.

    ``repositories``: all that were looked at. ``manifests`` and ``tags`` are of repositories: what is in two counts
    twice. ``blobs`` and their ``bytes`` are counted once, as long as the run remembers them. ``verified``: bytes
    that were hashed. ``skipped``: manifests and tags that an earlier run took over. ``requests`` that were sent to
    the store and body bytes that were ``written`` to it are None where nobody counted. ``seconds``: wall-clock time.
    """

    repositories: int
    manifests: int
    tags: int
    blobs: int
    bytes: int
    verified: int
    skipped: int
    kept: int
    problems: int
    seconds: float
    requests: int | None
    written: int | None
    dry_run: bool = False


Event: TypeAlias = Began | Note | Repository | Taken | Kept | Problem | Verified | Finished | Report
Listener: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does nothing."""


def encode(event: Event) -> bytes:
    """One line of ``--json``, without the line's end."""
    return msgspec.json.encode(event)
