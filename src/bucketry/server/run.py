"""``bucketry serve``: looks at the store once, says what to type next, and runs the workers."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import multiprocessing
import os
import socket
import sys
import tempfile
from functools import partial

import msgspec

from bucketry.server.config import Config, Loaded
from bucketry.server.examine import examine
from bucketry.server.welcome import welcome
from bucketry.server.worker import load_app

FAILED = 1
_ADVICE = {
    errno.EADDRINUSE: "end the program that does, perhaps another bucketry, or choose another port with --listen",
    errno.EADDRNOTAVAIL: "choose an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them",
    errno.EACCES: "ports below 1024 are for root: choose a higher one with --listen",
}
_KILL_MARGIN = 10
"""Seconds a worker has, beyond the grace of its requests, before it is killed."""
_READ_BUFFER = 256 * 1024
"""Bytes of a connection that are read at once: more than a head may have, so that the app is the one to refuse it."""


def run(loaded: Loaded) -> int:
    """Serves until it is told to stop; the exit code.

    Raises `StoreError` where the store cannot be used: one line that says what to do.
    """
    config = loaded.config
    if config.store.url.startswith("s3:") and sys.stderr.isatty():
        # It can take a while, and longer where the store does not answer: a person would wonder.
        sys.stderr.write(f"looking at {config.store.url} …\n")
        sys.stderr.flush()
    try:
        address, port = _bind(config)
        _require_rules(config, address)
    except _CannotListen as error:
        sys.stderr.write(f"bucketry: {error}\n")
        return FAILED
    found = examine(config)
    if found.refusal is not None:
        sys.stderr.write(f"bucketry: {found.refusal}\n")
        return FAILED
    config = _with_checked_put(_with_port(config, port), found.checked_put)
    workers = 1 if config.store.url == "memory:" else config.server.worker_count(os.cpu_count() or 1)
    with contextlib.ExitStack() as stack:
        if workers > 1:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bucketry-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        sys.stderr.write(welcome(config, workers))
        sys.stderr.flush()
        return _serve(config, address, port, workers)


def _with_port(config: Config, port: int) -> Config:
    host = config.server.host
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, listen=listen))


def _with_checked_put(config: Config, found: bool) -> Config:
    """What the owner says counts, and what was found where nothing is said."""
    if config.store.checked_put is not None:
        return config
    return msgspec.structs.replace(config, store=msgspec.structs.replace(config.store, checked_put=found))


def _require_rules(config: Config, address: str) -> None:
    """Raises `_CannotListen` where strangers could come in, and nothing says what they may do."""
    if config.access.file is None and not config.access.insecure_open and not ipaddress.ip_address(address).is_loopback:
        raise _CannotListen(
            f"{config.server.listen} can be reached by others, and there are no rules, so anybody could push and "
            "delete: say who may do what with --set access.file=FILE (docs/how-to/secure-a-registry.md), or listen "
            "all the same with --insecure-open"
        )


class _CannotListen(Exception):
    """One line that says what to do."""


def _bind(config: Config) -> tuple[str, int]:
    """The address and the port to listen on, free at this moment: a name is looked up, port 0 is any.

    Raises `_CannotListen`. The workers would not notice another server on their port: they share it among themselves,
    and would share it with a stranger, who then gets half of the requests.
    """
    listen, host, port = config.server.listen, config.server.host, config.server.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise _CannotListen(f"cannot listen on {listen}: {host} is no known name ({error.strerror})") from None
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "choose another with --listen HOST:PORT")
            raise _CannotListen(f"cannot listen on {listen}: {error.strerror}: {advice}") from None
        return str(address[0]), int(probe.getsockname()[1])


def _serve(config: Config, address: str, port: int, workers: int) -> int:
    from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    # Workers that are forked from a process that has run threads may hang; and memory is counted more honestly.
    multiprocessing.set_start_method("spawn", force=True)
    server = Server(
        "bucketry",
        address=address,
        port=port,
        interface=Interfaces.ASGI,
        workers=workers,
        loop=Loops.uvloop if sys.platform != "win32" else Loops.asyncio,
        http=HTTPModes.http1,
        websockets=False,
        # One thread answers calls in their order, which bodies that ask ahead rely on (`RequestBody`); several do not.
        runtime_mode=RuntimeModes.st,
        runtime_threads=1,
        backlog=max(config.limits.backlog, 128),
        backpressure=config.limits.max_connections,
        http1_settings=HTTP1Settings(
            header_read_timeout=max(1, round(config.limits.header_timeout * 1000)),
            keep_alive=True,
            max_buffer_size=_READ_BUFFER,
        ),
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        workers_kill_timeout=round(config.limits.shutdown_grace) + _KILL_MARGIN,
    )
    try:
        server.serve(target_loader=partial(load_app, config.to_json(), workers), wrap_loader=False)
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else FAILED
    return 0
