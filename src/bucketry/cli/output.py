"""What commands write: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def write(text: str) -> None:
    """A line of a result."""
    sys.stdout.write(f"{text}\n")


def write_json(value: object) -> None:
    write(json.dumps(value, indent=2, ensure_ascii=False))


def complain(text: str) -> None:
    """An error, on one line."""
    sys.stderr.write(f"bucketry: {' '.join(text.split())}\n")


def console(*, stderr: bool = False) -> Console:
    """For tables and spinners. Where nobody watches, lines are wide enough not to be folded."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 160, highlight=False, emoji=False)
