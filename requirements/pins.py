"""Renews the pinned requirements: installs what is asked for into a clean environment, writes down what came.

Run as ``make pins``. Each file holds ``name==version`` lines only, transitive ones included, and no address.
``dev.txt`` and ``build.txt`` are resolved on top of ``runtime.txt`` and leave out what it already pins.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
NOT_PINNED = {"pip", "setuptools", "wheel"}


def wanted(name: str) -> list[str]:
    """The requirements a file of ours asks for, comments left out."""
    lines = (line.strip() for line in (HERE / f"{name}.in").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def resolved(requirements: Sequence[str], constraints: Sequence[str] = ()) -> list[str]:
    """``name==version`` of all that these requirements bring in, sorted by name."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "venv", scratch], check=True)
        pip = [os.path.join(scratch, "bin", "python"), "-m", "pip", "--disable-pip-version-check"]
        held = Path(scratch, "constraints.txt")
        held.write_text("\n".join(constraints))
        subprocess.run([*pip, "install", "--quiet", "--constraint", str(held), *requirements], check=True)
        frozen = subprocess.run([*pip, "list", "--format=freeze"], check=True, capture_output=True, text=True)
    lines = [line for line in frozen.stdout.split() if line.partition("==")[0].lower() not in NOT_PINNED]
    return sorted(lines, key=str.lower)


def write(name: str, lines: Sequence[str], about: str) -> None:
    (HERE / f"{name}.txt").write_text("\n".join([f"# {about} Made by `make pins`.", *lines, ""]))


def main() -> None:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    runtime = resolved(project["dependencies"])
    build = [pin for pin in resolved(wanted("build"), runtime) if pin not in runtime]
    dev = [pin for pin in resolved(wanted("dev"), [*runtime, *build]) if pin not in runtime]
    write("runtime", runtime, "What bucketry runs on.")
    write("build", build, "What builds the package.")
    write("dev", dev, "What the tests and checks need, on top of runtime.txt.")


if __name__ == "__main__":
    main()
