"""The tree of a real registry is adopted, and bucketry serves every image of it, while the old one goes on."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.adopt.adopting import adopt, assert_pulled_by_crane, assert_serves, begin, old_marks, own_bytes
from tests.store.seaweed import Seaweed
from tests.support.images import MIB
from tests.support.old_registry import V2, VERSIONS, BucketPlace, FolderPlace, Place, Version, old_registry
from tests.support.old_registry_filling import APP, TEAM, Contents, fill, fill_more
from tests.support.reading import Reader
from tests.support.server import assert_no_fault, bucketry
from tests.support.synthetic_tree import TREE, Shape, data_path, put_tree, write_tree

from bucketry.store.s3 import S3Store

BIG = 3 * MIB


@pytest.fixture(params=VERSIONS, ids=str)
def version(request: pytest.FixtureRequest) -> Version:
    chosen: Version = request.param
    return chosen


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, version: Version, tmp_path: Path) -> Place:
    if request.param == "folder":
        return FolderPlace(tmp_path / "tree")
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    return BucketPlace(seaweed, f"adopt/{version}-{tmp_path.name}")


def total(contents: Contents, kind: str) -> int:
    return sum(len(getattr(held, kind)) for _, held in contents)


def assert_new_registry_serves(place: Place, contents: Contents, folder: Path, *, crane: bool = False) -> None:
    with bucketry(place.url, folder, env=place.environ()) as server:
        assert_serves(Reader(server.url), contents)
        if crane:
            assert_pulled_by_crane(Reader(server.url), contents, folder)
        assert_no_fault(server)


def test_all_of_an_old_registry_is_served_and_later_what_was_pushed_since(
    version: Version, place: Place, tmp_path: Path
) -> None:
    with old_registry(version, place, tmp_path / "old") as old:
        contents = fill(old, tmp_path / "clients", layer=BIG)
        before = old_marks(place)

        first = adopt(place)

        assert first.code == 0, first.said
        assert first.of("problem") == first.of("kept") == []
        assert first.ended["manifests"] == total(contents, "manifests")
        assert first.ended["tags"] == total(contents, "tags")
        assert first.ended["bytes"] > BIG
        # No blob data is written, neither by the run's own count nor by what is there afterwards.
        assert first.ended["written"] < BIG / 10
        assert own_bytes(place) < BIG / 10
        assert old_marks(place) == before
        assert_new_registry_serves(place, contents, tmp_path / "new")

        taken = {name: dict(held.tags) for name, held in contents}
        known = {(name, digest) for name, held in contents for digest in held.manifests}
        fill_more(old, tmp_path / "clients", contents)
        # It was copied from there, whatever the size of its layers.
        contents["team/sub/later"].tags["v1"] = contents[TEAM].tags["v2"]
        second = adopt(place)

        assert second.code == 0, second.said
        assert (
            second.taken("manifest") == {(name, digest) for name, held in contents for digest in held.manifests} - known
        )
        moved = {
            (name, tag)
            for name, held in contents
            for tag, digest in held.tags.items()
            if taken.get(name, {}).get(tag) != digest
        }
        assert second.taken("tag") == moved
        # What the old registry deletes stays until it is deleted here.
        for name, tags in taken.items():
            for tag, digest in tags.items():
                contents[name].tags.setdefault(tag, digest)
        third = adopt(place, "--verify")
        assert third.code == 0, third.said
        assert third.ended["verified"] > BIG
        assert_new_registry_serves(place, contents, tmp_path / "new", crane=True)

    with old_registry(version, place, tmp_path / "old") as old:
        for name, held in contents:
            for tag in set(held.tags) - held.deleted_tags:
                old.reader.manifest(name, tag)


@pytest.mark.parametrize("version", [V2], ids=str)  # Both write the same tree.
def test_what_is_broken_is_told_by_its_path_and_the_rest_is_served(
    version: Version, place: Place, tmp_path: Path
) -> None:
    with old_registry(version, place, tmp_path / "old") as old:
        contents = fill(old, tmp_path / "clients")
    missing = data_path(contents[APP].tags["multi"])
    place.remove(missing)
    tags = f"docker/registry/v2/repositories/{TEAM}/_manifests/tags"
    place.write(f"{tags}/v2/current/link", b"")

    adopted = adopt(place)

    assert adopted.code == 3
    assert {event["path"] for event in adopted.of("problem")} == {
        missing,
        f"{tags}/v2/current/link",
        f"docker/registry/v2/repositories/{APP}/_manifests/tags/multi/current/link",
    }
    del contents[TEAM].tags["v2"]
    del contents[APP].tags["multi"]
    assert_new_registry_serves(place, contents, tmp_path / "new")


async def put(seaweed: Seaweed, place: BucketPlace, shape: Shape) -> None:
    store = S3Store(seaweed.settings(f"{place.root}/{TREE}"))
    await store.start()
    try:
        await put_tree(store, shape)
    finally:
        await store.close()


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_run_that_is_killed_at_any_point_leaves_nothing_half_and_the_next_goes_on(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place: Place
    shape = Shape(manifests=50, blobs=100, repositories=7)
    write_tree(tmp_path / "tree", shape)
    if kind == "folder":
        place = FolderPlace(tmp_path / "tree")
    else:
        seaweed: Seaweed = request.getfixturevalue("seaweed")
        place = BucketPlace(seaweed, f"killed/{tmp_path.name}")
        asyncio.run(put(seaweed, place, shape))
    chance = random.Random(7)
    with bucketry(place.url, tmp_path / "new", env=place.environ()) as server:
        reader = Reader(server.url)
        for _ in range(3):
            with begin(place, "--parallel", "4") as process:
                assert process.stdout is not None
                for _ in range(chance.randrange(3, 60)):
                    process.stdout.readline()
                process.send_signal(signal.SIGKILL)
            # Whatever a client finds now is whole.
            for number in range(0, shape.manifests, 11):
                image, repository = shape.image(number), shape.repository(number)
                if reader.request(f"/v2/{repository}/manifests/{image.digest}").status == 200:
                    reader.assert_holds(repository, image.digest, image)

        last = adopt(place)

        assert last.code == 0, last.said
        for number in range(0, shape.manifests, 7):
            reference = shape.tag(number) if shape.tagged(number) else shape.image(number).digest
            reader.assert_holds(shape.repository(number), reference, shape.image(number))
        assert sum(len(reader.tags(shape.repository(number))) for number in range(shape.repositories)) == shape.tags
        assert_no_fault(server)
    again = adopt(place)
    assert (again.ended["manifests"], again.ended["tags"], again.ended["blobs"]) == (0, 0, 0)


@dataclass(frozen=True)
class ReadOnlyPlace(BucketPlace):
    """The same, with keys that may read and list and nothing else."""

    def environ(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": self.seaweed.reader_access_key}
        return {**super().environ(), **keys, "AWS_SECRET_ACCESS_KEY": self.seaweed.reader_secret_key}


def test_whoever_may_only_read_gets_a_dry_run_and_a_clear_refusal(seaweed: Seaweed, tmp_path: Path) -> None:
    shape = Shape(manifests=6, blobs=12, repositories=2)
    place = ReadOnlyPlace(seaweed, f"reader/{tmp_path.name}")
    asyncio.run(put(seaweed, place, shape))
    before = place.marks()

    told, refused = adopt(place, "--dry-run", "--verify"), adopt(place)

    assert (told.code, told.ended["manifests"], told.ended["problems"]) == (0, 6, 0)
    assert told.ended["verified"] == told.ended["bytes"]
    assert refused.code == 1
    (line,) = refused.said.splitlines()
    assert place.url in line
    assert place.marks() == before


def test_ctrl_c_ends_it_at_once_and_says_that_it_goes_on(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "tree")
    write_tree(place.folder, Shape(manifests=250, blobs=500, repositories=5))
    with begin(place, "--parallel", "2") as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 2
    assert err.decode().splitlines()[-1].endswith("The same command goes on where it was stopped.")
    assert b'"ended"' not in out


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_who_pulls_all_the_while_never_sees_an_error(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A tag goes to and fro in the old registry, and is adopted each time, while a client pulls it."""
    shape = Shape(manifests=6, blobs=12, repositories=1, untagged_every=0)
    place: Place
    if kind == "folder":
        write_tree(tmp_path / "tree", shape)
        place = FolderPlace(tmp_path / "tree")
    else:
        seaweed: Seaweed = request.getfixturevalue("seaweed")
        place = BucketPlace(seaweed, f"pulled/{tmp_path.name}")
        asyncio.run(put(seaweed, place, shape))
    repository, images = shape.repository(0), [shape.image(number) for number in (0, 1)]
    assert adopt(place).code == 0
    link = f"{TREE}/repositories/{repository}/_manifests/tags/{shape.tag(0)}/current/link"
    seen, failures, ended = set[bytes](), list[BaseException](), threading.Event()
    with bucketry(place.url, tmp_path / "new", env=place.environ()) as server:
        reader = Reader(server.url)

        def pull() -> None:
            try:
                while not ended.is_set():
                    manifest = reader.manifest(repository, shape.tag(0))
                    seen.add(manifest)
                    for layer in json.loads(manifest)["layers"]:
                        reader.blob(repository, layer["digest"])
                    ended.wait(0.01)
            except BaseException as failure:  # noqa: BLE001 (told by the test)
                failures.append(failure)

        puller = threading.Thread(target=pull)
        puller.start()
        try:
            for turn in (1, 2):
                place.write(link, images[turn % 2].digest.encode())
                moved = adopt(place)
                assert (moved.code, moved.ended["tags"]) == (0, 1), moved.said
        finally:
            ended.set()
            puller.join()
        assert failures == []
        assert seen == {image.manifest.data for image in images}
        assert_no_fault(server)
