"""`make bench` works: small and short, so its numbers mean nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.tools import missing, search_path, tool

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def bench(tmp_path: Path) -> list[str]:
    for name in ("weed", "nginx", "wrk"):
        tool(name)
    command = [sys.executable, "-m", "bench", "--quick", "--folder", str(tmp_path)]
    # Whichever peer is here: none is built for a test.
    for name in ("registry", "docker-registry"):
        for folder in search_path().split(os.pathsep):
            if os.access(Path(folder, name), os.X_OK):
                return [*command, "--peer", str(Path(folder, name))]
    return missing("neither registry nor docker-registry is installed: sudo .ci/tools apt")


def left_behind(folder: Path) -> list[str]:
    """Files below the folder, and processes that were told of it."""
    found = [str(path) for path in folder.rglob("*")]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def test_bench_compares_and_leaves_nothing_behind(bench: list[str], tmp_path: Path) -> None:
    with_results = tmp_path.parent / f"{tmp_path.name}.json"
    scenarios = ["--only", "large", "--only", "calls", "--only", "redirects"]
    done = subprocess.run(
        [*bench, *scenarios, "--json", str(with_results)], cwd=ROOT, capture_output=True, text=True, timeout=110
    )

    assert done.returncode == 0, done.stderr
    results = json.loads(with_results.read_text())
    with_results.unlink()
    rows = {row["name"]: row for row in results["rows"]}
    limits = [row for name, row in rows.items() if name.endswith("; limit")]
    assert [row["peer"] for row in limits] == [[]]
    assert all(min(row["peer"] or [0]) >= 0 and min(row["bucketry"]) >= 0 for row in rows.values())
    for start, target in {
        "commit of": ">= 10x the peer",
        "CPU of the server, push to S3": "below the peer",
        "store requests, a blob of 10 KiB": "<= 6",
        "GET blob, S3, a redirect, one blob": ">= 10x the peer",
    }.items():
        found = [row for name, row in rows.items() if name.startswith(start)]
        assert found
        assert found[0]["target"] == target
        assert found[0]["met"] in (True, False)
        assert found[0]["name"] in done.stdout
    assert "MET" in done.stdout
    for name, row in rows.items():
        if name.startswith("store requests"):
            assert row["met"], row
            assert row["details"]["seen_by_the_s3_server"] == sum(row["details"]["by_operation"].values())
    assert left_behind(tmp_path) == []


def test_bench_that_is_interrupted_ends_what_it_started(bench: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*bench, "--only", "large"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*-bucketry/log")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_behind(tmp_path)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)

    assert process.returncode == 130, errors
    assert "targets met" in out
    assert left_behind(tmp_path) == []
