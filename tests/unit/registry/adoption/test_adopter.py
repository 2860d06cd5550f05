"""A tree of an old registry becomes a store: what is taken over, again and again, and what is not written."""

from __future__ import annotations

import pytest
from tests.unit.registry.adoption.helpers import Heard, OldRegistry, adopt, manifest_of, notes, old_tree, state
from tests.unit.registry.helpers import FakeClock, blob_bytes, descriptor, image, index, memory_store, open_registry

from bucketry.oci import Digest
from bucketry.oci.media_types import OCI_INDEX, OCI_MANIFEST
from bucketry.registry.adoption import Requests, TreeMissing, tree
from bucketry.registry.adoption.events import Finished, Repository
from bucketry.store.faults import FaultyStore
from bucketry.store.memory import MemoryStore

REPO = "team/app"
CONFIG, BASE, LAYER, OTHER = b'{"config": 1}', blob_bytes(200, 1), blob_bytes(300, 2), blob_bytes(400, 3)


@pytest.fixture(params=[False, True], ids=["byte order", "folder order"])
def store(request: pytest.FixtureRequest, clock: FakeClock) -> MemoryStore:
    return memory_store(clock, directory_order=request.param)


@pytest.fixture
def old(store: MemoryStore) -> OldRegistry:
    return OldRegistry(store)


def push_image(old: OldRegistry, repository: str, config: bytes, *layers: bytes, tags: tuple[str, ...] = ()) -> bytes:
    for blob in (config, *layers):
        old.blob(repository, blob)
    body = image(config, *layers)
    old.manifest(repository, body, *tags)
    return body


