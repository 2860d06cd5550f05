"""A publish makes of images plain files that any client can read, and no more than it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.registry.helpers import FakeClock, memory_store, open_registry
from tests.unit.transfer.fakes import (
    Clockwork,
    Heard,
    Image,
    MemorySource,
    checkpoints_of,
    descriptor,
    entry,
    index,
    raw,
    settings,
    some_bytes,
)
from tests.unit.transfer.site.worlds import World, cosign_tag, docker_image, everything, image, refers, signature

from bucketry.hashing import SEGMENT, Checkpoints
from bucketry.oci import media_types
from bucketry.transfer.bucket import BucketRepository
from bucketry.transfer.errors import SourceDamaged, TransferError
from bucketry.transfer.events import Began, Ended, Note, Skipped
from bucketry.transfer.push import push

BOTH = pytest.mark.parametrize("keeps_headers", [True, False], ids=["bucket", "folder"])
FOREVER = "public, max-age=31536000, immutable"
SHORTLY = "public, max-age=60"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@BOTH
async def test_everything_of_an_image_is_there_byte_for_byte(tmp_path: Path, keeps_headers: bool) -> None:
    world, all_of_it = World(tmp_path, keeps_headers), everything()

    published = await world.publish((all_of_it.source, "team/app", "latest"))

    assert world.found == []
    files = world.files()
    for manifest in all_of_it.manifests():
        assert files[f"v2/team/app/manifests/{manifest.digest}"] == manifest.body
    for digest, data in all_of_it.blobs().items():
        assert files[f"v2/team/app/blobs/{digest}"] == data
    assert files["v2/team/app/manifests/latest"] == all_of_it.index.body
    assert files[f"v2/team/app/manifests/{cosign_tag(all_of_it.index)}"] == all_of_it.beside.manifest.body
    assert world.listed("team/app") == sorted(["latest", cosign_tag(all_of_it.index)])
    assert world.catalog() == ["team/app"]
    assert world.referrers("team/app", all_of_it.index) == [str(all_of_it.signatures[0].manifest.digest)]
    assert world.referrers("team/app", all_of_it.images[0].manifest) == [str(all_of_it.signatures[1].manifest.digest)]
    assert world.referrers("team/app", all_of_it.images[1].manifest) == []
    assert json.loads(files["index.html"]) == {"team/app": world.listed("team/app")}
    assert published.state == world.state()
    assert published.state.pending == {}
    assert published.ended.digest == str(all_of_it.index.digest)


async def test_files_are_served_as_clients_and_caches_need_them(world: World) -> None:
    all_of_it = everything()

    await world.publish((all_of_it.source, "app", "latest"))

    served = {path: file.served for path, file in world.disk.files.items()}
    digest, layer = all_of_it.index.digest, next(iter(all_of_it.images[0].blobs))
    expected = {
        "v2/app/manifests/latest": (media_types.OCI_INDEX, SHORTLY),
        f"v2/app/manifests/{digest}": (media_types.OCI_INDEX, FOREVER),
        f"v2/app/manifests/{all_of_it.images[0].manifest.digest}": (media_types.OCI_MANIFEST, FOREVER),
        f"v2/app/blobs/{layer}": ("application/octet-stream", FOREVER),
        f"v2/app/referrers/{digest}": (media_types.OCI_INDEX, SHORTLY),
        "v2/app/tags/list": ("application/json", SHORTLY),
        "v2/_catalog": ("application/json", SHORTLY),
        "index.html": ("text/html; charset=utf-8", SHORTLY),
        "bucketry-site.json": ("application/json", SHORTLY),
    }
    for path, (content_type, cache_control) in expected.items():
        assert (served[path].content_type, served[path].cache_control) == (content_type, cache_control), path


async def test_twins_are_in_folders_only(tmp_path: Path) -> None:
    bucket, folder, all_of_it = World(tmp_path), World(tmp_path, keeps_headers=False), everything()

    await bucket.publish((all_of_it.source, "app", "latest"))
    await folder.publish((all_of_it.source, "app", "latest"))

    twins = {path for path in folder.files() if "/~/" in path}
    assert twins == {
        "v2/app/manifests/~/latest",
        f"v2/app/manifests/~/{cosign_tag(all_of_it.index)}",
        *(
            f"v2/app/manifests/~/{m.digest}/{m.digest}.{'oci-index' if m is all_of_it.index else 'oci-manifest'}"
            for m in all_of_it.manifests()
        ),
    }
    assert bucket.files().keys() == folder.files().keys() - twins


async def test_order_is_blobs_manifests_referrers_state_tags_lists(world: World) -> None:
    site, all_of_it = world.site(), everything()

    await world.publish((all_of_it.source, "app", "latest"), site=site)

    kinds: list[str] = []
    for operation, path in site.log:
        if operation in ("put", "complete", "twin"):
            if path == "bucketry-site.json":
                kind = "state"
            elif path in ("index.html", "v2/_catalog") or path.endswith("/tags/list"):
                kind = "lists"
            else:
                folder, leaf = path.split("/")[-2:]
                kind = folder if ":" in leaf else "tags"
            if not kinds or kinds[-1] != kind:
                kinds.append(kind)
    written = [path.rpartition("/")[2] for operation, path in site.log if operation == "put"]
    for child in all_of_it.images:
        assert written.index(str(child.manifest.digest)) < written.index(str(all_of_it.index.digest))
    assert kinds == [
        "state",  # An empty one: the place is taken.
        "blobs",
        "manifests",
        "state",  # What refers to what.
        "referrers",
        "state",  # The tags.
        "tags",
        "lists",
        "state",  # Nothing is pending any more.
    ]


@BOTH
async def test_what_is_there_is_not_sent_again(tmp_path: Path, keeps_headers: bool) -> None:
    world, all_of_it = World(tmp_path, keeps_headers), everything()
    await world.publish((all_of_it.source, "app", "latest"))
    before, site, heard = dict(world.disk.files), world.site(), Heard()
    all_of_it.source.read_bytes = 0

    published = await world.publish((all_of_it.source, "app", "latest"), site=site, heard=heard)

    assert world.disk.files == before
    assert {operation for operation, _ in site.log} == {"get", "list"}
    assert sum(operation == "list" for operation, _ in site.log) == 1
    assert published.written == {}
    assert published.requests.keys() == {"GET", "LIST"}
    assert published.ended.moved == 0
    assert all_of_it.source.read_bytes == 0
    whys = {event.why for event in heard.events if isinstance(event, Skipped)}
    assert whys == {"already there"}
    assert published.ways["already there"].files == len(all_of_it.blobs())


async def test_only_what_is_new_is_sent(world: World) -> None:
    first, second = image(1), image(2)
    await world.publish((MemorySource(first), "app", "latest"))
    source, site = MemorySource(second), world.site()

    published = await world.publish((source, "app", "latest"), site=site)

    assert published.ways["sent"].files == 3
    assert published.ways["already there"].files == 1
    assert source.read_bytes == sum(map(len, second.blobs.values())) - 3_000 + len(list(second.blobs.values())[-1])
    assert world.at("v2/app/manifests/latest") == second.manifest.body
    assert world.listed("app") == ["latest"]
    assert world.found == []


async def test_several_images_of_several_sources_at_once(world: World) -> None:
    one, two = image(1), image(2)

    published = await world.publish(
        (MemorySource(one), "app", "latest"), (MemorySource(two), "app/tools", "latest"), (MemorySource(one), "b", None)
    )

    assert world.catalog() == ["app", "app/tools", "b"]
    assert world.listed("b") == []
    assert list(world.state().repositories["b"].digests) == [str(one.manifest.digest)]
    # The layer that all share, and the image that is published twice, travel once.
    assert published.ways["sent"].files == 4 + 3
    assert published.ways["copied within the site"].files == 1 + 4
    assert world.found == []


async def test_one_platform_of_an_index(world: World) -> None:
    all_of_it = everything()

    published = await world.publish((all_of_it.source, "app", "latest"), platform="linux/arm64")

    arm = all_of_it.images[1]
    assert world.at("v2/app/manifests/latest") == arm.manifest.body
    assert f"v2/app/manifests/{all_of_it.index.digest}" not in world.files()
    assert published.ended.digest == str(arm.manifest.digest)
    assert world.found == []


async def test_what_refers_to_an_image_can_be_left_behind(world: World) -> None:
    all_of_it = everything()

    await world.publish((all_of_it.source, "app", "latest"), referrers=False)

    assert world.listed("app") == ["latest"]
    assert world.referrers("app", all_of_it.index) == []
    assert len([path for path in world.files() if "/manifests/sha256:" in path]) == 3


async def test_referrers_add_up(world: World) -> None:
    subject = image(1)
    first, second = MemorySource(subject), MemorySource(subject)
    refers(first, signature(subject.manifest, 1), subject.manifest)
    refers(second, signature(subject.manifest, 2), subject.manifest)

    await world.publish((first, "app", "latest"))
    await world.publish((second, "app", "latest"))

    assert len(world.referrers("app", subject.manifest)) == 2
    assert world.found == []


async def test_the_state_tells_what_a_page_needs(world: World) -> None:
    all_of_it, single = everything(), image(5)
    await world.publish((all_of_it.source, "app", "latest"), (MemorySource(single), "one", "latest"))

    entry = world.state().repositories["app"].tags["latest"]

    sizes = [len(each.manifest.body) + sum(map(len, each.blobs.values())) for each in all_of_it.images]
    assert (entry.digest, entry.media_type) == (str(all_of_it.index.digest), media_types.OCI_INDEX)
    assert [(each.platform, each.size) for each in entry.platforms] == [
        ("linux/amd64", sizes[0]),
        ("linux/arm64", sizes[1]),
    ]
    assert entry.size == sum(sizes) - 3_000 + len(all_of_it.index.body)
    assert entry.updated == world.now
    alone = world.state().repositories["one"].tags["latest"]
    assert [each.platform for each in alone.platforms] == ["linux/amd64"]
    assert alone.size == alone.platforms[0].size

    world.now += 1000
    await world.publish((all_of_it.source, "app", "latest"))
    assert world.state().repositories["app"].tags["latest"] == entry


@pytest.mark.parametrize("system", ["<b>linux", "lin\0ux", "\u202exunil", "x" * 300])
async def test_what_is_no_platform_is_told_to_nobody(world: World, system: str) -> None:
    await world.publish((MemorySource(image(1, system=system)), "app", "latest"))
    assert world.state().repositories["app"].tags["latest"].platforms == ()


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_layer_that_no_bucket_could_take_is_refused(world: World, dry_run: bool) -> None:
    """Its size is only what the manifest says: no memory is taken for it."""
    layer = descriptor(b"x")
    huge = {"mediaType": layer.media_type, "digest": layer.digest, "size": 10**15}
    config = descriptor(b"{}", media_types.OCI_CONFIG)
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": entry(config), "layers": [huge]}
    source = MemorySource()
    source.add(raw(document), tag="latest", blobs={config.digest: b"{}", layer.digest: b"x"})
    with pytest.raises(TransferError, match=r"10,?000 parts"):
        await world.publish((source, "app", "latest"), dry_run=dry_run)
    assert world.found == []


async def test_a_layer_in_parts_comes_with_its_checkpoints(world: World) -> None:
    data = some_bytes(SEGMENT + 1000)

    await world.publish(
        (MemorySource(Image(data)), "app", "latest"), part_size=4 * 1024 * 1024, memory=64 * 1024 * 1024
    )

    digest = descriptor(data).digest
    assert world.at(f"v2/app/blobs/{digest}") == data
    found = Checkpoints.parse(world.at(f"v2/app/_bucketry/checkpoints/{digest}"))
    assert (found.digest, found.size) == (digest.removeprefix("sha256:"), len(data))


async def test_a_blob_is_copied_within_the_site_with_its_checkpoints(world: World) -> None:
    data = some_bytes(SEGMENT + 1000)
    source = MemorySource(Image(data))
    await world.publish((source, "app", "latest"), part_size=4 * 1024 * 1024, memory=64 * 1024 * 1024)
    source.read_bytes, site, heard = 0, world.site(), Heard()

    published = await world.publish((source, "b", "latest"), site=site, heard=heard)

    assert source.read_bytes == 0
    assert published.ways["copied within the site"].files == 2
    assert published.requests["COPY"] == 2
    assert {event.why for event in heard.events if isinstance(event, Skipped)} == {"copied within the site"}
    assert world.at(f"v2/b/blobs/{descriptor(data).digest}") == data
    assert world.found == []


async def test_blobs_of_a_store_beside_are_copied_by_it(tmp_path: Path, world: World) -> None:
    clock = FakeClock()
    store = memory_store(clock)
    repository = BucketRepository(await open_registry(store, clock), "team/app", name="memory:/team/app")
    big = some_bytes(SEGMENT + 5)
    made = Image(big, some_bytes(100))
    await push(
        MemorySource(made), repository, tag="v1", settings=settings(tmp_path), listen=Heard(), timing=Clockwork().timing
    )
    site, heard = world.site(), Heard()
    site.beside = (store,)

    published = await world.publish((repository, "app", "v1"), site=site, heard=heard)

    assert published.ways["copied by the store"].files == 3
    assert published.ways["sent"].files == 0
    assert "copied by the store" in {event.why for event in heard.events if isinstance(event, Skipped)}
    assert all(world.at(f"v2/app/blobs/{digest}") == data for digest, data in made.blobs.items())
    found = Checkpoints.parse(world.at(f"v2/app/_bucketry/checkpoints/{descriptor(big).digest}"))
    assert found.size == len(big)
    assert found.count > 1


async def test_where_a_copy_is_refused_the_blobs_are_sent_and_it_is_said(world: World) -> None:
    one = image(1)
    await world.publish((MemorySource(one), "app", "latest"))
    site, heard = world.site(), Heard()
    site.copies, site.refusal = False, "no right to read it"

    published = await world.publish((MemorySource(one), "b", "latest"), site=site, heard=heard)

    assert published.ways["sent"].files == 4
    assert ["no right to read it" in event.text for event in heard.events if isinstance(event, Note)] == [True]
    assert world.found == []


@pytest.mark.parametrize("size", [500, 300_000], ids=["whole", "in parts"])
async def test_a_damaged_source_makes_nothing_visible(world: World, size: int) -> None:
    made = Image(some_bytes(size))
    source = MemorySource(made)
    source.change = lambda digest, at, piece: bytes(len(piece))
    site = world.site()

    with pytest.raises(SourceDamaged):
        await world.publish((source, "app", "latest"), site=site)

    assert not [path for path in world.files() if path.startswith("v2/")]
    assert site.uploads == set()


@BOTH
async def test_a_tag_that_becomes_another_kind_of_image_leads_to_its_twin(tmp_path: Path, keeps_headers: bool) -> None:
    world, all_of_it = World(tmp_path, keeps_headers), everything()
    docker, blobs = docker_image(3)
    other = MemorySource()
    other.add(docker, tag="latest", blobs=blobs)
    await world.publish((all_of_it.source, "app", "latest"))

    await world.publish((other, "app", "latest"))

    assert world.at("v2/app/manifests/latest") == docker.body
    assert world.disk.files["v2/app/manifests/latest"].served.content_type == media_types.DOCKER_MANIFEST
    if not keeps_headers:
        assert world.at("v2/app/manifests/~/latest") == str(docker.digest).encode()
        assert world.at(f"v2/app/manifests/~/{docker.digest}/{docker.digest}.docker-manifest") == docker.body
    assert world.found == []


async def test_events_tell_of_a_publish(world: World) -> None:
    heard = Heard()
    published = await world.publish((MemorySource(image(1)), "app", "latest"), heard=heard)

    assert heard.events[0] == Began(action="publish", source="memory/source", target="memory:site")
    assert heard.events[-1] == published.ended
    assert isinstance(heard.events[-1], Ended)
    assert published.ended.moved == published.written["blobs"].bytes + published.written["manifests"].bytes


async def test_a_bucket_that_heeds_no_conditions_is_said(world: World) -> None:
    site, heard = world.site(), Heard()
    site.conditional = False
    await world.publish((MemorySource(image(1)), "app", "latest"), site=site, heard=heard)
    assert any("heeds no conditions" in event.text for event in heard.events if isinstance(event, Note))


async def test_an_index_in_an_index_comes_after_its_children(world: World) -> None:
    one = image(1)
    inner = index((one.manifest, "linux/amd64"))
    source = MemorySource(one)
    source.add(inner)
    source.add(index((inner, "linux/amd64"), (one.manifest, "linux/amd64")), tag="deep")

    await world.publish((source, "app", "deep"))

    assert world.found == []
    assert len([path for path in world.files() if "/manifests/sha256:" in path]) == 3


async def test_checkpoints_of_a_source_that_has_none_are_noted_on_the_way(world: World) -> None:
    data = some_bytes(SEGMENT * 2 + 1)
    source = MemorySource(Image(data))
    source.checkpoints[descriptor(data).digest] = checkpoints_of(data, SEGMENT)
    await world.publish((source, "app", "latest"), part_size=None, memory=64 * 1024 * 1024)
    found = Checkpoints.parse(world.at(f"v2/app/_bucketry/checkpoints/{descriptor(data).digest}"))
    assert found == checkpoints_of(data, SEGMENT)
