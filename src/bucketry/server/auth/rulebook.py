"""The file of rules and the users' file, read again when they change; where a new one is broken the old ones stay.

So they do where a worker starts in the place of another one, which is what SIGHUP and new certificates bring about:
each worker keeps what it took last in a folder of the server's own, and one that finds a broken file starts with that.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import structlog

from bucketry.access import AccessError, AccessFile, Policy, Users, parse_access, parse_htpasswd

MAX_FILE: Final = 8 * 1024 * 1024
"""Bytes of either file."""

KEPT: Final = "KEPT_RULES_FOLDER"
"""The variable by which workers know the folder; it is made when the server starts, and goes when it ends."""

_log = structlog.get_logger("bucketry.access")

_BOOK: Final = "book.json"
_Mark: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """What is in force. ``mark`` changes with the files."""

    access: AccessFile
    policy: Policy
    users: Users
    warnings: tuple[str, ...]
    mark: _Mark
    texts: Mapping[str, str] = field(repr=False)
    """Of the files, by their paths."""


def read_book(path: Path, *, texts: Mapping[str, str] | None = None) -> Book:
    """``texts``: in place of what the files say now. Raises `AccessError`, whose lines say what is wrong and where;
    `OSError`. Blocks."""
    read: dict[str, str] = {}

    def text(file: Path) -> str:
        read[str(file)] = found = _text(file) if texts is None else texts[str(file)]
        return found

    # Before each is read: one that is changed while it is read has another stamp at the next look, and is read again.
    mark: _Mark = (_stamp(path),)
    access = _from_its_folder(parse_access(text(path), path=str(path)), path.parent)
    users, warnings = Users({}), access.warnings
    if access.users is not None:
        users_path = Path(access.users)
        mark = (*mark, _stamp(users_path))
        users = parse_htpasswd(text(users_path), path=str(users_path))
        unknown = [
            f"{path}: {place} names {who}, and {users_path} has no such user"
            for who, place in access.named.items()
            if who.startswith("user:") and who.removeprefix("user:") not in users
        ]
        warnings = (*warnings, *users.warnings, *unknown)
    return Book(access, access.policy, users, warnings, mark if texts is None else (), read)


def first_book(path: Path, kept: Path | None) -> Book:
    """What a worker starts with. ``kept``: the folder where an earlier one kept its book.

    Raises as `read_book`, where the files are broken and nothing was kept. Blocks.
    """
    try:
        book = read_book(path)
    except (AccessError, OSError) as error:
        texts = None if kept is None else _kept(kept)
        if texts is None or str(path) not in texts:
            raise
        _refused(path, error)
        return read_book(path, texts=texts)
    keep(book, kept)
    return book


def keep(book: Book, kept: Path | None) -> None:
    """For workers that start later. Blocks."""
    if kept is None:
        return
    try:
        with tempfile.NamedTemporaryFile(dir=kept, delete=False) as file:
            file.write(msgspec.json.encode(book.texts))
        os.replace(file.name, kept / _BOOK)
    except OSError as error:
        _log.warning("the rules could not be kept for workers that start later", error=str(error))


def _kept(kept: Path) -> Mapping[str, str] | None:
    try:
        return msgspec.json.decode((kept / _BOOK).read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return None


def _refused(path: Path, error: Exception) -> None:
    _log.warning("the new rules are refused, and the old ones stay", file=str(path), error=str(error))


def _from_its_folder(access: AccessFile, folder: Path) -> AccessFile:
    """With paths from where the file is, as it says them, and not from where the server was started."""

    def placed(path: str | None) -> str | None:
        return None if path is None else str(folder / path)

    issuers = tuple(replace(one, keys=placed(one.keys), ca=placed(one.ca)) for one in access.issuers)
    token = access.token
    if token is not None and "://" not in token.jwks:
        token = replace(token, jwks=str(folder / token.jwks))
    return replace(access, users=placed(access.users), issuers=issuers, token=token)


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


def _stamp(file: Path) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    # The time of the change of the file itself, too: that of its content is whoever copies it to choose.
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


class Rulebook:
    """``book`` is always one that can be used. ``changed`` hears of each new one."""

    def __init__(
        self,
        path: Path,
        book: Book,
        *,
        reload: float,
        kept: Path | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """``reload``: seconds between two looks at the files. ``kept``: see `first_book`."""
        self.book = book
        self._path = path
        self._reload = reload
        self._kept = kept
        self.changed: Callable[[Book], object] = lambda book: None
        self._sleep = sleep
        self._refused: str | None = None
        """Why, as it was logged last."""
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
        if await asyncio.to_thread(self._marks) == self.book.mark:
            self._refused = None
            return
        try:
            book = await asyncio.to_thread(read_book, self._path)
            self.changed(book)
        except (AccessError, OSError, ValueError) as error:
            # Tried again at each look: what was missing may be a file that comes later, and whose name is new.
            if str(error) != self._refused:
                _refused(self._path, error)
            self._refused = str(error)
            return
        self._refused = None
        self.book = book
        await asyncio.to_thread(keep, book, self._kept)
        _log.info("rules read again", file=str(self._path), rules=len(book.access.rules), users=len(book.users))
        for warning in book.warnings:
            _log.warning(warning)

    def _marks(self) -> _Mark:
        files = [self._path]
        if self.book.access.users is not None:
            files.append(Path(self.book.access.users))
        return _mark(files)
