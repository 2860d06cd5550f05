"""An adoption as people see it: what it counts on a terminal, lines in a log, JSON for programs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bucketry.cli.output import console, write
from bucketry.cli.progress import EVERY, Style
from bucketry.cli.tally import time_text
from bucketry.registry.adoption import events
from bucketry.transfer.wording import counted, size_text

_NO_CURSOR = ("dumb", "unknown")
_BETWEEN = 0.1
"""Seconds between two looks of a terminal, so that showing takes no time from doing."""


@contextmanager
def shown(style: Style) -> Iterator[events.Listener]:
    """Shows an adoption while the block runs: all to standard error, JSON to standard output."""
    if style == "json":
        yield _json_line
        return
    if style == "bars" or (style == "auto" and sys.stderr.isatty() and os.environ.get("TERM") not in _NO_CURSOR):
        with _live() as listen:
            yield listen
        return
    yield Lines(_say, clock=time.monotonic, quiet=style == "quiet")


def _json_line(event: events.Event) -> None:
    write(events.encode(event).decode())
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Sums:
    """What was there so far."""

    def __init__(self) -> None:
        self.repositories = self.manifests = self.tags = self.blobs = self.bytes = self.verified = self.problems = 0

    def add(self, event: events.Event) -> None:
        match event:
            case events.Repository():
                self.repositories += 1
            case events.Taken(kind="manifest"):
                self.manifests += 1
            case events.Taken(kind="tag"):
                self.tags += 1
            case events.Taken(again=False):
                self.blobs += 1
                self.bytes += event.size
            case events.Verified():
                self.verified += event.size
            case events.Problem():
                self.problems += 1
            case _:
                pass

    def text(self) -> str:
        line = (
            f"{counted(self.repositories, 'repository', 'repositories')}, {counted(self.manifests, 'manifest')}, "
            f"{counted(self.tags, 'tag')}, {counted(self.blobs, 'blob')} of {size_text(self.bytes)}"
        )
        if self.verified:
            line += f", {size_text(self.verified)} hashed"
        return line if not self.problems else f"{line}, {counted(self.problems, 'problem')}"


class Lines:
    """A line for each repository of which something was taken over, and one every `EVERY` seconds for all.

    ``quiet``: what is broken, and nothing else.
    """

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float], quiet: bool = False) -> None:
        self._say = say
        self._clock = clock
        self._quiet = quiet
        self._sums = Sums()
        self._next = clock() + EVERY

    def __call__(self, event: events.Event) -> None:
        self._sums.add(event)
        line = line_of(event)
        if line is not None and (not self._quiet or isinstance(event, events.Problem)):
            self._say(line)
        if self._clock() >= self._next and not self._quiet:
            self._next = self._clock() + EVERY
            self._say(self._sums.text())


def line_of(event: events.Event) -> str | None:
    """What is said of an event by itself."""
    match event:
        case events.Note():
            return event.text
        case events.Problem():
            return f"broken: {event.path}: {event.reason} (repository {event.repository})"
        case events.Kept():
            here = "is not here" if event.here is None else f"stays at {event.here}"
            return f"kept: {event.repository}:{event.tag} {here}, and is at {event.old} there: {event.why}"
        case events.Finished() if event.manifests or event.tags or event.blobs:
            return (
                f"{event.repository}: {counted(event.manifests, 'manifest')}, {counted(event.tags, 'tag')}, "
                f"{counted(event.blobs, 'blob')}"
            )
        case _:
            return None


@contextmanager
def _live() -> Iterator[events.Listener]:
    terminal = console(stderr=True)
    sums = Sums()
    looked = 0.0
    with terminal.status("Looking at the store") as status:

        def listen(event: events.Event) -> None:
            nonlocal looked
            sums.add(event)
            line = None if isinstance(event, events.Finished) else line_of(event)
            if line is not None:
                terminal.print(line, markup=False, soft_wrap=True)
            if time.monotonic() - looked >= _BETWEEN:
                looked = time.monotonic()
                status.update(sums.text())

        yield listen


def summary(report: events.Report, *, verify: bool) -> list[str]:
    """The last lines: all that was done, and what it cost."""
    cost = f"in {time_text(report.seconds) if report.seconds >= 1 else f'{report.seconds:.2f} s'}"
    if report.requests is not None:
        cost += f" with {counted(report.requests, 'request')}"
    there = counted(report.repositories, "repository", "repositories")
    if report.manifests or report.tags or report.blobs:
        verb = "would take over" if report.dry_run else "took over"
        line = (
            f"{verb} {counted(report.manifests, 'manifest')}, {counted(report.tags, 'tag')} and "
            f"{counted(report.blobs, 'blob')} of {size_text(report.bytes)} from {there}, {cost}"
        )
    else:
        line = f"nothing is new in {there}, {cost}"
    if verify:
        line += f"; {size_text(report.verified)} {'was' if report.verified == 1 else 'were'} hashed"
    if report.written is not None and not report.dry_run:
        line += f"; {size_text(report.written)} {'was' if report.written == 1 else 'were'} written, no blob data"
    if report.skipped:
        line += f"; {report.skipped:,} manifests and tags were taken over before"
    lines = [line]
    if report.kept:
        lines.append(f"{counted(report.kept, 'tag')} stayed as {'it is' if report.kept == 1 else 'they are'} here")
    if report.problems:
        lines.append(
            f"{counted(report.problems, 'problem')}, told above: the same command looks at what is broken again"
        )
    return lines
