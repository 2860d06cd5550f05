"""``python -m bench``: measures a peer and bucketry in turn, and prints what became of the targets."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from bench.client import push
from bench.layers import MIB, Layer
from bench.machine import describe
from bench.processes import Missing, require_program
from bench.protocol import Way
from bench.results import Row, table
from bench.scenarios import FULL, QUICK, SCENARIOS, Ground
from bench.services import Services, find_peer

_MEMORY = Path("/dev/shm")
_NEEDED = {"weed": "make dev", "nginx": "sudo .ci/tools apt", "wrk": "sudo .ci/tools apt", "bucketry": "make setup"}


def main() -> int:
    arguments = _parse()
    names: list[str] = arguments.only or list(SCENARIOS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    facts: dict[str, str] = {}
    rows: list[Row] = []
    status = 0
    try:
        for name, how in _NEEDED.items():
            require_program(name, how)
        peer = find_peer(arguments.peer)
        scale = QUICK if arguments.quick else FULL
        facts |= describe(peer)
        facts["client"] = f"{_client_rate(scale.layer):,.0f} MiB/s to a server that keeps nothing, with the same client"
        facts["sizes"] = f"{scale.rounds} rounds, peer and bucketry in turn; medians, and [least-most] of the rounds"
        if arguments.quick:
            facts["sizes"] += "; quick: too small and too short to judge the targets by"
        _print_facts(facts)
        began = time.monotonic()
        with ExitStack() as stack:
            memory, disk = (
                Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bucketry-bench-", dir=where)))
                for where in _folders(arguments.folder)
            )
            services = Services(memory, disk, peer)
            shared = stack.enter_context(services.seaweed()) if arguments.quick else None
            for name in names:
                _say(f"== {name}: {SCENARIOS[name].about}")
                rows += SCENARIOS[name].run(Ground(services, scale, _say, shared))
        facts["took"] = f"{time.monotonic() - began:.0f} s; load at the end {os.getloadavg()[0]:.2f}"
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped; what was measured until then:", file=sys.stderr)
        status = 130
    _report(facts, rows, arguments.json)
    return status


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compares bucketry with a peer registry, CNCF distribution, on one S3 server, by the standard "
        "protocol, in alternation.",
        epilog="scenarios: " + "; ".join(f"{name}: {scenario.about}" for name, scenario in SCENARIOS.items()),
    )
    parser.add_argument("--quick", action="store_true", help="small and short: to see that it works")
    parser.add_argument(
        "--only", action="append", choices=SCENARIOS, metavar="NAME", help="this scenario; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    parser.add_argument(
        "--peer",
        metavar="PROGRAM",
        help="the peer's program (default: registry of distribution v3, or docker-registry)",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the servers keep their data (default: in memory, what is large on disk)"
    )
    return parser.parse_args()


def _folders(chosen: Path | None) -> tuple[Path | None, Path | None]:
    """Where servers keep what is small, and what is large; None: the system's folder for temporary files."""
    if chosen is not None:
        return chosen, chosen
    return (_MEMORY if os.access(_MEMORY, os.W_OK) else None), None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # What was started is being ended: that is not to be interrupted too.
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _client_rate(size: int) -> float:
    """MiB a second that the client sends, chunked as docker does, when nothing holds it up."""
    sink = subprocess.Popen(
        [sys.executable, "-m", "bench.sink"], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    try:
        assert sink.stdout is not None
        port = int(sink.stdout.readline())
        return size / MIB / push(port, Layer("sink", size), Way.PATCH).total
    finally:
        sink.kill()
        sink.communicate()


def _print_facts(facts: dict[str, str]) -> None:
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name.ljust(width)}  {fact}")
    print(flush=True)


def _report(facts: dict[str, str], rows: Sequence[Row], file: Path | None) -> None:
    print(table(rows))
    judged = [row.met for row in rows if row.met is not None]
    print(f"\n{judged.count(True)} of {len(judged)} targets met. {facts.get('took', '')}".rstrip(), flush=True)
    if file is not None:
        file.write_text(json.dumps({"facts": facts, "rows": [row.as_dict() for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
