"""What a transfer shows: sums, lines in a log, bars, JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bucketry.cli.progress import EVERY, Bars, PlainLines, shown
from bucketry.cli.tally import Item, Tally, name_text, short_name, summary, time_text
from bucketry.transfer import events
from bucketry.transfer.wording import size_text

MIB = 1024 * 1024
LAYER = "sha256:" + "ab" * 32
CONFIG = "sha256:" + "cd" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def push_of_two() -> Sequence[events.Event]:
    return [
        events.Began(action="push", source="docker-daemon:app:v1", target="localhost:5000/app:v1"),
        events.Found(item=LAYER, kind="layer", size=64 * MIB),
        events.Found(item=CONFIG, kind="config", size=1024),
        events.Skipped(item=CONFIG, why="already there", size=1024),
        events.Resumed(item=LAYER, size=16 * MIB),
        events.Moved(item=LAYER, size=32 * MIB),
        events.Again(item=LAYER, why="the connection broke", size=8 * MIB),
        events.Moved(item=LAYER, size=24 * MIB),
        events.Verified(item=LAYER, size=64 * MIB),
        events.Done(item=LAYER, digest=LAYER, size=64 * MIB),
        events.Ended(
            digest="sha256:" + "ef" * 32,
            moved=48 * MIB,
            skipped=16 * MIB + 1024,
            seconds=4.0,
            parallel=8,
            pull="docker pull localhost:5000/app:v1",
        ),
    ]


def test_what_is_sent_again_is_not_counted_twice() -> None:
    tally = Tally(Clock())
    for event in push_of_two():
        tally.add(event)
    assert tally.moved == 48 * MIB
    assert tally.items[LAYER].there == 64 * MIB
    assert tally.there() == 64 * MIB
    assert tally.total() == 64 * MIB
    assert tally.retries == 1


def test_a_total_is_not_known_before_every_size_is() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally.add(events.Found(item="layer.tar", kind="layer"))
    assert tally.total() is None
    clock.now += 1
    tally.add(events.Moved(item="layer.tar", size=10))
    assert tally.left() is None
    tally.add(events.Found(item="layer.tar", kind="layer", size=40))
    assert tally.total() == 40
    assert tally.left() == pytest.approx(3.0)


def test_the_rate_is_of_the_last_seconds() -> None:
    clock = Clock()
    tally = Tally(clock)
    for _ in range(10):
        clock.now += 1
        tally.add(events.Moved(item=LAYER, size=100))
    assert tally.rate() == pytest.approx(100, rel=0.01)
    for _ in range(20):
        clock.now += 1
        tally.add(events.Moved(item=LAYER, size=10))
    assert tally.rate() == pytest.approx(10, rel=0.2)


def test_the_verifying_side_is_seen() -> None:
    tally = Tally(Clock())
    tally.add(events.Found(item=LAYER, kind="layer", size=10))
    tally.add(events.Moved(item=LAYER, size=10))
    item = tally.add(events.Verified(item=LAYER, size=5))
    assert item is not None
    assert item.state == "verifying"


def test_plain_lines_say_what_was_skipped_and_how_it_goes() -> None:
    clock, said, result = Clock(), list[str](), list[str]()
    plain = PlainLines(said.append, result.append, clock=clock)
    for event in push_of_two():
        clock.now += EVERY / 4
        plain(event)
    assert said[0] == "docker-daemon:app:v1 -> localhost:5000/app:v1"
    assert "config sha256:cdcdcdcdcdcd: already there" in said
    assert "layer sha256:abababababab: 16.0 MiB are there from an earlier run" in said
    assert "layer sha256:abababababab: again, the connection broke" in said
    assert "0 B of 64.0 MiB, 0 B/s" in said
    assert any(line.startswith("64.0 MiB of 64.0 MiB, ") and line.endswith("/s, 0 s left") for line in said), said
    assert result == [
        "pushed 48.0 MiB in 4 s, 12.0 MiB/s, up to 8 pieces at once; 16.0 MiB were there already; "
        "1 piece was sent again",
        "sha256:" + "ef" * 32,
        "docker pull localhost:5000/app:v1",
    ]


def test_quiet_says_the_result_only() -> None:
    said, result = list[str](), list[str]()
    plain = PlainLines(said.append, result.append, clock=Clock(), quiet=True)
    for event in push_of_two():
        plain(event)
    assert said == []
    assert len(result) == 3


def test_nothing_to_do_is_said_so() -> None:
    tally = Tally(Clock())
    tally.add(events.Began(action="pull", source="a", target="b"))
    lines = summary(tally, events.Ended(digest=LAYER, moved=0, skipped=5, seconds=0.1, parallel=0))
    assert lines == ["nothing had to be pulled: 5 B were there already", LAYER]


def test_bars_show_each_layer_and_all() -> None:
    out = io.StringIO()
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=out, force_terminal=True, width=100),
        auto_refresh=False,
    )
    with progress:
        bars = Bars(progress, clock=Clock())
        for event in push_of_two():
            bars(event)
        progress.refresh()
        tasks = {task.description: task for task in progress.tasks}
    assert set(tasks) == {"all", "layer abababababab"}
    assert tasks["layer abababababab"].completed == 64 * MIB
    assert tasks["all"].finished
    assert "already there" in out.getvalue()
    assert bars.last[-1] == "docker pull localhost:5000/app:v1"


def test_json_is_a_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("json") as listen:
        for event in push_of_two():
            listen(event)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines][:2] == ["began", "found"]
    assert lines[-1]["pull"] == "docker pull localhost:5000/app:v1"


def test_texts() -> None:
    assert [size_text(size) for size in (0, 1023, 1536, 5 * MIB, 3 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3072.0 GiB",
    ]
    assert [time_text(seconds) for seconds in (0.4, 59.6, 65, 7800)] == [
        "0 s",
        "1 min 00 s",
        "1 min 05 s",
        "2 h 10 min",
    ]


def summary_of(*happened: events.Event, action: events.Action = "push", **ended: object) -> str:
    tally = Tally(Clock())
    for event in (events.Began(action=action, source="app:v1", target="reg.test/app:v1"), *happened):
        tally.add(event)
    end = {"digest": LAYER, "moved": 0, "skipped": 0, "seconds": 0.004, "parallel": 1, **ended}
    return summary(tally, events.Ended(**end))[0]  # type: ignore[arg-type]


def test_a_push_of_what_is_there_says_so_not_how_fast_its_manifest_was() -> None:
    happened: list[events.Event] = [
        events.Found(item=LAYER, kind="layer", size=5 * MIB),
        events.Skipped(item=LAYER, why="already there", size=5 * MIB),
        events.Found(item=CONFIG, kind="manifest", size=424),
        events.Moved(item=CONFIG, size=424),
    ]
    line = summary_of(*happened, moved=424, skipped=5 * MIB)
    assert line == "no layer had to be pushed: 5.0 MiB were there already; reg.test/app:v1 is up to date"


def test_a_push_of_what_is_there_whose_size_nobody_knows() -> None:
    happened: list[events.Event] = [
        events.Found(item="layer.tar", kind="layer"),
        events.Skipped(item="layer.tar", why="already there"),
        events.Found(item=CONFIG, kind="config", size=300),
        events.Skipped(item=CONFIG, why="already there", size=300),
        events.Found(item=LAYER, kind="manifest", size=424),
        events.Moved(item=LAYER, size=424),
    ]
    line = summary_of(*happened, moved=424, skipped=300)
    assert line == "no layer had to be pushed: 1 layer was there already; reg.test/app:v1 is up to date"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0.01 s"), (0.05, "0.05 s"), (0.42, "0.4 s"), (12.3, "12 s"), (200.0, "3 min 20 s")]
)
def test_short_times_are_told_too(seconds: float, text: str) -> None:
    line = summary_of(events.Moved(item=LAYER, size=MIB), moved=MIB, seconds=seconds)
    assert line.startswith(f"pushed 1.0 MiB in {text}, ")


def test_a_request_that_is_made_again_is_no_item() -> None:
    said = list[str]()
    plain = PlainLines(said.append, said.append, clock=Clock())
    plain(events.Found(item=LAYER, kind="layer", size=10))
    plain(events.Again(item="reg.test/app", why="reg.test: no connection"))
    assert said == ["reg.test/app: again, reg.test: no connection"]
    tally = Tally(Clock())
    tally.add(events.Found(item=LAYER, kind="layer", size=10))
    tally.add(events.Again(item="reg.test/app", why="reg.test: no connection"))
    assert (tally.total(), tally.retries) == (10, 0)


@pytest.mark.parametrize(
    ("name", "shown", "short"),
    [
        (LAYER, "layer sha256:abababababab", "abababababab"),
        (f"{'ab' * 32}/layer.tar", "layer abababababab/layer.tar", "abababababab"),
        (f"blobs/sha256/{'ab' * 32}", "layer blobs/sha256/abababababab", "abababababab"),
        ("0/layer.tar", "layer 0/layer.tar", "0/layer.tar"),
    ],
)
def test_names_are_short_enough_to_tell_layers_apart(name: str, shown: str, short: str) -> None:
    item = Item(name, "layer")
    assert (name_text(item), short_name(item)) == (shown, short)
