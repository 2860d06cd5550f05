"""The fronts as the leading process has them: one that cannot be started is tried again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.front.conftest import Contexts

from bucketry.server.front import fronts as module
from bucketry.server.front.contexts import Keys, Terms
from bucketry.server.front.fronts import Fronts
from bucketry.server.front.process import FrontSettings
from bucketry.server.front.relay import Limits


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_front_that_cannot_be_started_is_tried_again(
    contexts: Contexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN", 0.05)
    settings = FrontSettings(0, tmp_path, Terms("1.2", False, False), Limits(5, 5), 10)
    said: list[str] = []
    refused = 0

    def say(level: str, event: str, **fields: Any) -> None:
        assert "PRIVATE" not in repr(fields)
        said.append(event)

    def keys() -> Keys:
        # Asked for when one is started.
        nonlocal refused
        if said and refused < 3:
            refused += 1
            raise OSError("no process is left")
        return contexts.keys()

    (tmp_path / "certificates").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fronts = Fronts(1, replace(settings), keys, listener, say=say)
        try:
            (first,) = fronts._running
            first.process.kill()
            until(lambda: fronts._running[0] is not first)
            (second,) = fronts._running
            assert (second.number, second.process.is_alive()) == (first.number, True)
            assert said.count("a process that speaks TLS cannot be started") == 3
        finally:
            fronts.end()
        assert not second.process.is_alive()
