"""A layer on disk, and on its way from there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.unit.transfer.fakes import Clockwork, Heard, MemoryTarget, descriptor, once, settings, some_bytes

from bucketry.transfer.errors import NoSpace
from bucketry.transfer.events import Moved
from bucketry.transfer.spool import Spool, put_file
from bucketry.transfer.work import Work

DATA = some_bytes(2_500_000)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(settings(tmp_path), Heard(), timing=Clockwork().timing, piece=1)


async def test_what_was_written_is_sent_however_often_it_breaks(work: Work) -> None:
    target, spool = MemoryTarget(), Spool()
    target.before_blob = once()
    spool.write(DATA[:1_000])
    spool.write(memoryview(DATA)[1_000:])

    await put_file(work, target, "item", descriptor(DATA), spool)
    spool.close()

    assert target.blobs == {descriptor(DATA).digest: DATA}


async def test_what_is_there_is_not_sent(tmp_path: Path) -> None:
    heard, target, spool = Heard(), MemoryTarget(), Spool()
    target.blobs[descriptor(DATA).digest] = DATA

    await put_file(Work(settings(tmp_path), heard, piece=1), target, "item", descriptor(DATA), spool)
    spool.close()

    assert heard.skipped() == ["item"]
    assert heard.total(Moved) == 0


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool()
    spool.write(DATA)

    assert list(tmp_path.iterdir()) == []
    assert spool.read_at(2_499_999) == DATA[-1:]
    assert spool.read_at(2_500_000) == b""
    spool.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**options: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", full)

    with pytest.raises(NoSpace, match=str(tmp_path)):
        Spool()
