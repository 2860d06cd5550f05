"""Tags that are in both registries: what happens there, and what was done here, in every order."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest
from tests.unit.registry.adoption.helpers import Heard, OldRegistry, adopt, notes, state
from tests.unit.registry.helpers import FakeClock, image, memory_store, open_registry, push

from bucketry.oci import Digest
from bucketry.registry import Registry, layout
from bucketry.registry.adoption import tree
from bucketry.registry.adoption.tags import _CONTENT, DELETED_HERE, MANIFEST_DELETED, MOVED_HERE
from bucketry.store.contract import ListedObject, ListPage
from bucketry.store.faults import Delay, FaultyStore, Rule
from bucketry.store.memory import MemoryStore

REPO = "team/app"
CONFIG = b'{"config": 1}'
ONE, TWO, MINE = (image(CONFIG, annotations={"n": name}) for name in ("one", "two", "mine"))
FIRST, SECOND, OURS = (Digest.of(body) for body in (ONE, TWO, MINE))


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return memory_store(clock)


@pytest.fixture
def old(store: MemoryStore) -> OldRegistry:
    old = OldRegistry(store)
    old.blob(REPO, CONFIG)
    old.manifest(REPO, ONE, "v1")
    return old


@pytest.fixture
async def registry(store: MemoryStore, clock: FakeClock) -> Registry:
    return await open_registry(store, clock)


async def push_here(registry: Registry, tag: str, body: bytes = MINE) -> None:
    await push(registry, REPO, CONFIG)
    await registry.manifests.push(REPO, tag, body, None)


async def tag_here(store: MemoryStore, tag: str = "v1") -> Digest | None:
    found = await state(store)
    assert found.problems == found.lost == []
    return found.tags.get((REPO, tag))


async def run(store: MemoryStore, clock: FakeClock) -> tuple[Heard, Heard]:
    """What a run said, and what a dry run said before it."""
    before, heard = Heard(), Heard()
    await adopt(store, clock, heard=before, replica=8, dry_run=True)
    await adopt(store, clock, heard=heard, replica=9)
    assert heard.problems == []
    assert (before.kept, before.taken("tag")) == (heard.kept, heard.taken("tag"))
    return heard, before


async def quiet_now(store: MemoryStore, clock: FakeClock) -> None:
    """The next run has nothing to do and to say."""
    heard = Heard()
    report = await adopt(store, clock, heard=heard, replica=10)
    assert (report.tags, report.kept, report.problems) == (0, 0, 0)


async def test_a_tag_that_moved_there_moves_here(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    await adopt(store, clock)
    old.manifest(REPO, TWO, "v1")

    heard, _ = await run(store, clock)

    assert heard.taken("tag") == [(REPO, "v1")]
    assert await tag_here(store) == SECOND
    await quiet_now(store, clock)


async def test_a_tag_that_moved_here_stays(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, registry: Registry
) -> None:
    await adopt(store, clock)
    await push_here(registry, "v1")
    await run(store, clock)
    assert await tag_here(store) == OURS

    old.manifest(REPO, TWO, "v1")
    heard, _ = await run(store, clock)

    assert heard.kept == [("v1", str(OURS), MOVED_HERE)]
    assert await tag_here(store) == OURS
    await quiet_now(store, clock)


async def test_a_tag_that_was_here_first_stays(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, registry: Registry
) -> None:
    await push_here(registry, "v1")

    heard, _ = await run(store, clock)

    assert heard.kept == [("v1", str(OURS), MOVED_HERE)]
    assert await tag_here(store) == OURS
    assert (REPO, FIRST) in (await state(store)).manifests
    await quiet_now(store, clock)


async def test_a_tag_that_both_have_moved_alike_is_taken(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, registry: Registry
) -> None:
    await adopt(store, clock)
    old.manifest(REPO, TWO, "v1")
    await push_here(registry, "v1", TWO)

    heard, _ = await run(store, clock)

    assert heard.kept == []
    assert await tag_here(store) == SECOND
    old.manifest(REPO, ONE, "v1")
    await run(store, clock)
    assert await tag_here(store) == FIRST


async def test_a_tag_that_was_deleted_here_stays_deleted(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, registry: Registry
) -> None:
    await adopt(store, clock)
    await registry.manifests.delete(REPO, "v1")
    await run(store, clock)
    assert await tag_here(store) is None

    old.manifest(REPO, TWO, "v1")
    heard, _ = await run(store, clock)

    assert heard.kept == [("v1", None, DELETED_HERE)]
    assert await tag_here(store) is None
    assert (REPO, SECOND) in (await state(store)).manifests
    await quiet_now(store, clock)


async def test_a_manifest_that_was_deleted_here_stays_deleted(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, registry: Registry
) -> None:
    await adopt(store, clock)
    await registry.manifests.delete(REPO, FIRST)
    old.tag(REPO, "again", FIRST)

    heard, _ = await run(store, clock)

    assert heard.kept == [("again", None, MANIFEST_DELETED)]
    assert (await state(store)).manifests == {}
    await quiet_now(store, clock)


async def test_what_was_deleted_there_stays_here(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, registry: Registry
) -> None:
    await adopt(store, clock)
    old.untag(REPO, "v1")
    store.uproot(tree.revision_link(REPO, FIRST))

    await run(store, clock)

    assert await tag_here(store) == FIRST


async def test_a_push_in_between_is_not_overwritten(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, registry: Registry
) -> None:
    """A client moves the tag after it was looked at, and before it is written."""
    await adopt(store, clock)
    old.manifest(REPO, TWO, "v1")
    pushed = asyncio.Event()
    view = FaultyStore(store, [Rule(Delay(until=pushed), operation="put", prefix=layout.tag(REPO, "v1"))])
    heard = Heard()
    running = asyncio.create_task(adopt(view, clock, heard=heard, replica=9))
    while not any(call.operation == "put" and call.key == layout.tag(REPO, "v1") for call in view.log):
        await asyncio.sleep(0)

    await push_here(registry, "v1")
    pushed.set()
    await running

    assert heard.kept == [("v1", str(OURS), MOVED_HERE)]
    assert await tag_here(store) == OURS


async def test_a_new_tag_does_not_overwrite_a_push_in_between(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, registry: Registry
) -> None:
    pushed = asyncio.Event()
    view = FaultyStore(store, [Rule(Delay(until=pushed), operation="put", prefix=layout.tag(REPO, "v1"))])
    running = asyncio.create_task(adopt(view, clock, replica=9))
    while not any(call.operation == "put" and call.key == layout.tag(REPO, "v1") for call in view.log):
        await asyncio.sleep(0)

    await push_here(registry, "v1")
    pushed.set()
    await running

    assert await tag_here(store) == OURS


async def test_a_manifest_that_is_deleted_while_its_tag_is_written_leaves_no_tag(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, registry: Registry
) -> None:
    deleted = asyncio.Event()
    view = FaultyStore(store, [Rule(Delay(until=deleted), operation="put", prefix=layout.tag(REPO, "v1"))])
    heard = Heard()
    running = asyncio.create_task(adopt(view, clock, heard=heard, replica=9))
    while not any(call.operation == "put" and call.key == layout.tag(REPO, "v1") for call in view.log):
        await asyncio.sleep(0)

    await registry.manifests.delete(REPO, FIRST)
    deleted.set()
    await running

    assert heard.kept == [("v1", None, MANIFEST_DELETED)]
    found = await state(store)
    assert not found.tags
    assert not found.manifests
    await quiet_now(store, clock)


async def test_a_link_that_has_the_etag_of_its_note_is_not_read(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    """On S3 the etag tells the content: then a run asks nothing for a tag that did not move."""
    await adopt(store, clock)

    class ContentTags(FaultyStore):
        async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
            page = await super().list(prefix, after=after, limit=limit)
            return ListPage(tuple([await self._seen(listed.key, listed) for listed in page.objects]), page.more)

        async def _seen(self, key: str, listed: ListedObject) -> ListedObject:
            body = (await store.get(key)).body
            return replace(listed, etag=f'"{hashlib.md5(body).hexdigest()}"')

    view = ContentTags(store)
    report = await adopt(view, clock, replica=9)
    assert report.skipped == 2
    assert view.calls["get"] == 1  # bucketry.json

    old.manifest(REPO, TWO, "v1")
    report = await adopt(ContentTags(store), clock, replica=10)
    assert (report.tags, report.skipped) == (1, 1)
    assert await tag_here(store) == SECOND


def test_only_etags_that_tell_content_are_compared() -> None:
    assert _CONTENT.fullmatch(f'"{"0" * 32}"')
    assert not _CONTENT.fullmatch('"1"')
    assert not _CONTENT.fullmatch(f'"{"0" * 32}-2"')


async def test_the_note_says_what_the_old_tag_had(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    await adopt(store, clock)
    assert await notes(store) == {
        layout.adopted_manifest(REPO, FIRST): b"",
        layout.adopted_tag(REPO, "v1"): str(FIRST).encode(),
    }
