"""What is counted of a transfer, and told at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.transfer.fakes import Clockwork, Heard, settings

from bucketry.transfer.errors import Unreachable
from bucketry.transfer.events import Again, Ended, Moved, Read, Resumed, Skipped, Verified
from bucketry.transfer.work import FIRST_RETRIES, Counted, Work


def test_the_end_says_what_was_moved_and_what_was_there(tmp_path: Path) -> None:
    heard, clock = Heard(), Clockwork()
    work = Work(settings(tmp_path), heard, timing=clock.timing, piece=1)
    for event in (
        Moved(item="a", size=100),
        Again(item="a", why="broke", size=30),
        Skipped(item="b", why="there", size=7),
        Skipped(item="c", why="there"),
        Resumed(item="a", size=5),
        Read(item="a", size=1_000),
        Verified(item="a", size=1_000),
    ):
        work.tell(event)
    clock.now += 3

    ended = work.ended("sha256:1", "docker pull x")

    assert ended == Ended(digest="sha256:1", moved=70, skipped=12, seconds=3.0, parallel=0, pull="docker pull x")
    assert heard.events[-1] == ended
    assert len(heard.events) == 8


def test_a_number_that_grows_is_told_by_what_was_added(tmp_path: Path) -> None:
    heard = Heard()
    counted = Counted(Work(settings(tmp_path), heard, piece=1), "a", Verified)

    for total in (3, 3, 2, 10):
        counted(total)

    assert heard.events == [Verified(item="a", size=3), Verified(item="a", size=7)]


async def test_who_never_answered_is_given_up_sooner_than_who_fell_silent(tmp_path: Path) -> None:
    heard, clock = Heard(), Clockwork()
    work = Work(settings(tmp_path), heard, timing=clock.timing, piece=1)

    async def down() -> None:
        raise Unreachable("down")

    with pytest.raises(Unreachable):
        await work.first("a", down)
    assert len(heard.events) == FIRST_RETRIES
    first = clock.now
    with pytest.raises(Unreachable):
        await work.patiently("a", down)
    assert clock.now - first > 60 > first
