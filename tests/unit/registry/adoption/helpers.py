"""An old registry's tree in memory, as distribution writes it; what an adoption said; what a store holds then."""

from __future__ import annotations

from typing import Any, TypeVar

from tests.unit.registry.helpers import FakeClock, Truth, _judge, _note, get_or_none, keys, open_registry

from bucketry.oci import Digest
from bucketry.oci.glob import RepositoryGlob
from bucketry.registry import Registry
from bucketry.registry.adoption import Adopter, Event, Report, tree
from bucketry.registry.adoption.events import Kept, Problem, Taken
from bucketry.store.contract import Store
from bucketry.store.memory import MemoryStore

E = TypeVar("E")


class OldRegistry:
    """Writes below ``docker/registry/v2/`` of a store, as the old registry's pushes and deletes do."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def blob(self, repository: str, data: bytes, algorithm: str = "sha256") -> Digest:
        """A layer or config, under another algorithm's digest too where that is asked for."""
        digest, named = Digest.of(data), Digest.of(data, algorithm)
        self.store.plant(tree.data(digest), data)
        for each in {digest, named}:
            self.store.plant(tree.layer_link(repository, each), str(digest).encode())
        return named

    def manifest(self, repository: str, body: bytes, *tags: str) -> Digest:
        digest = Digest.of(body)
        self.store.plant(tree.data(digest), body)
        self.store.plant(tree.revision_link(repository, digest), str(digest).encode())
        for tag in tags:
            self.tag(repository, tag, digest)
        return digest

    def tag(self, repository: str, tag: str, digest: Digest) -> None:
        self.store.plant(tree.tag_link(repository, tag), str(digest).encode())
        index = f"{tree.REPOSITORIES}{repository}/_manifests/tags/{tag}/index/{digest.algorithm}/{digest.hex}/link"
        self.store.plant(index, str(digest).encode())

    def untag(self, repository: str, tag: str) -> None:
        self.store.uproot(tree.tag_link(repository, tag))

    def upload(self, repository: str) -> None:
        """One that was begun and not finished."""
        folder = f"{tree.REPOSITORIES}{repository}/_uploads/5b1e2c1e-0000-4000-8000-000000000000"
        self.store.plant(f"{folder}/data", b"half")
        self.store.plant(f"{folder}/startedat", b"2020-01-01T00:00:00Z")
        self.store.plant(f"{folder}/hashstates/sha256/4", b"\0")


class Heard:
    """A listener that keeps all it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def problems(self) -> list[tuple[str, str]]:
        return sorted((problem.path, problem.reason) for problem in self.all(Problem))

    @property
    def kept(self) -> list[tuple[str, str | None, str]]:
        return sorted((kept.tag, kept.here, kept.why) for kept in self.all(Kept))

    def taken(self, kind: str) -> list[tuple[str, str]]:
        return sorted((taken.repository, taken.name) for taken in self.all(Taken) if taken.kind == kind)


async def adopt(
    store: Store,
    clock: FakeClock,
    *globs: str,
    heard: Heard | None = None,
    replica: int = 7,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Report:
    """One run, by a process of its own."""
    registry = await open_registry(store, clock, replica=replica, **(settings or {}))
    adopter = Adopter(registry, clock=clock, listen=heard or Heard(), **options)
    return await adopter.run([RepositoryGlob(glob) for glob in globs])


async def state(store: Store) -> Truth:
    """What a store holds, adopted bytes too."""
    found = Truth()
    for key in await keys(store):
        held = await get_or_none(store, key)
        assert held is not None
        if key.startswith(tree.ROOT):
            found.data[key] = held.body
        elif "/~adopted/" not in key:
            _note(found, key, held)
    _judge(found)
    return found


async def notes(store: Store) -> dict[str, bytes]:
    """The notes of what was taken over, by key."""
    found: dict[str, bytes] = {}
    for key in await keys(store, "repos/"):
        if "/~adopted/" in key:
            held = await get_or_none(store, key)
            assert held is not None
            found[key] = held.body
    return found


async def old_tree(store: MemoryStore) -> dict[str, tuple[bytes, str]]:
    """Every object of the old tree: its bytes and etag."""
    found: dict[str, tuple[bytes, str]] = {}
    for key in await keys(store, tree.ROOT):
        held = await get_or_none(store, key)
        assert held is not None
        found[key] = (held.body, held.info.etag)
    return found


async def manifest_of(registry: Registry, repository: str, reference: Digest | str) -> bytes:
    return (await registry.manifests.get(repository, reference)).body
