"""One answer, and what goes wrong on the way to it and in it. The place where aiohttp's errors become ours.

Errors are raised ``from None``: those of aiohttp name addresses in full, and presigned ones are secrets.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from bucketry.transfer.errors import Misconfigured, Refused, TransferError, Unreachable
from bucketry.transfer.remote.address import authority_of, is_loopback

MAX_TROUBLE: Final = 64 * 1024
"""Bytes of an error's body that are read."""

MAX_TEXT: Final = 300
"""Characters of a stranger's text in a message."""

MAX_RETRY_AFTER: Final = 3600.0
"""Seconds that another side may ask to wait."""

LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which trying again may help."""

_PIECE: Final = 1024 * 1024

INSECURE: Final = "--insecure"
"""The flag by which plain http is allowed, for messages."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What an answer that is an error says: ``codes`` and ``text`` as the spec's error form or S3's has them."""

    codes: tuple[str, ...]
    text: str
    detail: object = None


class Answer:
    """The head of an answer; its body is read once, or not at all. A context manager that gives up the rest.

    ``foreign``: it came from another origin than the registry's, without credentials. ``who``: what a message says of
    the credentials, such as "with the credentials from FILE".
    """

    def __init__(self, response: aiohttp.ClientResponse, *, at: float) -> None:
        self._response = response
        self.status = response.status
        self.headers = response.headers
        self.url: URL = response.url
        self.at = at
        self.foreign = False
        self.who = "without credentials"

    @property
    def host(self) -> str:
        return authority_of(self.url)

    @property
    def length(self) -> int | None:
        """Content-Length, where it is a number."""
        text = self.headers.get("Content-Length", "")
        return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else None

    @property
    def media_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip(" \t").lower()

    def retry_after(self) -> float | None:
        """Seconds; None where it did not say."""
        text = self.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", text):
            return min(float(text), MAX_RETRY_AFTER)
        until = _date(text)
        if until is None:
            return None
        since = _date(self.headers.get("Date", "")) or self.at
        return min(max(0.0, until - since), MAX_RETRY_AFTER)

    def skew(self) -> float | None:
        """Seconds by which this machine's clock is ahead of the other side's; None where it does not show its own."""
        there = _date(self.headers.get("Date", ""))
        return None if there is None else self.at - there

    async def read(self, limit: int) -> bytes | None:
        """The body; None where it has more than ``limit`` bytes. Raises `Unreachable`."""
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) > limit:
                self.close()
                return None
        return bytes(body)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, in pieces of at most 1 MiB. Raises `Unreachable`."""
        content = self._response.content
        while True:
            with translated(self.host):
                piece = await content.readany()
            if not piece:
                return
            for begin in range(0, len(piece), _PIECE):
                yield piece[begin : begin + _PIECE] if len(piece) > _PIECE else piece

    async def discard(self) -> None:
        """Reads what little there is, so that the connection can be used again."""
        try:
            if await self.read(MAX_TROUBLE) is None:
                self.close()
        except Unreachable:
            self.close()

    async def trouble(self, hide: Callable[[str], str]) -> Trouble:
        """What the error says. Its reason phrase where it says nothing that can be understood.

        ``hide`` takes secrets out of a stranger's text, and sees it whole: cut, a part of one would remain.
        """
        try:
            body = await self.read(MAX_TROUBLE) or b""
        except Unreachable:
            body = b""
        finally:
            self.close()
        plain = clean(hide(f"{self.status} {self._response.reason or ''}"))
        if self.media_type.endswith("xml") or body.startswith(b"<?xml"):
            found = _xml_trouble(body)
        else:
            found = _json_trouble(body)
        codes = tuple(clean(hide(code)) for code in found.codes)
        return Trouble(codes, clean(hide(found.text)) or plain, found.detail)

    def close(self) -> None:
        """Gives the connection back where the body was read to its end, and closes it where not."""
        self._response.close()

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def clean(text: str) -> str:
    """A stranger's text for a message: printable, on one line, at most `MAX_TEXT` characters."""
    head = text[: 4 * MAX_TEXT]
    line = " ".join("".join(character if character.isprintable() else " " for character in head).split())
    return line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}..."


