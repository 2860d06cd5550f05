"""What is under way, so that a run that was killed can be gone on with: one small file an entry, in the cache.

An entry is a line of JSON that says what it is about, then lines that are appended as things get done. Nothing in it is
trusted: it says where looking may be worth it. A folder that cannot be written costs the going on, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bucketry.transfer.files import write_whole

EXPIRY = 24 * 3600.0
"""Seconds: an older entry is ignored and removed. Sessions of a registry end by then, unless its owner says else."""

_VERSION: Final = 1
_MOST = 8 * 1024 * 1024
"""Bytes of a file that was not written here."""


class _Head(msgspec.Struct, frozen=True):
    version: int
    about: list[str]
    note: str
    created: float


class Entry:
    """``note``: what was noted at the beginning; ``marks``: by number, what was said of each thing that was done."""

    def __init__(self, path: Path, note: str, marks: dict[int, str]) -> None:
        self._path = path
        self.note = note
        self.marks = marks

    def mark(self, number: int, text: str = "") -> None:
        """``text`` without blanks or line ends."""
        self.marks[number] = text
        with contextlib.suppress(OSError):
            # One small write that ends in a line's end: what was torn by a crash is no line.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, f"{number} {text}\n".encode())
            finally:
                os.close(descriptor)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()


class Journal:
    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._sweep()

    def find(self, *about: str) -> Entry | None:
        """The entry about just this, not older than `EXPIRY`."""
        path = self._path(about)
        try:
            with path.open("rb") as file:
                data = file.read(_MOST)
        except OSError:
            return None
        first, *lines = data.split(b"\n")
        try:
            head = msgspec.json.decode(first, type=_Head)
        except msgspec.MsgspecError:
            return None
        age = self._clock() - head.created
        if head.version != _VERSION or head.about != list(about) or not -EXPIRY < age < EXPIRY:
            return None
        marks: dict[int, str] = {}
        for line in lines[:-1]:  # The last has no line's end.
            number, _, text = line.decode("ascii", "replace").partition(" ")
            if number.isascii() and number.isdigit():
                marks[int(number)] = text
        return Entry(path, head.note, marks)

    def begin(self, *about: str, note: str) -> Entry:
        """A new entry, in the place of an older one."""
        path = self._path(about)
        head = _Head(version=_VERSION, about=list(about), note=note, created=self._clock())
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(path, msgspec.json.encode(head) + b"\n")
        return Entry(path, note, {})

    def _path(self, about: tuple[str, ...]) -> Path:
        return self._folder / hashlib.sha256("\0".join(about).encode()).hexdigest()

    def _sweep(self) -> None:
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                with contextlib.suppress(OSError):
                    if self._clock() - path.stat().st_mtime > EXPIRY:
                        path.unlink()