async def test_an_image_is_served_by_tag_and_by_digest(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    body = push_image(old, REPO, CONFIG, BASE, LAYER, tags=("v1", "latest"))
    old.upload(REPO)

    heard = Heard()
    report = await adopt(store, clock, heard=heard)

    assert heard.problems == []
    assert (report.repositories, report.manifests, report.tags, report.blobs) == (1, 1, 2, 3)
    assert report.bytes == len(CONFIG) + len(BASE) + len(LAYER)
    found = await state(store)
    assert found.problems == found.lost == []
    assert found.tags == {(REPO, "v1"): Digest.of(body), (REPO, "latest"): Digest.of(body)}
    assert found.catalog == {REPO}
    registry = await open_registry(store, clock)
    assert await manifest_of(registry, REPO, "v1") == body
    held = await registry.manifests.get(REPO, Digest.of(body))
    assert (held.body, held.media_type) == (body, OCI_MANIFEST)
    for blob in (CONFIG, BASE, LAYER):
        at = await registry.blobs.find(REPO, Digest.of(blob))
        assert at.data == tree.data(Digest.of(blob))
        assert b"".join([piece async for piece in registry.blobs.read(at)]) == blob


async def test_nothing_of_the_old_tree_is_changed_and_no_blob_is_written(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    big = blob_bytes(100_000, 9)
    push_image(old, REPO, CONFIG, big, tags=("v1",))
    before = await old_tree(store)
    requests = Requests()
    counted = memory_store(clock)
    for key, (body, _) in before.items():
        counted.plant(key, body)
    counted._observer = requests

    report = await adopt(counted, clock, requests=requests)
    await adopt(store, clock)

    assert await old_tree(store) == before
    assert report.requests is not None
    assert report.written is not None
    assert 0 < report.requests <= requests.count
    assert 0 < report.written < 5_000


async def test_a_second_run_has_nothing_to_do(store: MemoryStore, clock: FakeClock, old: OldRegistry) -> None:
    push_image(old, REPO, CONFIG, BASE, LAYER, tags=("v1",))
    await adopt(store, clock)
    view = FaultyStore(store)

    report = await adopt(view, clock, replica=8)

    assert (report.manifests, report.tags, report.blobs, report.skipped) == (0, 0, 0, 2)
    assert view.calls["put"] == view.calls["delete"] == 0


async def test_a_second_run_takes_over_just_what_was_pushed_since(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    push_image(old, REPO, CONFIG, BASE, LAYER, tags=("v1",))
    await adopt(store, clock)
    new = push_image(old, REPO, CONFIG, BASE, OTHER, tags=("v2",))

    heard = Heard()
    report = await adopt(store, clock, heard=heard, replica=8)

    assert heard.taken("manifest") == [(REPO, str(Digest.of(new)))]
    assert heard.taken("blob") == [(REPO, str(Digest.of(OTHER)))]
    assert heard.taken("tag") == [(REPO, "v2")]
    assert report.bytes == len(OTHER)


async def test_an_index_comes_after_its_manifests_however_they_are_listed(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    bodies = []
    for seed in range(12):
        leaf = push_image(old, REPO, CONFIG, blob_bytes(90, seed))
        inner = index(leaf, annotations={"n": str(seed)})
        outer = index(inner)
        old.manifest(REPO, inner)
        old.manifest(REPO, outer, f"v{seed}")
        bodies += [leaf, inner, outer]

    heard = Heard()
    report = await adopt(store, clock, heard=heard, parallel=3)

    assert heard.problems == []
    assert report.manifests == len(bodies)
    found = await state(store)
    assert found.problems == found.lost == []
    assert set(found.manifests.values()) == set(bodies)


async def test_what_refers_to_an_image_is_found_as_its_referrer(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    body = push_image(old, REPO, CONFIG, BASE, tags=("v1",))
    old.blob(REPO, OTHER)
    signature = image(CONFIG, OTHER, subject=body, artifactType="application/vnd.example.signature")
    old.manifest(REPO, signature)

    await adopt(store, clock)

    found = await state(store)
    assert found.problems == found.lost == []
    assert set(found.referrers) == {(REPO, Digest.of(body), Digest.of(signature))}


async def test_the_shape_tells_the_type_of_a_manifest_that_does_not_say_it(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    old.blob(REPO, CONFIG)
    leaf = image(CONFIG).replace(f'"mediaType": "{OCI_MANIFEST}", '.encode(), b"", 1)
    parent = index(leaf).replace(f'"mediaType": "{OCI_INDEX}", '.encode(), b"", 1)
    old.manifest(REPO, leaf, "leaf")
    old.manifest(REPO, parent, "index")

    await adopt(store, clock)

    registry = await open_registry(store, clock)
    assert (await registry.manifests.get(REPO, "leaf")).media_type == OCI_MANIFEST
    assert (await registry.manifests.get(REPO, "index")).media_type == OCI_INDEX


async def test_a_blob_with_a_sha512_digest_is_found_under_its_sha256(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    old.blob(REPO, CONFIG)
    named = old.blob(REPO, LAYER, "sha512")
    body = image(CONFIG).replace(b'"layers": []', b'"layers": [%s]' % _json(descriptor(LAYER, algorithm="sha512")))
    assert str(named).encode() in body
    old.manifest(REPO, body, "v1")

    heard = Heard()
    await adopt(store, clock, heard=heard, verify=True)

    assert heard.problems == []
    found = await state(store)
    assert found.problems == found.lost == []
    assert found.blob(named) == LAYER


async def test_a_manifest_with_a_sha512_digest_is_taken_over(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    old.blob(REPO, CONFIG)
    body = image(CONFIG)
    digest = Digest.of(body, "sha512")
    store.plant(tree.data(digest), body)
    store.plant(tree.revision_link(REPO, digest), str(digest).encode())
    old.tag(REPO, "v1", digest)

    await adopt(store, clock)

    assert (await state(store)).tags == {(REPO, "v1"): digest}


async def test_layers_that_lie_elsewhere_need_not_be_there_and_are_taken_where_they_are(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    old.blob(REPO, CONFIG)
    old.blob(REPO, BASE)
    body = image(CONFIG).replace(
        b'"layers": []', b'"layers": [%s, %s]' % (_json(descriptor(BASE, foreign)), _json(descriptor(LAYER, foreign)))
    )
    old.manifest(REPO, body, "v1")

    heard = Heard()
    await adopt(store, clock, heard=heard)

    assert heard.problems == []
    assert heard.taken("blob") == sorted((REPO, str(Digest.of(blob))) for blob in (CONFIG, BASE))


async def test_repositories_in_repositories_are_told_apart(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    names = ("a", "a/0", "a/b", "a/b/c", "a-b", "a.b/c", "a_b", "b")
    for number, name in enumerate(names):
        push_image(old, name, CONFIG, BASE, blob_bytes(80, number), tags=("v1", f"only-{number}"))

    heard = Heard()
    report = await adopt(store, clock, heard=heard, parallel=2)

    assert heard.problems == []
    found = await state(store)
    assert found.problems == found.lost == []
    assert found.catalog == set(names)
    assert set(found.tags) == {(name, tag) for n, name in enumerate(names) for tag in ("v1", f"only-{n}")}
    assert report.repositories == len(names)
    # What all of them share is counted once.
    assert (report.blobs, report.bytes) == (10, len(CONFIG) + len(BASE) + 8 * 80)
    assert sorted(event.repository for event in heard.all(Repository)) == sorted(names)
    assert {(event.manifests, event.tags, event.blobs) for event in heard.all(Finished)} == {(1, 2, 3)}


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (("team/*",), {"team/app"}),
        (("team/**",), {"team", "team/app", "team/app/deep"}),
        (("team/app",), {"team/app"}),
        (("**/app", "team/*"), {"team/app", "other/app"}),
        (("te?m",), {"team"}),
        (("nobody/*",), set()),
    ],
)
async def test_only_what_is_asked_for_is_taken_over(
    store: MemoryStore, clock: FakeClock, old: OldRegistry, globs: tuple[str, ...], expected: set[str]
) -> None:
    for name in ("team", "team/app", "team/app/deep", "teams/app2", "other/app"):
        push_image(old, name, CONFIG, BASE, tags=("v1",))

    report = await adopt(store, clock, *globs)

    assert (await state(store)).catalog == expected
    assert report.repositories == len(expected)


async def test_a_literal_beginning_of_a_pattern_narrows_the_listing(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    push_image(old, "team/app", CONFIG, BASE)
    view = FaultyStore(store)

    await adopt(view, clock, "team/*")

    assert [call.key for call in view.log if call.operation == "list" and call.key.startswith(tree.REPOSITORIES)] == [
        f"{tree.REPOSITORIES}team/"
    ]


async def test_a_dry_run_tells_the_same_and_writes_nothing(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    body = push_image(old, REPO, CONFIG, BASE, LAYER, tags=("v1",))
    old.manifest(REPO, index(body), "all")
    old.tag(REPO, "dangling", Digest.of(b"nothing"))
    await open_registry(store, clock)
    view = FaultyStore(store)
    dry, real = Heard(), Heard()

    told = await adopt(view, clock, heard=dry, dry_run=True, verify=True)
    writes = {name: view.calls[name] for name in ("put", "delete", "delete_many", "create_multipart")}
    done = await adopt(store, clock, heard=real, replica=8)

    assert set(writes.values()) == {0}
    for kind in ("manifest", "blob", "tag"):
        assert dry.taken(kind) == real.taken(kind)
    assert dry.problems == real.problems != []
    assert (told.manifests, told.tags, told.blobs, told.bytes) == (done.manifests, done.tags, done.blobs, done.bytes)
    assert told.dry_run
    assert not done.dry_run


async def test_what_is_below_a_repository_that_is_asked_for_by_its_name_is_not_listed(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    for number in range(1200):
        store.plant(tree.layer_link(f"team/app-{number}", Digest.of(BASE)), b"")
    push_image(old, "team", CONFIG, BASE, tags=("v1",))
    views = FaultyStore(store), FaultyStore(store)

    by_name = await adopt(views[0], clock, "team", dry_run=True)
    by_glob = await adopt(views[1], clock, "team/**", dry_run=True)

    assert by_name.manifests == by_glob.manifests == 1
    assert views[0].calls["list"] < views[1].calls["list"]


async def test_a_run_that_forgets_everything_at_once_is_as_right(
    store: MemoryStore, clock: FakeClock, old: OldRegistry
) -> None:
    for number in range(6):
        body = push_image(old, REPO, CONFIG, BASE, blob_bytes(80, number), tags=(f"v{number}",))
        old.manifest(REPO, index(body), f"index-{number}")

    heard = Heard()
    report = await adopt(store, clock, heard=heard, remembered=1, parallel=2)

    assert heard.problems == []
    assert (report.manifests, report.tags, report.blobs) == (12, 12, 8)
    found = await state(store)
    assert found.problems == found.lost == []
    assert len(await notes(store)) == 24


async def test_many_pages_are_walked_to_the_end(clock: FakeClock) -> None:
    store = memory_store(clock)
    old = OldRegistry(store)
    for number in range(700):
        old.blob(REPO, config := b'{"n": %d}' % number)
        old.manifest(REPO, image(config), f"v{number}")

    first = await adopt(store, clock)
    again = await adopt(store, clock, replica=8)

    assert (first.manifests, first.tags, first.blobs) == (700, 700, 700)
    assert (again.manifests, again.tags, again.skipped) == (0, 0, 1400)


async def test_a_store_without_a_tree_is_refused_and_nothing_is_written(store: MemoryStore, clock: FakeClock) -> None:
    await open_registry(store, clock)
    view = FaultyStore(store)
    with pytest.raises(TreeMissing, match=r"docker/registry/v2/"):
        await adopt(view, clock)
    assert view.calls["put"] == 0


def _json(value: object) -> bytes:
    import json

    return json.dumps(value).encode()
