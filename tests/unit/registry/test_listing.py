from __future__ import annotations

import pytest
from tests.unit.registry.helpers import REPO, FakeClock, image, memory_store, open_registry, push

from bucketry.oci.errors import NameUnknown
from bucketry.registry import Registry
from bucketry.store.faults import FaultyStore

CONFIG = b"{}"
TAGS = ["1.0", "1.0-alpha", "1.0.1", "10", "9", "A", "Z", "_x", "a", "latest", "v1", "v1-2", "v1.2", "v1_2"]
NAMES = ["a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "a_b", "ab", "b"]


async def tag_all(registry: Registry, repository: str, tags: list[str]) -> None:
    await push(registry, repository, CONFIG)
    for tag in tags:
        await registry.manifests.push(repository, tag, image(CONFIG), None)


@pytest.fixture(params=[False, True], ids=["byte order", "directory order"])
async def registry(request: pytest.FixtureRequest, clock: FakeClock) -> Registry:
    """On stores whose order differs where names have a slash."""
    return await open_registry(memory_store(clock, directory_order=request.param), clock)


@pytest.mark.parametrize("limit", [1, 2, 5, 1000, None])
async def test_pages_of_tags_hold_each_once_in_byte_order(registry: Registry, limit: int | None) -> None:
    await tag_all(registry, REPO, list(reversed(TAGS)))
    await tag_all(registry, f"{REPO}/below", ["other"])
    found: list[str] = []
    more = True
    while more:
        page = await registry.listing.tags(REPO, limit=limit, after=found[-1] if found else None)
        assert limit is None or len(page.names) <= limit
        found += page.names
        more = page.more

    assert found == sorted(TAGS)


@pytest.mark.parametrize("limit", [1, 3, None])
async def test_pages_of_repositories_hold_each_once_in_byte_order(registry: Registry, limit: int | None) -> None:
    for name in NAMES:
        await tag_all(registry, name, ["v1"])
    found: list[str] = []
    more = True
    while more:
        page = await registry.listing.repositories(limit=limit, after=found[-1] if found else None)
        assert limit is None or len(page.names) <= limit
        found += page.names
        more = page.more

    assert found == sorted(NAMES)


async def test_names_that_are_not_there_can_be_gone_on_from(registry: Registry) -> None:
    await tag_all(registry, REPO, ["a", "c"])

    assert (await registry.listing.tags(REPO, after="b")).names == ("c",)
    assert (await registry.listing.tags(REPO, after="c")).names == ()
    assert (await registry.listing.tags(REPO, after="zz")).names == ()
    assert (await registry.listing.repositories(after="team/aaa")).names == (REPO,)
    assert (await registry.listing.repositories(after=REPO)).names == ()


async def test_n_of_none_gives_none_and_is_not_followed(registry: Registry) -> None:
    await tag_all(registry, REPO, ["a"])

    page = await registry.listing.tags(REPO, limit=0)

    assert (page.names, page.more) == ((), False)
    assert (await registry.listing.repositories(limit=0)).names == ()


async def test_the_most_a_page_holds_is_the_owners(clock: FakeClock) -> None:
    registry = await open_registry(memory_store(clock), clock, max_page=3)
    await tag_all(registry, REPO, TAGS)

    for limit in (None, 4, 10**18):
        page = await registry.listing.tags(REPO, limit=limit)
        assert (len(page.names), page.more) == (3, True)


async def test_a_repository_that_never_had_a_manifest_is_unknown(registry: Registry) -> None:
    with pytest.raises(NameUnknown):
        await registry.listing.tags(REPO)
    await push(registry, REPO, CONFIG)
    with pytest.raises(NameUnknown):
        await registry.listing.tags(REPO)


async def test_a_repository_whose_tags_were_deleted_is_known_and_empty(registry: Registry) -> None:
    await tag_all(registry, REPO, ["a"])
    await registry.manifests.delete(REPO, "a")

    assert (await registry.listing.tags(REPO)).names == ()


async def test_tags_cost_one_request(clock: FakeClock) -> None:
    store = FaultyStore(memory_store(clock))
    registry = await open_registry(store, clock)
    await tag_all(registry, REPO, TAGS)
    store.calls.clear()

    await registry.listing.tags(REPO)

    assert dict(store.calls) == {"list": 1}
