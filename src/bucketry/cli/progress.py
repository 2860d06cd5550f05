"""Progress as people see it: bars on a terminal, lines in a log, JSON for programs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

from bucketry.cli.output import console, write
from bucketry.cli.tally import Item, Tally, name_text, short_name, summary, time_text
from bucketry.transfer import events
from bucketry.transfer.wording import size_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY = 5.0
"""Seconds between lines that say how it goes, where there is no terminal."""

_NO_CURSOR = ("dumb", "unknown")
"""Terminals on which a line cannot be written over."""

Style: TypeAlias = Literal["auto", "bars", "plain", "json", "quiet"]


@contextmanager
def shown(style: Style) -> Iterator[events.Listener]:
    """Shows a transfer while the block runs. ``auto``: bars on a terminal, else plain lines.

    What is shown of the way goes to standard error, the result to standard output; JSON all to standard output.
    """
    if style == "json":
        yield _json_line
        return
    if style == "bars" or (style == "auto" and sys.stderr.isatty() and os.environ.get("TERM") not in _NO_CURSOR):
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


WIDE = 80
"""Columns of a terminal that has room for all that can be said of a layer."""
_NAME, _SIZES, _NOTE = 18, 15, 30
"""Columns for ``layer 1234567890ab``, for ``200.4/200.4 KiB`` and for ``99.9 MiB/s, 59 min 59 s left``."""


@contextmanager
def _bars() -> Iterator[events.Listener]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
    from rich.table import Column

    terminal = console(stderr=True)
    wide = terminal.width >= WIDE
    name, rest = (_NAME, _SIZES + 1 + _NOTE) if wide else (_NAME - len("layer "), _SIZES)
    columns = [
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, width=name)),
        # A column is left free at the right: some terminals begin a new line when it is written to.
        BarColumn(min(40, max(1, terminal.width - name - rest - 3))),
        DownloadColumn(binary_units=True, table_column=Column(no_wrap=True, width=_SIZES, justify="right")),
    ]
    if wide:
        columns.append(TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)))
    progress = Progress(*columns, console=terminal)
    with progress:
        bars = Bars(progress, clock=time.monotonic, wide=wide)
        try:
            yield bars
        finally:
            bars.close()
    for line in bars.last:
        write(line)


class Bars:
    """A bar for each layer, and one for all; what is skipped is a line above them.

    ``wide``: there is room for notes. ``last``: the lines of the result, once it has ended.
    """

    def __init__(self, progress: Progress, *, clock: Callable[[], float], wide: bool = True) -> None:
        self._progress = progress
        self._wide = wide
        self._tally = Tally(clock)
        self._tasks: dict[str, TaskID] = {}
        self._all = progress.add_task("all", total=None, note="")
        self.last: list[str] = []

    def __call__(self, event: events.Event) -> None:
        item = self._tally.add(event)
        if isinstance(event, events.Began | events.Note | events.Skipped | events.Resumed | events.Again):
            line = _line(event, item)
            if line is not None:
                self._progress.console.print(line, markup=False)
        if isinstance(event, events.Ended):
            self._end(event)
        elif item is not None and item.kind is not None:
            self._show(item)

    def _end(self, event: events.Ended) -> None:
        there = self._tally.there()
        self.last = summary(self._tally, event)
        # Without a layer there is nothing that a bar could tell.
        self._progress.update(
            self._all, description="all", total=there, completed=there, note="done", visible=self._tally.blobs_moved()
        )

    def close(self) -> None:
        """No more events come."""
        if self._tally.ended is None:
            self._progress.update(self._all, description="all", note="stopped", visible=bool(self._tasks))

    def _show(self, item: Item) -> None:
        task = self._tasks.get(item.name)
        if item.state == "skipped":
            if task is not None:
                self._progress.remove_task(task)
                del self._tasks[item.name]
        elif item.kind in ("layer", "blob", "repository"):
            completed = item.size if item.state == "done" and item.size is not None else item.there
            note = {"waiting": "", "moving": "", "verifying": "verifying", "done": "done"}[item.state]
            if task is None:
                self._tasks[item.name] = self._progress.add_task(
                    self._name(item), total=item.size, completed=completed, note=note
                )
            else:
                self._progress.update(task, total=item.size, completed=completed, note=note)
            if item.state == "done":
                self._make_room(item)
        self._show_all()

    def _name(self, item: Item) -> str:
        name = short_name(item)
        return f"{item.kind} {name}" if self._wide else name

    def _make_room(self, item: Item) -> None:
        """Takes a layer that is there from a terminal that is too low for all of them."""
        if len(self._tasks) + 1 >= self._progress.console.height:
            self._progress.update(self._tasks[item.name], visible=False)

    def _show_all(self) -> None:
        rate, left = self._tally.rate(), self._tally.left()
        speed = f"{size_text(rate)}/s" if rate else ""
        self._progress.update(
            self._all,
            description="all" if self._wide or not speed else speed,
            total=self._tally.total(),
            completed=self._tally.there(),
            note=speed if left is None else f"{speed}, {time_text(left)} left",
        )
