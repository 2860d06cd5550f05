"""The command ``bucketry``: one file a command. What is heavy is imported where it is used."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (without the program's name), or this process's own, and gives the exit code."""
    # Each worker process imports the program that was started: it must not load a command line with it.
    try:
        from bucketry.cli.app import main as run
    except KeyboardInterrupt:  # Loading takes long enough for somebody to change their mind.
        return 130
    return run(arguments)
