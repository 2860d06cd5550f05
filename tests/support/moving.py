"""`bucketry push`, `pull` and `copy` as their users run them: a process of its own, whose events are watched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tests.support.tools import search_path, with_parent

Event: TypeAlias = Mapping[str, Any]
"""A line of ``--json``."""


@dataclass(frozen=True)
class Outcome:
    """What a command that ended has left: its exit status, its events, and what it said on standard error."""

    status: int
    events: tuple[Event, ...]
    said: str
    peak: int
    """The most memory it had, in bytes, as the kernel tells (VmHWM); 0 where it does not."""

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def ended(self) -> Event:
        """The event ``ended``, which is the last one."""
        assert self.events, self.said
        assert self.events[-1]["event"] == "ended", self.events[-1]
        return self.events[-1]

    @property
    def digest(self) -> str:
        return str(self.ended["digest"])

    @property
    def notes(self) -> list[str]:
        return [str(event["text"]) for event in self.of("note")]


def moved(events: tuple[Event, ...]) -> int:
    """Bytes that arrived so far, those that were taken back not counted."""
    signs = {"moved": 1, "again": -1}
    return sum(signs[event["event"]] * event.get("size", 0) for event in events if event["event"] in signs)


@dataclass
class Running:
    """A command that runs. Its events come in while it does."""

    process: subprocess.Popen[bytes]
    log_path: Path
    _events: list[Event] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _peak: int = 0

    @property
    def events(self) -> tuple[Event, ...]:
        with self._news:
            return tuple(self._events)

    def said(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, holds: Callable[[tuple[Event, ...]], bool], *, seconds: float = 30) -> tuple[Event, ...]:
        """Waits until its events are so, and gives them; fails where the command ends before."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not holds(tuple(self._events)):
                assert self.process.poll() is None, f"ended before: {self._events[-3:]} {self.said()}"
                assert time.monotonic() < deadline, f"not within {seconds:g} s: {self._events[-3:]} {self.said()}"
                self._news.wait(0.1)
            return tuple(self._events)

    def wait_moved(self, size: int, *, seconds: float = 30) -> int:
        """Waits until so many bytes arrived; how many it were."""
        return moved(self.wait_for(lambda events: moved(events) >= size, seconds=seconds))

    def kill(self) -> Outcome:
        """SIGKILL."""
        assert self.process.poll() is None, f"ended before it was killed: {self.said()}"
        self.process.kill()
        return self.end(seconds=10)

    def interrupt(self) -> tuple[Outcome, float]:
        """Ctrl-C, and how many seconds it took to end."""
        assert self.process.poll() is None, f"ended before: {self.said()}"
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        outcome = self.end(seconds=20)
        return outcome, time.monotonic() - began

    def end(self, *, seconds: float = 60) -> Outcome:
        """Waits for its end."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"no end within {seconds:g} s: {self.events[-5:]} {self.said()}", pytrace=False)
        self._reader.join(10)
        self._sampler.join(10)
        return Outcome(status, self.events, self.said(), self._peak)

    def watch(self) -> None:
        """Begins to read what it prints, and to look at its memory."""
        self._reader = threading.Thread(target=self._read, name="events", daemon=True)
        self._sampler = threading.Thread(target=self._sample, name="memory", daemon=True)
        self._reader.start()
        self._sampler.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # The last line of a process that was killed.
                with self._news:
                    self._events.append(event)
                    self._news.notify_all()

    def _sample(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        while self.process.poll() is None:
            try:
                text = status.read_text()
            except OSError:
                return
            # Before the program is loaded, the peak is that of the process that started it.
            if "\nVmHWM:" in text and self.events:
                self._peak = max(self._peak, int(text.split("\nVmHWM:")[1].split()[0]) * 1024)
            time.sleep(0.05)


@dataclass(frozen=True)
class Mover:
    """bucketry's client, in an environment and a folder of its own. Calling it runs a command, which must work."""

    env: Mapping[str, str]
    folder: Path

    @property
    def cache(self) -> Path:
        return Path(self.env["XDG_CACHE_HOME"], "bucketry")

    @property
    def scratch(self) -> Path:
        """Where it puts temporary files."""
        return Path(self.env["TMPDIR"])

    def __call__(self, *arguments: str | Path, seconds: float = 60) -> Outcome:
        with self.start(*arguments) as running:
            outcome = running.end(seconds=seconds)
        assert outcome.status == 0, f"{arguments}: exit status {outcome.status}\n{outcome.said}"
        return outcome

    def fails(self, *arguments: str | Path, seconds: float = 60) -> Outcome:
        """Runs a command that must not work, and says so in one line."""
        with self.start(*arguments) as running:
            outcome = running.end(seconds=seconds)
        assert outcome.status in (1, 2), f"{arguments}: exit status {outcome.status}\n{outcome.said}"
        assert "Traceback" not in outcome.said
        assert "unexpected" not in outcome.said
        return outcome

    @contextmanager
    def start(self, *arguments: str | Path) -> Iterator[Running]:
        """A command that runs while the block does."""
        number = len(list(self.folder.glob("said-*")))
        log_path = self.folder / f"said-{number}"
        program = Path(sys.executable).parent / "bucketry"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                with_parent([str(program), *map(str, arguments), "--json"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(self.env),
                cwd=self.folder,
            )
        running = Running(process, log_path)
        running.watch()
        try:
            yield running
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)


def mover(folder: Path, **env: str) -> Mover:
    """A client whose home, cache and temporary files are below ``folder``; ``env``: further variables."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("home", "cache", "scratch"):
        (folder / name).mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("LANG",) if name in os.environ}
    own = {
        "PATH": search_path(),
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder / "scratch"),
    }
    return Mover({**kept, **own, **env}, folder)
