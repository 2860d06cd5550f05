"""The contract of `bucketry.store.site` as tests, for every backend."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tests.store.helpers import bounded, winners

from bucketry.store.contract import (
    IF_ABSENT,
    Corrupt,
    IfMatch,
    InvalidPart,
    NotFound,
    PreconditionFailed,
    Store,
    Unsupported,
)
from bucketry.store.memory import MemoryStore
from bucketry.store.site import PathTaken, Served, SiteStore, pointer

MANIFEST = Served("application/vnd.oci.image.manifest.v1+json", "public, max-age=60")
BLOB = Served("application/octet-stream", "public, max-age=31536000, immutable")
DIGEST = f"sha256:{hashlib.sha256(b'').hexdigest()}"


@dataclass(frozen=True)
class Place:
    """An empty site, a second handle on the same files, and a store whose objects it can take by itself.

    ``leftovers`` tells what is kept of uploads that are neither complete nor aborted. ``min_part`` in bytes.
    ``effort``: the share of rounds and files that the tests take of what a fast place takes.
    """

    site: SiteStore
    other: SiteStore
    store: Store
    leftovers: Callable[[], list[str]]
    min_part: int
    effort: float = 1.0

    def rounds(self, count: int) -> int:
        return max(2, int(count * self.effort))


async def paths_of(site: SiteStore, prefix: str = "") -> list[str]:
    return [file.path async for file in site.list(prefix)]


async def read(site: SiteStore, path: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([piece async for piece in site.read(path, start, stop)])


def cut_up(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


class SiteSuite:
    """A subclass whose name begins with ``Test`` and which has a fixture ``place`` runs all of it."""

    @pytest.fixture
    def site(self, place: Place) -> SiteStore:
        return place.site

    # Files

    async def test_a_file_is_what_was_put(self, site: SiteStore) -> None:
        path = f"v2/lib/app/manifests/{DIGEST}"
        etag = await site.put(path, b'{"a": 1}', served=MANIFEST)
        content = await site.get(path)
        assert content.body == b'{"a": 1}'
        head = await site.head(path)
        assert head == content.file
        assert (head.path, head.size, head.etag) == (path, 8, etag)
        assert head.served == (MANIFEST if site.keeps_headers else None)
        assert [(file.path, file.size, file.etag) async for file in site.list("")] == [(path, 8, etag)]

    async def test_a_file_is_replaced_with_its_headers(self, site: SiteStore) -> None:
        first = await site.put("v2/a/tags/list", memoryview(b"old"), served=MANIFEST)
        second = await site.put("v2/a/tags/list", bytearray(b"newer"), served=Served("text/plain"))
        assert first != second
        assert (await site.get("v2/a/tags/list")).body == b"newer"
        if site.keeps_headers:
            assert (await site.head("v2/a/tags/list")).served == Served("text/plain", None)

    async def test_an_empty_file_is_a_file(self, site: SiteStore) -> None:
        await site.put("empty", b"", served=BLOB)
        assert (await site.get("empty")).body == b""
        assert await read(site, "empty") == b""
        assert await paths_of(site) == ["empty"]

    async def test_what_is_missing_is_not_found(self, site: SiteStore) -> None:
        await site.put("v2/a/blobs/x", b"x", served=BLOB)
        for path in ("nothing", "v2/a/blobs", "v2/a", "v2/a/blobs/x/y"):
            with pytest.raises(NotFound):
                await site.get(path)
            with pytest.raises(NotFound):
                await site.head(path)
            with pytest.raises(NotFound):
                await read(site, path)
        assert await paths_of(site, "nothing/") == []

    async def test_a_file_over_the_limit_is_not_given(self, site: SiteStore) -> None:
        await site.put("a", b"12345", served=BLOB)
        assert (await site.get("a", limit=5)).body == b"12345"
        with pytest.raises(Corrupt):
            await site.get("a", limit=4)

    async def test_ranges_are_read(self, site: SiteStore) -> None:
        body = random.Random(1).randbytes(3 * 1024 * 1024 + 17)
        await site.put("big", body, served=BLOB)
        assert await read(site, "big") == body
        assert max([len(piece) async for piece in site.read("big")]) <= 1024 * 1024
        for start, stop in ((0, 1), (17, 1024 * 1024 + 18), (len(body) - 1, None), (5, 5), (len(body), None)):
            assert await read(site, "big", start, stop) == body[start:stop]
        with pytest.raises(ValueError):
            await read(site, "big", 2, 1)

    async def test_a_reader_sees_the_old_file_or_the_new_one(self, place: Place) -> None:
        bodies = {size: bytes([size % 251]) * size for size in (3_000_000, 2_000_000, 1_000_000)}
        await place.site.put("f", bodies[1_000_000], served=BLOB)
        over = asyncio.Event()

        async def watch() -> int:
            seen = 0
            while not over.is_set():
                body = (await place.other.get("f")).body
                assert body == bodies[len(body)]
                seen += 1
            return seen

        watcher = asyncio.create_task(watch())
        for turn in range(place.rounds(30)):
            await place.site.put("f", list(bodies.values())[turn % 3], served=BLOB)
        over.set()
        assert await watcher > 0

    # Conditions

    async def test_conditions_hold(self, site: SiteStore) -> None:
        with pytest.raises(PreconditionFailed):
            await site.put("a", b"0", served=BLOB, condition=IfMatch("x"))
        first = await site.put("a", b"1", served=BLOB, condition=IF_ABSENT)
        with pytest.raises(PreconditionFailed):
            await site.put("a", b"2", served=BLOB, condition=IF_ABSENT)
        second = await site.put("a", b"3", served=BLOB, condition=IfMatch(first))
        with pytest.raises(PreconditionFailed):
            await site.put("a", b"4", served=BLOB, condition=IfMatch(first))
        assert (await site.get("a")).body == b"3"
        assert (await site.head("a")).etag == second
        assert site.conditional

    async def test_one_of_many_creators_wins(self, place: Place) -> None:
        for turn in range(place.rounds(20)):
            bodies = [f"{turn} {index}".encode() for index in range(8)]
            won = await winners(
                (place.site if index % 2 else place.other).put(f"race/{turn}", body, served=BLOB, condition=IF_ABSENT)
                for index, body in enumerate(bodies)
            )
            assert len(won) == 1
            assert (await place.site.head(f"race/{turn}")).etag == won[0]

    async def test_no_change_of_many_is_lost(self, place: Place) -> None:
        """As the document of a site is changed: read, changed, written where it is still what was read."""
        await place.site.put("sum", b"0 -", served=BLOB)
        turns = place.rounds(25)

        async def add(site: SiteStore, name: str) -> None:
            for turn in range(turns):
                while True:
                    found = await site.get("sum")
                    value = int(found.body.split()[0]) + 1
                    body = f"{value} {name}{turn}".encode()
                    try:
                        await site.put("sum", body, served=BLOB, condition=IfMatch(found.file.etag))
                    except PreconditionFailed:
                        continue
                    break

        await asyncio.gather(add(place.site, "a"), add(place.other, "b"), add(place.other, "c"))
        assert int((await place.site.get("sum")).body.split()[0]) == 3 * turns

    # Parts

    async def test_parts_come_in_any_order(self, place: Place) -> None:
        body = os.urandom(2 * place.min_part + 7)
        upload = await place.site.begin("v2/a/blobs/x", size=len(body), served=BLOB, part_size=place.min_part)
        assert upload.part_size == place.min_part
        pieces = cut_up(body, upload.part_size)
        assert len(pieces) <= upload.max_parts
        await asyncio.gather(upload.put(3, pieces[2]), upload.put(1, memoryview(pieces[0])))
        assert await paths_of(place.site) == []
        with pytest.raises(InvalidPart):
            await upload.complete()
        await upload.put(2, bytearray(pieces[1]))
        await upload.put(3, pieces[2])
        with pytest.raises(NotFound):
            await place.site.head("v2/a/blobs/x")
        await upload.complete()
        assert (await place.site.get("v2/a/blobs/x", limit=2**30)).body == body
        await upload.abort()
        assert await paths_of(place.site) == ["v2/a/blobs/x"]
        assert (await place.site.head("v2/a/blobs/x")).served == (BLOB if place.site.keeps_headers else None)
        assert place.leftovers() == []

    async def test_parts_replace_a_file_at_once(self, place: Place) -> None:
        await place.site.put("x", b"old", served=MANIFEST)
        upload = await place.site.begin("x", size=3, served=BLOB)
        await upload.put(1, b"new")
        assert (await place.site.get("x")).body == b"old"
        await upload.complete()
        assert (await place.site.get("x")).body == b"new"

    async def test_an_aborted_upload_leaves_nothing(self, place: Place) -> None:
        upload = await place.site.begin("v2/a/blobs/x", size=place.min_part + 1, served=BLOB, part_size=place.min_part)
        await upload.put(1, bytes(place.min_part))
        assert len(place.leftovers()) == 1
        await upload.abort()
        await upload.abort()
        assert await paths_of(place.site) == []
        assert place.leftovers() == []

    async def test_parts_that_do_not_fit_are_refused(self, place: Place) -> None:
        upload = await place.site.begin("x", size=place.min_part + 3, served=BLOB, part_size=place.min_part)
        for number, size in ((0, 3), (3, 3), (1, 3), (2, 4), (2, 2)):
            with pytest.raises(ValueError):
                await upload.put(number, bytes(size))
        with pytest.raises(InvalidPart):
            await upload.complete()
        await upload.abort()

    async def test_an_empty_file_comes_in_parts_too(self, place: Place) -> None:
        for path, part in (("x", False), ("y", True)):
            upload = await place.site.begin(path, size=0, served=MANIFEST)
            if part:
                await upload.put(1, b"")
            await upload.complete()
            head = await place.site.head(path)
            assert head.size == 0
            assert head.served == (MANIFEST if place.site.keeps_headers else None)

    # Copies

    async def test_a_file_is_copied_within_the_site(self, site: SiteStore) -> None:
        source = f"v2/a/blobs/{DIGEST}"
        await site.put(source, b"12345", served=BLOB)
        for path in ("v2/b/c/blobs/x:1@y~z", "v2/b/c/blobs/x:1@y~z", source):
            assert await site.copy(source, path, size=5, served=MANIFEST)
            assert (await site.get(path)).body == b"12345"
            if site.keeps_headers:
                assert (await site.head(path)).served == MANIFEST
        # The copy is a file of its own.
        await site.put(source, b"other", served=BLOB)
        assert (await site.get("v2/b/c/blobs/x:1@y~z")).body == b"12345"
        await site.delete_many([source])
        assert (await site.get("v2/b/c/blobs/x:1@y~z")).body == b"12345"

    async def test_what_is_not_as_it_should_be_is_not_copied(self, place: Place) -> None:
        await place.site.put("a", b"12345", served=BLOB)
        await place.store.put("data/a", b"12345")
        assert not await place.site.copy("a", "b", size=4, served=BLOB)
        assert not await place.site.copy("c", "b", size=5, served=BLOB)
        assert not await place.site.copy_from(place.store, "data/a", "b", size=6, served=BLOB)
        assert not await place.site.copy_from(place.store, "data/b", "b", size=5, served=BLOB)
        assert await paths_of(place.site) == ["a"]
        assert place.leftovers() == []
        assert place.site.refusal is None

    async def test_an_object_of_the_store_is_taken(self, place: Place) -> None:
        await place.store.put("data/ab/x", b"12345")
        await place.site.put("v2/a/blobs/y:1", b"old", served=MANIFEST)
        assert await place.site.copy_from(place.store, "data/ab/x", "v2/a/blobs/y:1", size=5, served=BLOB)
        assert (await place.site.get("v2/a/blobs/y:1")).body == b"12345"
        assert (await place.site.head("v2/a/blobs/y:1")).served == (BLOB if place.site.keeps_headers else None)
        await place.store.delete("data/ab/x")
        assert (await place.site.get("v2/a/blobs/y:1")).body == b"12345"

    async def test_another_kind_of_store_has_to_be_read(self, site: SiteStore) -> None:
        memory = MemoryStore()
        await memory.put("data/a", b"12345")
        assert not await site.copy_from(memory, "data/a", "a", size=5, served=BLOB)
        assert site.refusal is None

    async def test_twins_are_for_places_that_keep_no_headers(self, place: Place) -> None:
        site = place.site
        await site.put("v2/a/manifests/x", b"1", served=MANIFEST)
        if site.keeps_headers:
            with pytest.raises(Unsupported):
                await site.twin("v2/a/manifests/x", "v2/a/manifests/~/x.oci-index")
            return
        for _ in range(2):
            await site.twin("v2/a/manifests/x", "v2/a/manifests/~/x.oci-index")
            assert (await site.get("v2/a/manifests/~/x.oci-index")).body == b"1"
        await site.put("v2/a/manifests/x", b"2", served=MANIFEST)
        assert (await site.get("v2/a/manifests/~/x.oci-index")).body == b"1"
        await site.twin("v2/a/manifests/x", "v2/a/manifests/~/x.oci-index")
        assert (await site.get("v2/a/manifests/~/x.oci-index")).body == b"2"
        with pytest.raises(NotFound):
            await site.twin("nothing", "v2/a/manifests/~/y")
        assert place.leftovers() == []

    async def test_links_are_for_places_that_keep_no_headers(self, place: Place) -> None:
        site = place.site
        if site.keeps_headers:
            with pytest.raises(Unsupported):
                await site.point("v2/a/manifests/~/v1", "x", current=None)
            assert await site.pointed("v2/a/manifests/~/v1") is None
            return
        await site.put("v2/a/manifests/~/one/1", b"1", served=MANIFEST)
        await site.put("v2/a/manifests/~/two/2", b"2", served=MANIFEST)
        current: str | None = None
        for target in ("one", "two", "two", "gone"):
            await site.point("v2/a/manifests/~/v1", target, current=current)
            for other in {None, "one", "three", target} - {target}:
                with pytest.raises(PreconditionFailed):
                    await site.point("v2/a/manifests/~/v1", "three", current=other)
            assert await site.pointed("v2/a/manifests/~/v1") == target
            current = target
            listed = {file.path: file async for file in site.list("")}
            assert set(listed) == {f"v2/a/manifests/~/{name}" for name in ("one/1", "two/2", "v1")}
            assert (listed["v2/a/manifests/~/v1"].size, listed["v2/a/manifests/~/v1"].etag) == (0, pointer(target))
            with pytest.raises(NotFound):
                await site.get("v2/a/manifests/~/v1")
        with pytest.raises(PathTaken):
            await site.point("v2/a/manifests/~/one", "two", current=None)
        assert await site.pointed("v2/a/manifests/~/one") is None
        for target in ("", ".", "..", "a/b", "/a", ".bucketry-tmp"):
            with pytest.raises(ValueError):
                await site.point("v2/a/manifests/~/v1", target, current="gone")
        await site.delete_many(["v2/a/manifests/~/v1"])
        assert sorted(await paths_of(site)) == ["v2/a/manifests/~/one/1", "v2/a/manifests/~/two/2"]
        assert place.leftovers() == []

    # Lists and deletions

    async def test_long_lists_are_whole(self, place: Place) -> None:
        paths = {f"v2/many/blobs/sha256:{index:04x}" for index in range(1005)}
        paths |= {"v2/many.x/tags/list", "v2/many-x/tags/list", "v2/many/x/tags/list", "v2/many/manifests/1"}
        await bounded(place.site.put(path, b"x", served=BLOB) for path in paths)
        assert sorted(await paths_of(place.site)) == sorted(paths)
        below = sorted(path for path in paths if path.startswith("v2/many/"))
        assert sorted(await paths_of(place.site, "v2/many/")) == below
        await place.site.delete_many(sorted(paths))
        assert await paths_of(place.site) == []

    async def test_what_is_deleted_is_gone_and_the_rest_is_there(self, site: SiteStore) -> None:
        for path in ("a/b/c/1", "a/b/c/2", "a/b/3", "d"):
            await site.put(path, b"x", served=BLOB)
        await site.delete_many(["a/b/c/1", "a/b/c/2", "a/b/c/1", "nothing", "a", "a/b", "d/e"])
        assert sorted(await paths_of(site)) == ["a/b/3", "d"]
        await site.delete_many(["a/b/3"])
        assert await paths_of(site) == ["d"]
        await site.delete_many([])
        await site.delete_many(["d"])
        await site.put("a", b"now a file", served=BLOB)
        assert await paths_of(site) == ["a"]

    async def test_folders_come_and_go_while_files_are_written(self, place: Place) -> None:
        async def come_and_go(site: SiteStore, name: str) -> None:
            for turn in range(place.rounds(40)):
                path = f"v2/a/b/c/{name}{turn}"
                await site.put(path, b"x", served=BLOB)
                await site.delete_many([path])

        await asyncio.gather(*(come_and_go(place.site if i % 2 else place.other, f"n{i}-") for i in range(6)))
        assert await paths_of(place.site) == []

    # Arguments

    @pytest.mark.parametrize(
        "path", ["", "/a", "a/", "a//b", "a/../b", "..", ".", "a/.", "a b", "ä", "a\n", ".bucketry-tmp/x", "a" * 901]
    )
    async def test_what_is_no_path_is_refused(self, site: SiteStore, place: Place, path: str) -> None:
        with pytest.raises(ValueError):
            await site.put(path, b"x", served=BLOB)
        with pytest.raises(ValueError):
            await site.begin(path, size=1, served=BLOB)
        with pytest.raises(ValueError):
            await site.get(path)
        with pytest.raises(ValueError):
            await site.head(path)
        with pytest.raises(ValueError):
            await read(site, path)
        with pytest.raises(ValueError):
            await site.delete_many(["a", path])
        with pytest.raises(ValueError):
            await site.copy(path, "a", size=1, served=BLOB)
        with pytest.raises(ValueError):
            await site.copy("a", path, size=1, served=BLOB)
        with pytest.raises(ValueError):
            await site.copy_from(place.store, "data/a", path, size=1, served=BLOB)

    async def test_what_is_no_prefix_is_refused(self, site: SiteStore) -> None:
        for prefix in ("a", "/", "../", "a//"):
            with pytest.raises(ValueError):
                await paths_of(site, prefix)

    @pytest.mark.parametrize(
        "served", [Served(""), Served("a/b\r\nx: y"), Served("a/b", ""), Served("a/b", "public\n"), Served("ä/b")]
    )
    async def test_headers_that_are_none_are_refused(self, site: SiteStore, served: Served) -> None:
        with pytest.raises(ValueError):
            await site.put("a", b"x", served=served)
        with pytest.raises(ValueError):
            await site.begin("a", size=1, served=served)
        with pytest.raises(ValueError):
            await site.copy("a", "b", size=1, served=served)
