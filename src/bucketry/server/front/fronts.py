"""The fronts, as the process that leads the workers sees them: started, told of new keys, started again, ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final

from bucketry.server.front.contexts import Keys
from bucketry.server.front.process import FrontSettings, Order, Refusal, serve

_PATIENCE: Final = 3.0
"""Seconds for fronts to end by themselves."""
_AGAIN: Final = 1.0
"""Seconds between two attempts to start a front."""


@dataclass(slots=True)
class _Running:
    number: int
    process: BaseProcess
    control: Connection


class Fronts:
    """``say``: logs a level, an event, and what belongs to it. For several threads."""

    def __init__(
        self,
        count: int,
        settings: FrontSettings,
        keys: Callable[[], Keys],
        listener: socket.socket,
        *,
        say: Callable[..., None],
    ) -> None:
        """``settings.number`` is each front's own. ``keys``: those of now. ``listener`` stays the caller's."""
        self._settings = settings
        self._keys = keys
        self._listener = listener
        self._say = say
        self._lock = threading.Lock()
        self._stopping = False
        self._running = [self._start(number) for number in range(count)]
        self._watcher = threading.Thread(target=self._watch, name="fronts", daemon=True)
        self._watcher.start()

    def renew(self) -> None:
        """Connections that are taken from now on see the new keys."""
        with self._lock:
            for front in self._running:
                self._send(front, self._keys())

    def stop(self) -> None:
        """No more connections are taken; those that are there go on."""
        with self._lock:
            self._stopping = True
            for front in self._running:
                self._send(front, Order.STOP)

    def end(self) -> None:
        self.stop()
        deadline = time.monotonic() + _PATIENCE
        with self._lock:
            for front in self._running:
                self._send(front, Order.END)
            for front in self._running:
                front.process.join(max(0.0, deadline - time.monotonic()))
                if front.process.is_alive():
                    front.process.kill()
                    front.process.join()
                front.control.close()
            self._running = []

    def _start(self, number: int) -> _Running:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve,
            args=(replace(self._settings, number=number), self._keys(), self._listener, theirs),
            name=f"bucketry-front-{number}",
            daemon=True,
        )
        process.start()
        theirs.close()
        return _Running(number, process, ours)

    @staticmethod
    def _send(front: _Running, what: Keys | Order) -> None:
        with contextlib.suppress(OSError):
            front.control.send(what)

    def _watch(self) -> None:
        """Hears what fronts say, and starts those again that have ended."""
        while not self._stopping:
            with self._lock:
                running = list(self._running)
            wait([*(each.control for each in running), *(each.process.sentinel for each in running)], timeout=_AGAIN)
            for front in running:
                self._hear(front)
                if not front.process.is_alive():
                    self._replace(front)

    def _hear(self, front: _Running) -> None:
        try:
            while front.control.poll():
                said = front.control.recv()
                if isinstance(said, Refusal):
                    self._say(
                        "warning",
                        "a client's certificate was refused",
                        client=said.address,
                        error=said.why,
                        refused=said.count,
                    )
        except (EOFError, OSError):
            pass  # It has ended.

    def _replace(self, front: _Running) -> None:
        if self._stopping:
            return
        self._say("error", "a process that speaks TLS ended, and is started again", code=front.process.exitcode)
        # One that cannot start at all is not tried without end in one second.
        time.sleep(_AGAIN)
        with self._lock:
            if not self._stopping:
                try:
                    started = self._start(front.number)
                except OSError as error:
                    # No process is left for it, for example. It is tried again, as this one still counts as ended.
                    self._say("error", "a process that speaks TLS cannot be started", error=str(error))
                    return
                front.control.close()
                self._running[self._running.index(front)] = started
