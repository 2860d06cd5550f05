"""Credentials of registries, as this machine's files and credential helpers have them.

Read are, in this order: Docker's ``config.json`` (in ``DOCKER_CONFIG``, else ``~/.docker``), the file that
``REGISTRY_AUTH_FILE`` names, else Podman's ``containers/auth.json`` (in ``XDG_RUNTIME_DIR``, then ``~/.config``). In
each, a helper of ``credHelpers`` comes before ``credsStore``, and that before ``auths``. An entry may be for a
part of a registry (``host/team``): the longest that fits is taken. Written is Docker's file alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from bucketry.oci.reference import DEFAULT_REGISTRY
from bucketry.transfer.errors import Misconfigured
from bucketry.transfer.remote.answer import clean
from bucketry.transfer.remote.helpers import TOKEN_USER, Helper, Run, is_text, run_program

_DOCKER_KEY: Final = "https://index.docker.io/v1/"
"""By which everybody knows Docker Hub: the address of an API that is no more."""

_DOCKER_NAMES: Final = frozenset({DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io"})
_MAX_FILE: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """``origin``: the file or helper they came from. Secrets are in no ``repr``.

    An ``identity_token`` is given to the token service in exchange for tokens; a ``registry_token`` is one.
    """

    origin: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)
    registry_token: str | None = field(default=None, repr=False)

    def basic(self) -> str | None:
        """For ``Authorization: Basic``; None where there is no user and password."""
        if not self.username and not self.password:
            return None
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def secrets(self) -> Iterator[str]:
        """What must reach no message."""
        yield from filter(None, (self.password, self.identity_token, self.registry_token, self.basic()))


class CredentialSource(Protocol):
    async def find(self, host: str, repository: str = "") -> Credentials | None:
        """Raises `Misconfigured`."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """The same credentials for whatever is asked: those that were typed."""

    credentials: Credentials

    async def find(self, host: str, repository: str = "") -> Credentials | None:
        return self.credentials


@dataclass(frozen=True, slots=True)
class Stored:
    """``place``: the file or helper. ``warning``: what a person should know of it; None where it is kept safely."""

    place: str
    warning: str | None = None


class CredentialStore:
    """``environ`` and ``home`` say where the files are; ``run`` starts helpers."""

    def __init__(self, environ: Mapping[str, str], home: Path, *, run: Run = run_program) -> None:
        self._environ = environ
        self._home = home
        self._run = run

    @classmethod
    def of_user(cls) -> CredentialStore:
        """The person's who runs this process."""
        return cls(os.environ, Path.home())

    @property
    def docker_file(self) -> Path:
        folder = self._environ.get("DOCKER_CONFIG")
        return (Path(folder) if folder else self._home / ".docker") / "config.json"

    def files(self) -> tuple[Path, ...]:
        """In the order in which they are asked."""
        named = self._environ.get("REGISTRY_AUTH_FILE")
        if named:
            return self.docker_file, Path(named)
        runtime = self._environ.get("XDG_RUNTIME_DIR")
        config = self._environ.get("XDG_CONFIG_HOME")
        folders = [Path(runtime)] if runtime else []
        folders.append(Path(config) if config else self._home / ".config")
        return self.docker_file, *(folder / "containers" / "auth.json" for folder in folders)

    async def find(self, host: str, repository: str = "") -> Credentials | None:
        """Those for a repository of the registry ``host`` (as in a reference). Raises `Misconfigured`."""
        for path in self.files():
            file = await asyncio.to_thread(_File.read, path)
            if file is None:
                continue
            found = await self._find(file, host, repository)
            if found is not None:
                return found
        return None

    async def store(self, host: str, user: str, password: str) -> Stored:
        """Keeps them for ``host``, with the helper of Docker's file, else in that file. Raises `Misconfigured`."""
        path = self.docker_file
        file = await asyncio.to_thread(_File.read, path) or _File(path, "", {})
        helper = file.helper(host, self._run)
        key = _written_key(host)
        if helper is not None:
            await helper.store(key, user, password)
            # Without a secret: by such an entry other programs know that there is one.
            await asyncio.to_thread(file.write_entry, key, {})
            return Stored(helper.origin)
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        await asyncio.to_thread(file.write_entry, key, {"auth": auth})
        return Stored(
            str(path),
            f"the password is in {path}, readable to whoever reads that file: a credsStore there keeps it safely",
        )

    async def erase(self, host: str) -> tuple[str, ...]:
        """Removes those for ``host`` from Docker's file and its helper; gives the places that had them.

        Raises `Misconfigured`.
        """
        path = self.docker_file
        file = await asyncio.to_thread(_File.read, path)
        if file is None:
            return ()
        places = []
        helper = file.helper(host, self._run)
        if helper is not None and await helper.get(_written_key(host)) is not None:
            await helper.erase(_written_key(host))
            places.append(helper.origin)
        if await asyncio.to_thread(file.remove_entries, host):
            places.append(str(path))
        return tuple(places)

    async def _find(self, file: _File, host: str, repository: str) -> Credentials | None:
        for key in _keys(host, repository):
            name = file.helper_names().get(key)
            if name is not None:
                found = await self._ask(Helper(name, str(file.path), self._run), _written_key(key))
                if found is not None:
                    return found
        store = file.text("credsStore")
        if store:
            helper = Helper(store, str(file.path), self._run)
            known = file.entries()
            for key in _keys(host, repository):
                # Each question starts a program: parts of a registry are asked for only where the file speaks of them.
                if key == host or key in known:
                    found = await self._ask(helper, _written_key(key))
                    if found is not None:
                        return found
        for key in _keys(host, repository):
            written = file.entries().get(key)
            if written is not None:
                found = file.credentials(written)
                if found is not None:
                    return found
        return None

    async def _ask(self, helper: Helper, server: str) -> Credentials | None:
        answer = await helper.get(server)
        if answer is None:
            return None
        user, secret = answer
        if user == TOKEN_USER:
            return Credentials(helper.origin, identity_token=secret)
        return Credentials(helper.origin, user, secret)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    source: str = field(repr=False)
    document: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> _File | None:
        """None where there is none."""
        try:
            with path.open("rb") as stream:
                data = stream.read(_MAX_FILE + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Misconfigured(f"{path} cannot be read: {error.strerror}") from None
        try:
            source = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Misconfigured(f"{path}, line {data[: error.start].count(10) + 1}: it is not UTF-8 text") from None
        if not source.strip():
            return cls(path, source, {})
        try:
            document = json.loads(source)
        except json.JSONDecodeError as error:
            raise Misconfigured(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
        except (RecursionError, ValueError):
            raise Misconfigured(f"{path}, line 1: not JSON that can be read") from None
        if not isinstance(document, dict):
            raise Misconfigured(f"{path}, line 1: a JSON object is expected here")
        return cls(path, source, document)

    def text(self, name: str) -> str:
        value = self.document.get(name) or ""
        if not isinstance(value, str):
            raise self.broken(name, "must be text")
        return value

    def table(self, name: str) -> dict[str, Any]:
        value = self.document.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.broken(name, "must be a JSON object")
        return value

    def helper_names(self) -> dict[str, str]:
        """Key, as `_normal` gives it, to the name of the helper."""
        names = {}
        for key, name in self.table("credHelpers").items():
            if not isinstance(name, str):
                raise self.broken(key, "must be the name of a credential helper")
            if name:
                names[_normal(key)] = name
        return names

    def helper(self, host: str, run: Run) -> Helper | None:
        """What keeps the secrets of a host."""
        name = self.helper_names().get(_normal(host)) or self.text("credsStore")
        return Helper(name, str(self.path), run) if name else None

    def entries(self) -> dict[str, str]:
        """Key, as `_normal` gives it, to the key as it is written. One that is written in full comes before others."""
        found: dict[str, str] = {}
        for key in self.table("auths"):
            normal = _normal(key)
            if normal not in found or key in (normal, _DOCKER_KEY):
                found[normal] = key
        return found

    def credentials(self, written: str) -> Credentials | None:
        entry = self.table("auths")[written]
        if not isinstance(entry, dict):
            raise self.broken(written, "must be a JSON object")
        fields = {}
        for name in ("auth", "username", "password", "identitytoken", "registrytoken"):
            value = entry.get(name) or ""
            if not isinstance(value, str):
                raise self.broken(written, f"{name} must be text")
            fields[name] = value
        user, password = fields["username"], fields["password"]
        if fields["auth"]:
            user, password = self._decoded(written, fields["auth"])
        identity = fields["identitytoken"] or None
        if user == TOKEN_USER and identity is None:
            user, password, identity = "", "", password
        if not (user or password or identity or fields["registrytoken"]):
            return None
        if not is_text(f"{user}{password}{identity}{fields['registrytoken']}"):
            raise self.broken(written, "holds what is no text")
        return Credentials(str(self.path), user, password, identity, fields["registrytoken"] or None)

    def _decoded(self, written: str, auth: str) -> tuple[str, str]:
        try:
            text = base64.b64decode("".join(auth.split()), validate=True).decode()
        except (binascii.Error, ValueError):
            raise self.broken(written, "auth is not base64 of user:password") from None
        user, colon, password = text.partition(":")
        if not colon:
            raise self.broken(written, "auth is not base64 of user:password")
        # Old versions of Docker padded it with zeros.
        return user, password.rstrip("\0")

    def broken(self, key: str, why: str) -> Misconfigured:
        """Names the line where ``key`` stands first."""
        spellings = (json.dumps(key), json.dumps(key, ensure_ascii=False))
        found = [self.source.find(spelling) for spelling in spellings]
        at = max(0, *found)
        return Misconfigured(f"{self.path}, line {self.source[:at].count(chr(10)) + 1}: {clean(ascii(key))}: {why}")

    def write_entry(self, key: str, entry: dict[str, Any]) -> None:
        auths = self.table("auths")
        same = {written for written in auths if _normal(written) == _normal(key)}
        kept = {written: value for written, value in auths.items() if written not in same}
        self._write({**self.document, "auths": {**kept, key: entry}})

    def remove_entries(self, host: str) -> bool:
        """Whether one of them held anything."""
        auths = self.table("auths")
        gone = {written for written in auths if _normal(written) == _normal(host)}
        if not gone:
            return False
        self._write({**self.document, "auths": {key: value for key, value in auths.items() if key not in gone}})
        return any(auths[written] for written in gone)

    def _write(self, document: dict[str, Any]) -> None:
        """In one step: whoever reads sees the old file or the new one. For its owner's eyes only."""
        try:
            # A file that is linked to from here stays where it is.
            path = self.path.resolve()
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # for its owner only, as made
            try:
                with os.fdopen(number, "w", encoding="utf-8") as stream:
                    json.dump(document, stream, indent="\t", ensure_ascii=False)
                    stream.write("\n")
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(name, path)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(name)
                raise
        except OSError as error:
            raise Misconfigured(f"{self.path} cannot be written: {error.strerror}") from None


def _normal(key: str) -> str:
    """A key of a file as ``host`` or ``host/path``: without scheme, without the path of an old API."""
    bare = key.partition("://")[2] if "://" in key else key
    bare = bare.rstrip("/")
    if bare.count("/") == 1:
        bare = bare.removesuffix("/v1").removesuffix("/v2")
    return DEFAULT_REGISTRY if bare in _DOCKER_NAMES else bare


def _written_key(key: str) -> str:
    """What `_normal` gave, as files and helpers have it."""
    return _DOCKER_KEY if _normal(key) == DEFAULT_REGISTRY else key


def _keys(host: str, repository: str) -> Iterator[str]:
    """``host/a/b``, ``host/a``, ``host``."""
    parts = repository.split("/") if repository else []
    for length in range(len(parts), 0, -1):
        yield "/".join([host, *parts[:length]])
    yield host
