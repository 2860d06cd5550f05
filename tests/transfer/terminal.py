"""A pseudo-terminal for the command line, and what a person sees on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


@dataclass(frozen=True)
class Seen:
    """``raw``: all that came to the terminal. ``out`` and ``err``: what went elsewhere."""

    code: int
    raw: str
    out: str
    err: str
    columns: int

    @property
    def screen(self) -> list[str]:
        """The lines at the end, those that scrolled away included."""
        return screen(self.raw, self.columns)

    @property
    def cursor_is_visible(self) -> bool:
        shown = re.findall(r"\x1b\[\?25([hl])", self.raw)
        return not shown or shown[-1] == "h"


def screen(text: str, columns: int) -> list[str]:
    """What is on a terminal after this text: lines, their ends without blanks."""
    lines: list[list[str]] = [[]]
    row = column = place = 0
    while place < len(text):
        character = text[place]
        sequence = _SEQUENCE.match(text, place)
        if sequence is not None:
            private, number, what = sequence.groups()
            if what == "A":
                row = max(0, row - int(number or 1))
            elif what == "K":
                lines[row] = [] if number == "2" else lines[row][:column]
            else:
                assert what == "m" or (private and what in "hl"), f"this terminal does not know {sequence[0]!r}"
            place = sequence.end()
            continue
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            _extend(lines, row)
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = character
            column += 1
        _extend(lines, row)
        place += 1
    return ["".join(line).rstrip() for line in lines]


def _extend(lines: list[list[str]], row: int) -> None:
    while len(lines) <= row:
        lines.append([])


def watch(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    columns: int = 100,
    rows: int = 24,
    out: bool = True,
    err: bool = True,
    types: tuple[Callable[[str], bool], bytes] | None = None,
    timeout: float = 40,
) -> Seen:
    """Runs a program on a terminal of its own.

    ``out`` and ``err``: whether these streams go there, not into a pipe. ``types``: what is typed, once what came
    satisfies a condition.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        command,
        env={"TERM": "xterm-256color", **env},
        cwd=cwd,
        stdin=slave,
        stdout=slave if out else subprocess.PIPE,
        stderr=slave if err else subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    raw = b""
    deadline = time.monotonic() + timeout
    try:
        while True:
            assert time.monotonic() < deadline, f"no end within {timeout:g} s:\n{raw.decode(errors='replace')}"
            ready, _, _ = select.select([master], [], [], 0.05)
            if ready:
                try:
                    piece = os.read(master, 65536)
                except OSError:  # Nobody has the other side open.
                    break
                if not piece:
                    break
                raw += piece
            elif process.poll() is not None:
                break
            if types is not None and types[0](raw.decode(errors="replace")):
                os.write(master, types[1])
                types = None
        printed, complained = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert types is None, f"nothing was typed, as this came:\n{raw.decode(errors='replace')}"
    return Seen(process.returncode, raw.decode(), (printed or b"").decode(), (complained or b"").decode(), columns)
