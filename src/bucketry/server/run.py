"""``bucketry serve``: looks at the store once, says what to type next, and runs the workers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bucketry.server.config import Config, Loaded
from bucketry.server.examine import examine
from bucketry.server.front.peers import CERTIFICATES
from bucketry.server.welcome import welcome
from bucketry.server.worker import load_app, prepare_log

if TYPE_CHECKING:
    from bucketry.server.front.fronts import Fronts
    from bucketry.server.tls import Certificates

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
_OVERLAP = 5.0
"""Seconds that a worker has to start, when workers are replaced, before the one that it stands in for is stopped."""
_MOST_PROXIES = 256
"""Addresses of a network that may be one of proxies, and of nobody else."""
_MOST_FILES = 1_048_576
"""Open files (connections are) of a worker, where the system lets it have so many."""
_FOLDER = "bucketry-"
_HELD = "held"
"""A file in that folder, locked for as long as its server runs."""
_OWN_FILES = 128
"""Open files of a worker or a front beside its connections: a front has both ends, and those that agree on TLS."""


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
    with contextlib.ExitStack() as stack:
        try:
            certificates = _certificates(config)
        except _CannotListen as error:
            sys.stderr.write(f"bucketry: {error}\n")
            return FAILED
        found = examine(config)
        if found.refusal is not None:
            sys.stderr.write(f"bucketry: {found.refusal}\n")
            return FAILED
        config = _with_checked_put(_with_port(config, port), found.checked_put)
        workers = 1 if config.store.url == "memory:" else config.server.worker_count(os.cpu_count() or 1)
        if workers > 1:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bucketry-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        if config.access.file is not None:
            # Here, so that a server without rules loads nothing of it.
            from bucketry.server.auth.rulebook import KEPT

            os.environ[KEPT] = stack.enter_context(tempfile.TemporaryDirectory(prefix="bucketry-rules-"))
        for warning in (*_warnings(config, address), *_raise_limit_of_files(config)):
            sys.stderr.write(f"bucketry: warning: {warning}\n")
        sys.stderr.write(welcome(config, workers))
        sys.stderr.flush()
        if certificates is None:
            return _serve(config, workers, address=address, port=port)
        return _serve_tls(config, workers, certificates, (address, port))


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


_IN_THE_CLEAR = (
    "passwords and tokens come over plain HTTP, for everyone on the way to read: set tls.cert and tls.key, or "
    "server.public_url where a proxy speaks HTTPS (docs/how-to/tls.md)"
)

_OPEN_METRICS = (
    "/metrics tells everybody who reaches this address how much is going on: set access.metrics to rules, or to "
    "everybody if that is meant (docs/how-to/secure-a-registry.md)"
)


def _warnings(config: Config, address: str) -> Iterator[str]:
    if config.access.file is None:
        return
    private = config.tls.cert is not None or ipaddress.ip_address(address).is_loopback
    if not private and not config.server.trusted_proxies and not (config.server.public_url or "").startswith("https:"):
        yield _IN_THE_CLEAR
    if config.access.metrics is None and not ipaddress.ip_address(address).is_loopback:
        yield _OPEN_METRICS
    if config.access.certificate_header is not None:
        for network in map(ipaddress.ip_network, config.server.trusted_proxies):
            if network.num_addresses > _MOST_PROXIES:
                yield (
                    f"anybody in {network} can say to have any client certificate (access.certificate_header): name "
                    "the proxies themselves in server.trusted_proxies"
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


def _certificates(config: Config) -> Certificates | None:
    """Those of TLS, or None where HTTP is spoken. Raises `_CannotListen`."""
    if config.tls.cert is None:
        return None
    # Here, so that a server without TLS loads nothing of it.
    from bucketry.server.certificates import TlsUnusable
    from bucketry.server.tls import Certificates

    try:
        certificates = Certificates(config.tls, say=partial(_say, config))
    except TlsUnusable as error:
        raise _CannotListen(str(error)) from None
    for warning in certificates.warnings:
        sys.stderr.write(f"bucketry: warning: {warning}\n")
    return certificates


def _say(config: Config, level: str, event: str, **fields: object) -> None:
    """Into the log, as the workers do. It is loaded only where the process that leads them has anything to say."""
    getattr(prepare_log(config.log).get_logger("bucketry.server"), level)(event, **fields)


def _raise_limit_of_files(config: Config) -> Iterator[str]:
    """Warns where the limit stays too low.

    A worker that can open no more files asks for the next connection without end, and comes to nothing else (granian
    2.8.7). ``limits.max_connections`` keeps it from that.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    clients = config.limits.max_connections
    needed = _OWN_FILES + max(clients + config.store.max_connections, 0 if config.tls.cert is None else 3 * clients)
    if soft != resource.RLIM_INFINITY and soft < needed:
        yield (
            f"a process may open {soft} files here, and limits.max_connections needs {needed}: raise that limit "
            "(ulimit -n, LimitNOFILE), or lower limits.max_connections"
        )


