"""Broken trees: what is broken is told with its path and left out, the rest is taken over, and mended things later."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.unit.registry.adoption.helpers import Heard, OldRegistry, adopt, notes, state
from tests.unit.registry.helpers import (
    FakeClock,
    blob_bytes,
    descriptor,
    image,
    index,
    memory_store,
    open_registry,
    push,
)

from bucketry.oci import Digest
from bucketry.registry.adoption import tree
from bucketry.store.memory import MemoryStore

REPO = "team/app"
CONFIG, LAYER, GOOD = b'{"config": 1}', blob_bytes(300, 2), blob_bytes(200, 1)
BODY = image(CONFIG, LAYER)
DIGEST = Digest.of(BODY)
HEALTHY = image(CONFIG, GOOD)


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return memory_store(clock)


@pytest.fixture
def old(store: MemoryStore) -> OldRegistry:
    """With a good image, and one that tests break."""
    old = OldRegistry(store)
    for blob in (CONFIG, LAYER, GOOD):
        old.blob(REPO, blob)
    old.manifest(REPO, HEALTHY, "good")
    old.manifest(REPO, BODY, "v1")
    return old


LAYER_LINK, LAYER_DATA = tree.layer_link(REPO, Digest.of(LAYER)), tree.data(Digest.of(LAYER))
REVISION, DATA = tree.revision_link(REPO, DIGEST), tree.data(DIGEST)
TAG = tree.tag_link(REPO, "v1")

Damage = Callable[[MemoryStore], None]

DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "layer link empty": (lambda store: store.plant(LAYER_LINK, b""), LAYER_LINK, "the link is empty"),
    "layer link missing": (lambda store: store.uproot(LAYER_LINK), LAYER_LINK, "its link is missing"),
    "layer link of another": (
        lambda store: store.plant(LAYER_LINK, str(Digest.of(GOOD)).encode()),
        LAYER_LINK,
        f"the link names {Digest.of(GOOD)} instead",
    ),
    "layer link is too long": (lambda store: store.plant(LAYER_LINK, b"x" * 5000), LAYER_LINK, "more than the 1024"),
    "layer data missing": (lambda store: store.uproot(LAYER_DATA), LAYER_DATA, "is missing"),
    "layer data cut": (lambda store: store.plant(LAYER_DATA, LAYER[:-1]), LAYER_DATA, "has 299 bytes, and 300"),
    "manifest link empty": (lambda store: store.plant(REVISION, b""), REVISION, "the link is empty"),
    "manifest link of another": (
        lambda store: store.plant(REVISION, str(Digest.of(HEALTHY)).encode()),
        REVISION,
        "instead",
    ),
    "manifest data missing": (lambda store: store.uproot(DATA), DATA, "is missing"),
    "manifest data of another": (lambda store: store.plant(DATA, HEALTHY), DATA, "has other bytes"),
    "manifest data empty": (lambda store: store.plant(DATA, b""), DATA, "has other bytes: 0 of the digest"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_what_is_broken_is_left_out_and_comes_when_it_is_mended(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, name: str
) -> None:
    damage, path, why = DAMAGES[name]
    damage(store)

    heard = Heard()
    report = await adopt(store, clock, heard=heard)

    reasons = dict(heard.problems)
    assert set(reasons) == {path, TAG}
    assert why in reasons[path]
    assert f"manifest {DIGEST}" in reasons[path]
    assert "tag v1 points to a manifest that is left out" in reasons[TAG]
    assert report.problems == 2
    found = await state(store)
    assert found.problems == found.lost == []
    assert found.tags == {(REPO, "good"): Digest.of(HEALTHY)}
    assert set(found.manifests) == {(REPO, Digest.of(HEALTHY))}

    for blob in (LAYER, CONFIG):
        old.blob(REPO, blob)
    old.manifest(REPO, BODY)
    again = Heard()
    report = await adopt(store, clock, heard=again, replica=8)

    assert again.problems == []
    assert (report.manifests, report.tags, report.skipped) == (1, 1, 2)
    assert (await state(store)).tags == {(REPO, "good"): Digest.of(HEALTHY), (REPO, "v1"): DIGEST}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the link is empty"),
        (b"rubbish", "holds no digest, but 'rubbish'"),
        (str(Digest.of(b"nobody")).encode(), "its link is missing"),
        (str(DIGEST).encode() * 5000, "more than the 1024"),
    ],
)
async def test_a_tag_without_its_manifest_is_told(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, body: bytes, why: str
) -> None:
    store.plant(TAG, body)

    heard = Heard()
    await adopt(store, clock, heard=heard)

    assert [path for path, _ in heard.problems] == [TAG]
    assert why in heard.problems[0][1]
    assert (REPO, DIGEST) in (await state(store)).manifests


async def test_an_index_of_a_broken_manifest_is_left_out_and_its_others_are_not(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    parent = index(BODY, HEALTHY)
    outer = index(parent)
    old.manifest(REPO, parent, "all")
    old.manifest(REPO, outer)
    store.uproot(LAYER_DATA)

    heard = Heard()
    await adopt(store, clock, heard=heard)

    # The layer that is missing is why for each of them.
    assert [path for path, _ in heard.problems] == [LAYER_DATA] * 3 + sorted([tree.tag_link(REPO, "all"), TAG])
    assert (await state(store)).lost == []
    assert set((await state(store)).manifests) == {(REPO, Digest.of(HEALTHY))}


async def test_an_index_may_be_sparse_where_the_owner_says_so(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    parent = index(HEALTHY, image(b"{}", b"of another platform"), annotations={"sparse": "yes"})
    old.manifest(REPO, parent, "all")

    strict, lax = Heard(), Heard()
    await adopt(store, clock, heard=strict)
    await adopt(store, clock, heard=lax, replica=8, settings={"sparse": True})

    assert len(strict.problems) == 2
    assert lax.problems == []
    assert (REPO, "all") in (await state(store)).tags


async def test_docker_schema_1_is_called_by_its_name(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    body = json.dumps({"schemaVersion": 1, "name": "app", "fsLayers": [], "history": []}).encode()
    digest = old.manifest(REPO, body)

    heard = Heard()
    await adopt(store, clock, heard=heard)

    assert [path for path, _ in heard.problems] == [tree.data(digest)]
    assert "Docker schema 1 manifests are not supported" in heard.problems[0][1]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff" * 50, b'{"schemaVersion": 2}', b"x" * 5_000_000])
async def test_whatever_a_manifest_holds_the_rest_is_taken_over(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, body: bytes
) -> None:
    digest = old.manifest(REPO, body, "strange")

    heard = Heard()
    report = await adopt(store, clock, heard=heard)

    assert {path for path, _ in heard.problems} == {tree.data(digest), tree.tag_link(REPO, "strange")}
    assert (report.manifests, report.tags) == (2, 2)


async def test_names_that_cannot_be_are_told(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    some = str(DIGEST).encode()
    strange = [
        f"{tree.REPOSITORIES}Team/_manifests/revisions/sha256/{DIGEST.hex}/link",
        f"{tree.REPOSITORIES}{REPO}/_manifests/revisions/sha384/{'0' * 96}/link",
        f"{tree.REPOSITORIES}{REPO}/_manifests/revisions/sha256/abc/link",
        f"{tree.REPOSITORIES}{REPO}/_manifests/tags/-v/current/link",
    ]
    for key in strange:
        store.plant(key, some)

    heard = Heard()
    report = await adopt(store, clock, heard=heard)

    assert [path for path, _ in heard.problems] == sorted([f"{tree.REPOSITORIES}Team", *strange[1:]])
    assert (report.manifests, report.tags) == (2, 2)


async def test_indexes_in_indexes_without_end_are_an_end(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    body = HEALTHY
    for _ in range(40):
        body = index(body)
        old.manifest(REPO, body)

    heard = Heard()
    await adopt(store, clock, heard=heard, parallel=1)

    assert all("is in more than 16 indexes" in reason for _, reason in heard.problems)
    found = await state(store)
    assert found.problems == found.lost == []


async def test_what_is_broken_there_may_have_been_pushed_here(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    store.uproot(LAYER_DATA)
    await push(await open_registry(store, clock), REPO, LAYER)

    heard = Heard()
    await adopt(store, clock, heard=heard)

    assert heard.problems == []
    found = await state(store)
    assert found.problems == found.lost == []
    assert found.tags[REPO, "v1"] == DIGEST


async def test_what_was_pushed_here_before_is_served_from_where_it_is(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    registry = await open_registry(store, clock)
    await push(registry, "elsewhere", LAYER)
    before = (await registry.blobs.find("elsewhere", Digest.of(LAYER))).data

    await adopt(store, clock)

    assert (await registry.blobs.find(REPO, Digest.of(LAYER))).data == before
    assert (await state(store)).problems == []


async def test_a_blob_of_the_wrong_size_in_a_manifest_is_told(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    wrong = {**descriptor(LAYER), "size": 7}
    body = image(CONFIG).replace(b'"layers": []', b'"layers": [%s]' % json.dumps(wrong).encode())
    old.manifest(REPO, body)

    heard = Heard()
    await adopt(store, clock, heard=heard)

    assert [path for path, _ in heard.problems] == [LAYER_DATA]
    assert "has 300 bytes, and 7 are expected" in heard.problems[0][1]
    assert not any(str(Digest.of(body).hex) in key for key in await notes(store))
