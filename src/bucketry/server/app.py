"""The ASGI application: takes a request in, finds its handler, turns errors into answers, logs and counts."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import random
import re
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from bucketry.oci.errors import OCIError
from bucketry.server.auth.errors import Challenged, IssuerUnavailable, TooManyAttempts
from bucketry.server.body import ClientGone, ClientSilent, RequestBody, ServerStopping
from bucketry.server.call import Call, Noted, credentials
from bucketry.server.config import Config, LimitsConfig
from bucketry.server.connection import certificate_of, refuse, told_by_front
from bucketry.server.errors import error_response, oci_error_response, store_error_response
from bucketry.server.handlers import Handlers
from bucketry.server.lifetime import Lifetime
from bucketry.server.log import AccessLog
from bucketry.server.metrics import Metrics
from bucketry.server.routes import TOKEN_PATH, Route, Target, resolve
from bucketry.store.contract import StoreError, Unavailable

if TYPE_CHECKING:
    from bucketry.server.audit import Audit
    from bucketry.server.auth.door import Door
    from bucketry.server.auth.throttle import RateLimits
    from bucketry.server.auth.visitor import Visitor

_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,300}", re.ASCII)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_UPLOADS = (Route.UPLOADS, Route.UPLOAD, Route.PARALLEL_PART)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
"""Labels of metrics: clients may make up any number of others."""

_PROBES = frozenset({"/healthz", "/readyz"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
DISCARDED = 16 * 1024 * 1024
"""Bytes of a body that are read and thrown away before an answer that did not need them; more are left unread."""

SLOWEST_READER = 8 * 1024
"""Bytes a second: a client that takes an answer more slowly is taken for one that stalls."""

CLIENT_CLOSED = 499
"""In logs and metrics: the client went away before it had an answer."""

_log = structlog.get_logger("bucketry.access")


class App:
    """Made once a worker. ``lifetime`` opens the store and the registry when the server starts."""

    def __init__(self, config: Config, lifetime: Lifetime, metrics: Metrics, *, front: str | None = None) -> None:
        """``front``: the folder of those that speak TLS, where such do."""
        self._config = config
        self._lifetime = lifetime
        self._metrics = metrics
        self._drain = lifetime.drain
        self._access = AccessLog(config.log)
        self._audit = _audit(config, metrics)
        self._limits = _limits(config.limits)
        self._hsts = f"max-age={config.tls.hsts:.0f}".encode() if config.tls.hsts else None
        self._front = front
        self._trusted = [ipaddress.ip_network(text, strict=False) for text in config.server.trusted_proxies]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifetime.run(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        if self._front is not None and not told_by_front(scope, self._front):
            await refuse(send)
            return
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"
        idle = self._config.limits.body_idle_timeout
        body = RequestBody(receive, self._drain, idle=idle)
        answer = _Answer(send, request_id, head=scope["method"] == "HEAD", idle=idle)
        if scope["scheme"] == "https":
            answer.hsts = self._hsts
        client = self._client(scope, request)
        self._metrics.requests_in_flight.inc()
        failure: str | None = None
        gone_away = False
        try:
            try:
                response = await self._route(request, body, client, answer)
            except ClientGone as gone:
                # It may be there still: a body that is not well formed ends in the same way.
                answer.noted.error = gone
                response, gone_away = error_response(400, "UNSUPPORTED", f"{gone}: {_go_on(answer.route)}"), True
                _let_go(gone)
            except Exception as error:  # noqa: BLE001 (a request's outermost boundary: the server goes on)
                answer.noted.error = error
                response, failure = self._failed(error, request_id, answer.route)
                _let_go(error)
            if self._audit is not None:
                # Before the answer: what a client was told is on record, whatever happens to this process.
                self._audit.request(
                    request,
                    answer.noted,
                    status=CLIENT_CLOSED if gone_away else response.status_code,
                    digest=response.headers.get("docker-content-digest"),
                    request_id=request_id,
                    address=client,
                )
            # A client that waits for a go-ahead has sent nothing yet: reading would make the server give it.
            if (response.status_code >= 400 or scope["method"] in _WITH_BODY) and (
                body.received or "expect" not in request.headers
            ):
                await body.discard(DISCARDED)
            try:
                await response(scope, receive, answer.send)
            except StoreError as error:
                # The head has left. The server closes a connection whose answer ends early, so that the client sees it.
                failure = f"the answer broke off: {error}"
                _let_go(error)
            except _ClientStuck as stuck:
                failure, gone_away = str(stuck), True
                _let_go(stuck)
            if gone_away:
                answer.status = CLIENT_CLOSED
        finally:
            body.close()
            self._metrics.requests_in_flight.dec()
            self._metrics.answered(
                scope["method"] if scope["method"] in _METHODS else "other",
                answer.route,
                answer.status,
                seconds=(seconds := time.perf_counter() - began),
                received=body.received,
                sent=answer.sent,
            )
            if self._access.on:
                line: dict[str, Any] = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": answer.status,
                    "seconds": round(seconds, 6),
                    "received": body.received,
                    "sent": answer.sent,
                    "client": client,
                    "agent": request.headers.get("user-agent", ""),
                    "request_id": request_id,
                }
                if failure is not None:
                    line["error"] = failure
                self._access.write(line)

    async def _route(self, request: Request, body: RequestBody, client: str | None, answer: _Answer) -> Response:
        path, method = request.scope["path"], request.scope["method"]
        head = (
            len(path) + len(request.scope["query_string"]) + sum(len(n) + len(v) for n, v in request.scope["headers"])
        )
        if head > self._config.limits.request_head:
            most = self._config.limits.request_head
            return error_response(431, "UNSUPPORTED", f"the request's head has more than {most} bytes")
        if self._limits is not None and path not in _PROBES:
            _wait("this address", self._limits.address(client or ""))
        if path != "/v2" and not path.startswith("/v2/"):
            answer.route = "other"
            door = self._lifetime.door
            if door is not None and path == TOKEN_PATH and door.issues_tokens:
                if method not in ("GET", "POST"):
                    return _not_allowed(method, ("GET", "POST"))
                # Here, so that a server without rules loads nothing of it.
                from bucketry.server.auth.token_service import answer as token_answer

                certificate = self._certificate(request)
                return await token_answer(
                    door, request, body, answer.noted, address=client or "", certificate=certificate
                )
            return await self._other(request, client, answer.noted)
        target = resolve(path)
        answer.route = target.route.value
        handlers = self._lifetime.handlers
        if handlers is None:
            raise Unavailable("the registry is starting")
        return await self._answer(handlers, target, request, body, client, answer.noted)

    async def _answer(
        self,
        handlers: Handlers,
        target: Target,
        request: Request,
        body: RequestBody,
        client: str | None,
        noted: Noted,
    ) -> Response:
        methods = handlers.table[target.route]
        handler = methods.get(request.method)
        if handler is None:
            if not methods:
                return error_response(404, "UNSUPPORTED", "this registry does not offer that")
            return _not_allowed(request.method, methods)
        noted.target = target
        visitor = None
        door = self._lifetime.door
        if door is not None:
            visitor = await self._enter(door, request, client, noted)
            self._charge(visitor)
            visitor.require(target, request.method)
        noted.let_in = True
        call = Call(request, target, body, client, visitor)
        if target.route not in _UPLOADS or request.method not in ("PATCH", "PUT", "POST"):
            return await handler(call)
        self._metrics.uploads_in_flight.inc()
        try:
            return await handler(call)
        finally:
            self._metrics.uploads_in_flight.dec()

    async def _other(self, request: Request, client: str | None, noted: Noted) -> Response:
        path, method, health = request.scope["path"], request.method, self._lifetime.health
        if method not in ("GET", "HEAD"):
            return _not_allowed(method, ("GET", "HEAD"))
        if path == "/healthz":
            return health.alive()
        if path == "/readyz":
            return await health.ready()
        if path == "/metrics":
            if self._config.access.metrics == "rules":
                await self._admit(request, client, noted)
            self._lifetime.sample(self._metrics)
            return Response(self._metrics.render(), media_type="text/plain; version=0.0.4")
        if path == "/":
            return Response("This is bucketry, a container registry. Its API is below /v2/.\n", media_type="text/plain")
        return error_response(404, "UNSUPPORTED", "there is nothing here: the registry's API is below /v2/")

    async def _admit(self, request: Request, client: str | None, noted: Noted) -> None:
        """Raises where whoever asks for the metrics may not read them."""
        # Here, so that a server that asks nobody loads nothing of it.
        from bucketry.server.auth.metrics_reader import challenged, require

        door = self._lifetime.door
        if door is None:
            raise Unavailable("the registry is starting")
        noted.asks_metrics = True
        try:
            visitor = await self._enter(door, request, client, noted)
        except Challenged as error:
            raise challenged(error.message, error.reason) from error
        require(visitor)
        noted.let_in = True
        self._charge(visitor)

    async def _enter(self, door: Door, request: Request, client: str | None, noted: Noted) -> Visitor:
        """Who sends the request: taken down, as who they say that they are is where that is not taken."""
        authorization = credentials(request)
        try:
            visitor = await door.enter(
                authorization,
                address=client or "",
                origin=self._origin(request),
                certificate=self._certificate(request),
            )
        except (Challenged, TooManyAttempts):
            noted.claimed = door.claimed(authorization)
            raise
        noted.visitor = visitor
        return visitor

    def _charge(self, visitor: Visitor) -> None:
        if self._limits is not None:
            _wait(str(visitor.principal), self._limits.principal(visitor.owner))

    def _failed(self, error: Exception, request_id: str, route: str) -> tuple[Response, str]:
        """The answer to an error, and what the log says of it."""
        if isinstance(error, OCIError):
            response = oci_error_response(error)
            if isinstance(error, Challenged):
                response.headers["www-authenticate"] = error.challenge
            elif isinstance(error, TooManyAttempts):
                response.headers["retry-after"] = str(math.ceil(error.retry_after))
            return response, error.message
        if isinstance(error, IssuerUnavailable):
            response = error_response(503, "UNAVAILABLE", f"{error}: try again")
            response.headers["retry-after"] = str(math.ceil(error.retry_after))
            return response, str(error)
        if isinstance(error, StoreError):
            return store_error_response(error), str(error)
        if isinstance(error, ClientSilent):
            return error_response(408, "UNSUPPORTED", f"{error}: {_go_on(route)}"), str(error)
        if isinstance(error, ServerStopping):
            response = error_response(503, "UNAVAILABLE", f"{error}: {_go_on(route)}")
            response.headers["retry-after"] = "5"
            return response, str(error)
        _log.error("unexpected error", request_id=request_id, exc_info=error)
        message = f"something went wrong in the registry. Its log knows more, under the request id {request_id}"
        return error_response(500, "UNKNOWN", message), repr(error)

    def _client(self, scope: Scope, request: Request) -> str | None:
        """The address of the client: the connection's, or what trusted proxies say they forward for."""
        peer = _address(scope["client"][0]) if scope.get("client") else None
        if peer is not None and self._trusts(peer):
            for hop in reversed(_values(request, "x-forwarded-for")):
                address = _address(hop.strip())
                if address is None:
                    break
                peer = address
                if not self._trusts(peer):
                    break
        return None if peer is None else str(peer)

    def _origin(self, request: Request) -> str:
        """Scheme and host by which the client reaches the registry, as far as it can be known."""
        if self._config.server.public_url is not None:
            return self._config.server.public_url.rstrip("/")
        scheme, host = request.scope["scheme"], request.headers.get("host", "")
        peer = _address(request.scope["client"][0]) if request.scope.get("client") else None
        if peer is not None and self._trusts(peer):
            forwarded = _values(request, "x-forwarded-proto")[-1].strip().lower()
            scheme = forwarded if forwarded in ("http", "https") else scheme
        # It goes into a header, between quotes.
        return f"{scheme}://{host if _HOST.fullmatch(host) else 'localhost'}"

    def _certificate(self, request: Request) -> str | bytes | None:
        """The client's, in DER, or what a trusted proxy says that it is. From anyone else a header says nothing."""
        name = self._config.access.certificate_header
        peer = _address(request.scope["client"][0]) if request.scope.get("client") else None
        if peer is None or not self._trusts(peer):
            return certificate_of(request.scope)
        # The connection's own is the proxy's: it stands for nobody behind it.
        if name is None:
            return None
        # More than one is the client's beside the proxy's: joined, they are no certificate, and the request is refused.
        return ",".join(request.headers.getlist(name)) or None

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _values(request: Request, name: str) -> list[str]:
    """Those of a list in a header, one at least. Some proxies add a line of their own behind one that a client sent."""
    return ",".join(request.headers.getlist(name)).split(",")


