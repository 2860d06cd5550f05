"""Progress as people see it: bars on a terminal, lines in a log, JSON for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

from bucketry.cli.output import console, write
from bucketry.cli.tally import Item, Tally, name_text, size_text, summary, time_text
from bucketry.transfer import events

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY = 5.0
"""Seconds between lines that say how it goes, where there is no terminal."""

Style: TypeAlias = Literal["auto", "bars", "plain", "json", "quiet"]


@contextmanager
def shown(style: Style) -> Iterator[events.Listener]:
    """Shows a transfer while the block runs. ``auto``: bars on a terminal, else plain lines.

    What is shown of the way goes to standard error, the result to standard output; JSON all to standard output.
    """
    if style == "json":
        yield _json_line
        return
    if style == "bars" or (style == "auto" and sys.stderr.isatty()):
        with _bars() as listen:
            yield listen
        return
    yield PlainLines(_complain, write, clock=time.monotonic, quiet=style == "quiet")


def _json_line(event: events.Event) -> None:
    write(events.encode(event).decode())
    sys.stdout.flush()


def _complain(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class PlainLines:
    """A line for each item that ends, and one every `EVERY` seconds for all."""

    def __init__(
        self,
        say: Callable[[str], None],
        result: Callable[[str], None],
        *,
        clock: Callable[[], float],
        quiet: bool = False,
    ) -> None:
        self._say = (lambda line: None) if quiet else say
        self._result = result
        self._clock = clock
        self._tally = Tally(clock)
        self._next = clock() + EVERY

    def __call__(self, event: events.Event) -> None:
        item = self._tally.add(event)
        line = _line(event, item)
        if line is not None:
            self._say(line)
        if isinstance(event, events.Ended):
            for text in summary(self._tally, event):
                self._result(text)
        elif self._clock() >= self._next:
            self._next = self._clock() + EVERY
            self._say(_overall(self._tally))


def _line(event: events.Event, item: Item | None) -> str | None:
    match event:
        case events.Began():
            return f"{event.source} -> {event.target}"
        case events.Note():
            return event.text
        case events.Skipped() if item is not None:
            return f"{name_text(item)}: {event.why}"
        case events.Resumed() if item is not None:
            return f"{name_text(item)}: {size_text(event.size)} are there from an earlier run"
        case events.Again() if item is not None:
            return f"{name_text(item)}: again, {event.why}"
        case events.Done() if item is not None:
            return f"{name_text(item)}: done, {size_text(event.size)}"
        case _:
            return None


def _overall(tally: Tally) -> str:
    total, left = tally.total(), tally.left()
    of = "" if total is None else f" of {size_text(total)}"
    line = f"{size_text(tally.there())}{of}, {size_text(tally.rate())}/s"
    return line if left is None else f"{line}, {time_text(left)} left"


@contextmanager
def _bars() -> Iterator[events.Listener]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[state]}", markup=False),
        console=console(stderr=True),
        transient=False,
    )
    with progress:
        bars = Bars(progress, clock=time.monotonic)
        yield bars
    for line in bars.last:
        write(line)


class Bars:
    """A bar for each layer, and one for all; what is skipped is a line above them."""

    def __init__(self, progress: Progress, *, clock: Callable[[], float]) -> None:
        self._progress = progress
        self._tally = Tally(clock)
        self._tasks: dict[str, TaskID] = {}
        self._all = progress.add_task("all", total=None, state="")
        self.last: list[str] = []

    def __call__(self, event: events.Event) -> None:
        item = self._tally.add(event)
        if isinstance(event, events.Began | events.Note | events.Skipped | events.Resumed | events.Again):
            line = _line(event, item)
            if line is not None:
                self._progress.console.print(line, markup=False)
        if isinstance(event, events.Ended):
            self.last = summary(self._tally, event)
            self._progress.update(self._all, total=self._tally.there(), completed=self._tally.there(), state="done")
        elif item is not None:
            self._show(item)

    def _show(self, item: Item) -> None:
        task = self._tasks.get(item.name)
        if item.state == "skipped":
            if task is not None:
                self._progress.remove_task(task)
                del self._tasks[item.name]
        elif item.kind in ("layer", "blob"):
            if task is None:
                task = self._tasks[item.name] = self._progress.add_task(name_text(item), total=None, state="")
            state = {"waiting": "", "moving": "", "verifying": "verifying", "done": "done"}[item.state]
            completed = item.size if item.state == "done" and item.size is not None else item.there
            self._progress.update(task, total=item.size, completed=completed, state=state)
        self._progress.update(self._all, total=self._tally.total(), completed=self._tally.there())
