"""What a worker process loads: each worker of each server has it in memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
from bucketry.server.config import Config, LogConfig
from bucketry.server.worker import load_app

load_app(Config(log=LogConfig(format=sys.argv[1])).to_json(), 1)
print(json.dumps(list(sys.modules)))
import rich, structlog
try:
    raise ValueError("what went wrong")
except ValueError:
    structlog.get_logger("test").error("an error", exc_info=True)
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_worker_loads_no_command_line_and_no_colours_and_still_logs_tracebacks(log_format: str) -> None:
    command = [sys.executable, "-c", PROGRAM, log_format]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    modules = set(json.loads(done.stdout))
    assert "bucketry.registry.uploads" in modules
    assert modules & {"cyclopts", "rich", "pygments", "botocore"} == set()
    assert "an error" in done.stderr
    assert "ValueError: what went wrong" in done.stderr
