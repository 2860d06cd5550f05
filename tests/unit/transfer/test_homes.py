"""The names of whole registries, and their repositories as they are named below a prefix."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.transfer.fakes import settings

from bucketry.registry import Registry
from bucketry.store.memory import MemoryStore
from bucketry.transfer.errors import ImageMissing, NameUnusable
from bucketry.transfer.homes import BucketHome, HomeName, open_home, parse_home
from bucketry.transfer.places import Opening


@pytest.mark.parametrize(
    ("text", "host", "store", "prefix"),
    [
        ("reg.example.com", "reg.example.com", "", ""),
        ("reg.example.com/", "reg.example.com", "", ""),
        ("localhost:5000/team/sub", "localhost:5000", "", "team/sub"),
        ("docker.io/someone", "docker.io", "", "someone"),
        ("s3://bucket", "", "s3://bucket", ""),
        ("s3://bucket/a/b/", "", "s3://bucket/a/b", ""),
        ("s3://bucket/a//team/x", "", "s3://bucket/a", "team/x"),
        ("file:/srv/registry", "", "file:/srv/registry", ""),
        ("file:data//team", "", "file:data", "team"),
    ],
)
def test_a_name_of_a_whole_registry(text: str, host: str, store: str, prefix: str) -> None:
    assert parse_home(text) == HomeName(text, host=host, store=store, prefix=prefix)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no registry"),
        (" reg.example.com", "names no registry"),
        ("team/app", "no host with a dot.*file:./team/app"),
        ("/srv/registry", "file:/srv/registry"),
        ("reg.example.com/app:v1", "is one image"),
        ("reg.example.com/app@sha256:00", "is one image"),
        ("reg.example.com/App", "repository name"),
        ("https://reg.example.com", "HOST/PREFIX"),
        ("oci:layout", "no registry as a whole"),
        ("docker-daemon:app", "no registry as a whole"),
        ("s3:bucket", "names no registry"),
        ("s3://", "names no registry"),
        ("s3://bucket//Team", "repository name"),
        ("file:", "names no registry"),
        ("file://host/x", "names no registry"),
    ],
)
def test_what_is_none_is_refused_with_the_right_form(text: str, why: str) -> None:
    with pytest.raises(NameUnusable, match=f"(?s){why}"):
        parse_home(text)


async def test_repositories_are_named_as_below_the_prefix() -> None:
    registry = await Registry.open(MemoryStore())
    for name in ("team/app", "team/sub/x", "teams/y", "team"):
        await registry.manifests.push(
            name,
            "v1",
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
            "application/vnd.oci.image.index.v1+json",
        )
    assert {name async for name in BucketHome(registry, "").repositories()} == {
        "team/app",
        "team/sub/x",
        "teams/y",
        "team",
    }
    home = BucketHome(registry, "team")
    assert {name async for name in home.repositories()} == {"app", "sub/x"}
    assert await home.repository("app").tags() == ["v1"]
    with pytest.raises(NameUnusable):
        home.repository("App")
    await home.close()


@pytest.mark.parametrize(
    ("inner", "outer", "inside"),
    [("", "", True), ("team", "", True), ("team/x", "team", True), ("teams", "team", False), ("", "team", False)],
)
async def test_what_is_inside_of_another(inner: str, outer: str, inside: bool) -> None:
    registry = await Registry.open(MemoryStore())
    other = await Registry.open(MemoryStore())
    assert BucketHome(registry, inner).inside(BucketHome(registry, outer)) is inside
    opening = Opening(settings(Path("/nonexistent")))
    remote = await open_home(HomeName("", host="a.example", prefix=outer), opening, write=False)
    same = await open_home(HomeName("", host="a.example", prefix=inner), opening, write=False)
    elsewhere = await open_home(HomeName("", host="b.example", prefix=inner), opening, write=False)
    assert (same.inside(remote), elsewhere.inside(remote)) == (inside, False)
    assert not BucketHome(registry, inner).inside(remote)
    assert not same.inside(BucketHome(other, outer))
    await opening.close()


async def test_a_store_without_a_registry_is_none_to_read_from(tmp_path: Path) -> None:
    opening = Opening(settings(tmp_path / "cache"))
    with pytest.raises(ImageMissing, match="holds no registry"):
        await open_home(parse_home(f"file:{tmp_path}/empty"), opening, write=False)
    made = await open_home(parse_home(f"file:{tmp_path}/new"), opening, write=True)
    assert [name async for name in made.repositories()] == []
    await made.close()
    assert (tmp_path / "new" / "bucketry.json").is_file()
