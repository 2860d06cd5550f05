"""What a client knows of a registry with two replicas: the plain dicts that a state machine compares it with."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from tests.unit.registry.helpers import (
    DAY,
    PART,
    Collector,
    FakeClock,
    blob_bytes,
    memory_store,
    open_registry,
    truth,
)

from bucketry.oci import Digest
from bucketry.registry import Registry

T = TypeVar("T")

HOUR = 3600.0
LEASE = HOUR
EXPIRY = 6 * HOUR
REPOSITORIES = ["a", "a/b", "team/app", "team-x"]
PRINCIPALS = ["alice", "bob"]
TAGS = ["latest", "v1", "v1.0", "V1", "_"]
ALGORITHMS = ["sha256", "sha512"]

repositories = st.sampled_from(REPOSITORIES)
replicas = st.integers(0, 1)
algorithms = st.sampled_from(ALGORITHMS)
contents = st.builds(
    blob_bytes,
    st.sampled_from([0, 1, 20, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 10]),
    st.integers(0, 2),
)
limits = st.none() | st.integers(0, 4)
# By number, and not by bundles: so every rule can run at any time, and none is starved.
uploads = st.integers(0, 3)
manifests = st.integers(0, 9)


@dataclass
class Upload:
    """A session as its client knows it."""

    session: str
    repository: str
    principal: str
    began: float
    content: bytes = b""
    continued: bool = False
    cancelled: bool = False
    committed: bool = False
    lost: bool = False
    """A commit failed after it had claimed the session: what becomes of it is the registry's affair."""


@dataclass
class Repository:
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    manifests: dict[Digest, bytes] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    known: bool = False
    """In the catalog: it had a manifest once."""


class Model(RuleBasedStateMachine):
    """The dicts, and the replicas over one store; subclasses bring the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.store = memory_store(self.clock)
        self.collector = Collector(self.store, self.clock)
        self.model = {name: Repository() for name in REPOSITORIES}
        self.bytes: dict[Digest, bytes] = {}
        """Every blob whose record is live or condemned: what a mount without a source finds."""
        self.created: dict[Digest, float] = {}
        self.condemned: set[Digest] = set()
        self.native = (True, True)
        """Whether each replica hashes with libcrypto."""
        self.replicas: list[Registry] = []
        self.sessions: list[Upload] = []
        self.bodies: list[bytes] = []
        """Manifests that were pushed somewhere."""

    def fresh(self, number: int, generation: int = 0) -> Registry:
        return self.run(
            open_registry(
                self.store,
                self.clock,
                replica=10 * generation + number + 1,
                native_hash=self.native[number],
                upload_expiry=EXPIRY,
                lease_renewal=LEASE,
                max_page=3,
            )
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    def teardown(self) -> None:
        try:
            if self.replicas:
                self.drain()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def drain(self) -> None:
        """Long after, when everything was swept and collected, what is left is what the model has."""
        self.clock.advance(10 * DAY)
        for registry in self.replicas:
            self.run(registry.close())
        self.run(self.replicas[0].sweeper.sweep())
        for digest in list(self.bytes):
            self.run(self.collector.collect(digest))
        found = self.run(truth(self.store))
        assert found.problems == []
        assert (found.sessions, found.multiparts) == (set(), 0)
        kept = {digest for repository in self.model.values() for digest in repository.blobs}
        assert {digest for digest in found.records if found.blob(digest) is not None} == kept

    def published(self, repository: str, digest: Digest, content: bytes) -> None:
        self.model[repository].blobs[digest] = content
        if digest not in self.bytes:
            self.created[digest] = self.clock.now()
        self.bytes[digest] = content
        self.condemned.discard(digest)