def _limits(config: LimitsConfig) -> RateLimits | None:
    if not config.requests_per_address and not config.requests_per_principal:
        return None
    # Here, so that a server without limits loads nothing of it.
    from bucketry.server.auth.buckets import Rate
    from bucketry.server.auth.throttle import RateLimits

    def rate(per_second: int) -> Rate | None:
        return Rate(per_second, max(1.0, per_second * config.request_burst)) if per_second else None

    return RateLimits(
        monotonic=time.monotonic,
        by_principal=rate(config.requests_per_principal),
        by_address=rate(config.requests_per_address),
    )


def _wait(who: str, seconds: float) -> None:
    if seconds > 0:
        raise TooManyAttempts(
            f"too many requests of {who}: wait {math.ceil(seconds)} s, then go on", retry_after=seconds
        )


def _audit(config: Config, metrics: Metrics) -> Audit | None:
    if config.access.audit is None:
        return None
    # Here, so that a server without it loads nothing of it.
    from bucketry.server.audit import Audit, AuditFile

    return Audit(AuditFile(config.access.audit, lost=metrics.audit_lost.inc), reads=config.access.audit_reads)


@lru_cache(maxsize=4096)
def _address(text: str) -> Address | None:
    """An IPv4 client of a socket that takes both kinds has its address inside an IPv6 one: it is taken out."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _let_go(error: BaseException) -> None:
    """Frees what an error holds by its traceback, of which nobody wants to know any more: the request's body.

    A frame that keeps the error, or what keeps it, is freed by the collector of cycles only, and the server keeps a
    connection open for as long as its request's body is there: on a quiet server for hours.
    """
    seen: list[BaseException | None] = [error]
    for one in seen:
        if one is None or one.__traceback__ is None:
            continue
        one.__traceback__ = None
        seen += [one.__context__, one.__cause__]
        if isinstance(one, BaseExceptionGroup):
            seen += one.exceptions


def _go_on(route: str) -> str:
    """What a client may do whose body was not waited for."""
    if route == Route.UPLOAD.value:
        return "go on from where the status of the upload (GET) says that it stands"
    return "send it again"


def _not_allowed(method: str, allowed: Iterable[str]) -> Response:
    response = error_response(405, "UNSUPPORTED", f"{method} is not offered here")
    response.headers["allow"] = ", ".join(allowed)
    return response


class _ClientStuck(Exception):
    """The client takes nothing of its answer, and keeps a connection to the store from others."""


class _Answer:
    """Sends an answer on, with the headers every answer has, and counts what is sent.

    A piece of a stream that is not taken in ``idle`` seconds, and those it may take, raises `_ClientStuck`.
    """

    def __init__(self, send: Send, request_id: str, *, head: bool, idle: float) -> None:
        self._send = send
        self._request_id = request_id.encode()
        self._head = head
        self._idle = idle
        self.status = 500
        self.route = "none"
        """The label of metrics: known once the path is."""
        self.noted = Noted()
        self.hsts: bytes | None = None
        self.sent = 0
        self._headers: list[tuple[bytes, bytes]] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            hsts = [] if self.hsts is None else [(b"strict-transport-security", self.hsts)]
            message["headers"] = self._headers = [
                *message["headers"],
                (b"docker-distribution-api-version", b"registry/2.0"),
                (b"x-content-type-options", b"nosniff"),
                (b"x-request-id", self._request_id),
                *hsts,
            ]
        elif message["type"] == "http.response.body":
            if self._head:
                message = {**message, "body": b""}
            else:
                self.sent += len(message.get("body", b""))
        elif message["type"] == "http.response.pathsend":
            self.sent += int(dict(self._headers)[b"content-length"])
        if not message.get("more_body", False):
            await self._send(message)
            return
        patience = self._idle + len(message["body"]) / SLOWEST_READER
        try:
            async with asyncio.timeout(patience):
                await self._send(message)
        except TimeoutError:
            raise _ClientStuck(f"the client took nothing of its answer for {patience:.0f} seconds") from None
