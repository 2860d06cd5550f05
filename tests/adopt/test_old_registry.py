"""The support itself: what filling says of a registry is what clients find there, and a synthetic tree is right."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.store.seaweed import Seaweed
from tests.support.images import digest_of
from tests.support.old_registry import (
    V2,
    V3,
    VERSIONS,
    BucketPlace,
    FolderPlace,
    OldRegistry,
    Place,
    Version,
    old_registry,
)
from tests.support.old_registry_filling import APP, CHARTS, TEAM, Clients, Contents, fill, fill_more
from tests.support.reading import ACCEPT
from tests.support.synthetic_tree import TREE, Shape, data_path, put_tree, write_tree

from bucketry.store.open import StoreOptions, open_store

SHAPE = Shape(manifests=40, blobs=70, repositories=6, layers_each=3)


@pytest.fixture(params=VERSIONS, ids=str)
def version(request: pytest.FixtureRequest) -> Version:
    chosen: Version = request.param
    return chosen


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, version: Version, tmp_path: Path) -> Place:
    if request.param == "folder":
        return FolderPlace(tmp_path / "tree")
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    return BucketPlace(seaweed, f"old/{version}-{tmp_path.name}")


@contextmanager
def filled(version: Version, place: Place, folder: Path) -> Iterator[tuple[OldRegistry, Contents]]:
    with old_registry(version, place, folder) as registry:
        yield registry, fill(registry, folder / "clients")


def assert_read_back(registry: OldRegistry, contents: Contents, folder: Path) -> None:
    """crane finds these tags and manifests, and no others; every blob that a manifest names has its digest."""
    clients = Clients(registry, folder, contents)
    for name, held in contents:
        remote = f"{registry.host}/{name}"
        # SeaweedFS lists folders that have become empty, so 2.8 goes on listing the tags that these were.
        assert set(clients.crane("ls", remote).split()) - held.deleted_tags == set(held.tags), name
        for tag, digest in held.tags.items():
            assert clients.crane("digest", f"{remote}:{tag}").strip() == digest, (name, tag)
        for digest in held.manifests:
            manifest = registry.reader.manifest(name, digest)
            assert digest_of(manifest) == digest
            document = json.loads(manifest)
            for entry in [*document.get("layers", ()), *filter(None, [document.get("config")])]:
                if entry["digest"] not in contents.absent:
                    assert len(registry.reader.blob(name, entry["digest"])) == entry["size"]
        for gone in held.deleted | held.deleted_tags:
            answer = registry.reader.request(f"/v2/{name}/manifests/{gone}", headers={"Accept": ACCEPT})
            assert answer.status == 404, (name, gone)


# The other two are filled, and read, where they are adopted.
@pytest.mark.parametrize(("version", "place"), [(V2, "folder"), (V3, "bucket")], indirect=["place"], ids=str)
def test_clients_find_what_filling_says_and_the_tree_shows_it(version: Version, place: Place, tmp_path: Path) -> None:
    with filled(version, place, tmp_path) as (registry, contents):
        assert {name for name, _ in contents} == {TEAM, APP, CHARTS}
        paths = set(place.marks())
        team, app = contents[TEAM], contents[APP]
        assert all(path.startswith(f"{TREE}/") for path in paths)
        for name, held in contents:
            manifests = f"{TREE}/repositories/{name}/_manifests"
            assert paths >= {f"{manifests}/tags/{tag}/current/link" for tag in held.tags}
            links = {f"{manifests}/revisions/{digest.replace(':', '/')}/link" for digest in held.manifests}
            assert {path for path in paths if path.startswith(f"{manifests}/revisions/")} == links
        assert place.read(f"{TREE}/repositories/{TEAM}/_manifests/tags/v1/current/link") == team.tags["v1"].encode()
        # Gone for clients, but not from the tree.
        assert all(data_path(digest) in paths for digest in app.deleted)
        assert not any(f"/{APP}/_manifests/tags/{tag}/" in path for tag in app.deleted_tags for path in paths)
        assert len(app.untagged) == (4 if version.deletes_tags else 3)
        assert len(team.referrers) == 1
        assert team.fallback_tags < set(team.tags)
        assert any(f"/{CHARTS}/_uploads/" in path for path in paths)
        registry.collect_garbage()
        assert place.marks().keys().isdisjoint(map(data_path, app.deleted))
        assert_read_back(registry, contents, tmp_path / "clients")
        fill_more(registry, tmp_path / "clients", contents)
        assert_read_back(registry, contents, tmp_path / "clients")


@pytest.mark.parametrize("version", [V3], ids=str)  # It is the place that is looked at.
def test_a_place_shows_every_change(version: Version, place: Place, tmp_path: Path) -> None:
    with filled(version, place, tmp_path) as (_, contents):
        before = place.marks()
        assert place.marks() == before
        link = f"{TREE}/repositories/{TEAM}/_manifests/tags/v1/current/link"
        place.write(link, b"")
        changed = place.marks()
        assert {path for path in before if before[path] != changed[path]} == {link}
        assert changed[link][0] == 0
        place.remove(link)
        place.remove(data_path(contents[TEAM].tags["v2"]))
        assert before.keys() - place.marks().keys() == {link, data_path(contents[TEAM].tags["v2"])}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    assert write_tree(tmp_path / "tree", SHAPE) == sum(1 for _ in SHAPE.files())
    return tmp_path / "tree"


def test_a_synthetic_tree_has_the_counts_of_its_shape_and_right_digests(tree: Path) -> None:
    found = Counter[str]()
    for path in tree.rglob("*"):
        if path.is_file():
            kind = next(part for part in ("blobs", "_layers", "revisions", "current", "index") if part in path.parts)
            found[kind] += 1
            if kind == "blobs":
                assert digest_of(path.read_bytes()) == f"sha256:{path.parent.name}"
            else:
                (algorithm, encoded) = path.read_text().split(":")
                assert (tree / data_path(f"{algorithm}:{encoded}")).is_file()
    assert SHAPE.layers == 30
    assert found["blobs"] == SHAPE.manifests + SHAPE.blobs
    assert found["revisions"] == SHAPE.manifests
    assert found["current"] == found["index"] == SHAPE.tags == 36
    assert len({SHAPE.repository(number) for number in range(SHAPE.manifests)}) == SHAPE.repositories


def test_an_old_registry_serves_a_synthetic_tree(tree: Path, tmp_path: Path) -> None:
    with old_registry(V2, FolderPlace(tree), tmp_path) as registry:
        for number in (0, 7, 38):
            registry.reader.assert_holds(SHAPE.repository(number), SHAPE.tag(number), SHAPE.image(number))
        assert not SHAPE.tagged(9)
        registry.reader.assert_holds(SHAPE.repository(9), SHAPE.image(9).digest, SHAPE.image(9))
        assert len(registry.reader.json("/v2/_catalog")["repositories"]) == SHAPE.repositories


def test_a_synthetic_tree_is_the_same_in_a_bucket(tree: Path, seaweed: Seaweed, tmp_path: Path) -> None:
    root = f"synthetic/{tmp_path.name}"

    async def put() -> int:
        options = StoreOptions(
            endpoint=seaweed.endpoint,
            region=seaweed.region,
            access_key_id=seaweed.access_key,
            secret_access_key=seaweed.secret_key,
        )
        store = open_store(f"s3://{seaweed.bucket}/{root}/{TREE}", options)
        await store.start()
        try:
            return await put_tree(store, SHAPE)
        finally:
            await store.close()

    count = asyncio.run(put())
    in_bucket, in_folder = BucketPlace(seaweed, root), FolderPlace(tree)
    sizes = {path: mark[0] for path, mark in in_bucket.marks().items()}
    assert len(sizes) == count
    assert sizes == {path: mark[0] for path, mark in in_folder.marks().items()}
    path = data_path(SHAPE.image(3).digest)
    assert in_bucket.read(path) == in_folder.read(path)


@pytest.mark.parametrize(
    ("manifests", "blobs", "repositories"), [(10, 10, 2), (10, 12, 2), (10, 60, 2), (10, 30, 11), (10, 30, 0)]
)
def test_a_shape_that_cannot_be_is_refused(manifests: int, blobs: int, repositories: int) -> None:
    with pytest.raises(ValueError, match=f"^{manifests} "):
        Shape(manifests, blobs, repositories)
