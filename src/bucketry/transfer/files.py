"""Files of this machine: written whole or not at all, and what their errors mean to a person."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bucketry.transfer.errors import NoSpace, TransferError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_whole(path: Path, data: bytes) -> None:
    """Replaces the file at once: who reads it sees the old bytes or the new. Raises `OSError`."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Gives `OSError` as `NoSpace`, or as a plain `TransferError`, of ``what`` was being done."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"{what}: {error.strerror}; make room, then run it again") from error
        raise TransferError(f"{what}: {error.strerror or error}") from error
