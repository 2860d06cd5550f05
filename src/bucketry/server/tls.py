"""The certificate and the key of a running server, and how what replaces them is taken up.

The process that leads the workers reads and checks the owner's files, and hands what is in them to the fronts, which
speak TLS (docs/rfcs/0007-tls-front.md). What cannot be served with stays where it is, and the old ones in force.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from bucketry.server.certificates import Material, TlsUnusable, read_material
from bucketry.server.front.contexts import Keys, Terms, server_context
from bucketry.server.sections import TlsConfig

_Marks: TypeAlias = tuple[tuple[int, int, int] | None, ...]
Say: TypeAlias = Callable[..., None]
"""Logs: a level, an event, and what belongs to it."""


class Certificates:
    """The last of the owner's files that could be used. For several threads."""

    def __init__(self, config: TlsConfig, *, say: Say, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Raises `TlsUnusable`, `OSError`."""
        self._config = config
        self._say = say
        self._now = now
        self._lock = threading.Lock()
        self._refused: str | None = None
        self._marks = self._look()
        self._material = self._read()

    @property
    def terms(self) -> Terms:
        config = self._config
        return Terms(config.min_version, config.client_certificates == "required", config.http2)

    @property
    def keys(self) -> Keys:
        return _keys(self._material)

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

    def _read(self) -> Material:
        """Raises `TlsUnusable`, `OSError`."""
        material = read_material(self._config, now=self._now())
        try:
            # OpenSSL looks at them, too, and refuses keys that are too weak by its settings.
            server_context(_keys(material), self.terms)
        except ssl.SSLError as error:
            raise TlsUnusable(f"tls.cert: {self._config.cert} cannot be served with: {error.reason}") from None
        return material

    def _look(self) -> _Marks:
        config = self._config
        return tuple(
            _mark(file) for file in (config.cert, config.key, config.client_ca, config.client_crl) if file is not None
        )


def _keys(material: Material) -> Keys:
    return Keys(material.certificate, material.key, material.authorities, material.revoked)


def _mark(file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def renew(certificates: Certificates, taken: Callable[[], None], *, every: float) -> None:
    """Looks at the owner's files each ``every`` seconds, in a thread that ends with the process.

    ``taken`` is called where they brought something new.
    """

    def watch() -> None:
        while True:
            time.sleep(every)
            if certificates.look():
                taken()

    threading.Thread(target=watch, name="certificates", daemon=True).start()