def _serve_tls(config: Config, workers: int, certificates: Certificates, address: tuple[str, int]) -> int:
    """By fronts, which hand on to the workers what clients say (docs/rfcs/0007-tls-front.md)."""
    from bucketry.server.front.fronts import Fronts
    from bucketry.server.front.process import WORKERS, FrontSettings
    from bucketry.server.front.relay import Limits
    from bucketry.server.tls import renew

    say = partial(_say, config)
    limits = Limits(head=config.limits.header_timeout, stuck=config.limits.body_idle_timeout)
    with _private_folder() as folder, _listening(config, address) as listener:
        settings = FrontSettings(0, folder, certificates.terms, limits, config.limits.max_connections)
        fronts: Fronts | None = None

        def start() -> None:
            nonlocal fronts
            fronts = Fronts(workers, settings, lambda: certificates.keys, listener, say=say)
            # They have it now, and the last of them to close it ends it.
            renew(certificates, fronts.renew, every=config.tls.reload)

        def take() -> None:
            if certificates.take() and fronts is not None:
                fronts.renew()

        def stop() -> None:
            if fronts is not None:
                fronts.stop()
                listener.close()

        try:
            return _serve(config, workers, uds=folder / WORKERS, front=str(folder), start=start, reload=take, stop=stop)
        finally:
            if fronts is not None:
                fronts.end()


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """For sockets, whose names are short, and files that are gone with the process: in memory where that can be."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK | os.X_OK)
    parent = memory if usable else Path("/tmp")
    _remove_left(parent)
    with tempfile.TemporaryDirectory(prefix=_FOLDER, dir=parent) as name:
        folder = Path(name)
        with open(folder / "new", "xb") as held:
            # Until this process is gone, however it ends. Under its name it is locked already.
            fcntl.flock(held, fcntl.LOCK_EX)
            os.rename(folder / "new", folder / _HELD)
            (folder / CERTIFICATES).mkdir(mode=0o700)
            yield folder


def _remove_left(parent: Path) -> None:
    """Removes the folders of servers of this user that were killed."""
    for folder in parent.glob(f"{_FOLDER}*"):
        try:
            with open(folder / _HELD, "rb") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if folder.stat(follow_symlinks=False).st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # Somebody's who still runs or is just starting, or another user's.


@contextlib.contextmanager
def _listening(config: Config, address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address[0] == "::":
            # All addresses, as without TLS: those of IPv4, too.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(max(config.limits.backlog, 128))
        yield listener


def _serve(
    config: Config,
    workers: int,
    *,
    front: str | None = None,
    start: Callable[[], object] = lambda: None,
    reload: Callable[[], object] = lambda: None,
    stop: Callable[[], object] = lambda: None,
    **listen: Any,
) -> int:
    """``listen``: ``address`` and ``port``, or ``uds``, a path. ``front``: the folder of those that speak TLS.

    ``start``, ``reload`` and ``stop`` are called right before workers are.
    """
    from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    class Stopping(Server):  # type: ignore[misc, valid-type]
        def shutdown(self, exit_code: int = 0) -> None:
            stop()
            super().shutdown(exit_code)

    # Workers that are forked from a process that has run threads may hang; and memory is counted more honestly.
    multiprocessing.set_start_method("spawn", force=True)
    server = Stopping(
        "bucketry",
        interface=Interfaces.ASGI,
        workers=workers,
        loop=Loops.uvloop if sys.platform != "win32" else Loops.asyncio,
        # HTTP/2 behind fronts only, which have the limits of time for it that this server has not.
        http=HTTPModes.auto if front is not None and config.tls.http2 else HTTPModes.http1,
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
        respawn_interval=_OVERLAP,
        workers_kill_timeout=round(config.limits.shutdown_grace) + _KILL_MARGIN,
        **listen,
    )
    server.on_startup(start)
    server.on_reload(reload)
    try:
        server.serve(target_loader=partial(load_app, config.to_json(), workers, front), wrap_loader=False)
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else FAILED
    return 0
