"""Structured logs on standard error: one JSON object a line, or lines for people."""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from bucketry.server.config import LogConfig

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


_SECRETS = re.compile(r"(bktr_|eyJ)[A-Za-z0-9._-]{16,}")
"""Tokens of robots, and JWTs: whoever pastes one into a path has told the log of it."""


def without_secrets(text: str) -> str:
    """``text`` without what has the form of a token, wherever it stands."""
    if "bktr_" not in text and "eyJ" not in text:
        return text
    return _SECRETS.sub(r"\1...", text)


def _hide(logger: object, name: str, event: Any) -> Any:
    return {key: without_secrets(value) if isinstance(value, str) else value for key, value in event.items()}


def configure(config: LogConfig) -> None:
    """Sets up logging for this process."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _hide,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if _is_json(config):
        processors += [structlog.processors.format_exc_info, _render]
    else:
        # The formatter that would be taken where rich is installed shows the values of variables: passwords, keys.
        render = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
        processors += [_brief, render]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[config.level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _is_json(config: LogConfig) -> bool:
    return config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())


class AccessLog:
    """A line for each request. In JSON it is written without structlog, which takes longer than many an answer."""

    def __init__(self, config: LogConfig) -> None:
        self.on = config.access and _LEVELS[config.level] <= logging.INFO
        """Whether any line is written."""
        self._json = _is_json(config)
        self._encode = msgspec.json.Encoder(enc_hook=repr).encode
        self._log = structlog.get_logger("bucketry.access")

    def write(self, line: dict[str, Any]) -> None:
        """Adds to what is known of the request what every line has, in place."""
        if not self._json:
            self._log.info("request", **line)
            return
        line["event"], line["level"], line["timestamp"] = "request", "info", datetime.now(UTC)
        sys.stderr.write(without_secrets(self._encode(line).decode()) + "\n")
        sys.stderr.flush()


def _brief(logger: object, name: str, event: Any) -> Any:
    """A request as a person wants to read it: what was asked, what came of it, and the error where there was one."""
    if event.get("event") != "request":
        return event
    kept = {name: event[name] for name in ("timestamp", "level", "error") if name in event}
    milliseconds = event["seconds"] * 1000
    # A stranger's path must not end the line, nor give orders to a terminal.
    path = event["path"] if event["path"].isprintable() else ascii(event["path"])[1:-1]
    return {**kept, "event": f"{event['method']} {path} {event['status']} ({milliseconds:.1f} ms)"}


def _render(logger: object, name: str, event: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
