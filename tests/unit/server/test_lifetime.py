"""How a worker that another process leads is told to stop: what the server hears of it, and what ends it at last."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import pytest
import uvloop
from starlette.types import Message

from bucketry.server import lifetime
from bucketry.server.config import Config, LimitsConfig, StoreConfig
from bucketry.server.lifetime import Lifetime
from bucketry.server.metrics import Metrics

SPAWN = multiprocessing.get_context("spawn")
CONFIG = Config(store=StoreConfig(url="memory:"), limits=LimitsConfig(shutdown_grace=0.2))


def signals(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


CTRL_C = (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGINT, signal.SIGTERM)
"""From the terminal, and from the leader, in any order, and from who cannot wait."""


def counts(connection: Connection, starting: bool) -> None:
    """A worker; tells how often its server was told to stop."""
    told: list[bool] = []

    async def work() -> None:
        async def receive() -> Message:
            if not told and not started.is_set():
                if starting:
                    # The app has not got it yet: the signals are there when it starts.
                    asyncio.get_running_loop().call_soon(signals, *CTRL_C)
                return {"type": "lifespan.startup"}
            await ends.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Message) -> None:
            started.set()

        started, ends = asyncio.Event(), asyncio.Event()
        # As the server does it, before it starts the app.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, told.append, True)
        life = asyncio.create_task(Lifetime(CONFIG, 1, Metrics()).run(receive, send))
        await started.wait()
        if not starting:
            await asyncio.sleep(0.3)
            signals(*CTRL_C)
        await asyncio.sleep(0.5)
        signals(*CTRL_C)
        await asyncio.sleep(0.2)
        ends.set()
        await life

    uvloop.run(work())
    connection.send(len(told))


@pytest.mark.parametrize("starting", [True, False], ids=["while it starts", "while it serves"])
def test_server_is_told_to_stop_once_however_many_signals_come(starting: bool) -> None:
    here, there = SPAWN.Pipe()
    worker = SPAWN.Process(target=counts, args=(there, starting))
    worker.start()
    try:
        assert here.poll(20)
        assert here.recv() == 1
        worker.join(10)
        assert worker.exitcode == 0
    finally:
        worker.kill()
        worker.join()
        worker.close()
        here.close()
        there.close()


def hangs() -> None:
    """A worker whose server never comes back from its handler, with the interpreter's lock held."""

    async def work() -> None:
        async def receive() -> Message:
            if not started.is_set():
                return {"type": "lifespan.startup"}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            started.set()

        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, ctypes.PyDLL(None).sleep, 60)
        life = loop.create_task(Lifetime(CONFIG, 1, Metrics()).run(receive, send))
        await started.wait()
        signals(signal.SIGTERM)
        await life

    lifetime.PARKING_SECONDS = 0.3
    uvloop.run(work())


def test_worker_that_hangs_when_it_stops_tells_where_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    worker = SPAWN.Process(target=hangs)
    worker.start()
    try:
        worker.join(20)
        assert worker.exitcode == 1
    finally:
        worker.kill()
        worker.join()
        worker.close()
    errors = capfd.readouterr().err
    assert "Timeout (0:00:00.5" in errors
    assert "in work" in errors or "in hangs" in errors
