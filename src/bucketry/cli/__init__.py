"""The command ``bucketry``: one file a command. What is heavy is imported where it is used."""

from bucketry.cli.app import main

__all__ = ["main"]
