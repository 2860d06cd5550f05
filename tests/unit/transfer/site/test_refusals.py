"""What cannot be published is said before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.transfer.fakes import MemorySource, descriptor, raw
from tests.unit.transfer.site.worlds import World, image

from bucketry.oci import media_types
from bucketry.store.site import Served
from bucketry.transfer.errors import ImageMissing, NameUnusable, Refused, SourceDamaged
from bucketry.transfer.site.derived import SitePage


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class TestRefusals:
    """Each is said before anything is written."""

    async def refused(self, world: World, kind: type[Exception], *images: object, match: str, **more: object) -> None:
        before = dict(world.disk.files)
        site = world.site()
        with pytest.raises(kind, match=match):
            await world.publish(*images, site=site, **more)  # type: ignore[arg-type]
        assert world.disk.files == before
        assert {operation for operation, _ in site.log} <= {"get", "head", "list"}

    async def test_nothing_named(self, world: World) -> None:
        await self.refused(world, NameUnusable, match="nothing is named")

    async def test_a_name_that_is_none(self, world: World) -> None:
        await self.refused(world, NameUnusable, (MemorySource(image(1)), "App", "latest"), match="repository name")

    async def test_an_image_that_is_not_there(self, world: World) -> None:
        await self.refused(world, ImageMissing, (MemorySource(image(1)), "app", "v9"), match="v9")

    async def test_two_images_for_one_tag(self, world: World) -> None:
        await self.refused(
            world,
            NameUnusable,
            (MemorySource(image(1)), "app", "latest"),
            (MemorySource(image(2)), "app", "latest"),
            match="two images are to be app:latest",
        )

    async def test_a_place_that_is_not_empty(self, world: World) -> None:
        await world.site().put("holiday.jpg", b"sea", served=Served())
        await self.refused(world, Refused, (MemorySource(image(1)), "app", "latest"), match=r"there is holiday\.jpg")

    async def test_a_registry(self, world: World) -> None:
        await world.site().put("blobs/x", b"{}", served=Served())
        await world.site().put("bucketry.json", b"{}", served=Served())
        await self.refused(world, Refused, (MemorySource(image(1)), "app", "latest"), match="holds a registry")

    async def test_a_newer_site(self, world: World) -> None:
        await world.site().put("bucketry-site.json", b'{"format":2,"else":1}', served=Served())
        await self.refused(world, Refused, (MemorySource(image(1)), "app", "latest"), match="format 2.*newer bucketry")

    async def test_a_state_that_is_none(self, world: World) -> None:
        world.watched = False
        await world.site().put("bucketry-site.json", b"<html>", served=Served())
        await self.refused(world, Refused, (MemorySource(image(1)), "app", "latest"), match="not what bucketry wrote")

    async def test_layers_that_are_elsewhere(self, world: World) -> None:
        foreign = media_types.NONDISTRIBUTABLE
        layer = {**_entry(b"x", sorted(foreign)[0]), "urls": ["https://example.com/x"]}
        made = raw(
            {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "config": _entry(b"{}", media_types.OCI_CONFIG),
                "layers": [layer],
            }
        )
        source = MemorySource()
        source.add(made, tag="latest", blobs={str(descriptor(b"{}").digest): b"{}"})
        await self.refused(world, Refused, (source, "app", "latest"), match="names layers that are elsewhere")

    async def test_a_type_that_a_folder_cannot_tell(self, tmp_path: Path) -> None:
        vendor = "application/vnd.example.thing.v1+json"
        made = raw({"schemaVersion": 2, "mediaType": vendor, "config": _entry(b"{}", "text/x"), "layers": []})
        source = MemorySource()
        source.add(made, tag="latest", blobs={str(descriptor(b"{}").digest): b"{}"})
        await self.refused(
            World(tmp_path, keeps_headers=False), Refused, (source, "app", "latest"), match="publish it to a bucket"
        )
        bucket = World(tmp_path)
        await bucket.publish((source, "app", "latest"))
        assert bucket.disk.files["v2/app/manifests/latest"].served.content_type == vendor

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (("app", "latest"), ("app/manifests/latest", "latest")),
            (("app", "latest"), ("app/tags/list", "latest")),
            (("app/manifests", "latest"), ("app", "blobs")),
            (("app", "latest"), ("app/manifests/latest/x", "latest")),
        ],
    )
    @pytest.mark.parametrize("at_once", [True, False])
    async def test_a_file_that_would_be_a_folder(
        self, tmp_path: Path, first: tuple[str, str], second: tuple[str, str], at_once: bool
    ) -> None:
        world, source = World(tmp_path, keeps_headers=False), MemorySource(image(1))
        source.add(image(1).manifest, tag="blobs")
        images = [(source, *first), (source, *second)]
        if not at_once:
            await world.publish((source, *first))
            images.pop(0)
        await self.refused(world, NameUnusable, *images, match="a file and a folder at once")
        bucket = World(tmp_path)
        await bucket.publish((source, *first), (source, *second))
        assert bucket.found == []

    @pytest.mark.parametrize("prune", [True, False])
    async def test_a_file_where_the_folder_of_what_leaves_is(self, tmp_path: Path, prune: bool) -> None:
        """And once that is gone there may be one. Nobody else is held up by it."""
        world, source = World(tmp_path, keeps_headers=False), MemorySource(image(1))
        await world.publish((source, "app/manifests/latest", "latest"))
        await world.publish((source, "other", "latest"), prune=True)
        await self.refused(world, NameUnusable, (source, "app", "latest"), match="prune what is there", prune=prune)
        await world.publish((source, "another", "latest"))
        world.now += 4000
        await world.publish((source, "other", "latest"), prune=True)
        await world.publish((source, "app", "latest"))
        assert world.found == []

    async def test_a_folder_where_the_file_of_a_tag_is_that_a_prune_drops(self, tmp_path: Path) -> None:
        world, source = World(tmp_path, keeps_headers=False), MemorySource(image(1))
        await world.publish((source, "app", "latest"))
        await self.refused(
            world, NameUnusable, (source, "app/manifests/latest", "latest"), match="prune what is there", prune=True
        )

    async def test_a_name_that_collides_with_what_was_published_meanwhile(self, tmp_path: Path) -> None:
        """A tag that was taken up and could not be written would be in everybody's way."""
        world, source = World(tmp_path, keeps_headers=False), MemorySource(image(1))
        await world.publish((source, "other", "latest"))
        site = world.site()
        published = False

        async def meanwhile(operation: str, path: str) -> None:
            nonlocal published
            if (operation, path, published) == ("put", "bucketry-site.json", False):
                published = True
                await world.publish((source, "app/manifests/latest", "latest"))

        site.before = meanwhile
        with pytest.raises(NameUnusable, match="a file and a folder at once"):
            await world.publish((source, "app", "latest"), site=site)
        await world.publish((source, "another", "latest"))
        assert world.state().names() == ["another", "app/manifests/latest", "other"]
        assert world.found == []

    async def test_a_blob_of_two_sizes(self, world: World) -> None:
        one, source = image(1), MemorySource(image(1))
        document = json.loads(one.manifest.body)
        document["layers"][0]["size"] += 1
        source.add(raw(document), tag="other")
        await self.refused(
            world, SourceDamaged, (source, "app", "latest"), (source, "app", "other"), match="by one manifest"
        )

    async def test_a_page_where_a_repository_is(self, tmp_path: Path) -> None:
        world = World(tmp_path, keeps_headers=False)
        await self.refused(
            world,
            NameUnusable,
            (MemorySource(image(1)), "index.html", "latest"),
            match="a file and a folder",
            pages=lambda state: [SitePage("v2/index.html", b"", "text/html")],
        )


def _entry(data: bytes, media_type: str) -> dict[str, object]:
    found = descriptor(data, media_type)
    return {"mediaType": media_type, "digest": found.digest, "size": found.size}
