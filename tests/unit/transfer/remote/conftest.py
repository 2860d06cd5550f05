"""Servers that follow a script, and sessions that speak to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest
import pytest_asyncio
from tests.unit.transfer.remote.parts_registry import Registry
from tests.unit.transfer.remote.scripted import Scripted

from bucketry.oci import ImageReference
from bucketry.transfer.remote import RemoteRepository, Session
from bucketry.transfer.remote.credentials import Credentials

USER, PASSWORD = "alice", "canary-password-7f3a"


@dataclass
class Clock:
    """Time that passes when somebody sleeps, or a test says so."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Known:
    """Credentials for one registry, and how often they were looked up."""

    host: str = ""
    credentials: Credentials | None = None
    looked: list[tuple[str, str]] = field(default_factory=list)

    async def find(self, host: str, repository: str = "") -> Credentials | None:
        self.looked.append((host, repository))
        return self.credentials if host == self.host else None


NewServer: TypeAlias = Callable[[], Awaitable[Scripted]]


@pytest_asyncio.fixture
async def new_server() -> AsyncIterator[NewServer]:
    servers: list[Scripted] = []

    async def start() -> Scripted:
        server = Scripted()
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest_asyncio.fixture
async def server(new_server: NewServer) -> Scripted:
    """The registry."""
    return await new_server()


@pytest_asyncio.fixture
async def stranger(new_server: NewServer) -> Scripted:
    """Another host: a bucket, or an attacker."""
    return await new_server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(server: Scripted) -> Known:
    """Nothing, until a test puts credentials there."""
    return Known(server.host)


@pytest.fixture
def login(known: Known) -> Credentials:
    """The person has logged in to the registry."""
    known.credentials = Credentials("/home/alice/.docker/config.json", USER, PASSWORD)
    return known.credentials


@pytest_asyncio.fixture
async def session(known: Known, clock: Clock, tmp_path: Path) -> AsyncIterator[Session]:
    session = Session(known, certificates=(tmp_path / "certs.d",), monotonic=clock, sleep=clock.sleep)
    yield session
    await session.close()


@pytest.fixture
def repository(session: Session, server: Scripted) -> RemoteRepository:
    return RemoteRepository(session, ImageReference.parse(f"{server.host}/team/app:v1"))


@pytest.fixture
def registry(server: Scripted, stranger: Scripted) -> Registry:
    """The server of the extension, with a bucket elsewhere."""
    return Registry(server, stranger)
