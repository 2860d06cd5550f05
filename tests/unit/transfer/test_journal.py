"""What is noted is found again; what is damaged, old or of something else is not."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucketry.transfer.journal import EXPIRY, Journal


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def test_what_was_noted_is_found(tmp_path: Path) -> None:
    entry = Journal(tmp_path / "new" / "folder").begin("target", "sha256:1", note="session-1")
    entry.mark(3, "abc")
    entry.mark(1)
    entry.mark(3, "def")

    found = Journal(tmp_path / "new" / "folder").find("target", "sha256:1")

    assert found is not None
    assert found.note == "session-1"
    assert found.marks == entry.marks == {3: "def", 1: ""}
    assert Journal(tmp_path / "new" / "folder").find("target", "sha256:2") is None
    assert Journal(tmp_path / "new" / "folder").find("targets", "ha256:1") is None


def test_what_is_done_is_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    entry = journal.begin("a", note="x")

    entry.remove()
    entry.remove()
    entry.mark(1)

    assert journal.find("a") is None
    assert list(tmp_path.iterdir()) == []


def test_the_newest_note_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin("a", note="x").mark(1)
    journal.begin("a", note="y")

    found = journal.find("a")

    assert found is not None
    assert (found.note, found.marks) == ("y", {})


def test_what_is_old_is_ignored_and_removed(tmp_path: Path) -> None:
    clock = Clock()
    Journal(tmp_path, clock=clock).begin("a", note="x")
    for path in tmp_path.iterdir():
        os.utime(path, (clock.now, clock.now))
    clock.now += EXPIRY + 1

    assert Journal(tmp_path / "elsewhere", clock=clock).find("a") is None
    assert list(tmp_path.iterdir())
    assert Journal(tmp_path, clock=clock).find("a") is None
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_was_torn_is_no_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin("a", note="x").mark(1, "ab")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b"2 abc")

    found = journal.find("a")

    assert found is not None
    assert found.marks == {1: "ab"}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), keep=st.integers(0, 200))
def test_a_damaged_entry_raises_nothing(tmp_path: Path, data: bytes, keep: int) -> None:
    journal = Journal(tmp_path)
    journal.begin("a", note="x").mark(1, "ab")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:keep] + data)

    found = journal.find("a")

    assert found is None or found.note == "x"


def test_a_folder_that_cannot_be_written_costs_the_going_on_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    journal = Journal(tmp_path / "file" / "below")

    entry = journal.begin("a", note="x")
    entry.mark(1)

    assert entry.marks == {1: ""}
    assert journal.find("a") is None
