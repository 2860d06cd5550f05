"""One value: the text or TOML a person wrote, read into a setting's type, and shown again. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from bucketry.server.units import format_duration, format_size, parse_duration, parse_size, split_listen

MASK = "********"
"""What is shown in the place of a secret."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key, as the loader, ``config show`` and the reference page need it.

    ``form``: flag, count, size, duration, choice, text, listen, header, origin, url, networks.
    ``least`` and ``most`` (count: of it; size: bytes; duration: seconds) are None for the other forms.
    """

    section: str
    name: str
    form: str
    description: str
    default: object
    choices: tuple[str, ...] = ()
    optional: bool = False
    secret: bool = False
    least: float | None = None
    most: float | None = None

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"BUCKETRY_{self.section.upper()}__{self.name.upper()}"

    def show(self, value: object) -> str:
        """A value as a person would write it; secrets masked; ``""`` for one that is not set."""
        if value is None:
            return ""
        if self.secret:
            return MASK
        if isinstance(value, bool):
            return "true" if value else "false"
        if self.form == "size":
            return format_size(cast(int, value))
        if self.form == "duration":
            return format_duration(cast(float, value))
        if isinstance(value, tuple):
            return ", ".join(value)
        return str(value)


def read_value(setting: Setting, raw: object) -> object:
    """A raw value (typed as in TOML, or text) as the field's type.

    Raises `ValueError` with the end of a sentence that begins with what was given: ``is not a size; …``.
    """
    value = _READERS[setting.form](setting, raw)
    if (
        setting.least is not None
        and setting.most is not None
        and isinstance(value, int | float)
        and not setting.least <= value <= setting.most
    ):
        raise ValueError(f"is not between {setting.show(setting.least)} and {setting.show(setting.most)}")
    return value


def show_given(setting: Setting, raw: object) -> str:
    """What was given, as an error may show it: a secret is not, and a URL may carry one."""
    if setting.secret or (setting.form in {"url", "origin", "text"} and re.search("[@?]", str(raw))):
        return "the value"
    if isinstance(raw, bool):
        return "true" if raw else "false"
    return f'"{raw}"' if isinstance(raw, str) else repr(raw)


def _read_flag(setting: Setting, raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in {"true", "yes", "on", "1"}:
        return True
    if isinstance(raw, str) and raw.lower() in {"false", "no", "off", "0"}:
        return False
    raise ValueError("is neither true nor false")


def _read_count(setting: Setting, raw: object) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,18}", raw):
        return int(raw)
    raise ValueError("is not a whole number")


def _read_size(setting: Setting, raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError('is not a size; write "8MiB", "8MB" or a number of bytes')
    return parse_size(raw)


def _read_duration(setting: Setting, raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError('is not a duration; write "30s", "10m", "24h", "7d" or a number of seconds')
    return parse_duration(raw)


def _read_choice(setting: Setting, raw: object) -> str | None:
    if setting.optional and raw == "":
        return None
    if isinstance(raw, str) and raw in setting.choices:
        return raw
    raise ValueError("is not one of " + ", ".join(setting.choices))


def _read_text(setting: Setting, raw: object) -> str | None:
    if not isinstance(raw, str):
        raise ValueError("is not text; put it in quotes")
    if raw == "" and setting.optional:
        return None
    if raw == "" or raw != raw.strip() or not raw.isprintable():
        raise ValueError("is empty, or has spaces around it or control characters in it")
    return raw


def _read_listen(setting: Setting, raw: object) -> str | None:
    text = _read_text(setting, raw)
    split_listen(text or "")
    return text


def _read_header(setting: Setting, raw: object) -> str | None:
    text = _read_text(setting, raw)
    if text is None:
        return None
    if re.fullmatch(r"[A-Za-z0-9-]{1,100}", text) is None:
        raise ValueError("is not the name of a header; write Client-Cert")
    if text.lower() in _TAKEN:
        raise ValueError("is a header that clients send, or that says something else; write Client-Cert")
    return text.lower()


_TAKEN = frozenset({"authorization", "content-length", "content-type", "host", "x-forwarded-for", "x-forwarded-proto"})


def _read_url(setting: Setting, raw: object) -> str | None:
    text = _read_text(setting, raw)
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        valid = False
    if not valid:
        raise ValueError("is not a URL; write https://host or https://host:port")
    if "@" in parts.netloc:
        raise ValueError("holds a user or a password; give credentials by their own settings")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment; write https://host or https://host:port")
    return text.rstrip("/")


def _read_origin(setting: Setting, raw: object) -> str | None:
    text = _read_url(setting, raw)
    if text is not None and urlsplit(text).path:
        raise ValueError("has a path, but a registry is always at /v2/ of its host; write https://host")
    return text


def _read_networks(setting: Setting, raw: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = [item.strip() for item in raw.split(",") if item.strip()]
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        raise ValueError('is not a list of networks; write ["10.0.0.0/8", "fd00::/8"]')
    for item in raw:
        try:
            ipaddress.ip_network(item)
        except ValueError as error:
            raise ValueError(f"is not a list of networks: {error}; write 10.0.0.0/8 or fd00::/8") from None
    return tuple(raw)


_READERS: Mapping[str, Callable[[Setting, Any], object]] = {
    "flag": _read_flag,
    "count": _read_count,
    "size": _read_size,
    "duration": _read_duration,
    "choice": _read_choice,
    "text": _read_text,
    "listen": _read_listen,
    "header": _read_header,
    "url": _read_url,
    "origin": _read_origin,
    "networks": _read_networks,
}
