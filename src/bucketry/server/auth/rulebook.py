"""The file of rules and the users' file, read again when they change; where a new one is broken the old ones stay."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from bucketry.access import AccessError, AccessFile, Policy, Users, parse_access, parse_htpasswd

MAX_FILE: Final = 8 * 1024 * 1024
"""Bytes of either file."""

_log = structlog.get_logger("bucketry.access")

_Mark: TypeAlias = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """What is in force. ``mark`` changes with the files."""

    access: AccessFile
    policy: Policy
    users: Users
    warnings: tuple[str, ...]
    mark: _Mark


def read_book(path: Path) -> Book:
    """Raises `AccessError`, whose lines say what is wrong and where; `OSError`. Blocks."""
    access = parse_access(_text(path), path=str(path))
    users, files, warnings = Users({}), [path], access.warnings
    if access.users is not None:
        # As the file says it, from where the file is.
        users_path = path.parent / access.users
        users = parse_htpasswd(_text(users_path), path=str(users_path))
        files.append(users_path)
        unknown = [
            f"{path}: {place} names {who}, and {users_path} has no such user"
            for who, place in access.named.items()
            if who.startswith("user:") and who.removeprefix("user:") not in users
        ]
        warnings = (*warnings, *users.warnings, *unknown)
    return Book(access, access.policy, users, warnings, _mark(files))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise AccessError(f"{path} has more than {MAX_FILE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise AccessError(f"{path} is not text in UTF-8: byte {error.start} cannot be") from None


def _mark(files: list[Path]) -> _Mark:
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


class Rulebook:
    """``book`` is always one that can be used. ``changed`` hears of each new one."""

    def __init__(
        self,
        path: Path,
        book: Book,
        *,
        reload: float,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """``reload``: seconds between two looks at the files."""
        self.book = book
        self._path = path
        self._reload = reload
        self.changed: Callable[[Book], object] = lambda book: None
        self._sleep = sleep
        self._refused: _Mark | None = None
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    async def _watch(self) -> None:
        while True:
            await self._sleep(self._reload)
            await self.look()

    async def look(self) -> None:
        """Takes the files up where they changed. Never raises: what is wrong is logged once, and changes nothing."""
        mark = await asyncio.to_thread(self._marks)
        if mark in (self.book.mark, self._refused):
            return
        try:
            book = await asyncio.to_thread(read_book, self._path)
            self.changed(book)
        except (AccessError, OSError, ValueError) as error:
            self._refused = mark
            _log.warning("the new rules are refused, and the old ones stay", file=str(self._path), error=str(error))
            return
        self._refused = None
        self.book = book
        _log.info("rules read again", file=str(self._path), rules=len(book.access.rules), users=len(book.users))
        for warning in book.warnings:
            _log.warning(warning)

    def _marks(self) -> _Mark:
        files = [self._path]
        if self.book.access.users is not None:
            files.append(self._path.parent / self.book.access.users)
        return _mark(files)
