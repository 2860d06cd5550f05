"""A Docker Engine that says what a test wants, on a unix socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from bucketry.transfer.local.docker_engine import DockerEngine, EngineAddress

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class FakeEngine:
    """``handlers``: by the end of a path."""

    def __init__(self, version: str = "1.41") -> None:
        self.version = version
        self.handlers: dict[str, Handler] = {}
        self.asked: list[str] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        if request.path == "/_ping":
            return web.Response(text="OK", headers={"Api-Version": self.version})
        for ending, handler in self.handlers.items():
            if request.path.endswith(ending):
                return await handler(request)
        if request.path.endswith("/images/json"):
            return says([])
        return says({"message": "No such image"}, 404)


def says(document: object, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), status=status, content_type="application/json")


def runner_of(fake: FakeEngine) -> web.ServerRunner:
    return web.ServerRunner(web.Server(fake.answer), shutdown_timeout=0.1)


@asynccontextmanager
async def serving(fake: FakeEngine, folder: Path) -> AsyncIterator[DockerEngine]:
    """A client of it."""
    runner = runner_of(fake)
    await runner.setup()
    path = folder / "docker.sock"
    await web.UnixSite(runner, str(path)).start()
    engine = DockerEngine(EngineAddress(f"unix://{path}", "from a test"))
    try:
        yield engine
    finally:
        await engine.close()
        await runner.cleanup()
