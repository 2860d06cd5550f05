"""TLS of a running server: what its workers start with, and how a certificate that was replaced is taken up.

A worker's runtime reads the files once, when it starts, and one that cannot use what it reads ends; the server with it.
So the workers never read the owner's files. The process that leads them reads and checks those, and gives the workers a
copy, in memory where the system has a place for that. Its key is not encrypted: the server reads none that is (granian
2.8.7). A copy is never written over: a new certificate is a new copy, and the workers are replaced one after the other,
by ones that start with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bucketry.server.certificates import Material, TlsUnusable, read_material
from bucketry.server.sections import TlsConfig

if TYPE_CHECKING:
    from granian.server.common import AbstractServer

_KEPT: Final = 2
"""Copies: the one in force, and the one before it, which a worker that started just now may still read."""

_Marks: TypeAlias = tuple[tuple[int, int, int] | None, ...]
Say: TypeAlias = Callable[..., None]
"""Logs: a level, an event, and what belongs to it."""


@dataclass(frozen=True, slots=True)
class Files:
    """A copy. ``authorities`` is None where clients need no certificate."""

    chain: Path
    key: Path
    authorities: Path | None


class Certificates:
    """What the workers start with: the last of the owner's files that could be used. For several threads."""

    def __init__(
        self, config: TlsConfig, folder: Path, *, say: Say, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """``folder``: for the copies. Raises `TlsUnusable`, `OSError`."""
        self._config = config
        self._folder = folder
        self._say = say
        self._now = now
        self._lock = threading.Lock()
        self._refused: str | None = None
        self._marks = self._look()
        self._material = self._read()
        self._files = self._copy(self._material)
        self._handed_out: list[Path] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._material.warnings

    def look(self) -> bool:
        """Whether there is something new, if the files are others than when they were read last. Never raises."""
        return self._look() != self._marks and self.take()

    def take(self) -> bool:
        """Whether there is something new. Never raises.

        What is wrong with new files is logged, and the ones before stay in force.
        """
        with self._lock:
            self._marks = self._look()
            try:
                material = self._read()
                if material.fingerprint == self._material.fingerprint:
                    self._refused = None
                    return False
                self._files = self._copy(material)
            except (TlsUnusable, OSError) as error:
                if str(error) != self._refused:
                    self._say("warning", "the new certificate is refused, and the old one stays", error=str(error))
                self._refused = str(error)
                return False
            self._material, self._refused = material, None
        self._say("info", "a new certificate is taken up", file=self._config.cert, expires=material.expires.isoformat())
        for warning in material.warnings:
            self._say("warning", warning)
        return True

    def settings(self) -> dict[str, Any]:
        """Keywords for the server. Copies that nobody starts with any more are removed."""
        from granian.constants import SSLProtocols

        with self._lock:
            files = self._files
            if files.chain.parent not in self._handed_out:
                self._handed_out.append(files.chain.parent)
            kept = self._handed_out = self._handed_out[-_KEPT:]
            for folder in self._folder.iterdir():
                if folder not in kept:
                    shutil.rmtree(folder, ignore_errors=True)
        return {
            "ssl_cert": files.chain,
            "ssl_key": files.key,
            "ssl_protocol_min": SSLProtocols.tls13 if self._config.min_version == "1.3" else SSLProtocols.tls12,
            "ssl_ca": files.authorities,
            "ssl_client_verify": files.authorities is not None,
        }

    def _read(self) -> Material:
        return read_material(self._config, now=self._now())

    def _look(self) -> _Marks:
        config = self._config
        return tuple(_mark(file) for file in (config.cert, config.key, config.client_ca) if file is not None)

    def _copy(self, material: Material) -> Files:
        """Raises `TlsUnusable`, `OSError`."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        files = Files(
            _write(folder / "chain.pem", material.certificate),
            _write(folder / "key.pem", material.key),
            None if material.authorities is None else _write(folder / "authorities.pem", material.authorities),
        )
        try:
            # The server has OpenSSL look at them, too, which refuses keys that are too weak by its settings.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.chain, files.key)
        except ssl.SSLError as error:
            shutil.rmtree(folder)
            raise TlsUnusable(f"tls.cert: {self._config.cert} cannot be served with: {error.reason}") from None
        return files


@contextlib.contextmanager
def opened(config: TlsConfig, *, say: Say) -> Iterator[Certificates]:
    """Raises `TlsUnusable`. The copies are removed with the block's end."""
    with tempfile.TemporaryDirectory(prefix="bucketry-tls-", dir=_memory_folder()) as folder:
        yield Certificates(config, Path(folder), say=say)


def _memory_folder() -> str | None:
    """Where files are that reach no disk; None, for the usual place, where there is no such one."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return None
    try:
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError:
        return None


def _mark(file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _write(path: Path, data: bytes) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    return path


def renew(server: AbstractServer[Any], certificates: Certificates, *, every: float) -> None:
    """Looks at the owner's files each ``every`` seconds, and has the workers replaced where they bring something new.

    So does a SIGHUP, which replaces the workers anyway. The look is in a thread that ends with the process; what the
    server calls is in the one that starts the workers.
    """

    def take() -> None:
        certificates.take()
        given = certificates.settings()
        server.build_ssl_context(
            given["ssl_cert"],
            given["ssl_key"],
            None,
            given["ssl_protocol_min"],
            given["ssl_ca"],
            [],
            given["ssl_client_verify"],
        )

    def watch() -> None:
        while True:
            time.sleep(every)
            if certificates.look():
                server.signal_handler_reload()  # type: ignore[no-untyped-call]

    server.on_reload(take)
    threading.Thread(target=watch, name="certificates", daemon=True).start()
