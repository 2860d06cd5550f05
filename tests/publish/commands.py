"""Runs commands of bucketry, one after the other: each a JSON list, a line of standard input; prints its exit code.

A process that starts once can publish many times a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import with_parent

from bucketry.cli import main


@dataclass(frozen=True)
class Commands:
    process: subprocess.Popen[str]
    log: Path

    def __call__(self, *arguments: str | Path) -> None:
        """Runs one, which must work."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(argument) for argument in arguments]), file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "0\n", self.log.read_text()


@contextmanager
def commands(folder: Path, env: Mapping[str, str]) -> Iterator[Commands]:
    """A process that runs what it is told to, while the block does. ``folder`` takes what the commands say."""
    log = folder / "commands.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            with_parent([sys.executable, "-m", "tests.publish.commands"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=dict(env),
            cwd=Path(__file__).parents[2],
            text=True,
        )
    try:
        yield Commands(process, log)
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(main(json.loads(line)), file=answers, flush=True)
