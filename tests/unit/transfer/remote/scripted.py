"""A small HTTP server that answers as a test says, and keeps what it was asked."""

from __future__ import annotations

import inspect
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web
from multidict import CIMultiDictProxy


@dataclass(frozen=True)
class Asked:
    """A request as it came. ``target``: path and query, as they were written."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")

    def json(self) -> Any:
        return json.loads(self.body)

    def everything(self) -> str:
        """All that the other side could read of a secret."""
        return "\n".join([self.target, *(f"{name}: {value}" for name, value in self.headers.items()), repr(self.body)])


Reply: TypeAlias = web.StreamResponse
Handler: TypeAlias = Callable[[Asked], Reply | Awaitable[Reply]]
RawHandler: TypeAlias = Callable[[web.BaseRequest], Awaitable[Reply]]


@dataclass
class Scripted:
    """``on`` adds what is answered; what nothing was said of is a 404 of the spec's form."""

    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"
    name: str = "127.0.0.1"
    _handlers: dict[tuple[str, str], Handler] = field(default_factory=dict)
    _raw: dict[tuple[str, str], RawHandler] = field(default_factory=dict)
    _runner: web.ServerRunner | None = None

    @property
    def host(self) -> str:
        return f"{self.name}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def on(self, method: str, path: str, handler: Handler | Reply | Callable[[], Reply]) -> None:
        """``path`` without query. A handler takes what was asked, or nothing."""
        if isinstance(handler, web.StreamResponse):
            raise TypeError("an answer can be sent once: give a function that makes it")
        if inspect.signature(handler).parameters:
            self._handlers[method, path] = handler  # type: ignore[assignment]
        else:
            self._handlers[method, path] = lambda _: handler()  # type: ignore[call-arg]

    def raw(self, method: str, path: str, handler: RawHandler) -> None:
        """A handler that reads the request itself; it is kept without its body."""
        self._raw[method, path] = handler

    def requests(self, method: str, path: str) -> list[Asked]:
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.scheme = "http" if context is None else "https"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> Reply:
        target = request.raw_path
        raw = self._raw.get((request.method, target.partition("?")[0]))
        if raw is not None:
            self.asked.append(Asked(request.method, target, request.headers, b""))
            return await raw(request)
        asked = Asked(request.method, target, request.headers, await request.read())
        self.asked.append(asked)
        handler = self._handlers.get((asked.method, asked.path))
        if handler is None:
            return error(404, "NAME_UNKNOWN", "nothing here")
        answer = handler(asked)
        return await answer if inspect.isawaitable(answer) else answer


def error(
    status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None, detail: object = None
) -> web.Response:
    """The spec's form."""
    body = {"errors": [{"code": code, "message": message, "detail": detail}]}
    return web.json_response(body, status=status, headers=headers)


def challenge(value: str) -> web.Response:
    return error(401, "UNAUTHORIZED", "who are you?", headers={"WWW-Authenticate": value})


def redirect(to: str, status: int = 307) -> web.Response:
    return web.Response(status=status, headers={"Location": to})
