"""Scenario of HTTPS: by processes in front of the workers, beside the peer's own, and beside plain HTTP."""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.client import REPOSITORY, Job, load
from bench.ground import Ground, shown
from bench.layers import GIB, MIB
from bench.measure import requests_a_second
from bench.processes import cpu_seconds, require_program
from bench.protocol import OCI_MANIFEST, Way
from bench.reads import put_manifests
from bench.results import Row
from bench.services import Keys, Registry

CONNECTIONS = (1, 4)
PLAIN, HTTPS, PEER = "http", "https", "peer"
_SETTLE_SECONDS = 0.3
_BESIDE_PLAIN = "the column of the peer is bucketry by plain HTTP: the ratio is what is left of its rate"
_FRESH = "a handshake (TLS 1.3, P-256) and one GET each, no session resumed"


def tls(ground: Ground) -> Sequence[Row]:
    """On folders. Each round has servers of its own, as their layers would fill the memory."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(ground.scale.rounds):
        with ExitStack() as stack:
            scratch = stack.enter_context(ground.services.scratch("tls"))
            keys = _keys(scratch)
            expected = 3 * len(CONNECTIONS) * _size(ground)
            stores = [
                stack.enter_context(ground.services.scratch(f"store-{who}", expected=expected))
                for who in (PLAIN, HTTPS, PEER)
            ]
            registries = {
                PLAIN: stack.enter_context(ground.services.bucketry(stores[0])),
                HTTPS: stack.enter_context(ground.services.bucketry(stores[1], keys=keys)),
                PEER: stack.enter_context(ground.services.peer(stores[2], keys=keys)),
            }
            for who, registry in registries.items():
                _round(ground, registry, who, number, scratch, found)
    return _rows(ground, found)


def _size(ground: Ground) -> int:
    return ground.scale.large // 2


def _round(
    ground: Ground, registry: Registry, who: str, number: int, folder: Path, found: dict[tuple[str, str], list[float]]
) -> None:
    size = _size(ground)
    authority = None if registry.authority is None else str(registry.authority)
    for connections in CONNECTIONS:
        layers = [(f"tls {number} {connections} {each}", size // connections) for each in range(connections)]
        for what, way in (("push", Way.PUT), ("pull", None)):
            before = cpu_seconds(registry.pid)
            seconds = max(done.total for done in load(Job(registry.port, layers, way, authority)))
            time.sleep(_SETTLE_SECONDS)
            cpu = (cpu_seconds(registry.pid) - before) * GIB / size
            found[f"{what} {connections}", who].append(size / MIB / seconds)
            found[f"{what} {connections} cpu", who].append(cpu)
            ground.say(f"{what} of {shown(size)}, {connections} at once, {who}: {seconds:.2f} s, CPU {cpu:.2f} s/GiB")
    put_manifests(registry.port, ["latest"], registry.authority)
    for what, fresh in (("kept", False), ("fresh", True)):
        rate = requests_a_second(
            registry.port,
            [f"/v2/{REPOSITORY}/manifests/latest"],
            accept=OCI_MANIFEST,
            status=200,
            seconds=ground.scale.seconds,
            folder=folder,
            tls=registry.authority is not None,
            fresh=fresh,
        )
        found[what, who].append(rate)
        ground.say(f"GET manifest, {what} connections, {who}: {rate:,.0f}/s")


def _rows(ground: Ground, found: dict[tuple[str, str], list[float]]) -> Sequence[Row]:
    rows: list[Row] = []
    for beside in (PEER, PLAIN):
        for connections in CONNECTIONS:
            for what in ("push", "pull"):
                title = f"{what} of {shown(_size(ground))}, {connections} connection{'s'[: connections - 1]}"
                rows.append(_row(found, beside, f"{what} {connections}", title, "MiB/s"))
                rows.append(_row(found, beside, f"{what} {connections} cpu", f"{title}: CPU of the server", "s/GiB"))
        rows.append(_row(found, beside, "kept", "GET manifest by tag, kept connections", "requests/s"))
        rows.append(_row(found, beside, "fresh", "GET manifest by tag, fresh connections", "requests/s", _FRESH))
    return rows


def _row(
    found: dict[tuple[str, str], list[float]], beside: str, key: str, title: str, unit: str, note: str = ""
) -> Row:
    if beside == PLAIN:
        title, note = f"{title}; peer: bucketry by HTTP", "; ".join(filter(None, (note, _BESIDE_PLAIN)))
    return Row(
        f"HTTPS, {title}", unit, found[key, beside], found[key, HTTPS], more_is_better=unit != "s/GiB", note=note
    )


def _keys(folder: Path) -> Keys:
    keys = Keys(folder / "server.crt", folder / "server.key")
    command = [require_program("openssl", "sudo .ci/tools apt"), "req", "-x509", "-newkey", "ec"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=bench"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(keys.key), "-out", str(keys.certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return keys
