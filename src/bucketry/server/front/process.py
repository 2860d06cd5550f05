"""A front: the process that takes connections, agrees on TLS, and passes the bytes on to the workers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, TypeAlias

from bucketry.server.front.contexts import Keys, Terms, server_context
from bucketry.server.front.peers import certificate_file, certificate_id, clear, socket_name
from bucketry.server.front.relay import Buffers, Limits, Relay, State

WORKERS: Final = "workers"
"""The workers' socket, in the folder of the fronts."""
_AT_ONCE: Final = 8
"""Connections taken in one turn, so that other fronts get some, too."""
_PAUSE: Final = 0.1
"""Seconds until connections are taken again where the system had nothing left for one."""
_LOOK: Final = 1.0
"""Seconds between two looks for what lasts too long, and between two refusals that are told of."""


class Order(Enum):
    """What the leading process says beside new `Keys`."""

    STOP = "take no more connections"
    END = "end"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client that showed a certificate that is not taken, or none where one is required.

    ``count``: of such clients since the last that was told of; this is the last one.
    """

    address: str
    why: str
    count: int


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """``folder``: where the workers' socket is, and the fronts' own. ``number``: each front's own.

    ``max_connections``: of clients that have a connection to a worker, and as many again that have none yet.
    """

    number: int
    folder: Path
    terms: Terms
    limits: Limits
    max_connections: int


Told: TypeAlias = Keys | Order


def serve(settings: FrontSettings, keys: Keys, listener: socket.socket, control: Connection) -> None:
    """Runs until it is told to end, or nobody is left to tell."""
    # Ctrl-C goes to every process of a terminal, and the leading one knows the order in which they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Nothing here makes rings of objects but a connection that has ended, which takes itself apart.
    gc.freeze()
    with _runner() as runner:
        runner.run(Front(settings, keys, listener, control).run())


def _runner() -> asyncio.Runner:
    if sys.platform == "win32":
        return asyncio.Runner()
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


class Front:
    def __init__(self, settings: FrontSettings, keys: Keys, listener: socket.socket, control: Connection) -> None:
        self._settings = settings
        self._keys = keys
        self._context = server_context(keys, settings.terms)
        self._listener = listener
        self._control = control
        self._relays: set[Relay] = set()
        self._agreeing: dict[Relay, None] = {}
        """Those that there is no TLS with yet, the oldest first."""
        self._buffers = Buffers()
        self._serial = 0
        self._shown: dict[str, int] = {}
        """Certificates of clients, and how many connections each has now."""
        self._refusals = 0
        self._refusal_told = 0.0
        self._accepting = False
        self._stopped = False
        self._ended = asyncio.Event()

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        clear(self._settings.folder, self._settings.number)
        self._listener.setblocking(False)
        self._loop.add_reader(self._control.fileno(), self._listen_to_orders)
        self._accept_on()
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._ended.wait()
            for relay in tuple(self._relays):
                relay.look()
        for relay in tuple(self._relays):
            relay.end()

    # Connections

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if len(self._relays) - len(self._agreeing) >= self._settings.max_connections:
                self._accept_off()
                return
            try:
                client, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # No file is left for it, for example. Those that wait are not lost: they wait.
                self._accept_off()
                self._loop.call_later(_PAUSE, self._accept_on)
                return
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            relay = Relay(
                client,
                address[:2],
                self._context,
                loop=self._loop,
                host=self,
                limits=self._settings.limits,
                buffers=self._buffers,
            )
            self._relays.add(relay)
            self._agreeing[relay] = None
            if len(self._agreeing) > self._settings.max_connections:
                # Whoever opens connections and says nothing keeps nobody out but others of that kind.
                next(iter(self._agreeing)).end()

    def _accept_on(self) -> None:
        if not self._accepting and not self._stopped:
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept_off(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listener.fileno())

    # What relays ask of it

    def refused(self, relay: Relay, error: ssl.SSLError) -> None:
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message
        elif error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            why = "it showed none"
        else:
            return
        self._refusals += 1
        now = self._loop.time()
        if now - self._refusal_told >= _LOOK:
            self._tell(Refusal(relay.address[0], why, self._refusals))
            self._refusals, self._refusal_told = 0, now

    def connect(self, relay: Relay, certificate: bytes | None) -> socket.socket | None:
        if self._full:
            return None
        try:
            if certificate is not None and relay.certificate is None:
                relay.certificate = self._show(certificate)
            worker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            # No file is left for it, for example.
            return None
        folder, self._serial = self._settings.folder, self._serial + 1
        name = socket_name(folder, self._settings.number, relay.address, self._serial, relay.certificate)
        try:
            worker.setblocking(False)
            worker.bind(name)
            try:
                worker.connect(f"{folder}/{WORKERS}")
            finally:
                # The other end has got the name by now, or never will.
                os.unlink(name)
        except OSError:
            # They are starting, or have more to do than they can take: the relay has an end of patience.
            worker.close()
            return None
        return worker

    @property
    def _full(self) -> bool:
        """Whether clients have all connections to workers that there may be: several may agree on TLS at once."""
        most = self._settings.max_connections
        return len(self._relays) > most and sum(relay.connected for relay in self._relays) >= most

    def agreed(self, relay: Relay) -> None:
        self._agreeing.pop(relay, None)

    def ended(self, relay: Relay) -> None:
        self._relays.discard(relay)
        self._agreeing.pop(relay, None)
        shown = relay.certificate
        if shown is not None:
            self._shown[shown] -= 1
            if not self._shown[shown]:
                del self._shown[shown]
                certificate_file(self._settings.folder, self._settings.number, shown).unlink(missing_ok=True)
        self._accept_on()
        if self._stopped and not self._relays:
            self._ended.set()

    def _show(self, der: bytes) -> str:
        shown = certificate_id(der)
        if shown not in self._shown:
            file = certificate_file(self._settings.folder, self._settings.number, shown)
            whole = file.with_suffix(".new")
            whole.write_bytes(der)
            whole.rename(file)
        self._shown[shown] = self._shown.get(shown, 0) + 1
        return shown

    # The leading process

    def _listen_to_orders(self) -> None:
        try:
            told: Told = self._control.recv()
        except (EOFError, OSError):
            self._end()
            return
        match told:
            case Keys():
                self._keys = told
                self._take_keys()
            case Order.STOP:
                self._stop()
            case Order.END:
                self._end()

    def _take_keys(self) -> None:
        try:
            self._context = server_context(self._keys, self._settings.terms)
        except OSError:
            # They were tried before they were sent: no file is left to have OpenSSL read them from.
            self._loop.call_later(_LOOK, self._take_keys)

    def _stop(self) -> None:
        self._accept_off()
        self._stopped = True
        self._listener.close()
        for relay in tuple(self._relays):
            relay.stop()
        if not self._relays:
            self._ended.set()

    def _end(self) -> None:
        self._loop.remove_reader(self._control.fileno())
        self._stopped = True
        # What was said last may still be on its way to clients.
        if all(relay.state in (State.LINGERING, State.ENDED) for relay in self._relays):
            self._ended.set()
        else:
            self._loop.call_later(_LOOK, self._ended.set)

    def _tell(self, what: Refusal) -> None:
        try:
            self._control.send(what)
        except OSError:
            self._ended.set()