@contextmanager
def translated(host: str) -> Iterator[None]:
    """aiohttp's errors as ours. ``host`` is whom it happened with."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
        raise _translation(error, host) from None


_OF_CERTIFICATES: Final = re.compile("ALERT_(.*CERTIFICATE.*|UNKNOWN_CA|DECRYPT_ERROR|ACCESS_DENIED)$")
"""OpenSSL's names of what a server says of a client's certificate; the last but one: its signature is not right."""


def _translation(error: Exception, host: str) -> TransferError:
    cause = error.__cause__
    told = _OF_CERTIFICATES.search(cause.reason or "") if isinstance(cause, ssl.SSLError) else None
    if told is not None and told[1] == "CERTIFICATE_REQUIRED":
        return Misconfigured(
            f"{host}: it lets nobody in without a client certificate: put client.cert and client.key into "
            f"/etc/docker/certs.d/{host}"
        )
    if told is not None:
        reason = told[1].lower().replace("_", " ")
        return Misconfigured(f"{host}: it does not take the client certificate in certs.d/{host} ({reason})")
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return Misconfigured(
                f"{host}: its certificate is not trusted ({clean(str(error.certificate_error))}): put its CA into "
                f"/etc/docker/certs.d/{host}/ca.crt, or name it by SSL_CERT_FILE"
            )
        case aiohttp.ClientConnectorSSLError():
            return Refused(
                f"{host}: no TLS ({clean(_reason(error.os_error))}): if it speaks plain http, allow that by {INSECURE}"
            )
        case aiohttp.ClientConnectorDNSError():
            return Unreachable(f"{host}: there is no such host ({clean(_reason(error.os_error))}): check its name")
        case aiohttp.ClientProxyConnectionError():
            return Unreachable(f"{host}: the proxy of this machine does not answer ({clean(_reason(error.os_error))})")
        case aiohttp.ClientHttpProxyError():
            return Unreachable(f"{host}: the proxy of this machine refuses it ({error.status})")
        case aiohttp.ClientConnectorError():
            return Unreachable(f"{host}: no connection ({clean(_reason(error.os_error))}): is it running?")
        case TimeoutError():
            return Unreachable(f"{host}: no answer in time")
        case aiohttp.InvalidURL():
            return Refused(f"{host}: an address that cannot be used")
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientConnectionError():
            return Unreachable(f"{host}: the connection broke")
        case aiohttp.ClientResponseError():
            hint = ""
            if is_loopback(URL(f"http://{host}").host or ""):
                hint = f": if it speaks HTTPS, put its CA into ~/.config/containers/certs.d/{host}/ca.crt"
            return Refused(f"{host}: an answer that is not proper HTTP, or whose headers are too long{hint}")
        case OSError():
            return Unreachable(f"{host}: {clean(_reason(error))}")
    return Refused(f"{host}: a request or an answer that cannot be ({type(error).__name__})")


def _reason(error: OSError) -> str:
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__


def _date(text: str) -> float | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    try:
        return (parsed - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    except OverflowError:
        return None


def _json_trouble(body: bytes) -> Trouble:
    """The spec's form: ``{"errors": [{code, message, detail}]}``."""
    try:
        document: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Trouble((), "")
    fields = document if isinstance(document, dict) else {}
    errors = fields.get("errors")
    if not isinstance(errors, list):
        # Token services have forms of their own.
        said = fields.get("details") or fields.get("message")
        return Trouble((), said if isinstance(said, str) else "")
    codes, texts, detail = [], [], None
    for error in errors[:5]:
        if not isinstance(error, dict):
            continue
        code, message = error.get("code"), error.get("message")
        if isinstance(code, str):
            codes.append(code)
        if isinstance(message, str) and message:
            texts.append(message)
        elif isinstance(code, str):
            texts.append(code)
        detail = error.get("detail") if detail is None else detail
    return Trouble(tuple(codes), "; ".join(texts), detail)


_XML_FIELD: Final = re.compile(rb"<(Code|Message)>([^<]{1,1000})</")


def _xml_trouble(body: bytes) -> Trouble:
    """S3's form. Two flat fields are wanted of it: no parser of XML needs to see a stranger's document."""
    fields = {match[1]: match[2].decode("utf-8", "replace") for match in _XML_FIELD.finditer(body)}
    code, message = fields.get(b"Code", ""), fields.get(b"Message", "")
    return Trouble((code,) if code else (), ": ".join(filter(None, (code, message))))
