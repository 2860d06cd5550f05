"""A TCP proxy before a store, or a server, which can be down, silent, slow, or break connections off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

_PIECE = 64 * 1024


class Trouble:
    """The proxy, which runs in a thread of its own. It passes all on, until it is told otherwise."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._delay = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.sent = 0
        """Bytes that came through, towards the store."""
        self.received = 0
        """Bytes that came through, from the store."""

    def lead_to(self, port: int) -> None:
        """New connections go to another port: what a load balancer does when a server is gone."""
        self._target = port

    def down(self) -> None:
        """New connections are refused, and those there are broken off."""
        self._call(self._down())

    def silent(self) -> None:
        """Connections are taken, and nothing comes through."""
        self._call(self._silent())

    def slow(self, seconds: float) -> None:
        """Each piece of at most 64 KiB comes through so much later."""
        self._call(self._slow(seconds))

    def break_off(self) -> None:
        """The connections there are end in a reset; new ones are taken."""
        self._call(self._break_off())

    def well(self) -> None:
        """All comes through again."""
        self._call(self._well())

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def stop(self) -> None:
        self._call(self._down())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _call(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        done: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.result(10)

    async def _well(self) -> None:
        self._delay = 0.0
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._break_off()

    async def _silent(self) -> None:
        self._flowing.clear()

    async def _slow(self, seconds: float) -> None:
        self._delay = seconds

    async def _break_off(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        beyond: asyncio.StreamWriter | None = None
        try:
            await self._flowing.wait()
            inner, beyond = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(beyond)
            await asyncio.gather(
                self._pass_on(reader, beyond, self._count_sent), self._pass_on(inner, writer, self._count_received)
            )
        except (OSError, asyncio.CancelledError):
            pass  # One of the two sides, or the test, ended it.
        finally:
            for each in (writer, beyond):
                if each is not None:
                    self._writers.discard(each)
                    each.transport.abort()
            self._tasks.discard(task)

    def _count_sent(self, size: int) -> None:
        self.sent += size

    def _count_received(self, size: int) -> None:
        self.received += size

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, count: Callable[[int], None]
    ) -> None:
        while piece := await source.read(_PIECE):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._flowing.wait()
            sink.write(piece)
            count(len(piece))
            await sink.drain()
        sink.write_eof()


@contextmanager
def trouble(port: int) -> Iterator[Trouble]:
    """A proxy before a port of 127.0.0.1."""
    proxy = Trouble(port)
    thread = threading.Thread(target=proxy.run, name="trouble", daemon=True)
    thread.start()
    proxy.well()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(10)
