"""``bucketry serve``: looks at the store once, says what to type next, and runs the workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
from functools import partial

import msgspec

from bucketry.server.config import Config, Loaded
from bucketry.server.examine import refusal
from bucketry.server.welcome import welcome
from bucketry.server.worker import load_app

FAILED = 1
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
    why_not = refusal(config)
    if why_not is not None:
        sys.stderr.write(f"bucketry: {why_not}\n")
        return FAILED
    config = _with_port(config)
    workers = 1 if config.store.url == "memory:" else config.server.worker_count(os.cpu_count() or 1)
    with contextlib.ExitStack() as stack:
        if workers > 1:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bucketry-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        sys.stderr.write(welcome(config, workers))
        sys.stderr.flush()
        return _serve(config, workers)


def _with_port(config: Config) -> Config:
    """The configuration with a free port where it asked for any (port 0)."""
    if config.server.port != 0:
        return config
    host = config.server.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, listen=listen))


def _serve(config: Config, workers: int) -> int:
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    # Workers that are forked from a process that has run threads may hang; and memory is counted more honestly.
    multiprocessing.set_start_method("spawn", force=True)
    server = Server(
        "bucketry",
        address=config.server.host,
        port=config.server.port,
        interface=Interfaces.ASGI,
        workers=workers,
        loop=Loops.uvloop if sys.platform != "win32" else Loops.asyncio,
        http=HTTPModes.http1,
        websockets=False,
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
