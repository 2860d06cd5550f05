"""What goes wrong when images are moved. Every message says what failed, where, and what to do.

::

    TransferError
    ├── NameUnusable          a source or destination that cannot be what was typed
    ├── ImageMissing          no such image, tag, manifest or blob there
    ├── SourceDamaged         the source is not what it says: truncated, another digest, a hostile archive
    ├── ContentMismatch       bytes that came do not have the digest that was asked for
    ├── NotAuthenticated      credentials missing or refused
    │   └── NotPermitted      the credentials are good, and do not allow this
    ├── Unreachable           no answer, or one that says: later (``retry_after`` seconds); trying again may help
    │   └── PartLost          a session, or a part's URL, that ended: ask for a new one
    ├── Refused               the other side answered with an error that trying again does not change
    ├── NoSpace               this machine's disk is full
    └── Misconfigured         a file of settings or credentials that cannot be read
"""

from __future__ import annotations


class TransferError(Exception):
    """Any failure of a push, pull or copy. The tree is in this module's docstring."""


class NameUnusable(TransferError):
    pass


class ImageMissing(TransferError):
    pass


class SourceDamaged(TransferError):
    pass


class ContentMismatch(TransferError):
    pass


class NotAuthenticated(TransferError):
    pass


class NotPermitted(NotAuthenticated):
    pass


class Unreachable(TransferError):
    """``retry_after``: seconds that the other side asks to wait; None where it did not say."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PartLost(Unreachable):
    pass


class Refused(TransferError):
    pass


class NoSpace(TransferError):
    pass


class Misconfigured(TransferError):
    pass
