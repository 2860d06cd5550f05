"""A request on its way to its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from bucketry.oci import Digest
from bucketry.oci.errors import SizeInvalid
from bucketry.registry.guards import FREE, TagGuard
from bucketry.server.body import RequestBody
from bucketry.server.routes import Target

if TYPE_CHECKING:
    from bucketry.server.auth.door import Issued
    from bucketry.server.auth.visitor import Visitor


def credentials(request: Request) -> str | None:
    """What the request presents. Several at once are none that anybody takes: what is in front of the registry may
    have looked at another one of them than the registry would."""
    given = request.headers.getlist("authorization")
    return ", ".join(given) if given else None


@dataclass(slots=True)
class Noted:
    """What is found out of a request on its way, as far as it came: for the audit log."""

    target: Target | None = None
    visitor: Visitor | None = None
    let_in: bool = False
    """Whether the door let it through, or there is none."""
    asks_token: bool = False
    asks_metrics: bool = False
    """Of a server that shows them to some only."""
    issued: Issued | None = None
    """The token that it got."""
    error: Exception | None = None
    claimed: str | None = None
    """Who credentials that were not taken say that they are, where there is such a one. Nobody has proven it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request, with its target and its body."""

    request: Request
    target: Target
    body: RequestBody
    client: str | None
    visitor: Visitor | None = None
    """None where there are no rules."""

    @property
    def principal(self) -> str:
        """Whose uploads are: empty where there are no rules."""
        return "" if self.visitor is None else self.visitor.owner

    @property
    def guard(self) -> TagGuard:
        return FREE if self.visitor is None else self.visitor.guard(self.repository)

    def may_mount(self, source: str | None) -> bool:
        """Whether a blob may be mounted from ``source``; None: from wherever it is."""
        return self.visitor is None or self.visitor.may_mount(source)

    @property
    def repository(self) -> str:
        return self.target.repository

    def digest(self) -> Digest:
        return Digest.parse(self.target.reference)

    def query(self, name: str) -> str | None:
        return self.request.query_params.get(name)

    def header(self, name: str) -> str | None:
        return self.request.headers.get(name)

    def content_length(self) -> int | None:
        """None for a chunked body. Raises `SizeInvalid`."""
        text = self.header("content-length")
        if text is None:
            return None if self.header("transfer-encoding") else 0
        if not (text.isascii() and text.isdigit()):
            raise SizeInvalid(f"the Content-Length {text[:40]!r} is no number of bytes")
        return int(text)


Handler: TypeAlias = Callable[[Call], Awaitable[Response]]
