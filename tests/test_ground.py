"""The pinned requirements, the Makefile and the pages about working on bucketry agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"
PINNED = sorted(path.name for path in REQUIREMENTS.glob("*.txt"))
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+-]+")


def lines(name: str) -> list[str]:
    stripped = (line.strip() for line in (REQUIREMENTS / name).read_text().splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def normal(requirement: str) -> str:
    """The name a requirement is of, spelled as the packaging rules compare names (PEP 503)."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.mark.parametrize("name", PINNED)
def test_a_pinned_file_holds_exact_versions_and_no_address(name: str) -> None:
    assert "://" not in (REQUIREMENTS / name).read_text()
    assert [line for line in lines(name) if not PIN.fullmatch(line)] == []
    names = [normal(line) for line in lines(name)]
    assert len(names) == len(set(names))


def test_the_runtime_pins_cover_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {normal(entry) for entry in project["dependencies"]} <= {normal(line) for line in lines("runtime.txt")}


@pytest.mark.parametrize("name", ["build", "dev"])
def test_the_other_pins_cover_what_was_asked_for(name: str) -> None:
    pinned = {normal(line) for line in lines(f"{name}.txt") + lines("runtime.txt")}
    assert {normal(line) for line in lines(f"{name}.in")} <= pinned


def test_what_builds_the_package_is_pinned() -> None:
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {normal(entry) for entry in requires} <= {normal(line) for line in lines("build.txt")}


def test_no_two_pinned_files_disagree() -> None:
    versions: dict[str, set[str]] = {}
    for name in PINNED:
        for line in lines(name):
            versions.setdefault(normal(line), set()).add(line.partition("==")[2])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md", ".ci/run"])
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    # In code: after a backtick, or at the start of a line.
    named = set(re.findall(r"(?:^|`)\s*(?:step |again )?make ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert named <= targets
