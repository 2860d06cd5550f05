"""The access log: as JSON it is written without structlog, and nobody sees the difference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import pytest
import structlog

from bucketry.access import make_token
from bucketry.server.config import LogConfig
from bucketry.server.log import AccessLog, configure, without_secrets

REQUEST: dict[str, Any] = {
    "method": "GET",
    "path": "/v2/é\x1b\n\ud800",
    "status": 307,
    "seconds": 0.000123,
    "client": None,
    "error": "it broke",
}


@pytest.fixture(autouse=True)
def _forgets() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_line_is_as_structlog_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = LogConfig(format="json")
    request = {**REQUEST, "path": "/v2/é\x1b\n"}
    configure(config)
    structlog.get_logger("other").info("request", **request)
    AccessLog(config).write(dict(request))
    theirs, ours = lines(capsys.readouterr().err)
    assert list(theirs) == list(ours)
    moments = [datetime.fromisoformat(line.pop("timestamp")) for line in (theirs, ours)]
    assert theirs == ours
    assert 0 <= (moments[1] - moments[0]).total_seconds() < 5
    assert moments[1].utcoffset() == moments[0].utcoffset()


@pytest.mark.parametrize(
    ("config", "on"),
    [
        (LogConfig(), True),
        (LogConfig(level="debug"), True),
        (LogConfig(level="warning"), False),
        (LogConfig(access=False), False),
    ],
)
def test_access_log_is_on_by_the_settings(config: LogConfig, on: bool) -> None:
    assert AccessLog(config).on is on


def test_line_for_people_is_short_and_printable(capsys: pytest.CaptureFixture[str]) -> None:
    config = LogConfig(format="text")
    configure(config)
    AccessLog(config).write(dict(REQUEST))
    (line,) = capsys.readouterr().err.splitlines()
    assert "GET /v2/\\xe9\\x1b\\n\\ud800 307 (0.1 ms)" in line


@pytest.mark.parametrize("kind", ["text", "json"])
def test_traceback_shows_no_values(kind: Literal["text", "json"], capsys: pytest.CaptureFixture[str]) -> None:
    """CVE-2025-48374: what a function was called with may be a password."""

    def broken(password: str) -> None:
        raise ZeroDivisionError("of the program")

    configure(LogConfig(format=kind))
    try:
        broken("".join(["can", "ary"]))
    except ZeroDivisionError as error:
        structlog.get_logger("other").error("unexpected error", exc_info=error)
    log = capsys.readouterr().err
    assert "of the program" in log
    assert "in broken" in log
    assert "canary" not in log


@pytest.mark.parametrize("kind", ["text", "json"])
def test_token_is_hidden_wherever_it_stands(kind: Literal["text", "json"], capsys: pytest.CaptureFixture[str]) -> None:
    robot = make_token("ci-main", bytes(range(32)))
    jwt = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ1c2VyOmFsaWNlIn0.c2lnbmF0dXJl"
    config = LogConfig(format=kind)
    configure(config)
    for secret in (robot, jwt):
        line = {**REQUEST, "path": f"/v2/{secret}/tags/list", "method": "GET", "agent": f"x {secret}"}
        AccessLog(config).write({**line, "error": f"{secret} is no name"})
        structlog.get_logger("other").warning(f"about {secret}", why=secret)
    log = capsys.readouterr().err
    assert "/tags/list" in log
    assert "is no name" in log
    for secret in (robot, jwt):
        assert secret[12:] not in log
    assert log.count("bktr_...") >= 4
    assert log.count("eyJ...") >= 4


def test_what_only_begins_like_a_token_is_told() -> None:
    for text in ("/v2/bktr_/tags/list", "eyJ", "the tag eyJ1 of a/b", "/v2/keyJar/blobs/x"):
        assert without_secrets(text) == text
