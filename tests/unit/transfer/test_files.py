"""Files are replaced whole, and their errors are said in words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bucketry.transfer.errors import NoSpace, TransferError
from bucketry.transfer.files import translated, write_whole


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    write_whole(path, b"new")

    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(source: str, target: Path) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="broken"):
        write_whole(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EACCES, TransferError)]
)
def test_what_an_error_means(number: int, kind: type[TransferError]) -> None:
    with pytest.raises(TransferError, match="writing: ") as raised, translated("writing"):
        raise OSError(number, os.strerror(number))

    assert type(raised.value) is kind
