"""Foreign keys: what another program wrote is read and listed, and never touched."""

from __future__ import annotations

import asyncio

import pytest
from tests.store.backends import Backend
from tests.store.helpers import bounded, keys_of, list_all, read_all

from bucketry.store.contract import FOREIGN_PREFIX, IF_ABSENT, OCTET_STREAM, Corrupt, IfMatch, NotFound, Part, Store

HEX = "ab" * 32
DATA = f"{FOREIGN_PREFIX}blobs/sha256/ab/{HEX}/data"
REPOSITORIES = f"{FOREIGN_PREFIX}repositories/"

TREE = [
    DATA,
    f"{REPOSITORIES}a/_layers/sha256/{HEX}/link",
    f"{REPOSITORIES}a/_manifests/revisions/sha256/{HEX}/link",
    f"{REPOSITORIES}a/_manifests/tags/V1.0/current/link",
    f"{REPOSITORIES}a/_manifests/tags/V1.0/index/sha256/{HEX}/link",
    f"{REPOSITORIES}a/_manifests/tags/{'X' * 128}/current/link",
    f"{REPOSITORIES}a/_manifests/tags/_~x/current/link",
    f"{REPOSITORIES}a/_manifests/tags/a.b/current/link",
    f"{REPOSITORIES}a/_manifests/tags/v1.0/current/link",
    f"{REPOSITORIES}a/_uploads/0b5/startedat",
    f"{REPOSITORIES}a/b/_layers/sha256/{HEX}/link",
    f"{REPOSITORIES}a/b/c/_layers/sha256/{HEX}/link",
    f"{REPOSITORIES}a-b/_layers/sha256/{HEX}/link",
    f"{REPOSITORIES}a.b/.hidden/link",
    f"{REPOSITORIES}a0/_layers/sha256/{HEX}/link",
]
OWN = [
    "bucketry.json",
    "docker/a",
    "docker/registry/v1/x",
    "docker/registry/v2-x",
    "docker/registry/v3/X",
    "repos/a/~tags/V1.0",
]


class Foreign:
    async def test_plain_bytes_of_another_program_are_read(self, store: Store, backend: Backend) -> None:
        garden = backend.garden(store)
        body = bytes(range(256)) * 8192  # of more than one piece
        await garden.plant(DATA, body)

        info = await store.head(DATA)

        assert (info.key, info.size, info.content_type, info.metadata) == (DATA, len(body), OCTET_STREAM, {})
        found = await store.get(DATA)
        assert (found.body, found.info) == (body, info)
        assert await read_all(store, DATA) == body
        assert await read_all(store, DATA, 100, 300) == body[100:300]
        assert await read_all(store, DATA, len(body) - 5, len(body) + 5) == body[-5:]
        assert await read_all(store, DATA, len(body)) == b""
        with pytest.raises(Corrupt):
            await store.get(DATA, limit=len(body) - 1)
        [listed] = (await store.list(FOREIGN_PREFIX)).objects
        assert (listed.key, listed.size, listed.etag) == (DATA, len(body), info.etag)
        assert abs(listed.modified - info.modified) < 1.5

    @pytest.mark.parametrize("body", [b"", b"x", b'bucketry-object-1 {"etag":"0","size":1,"modified":0}\nx'])
    async def test_the_bytes_are_what_they_are(self, store: Store, backend: Backend, body: bytes) -> None:
        await backend.garden(store).plant(DATA, body)
        assert (await store.get(DATA)).body == body
        assert (await store.head(DATA)).size == len(body)
        assert await read_all(store, DATA) == body

    async def test_a_foreign_key_of_nothing_is_not_found(self, store: Store, backend: Backend) -> None:
        await backend.garden(store).plant(DATA, b"x")
        folder = DATA.removesuffix("/data")
        for key in (f"{folder}/other", folder, f"{DATA}/below", f"{REPOSITORIES}x", f"{FOREIGN_PREFIX}{'n' * 300}/x"):
            with pytest.raises(NotFound):
                await store.head(key)
            with pytest.raises(NotFound):
                await store.get(key)
            with pytest.raises(NotFound):
                await read_all(store, key)
        for prefix in (f"{folder}/x/", f"{DATA}/", REPOSITORIES, f"{FOREIGN_PREFIX}{'n' * 300}/"):
            page = await store.list(prefix)
            assert (page.objects, page.more) == ((), False)

    async def test_nothing_is_written_or_removed(self, store: Store, backend: Backend) -> None:
        await backend.garden(store).plant(DATA, b"theirs")
        before = await store.head(DATA)
        await store.put("own", b"x")
        for key in (DATA, f"{FOREIGN_PREFIX}new"):
            for condition in (None, IF_ABSENT, IfMatch(before.etag)):
                with pytest.raises(ValueError, match="another program"):
                    await store.put(key, b"ours", condition=condition)
            for only in (None, IfMatch(before.etag)):
                with pytest.raises(ValueError, match="another program"):
                    await store.delete(key, condition=only)
            with pytest.raises(ValueError, match="another program"):
                await store.delete_many(["own", key])
            with pytest.raises(ValueError):
                await store.create_multipart(key, part_size=backend.min_part)
            with pytest.raises(ValueError):
                await store.put_part(key, "0" * 32, 1, b"ours", offset=0)
            with pytest.raises(ValueError):
                await store.list_parts(key, "0" * 32)
            with pytest.raises(ValueError):
                await store.complete_multipart(key, "0" * 32, [Part(1, 4, "x")])
            with pytest.raises(ValueError):
                await store.abort_multipart(key, "0" * 32)
            with pytest.raises(ValueError):
                await store.presign_put(key, size=4, sha256=bytes(32), expires=60)
            with pytest.raises(ValueError):
                await store.presign_part(key, "0" * 32, 1, expires=60)

        assert await keys_of(store, FOREIGN_PREFIX) == [DATA]
        assert await store.head(DATA) == before
        assert (await store.get(DATA)).body == b"theirs"
        assert (await store.get("own")).body == b"x"  # Nothing was removed with the one that may not be.

    async def test_names_are_what_they_are(self, store: Store, backend: Backend) -> None:
        garden = backend.garden(store)
        await bounded(garden.plant(key, key.encode()) for key in TREE)
        assert sorted(await keys_of(store, FOREIGN_PREFIX)) == sorted(TREE)
        for key in TREE:
            assert (await store.get(key)).body == key.encode()

    async def test_lists_above_and_below_are_one_order_on_every_page(self, store: Store, backend: Backend) -> None:
        garden = backend.garden(store)
        await bounded(garden.plant(key, b"x") for key in TREE)
        await bounded(store.put(key, b"x") for key in OWN)
        everything = await keys_of(store, "")
        assert sorted(everything) == sorted([*TREE, *OWN])
        if backend.byte_order:
            assert everything == sorted(everything)
        for prefix in ("", "docker/", "docker/registry/", FOREIGN_PREFIX, REPOSITORIES, f"{REPOSITORIES}a/"):
            expected = [key for key in everything if key.startswith(prefix)]
            for limit in (1, 4, 1000):
                assert await keys_of(store, prefix, limit=limit) == expected
        for index, key in enumerate(everything):
            page = await store.list("", after=key)
            assert [listed.key for listed in page.objects] == everything[index + 1 :]

    async def test_a_deep_tree_of_many_pages_has_each_key_once(self, store: Store, backend: Backend) -> None:
        garden = backend.garden(store)
        digests = [f"{index * 2654435761 % 2**32:08x}" * 8 for index in range(220)]
        below = [f"_layers/sha256/{digest}/link" for digest in digests]
        below += [f"_manifests/revisions/sha256/{digest}/link" for digest in digests[:60]]
        below += [f"_manifests/tags/V{index}/current/link" for index in range(60)]
        keys = [f"{REPOSITORIES}{name}/{each}" for name in ("a", "a/b", "a-b", "a/b/c") for each in below]
        assert len(keys) > 1000
        await bounded((garden.plant(key, b"") for key in keys), at_once=64)
        for limit in (1000, 300):
            found = await keys_of(store, REPOSITORIES, limit=limit)
            assert len(found) == len(keys)
            assert set(found) == set(keys)
            if backend.byte_order:
                assert found == sorted(keys)
        some = [key for key in keys if key.startswith(f"{REPOSITORIES}a/b/")]
        assert sorted(await keys_of(store, f"{REPOSITORIES}a/b/", limit=77)) == sorted(some)

    async def test_what_changes_and_vanishes_is_seen(self, store: Store, backend: Backend) -> None:
        garden = backend.garden(store)
        await garden.plant(DATA, b"one")
        first = await store.head(DATA)
        await garden.plant(DATA, b"another")
        second = await store.get(DATA)
        assert second.body == b"another"
        assert second.info.etag != first.etag
        await garden.uproot(DATA)
        assert (await store.list("")).objects == ()
        with pytest.raises(NotFound):
            await store.get(DATA)

    async def test_foreign_keys_that_stay_are_listed_whole_while_others_come_and_go(
        self, store: Store, backend: Backend
    ) -> None:
        garden = backend.garden(store)
        stays = [f"{REPOSITORIES}r/{index:03}/link" for index in range(0, 40, 2)]
        await bounded(garden.plant(key, b"x") for key in stays)
        done = asyncio.Event()

        async def churn() -> None:
            comes = [f"{REPOSITORIES}r/{index:03}/link" for index in range(1, 40, 2)]
            for _ in range(backend.rounds(10)):
                await bounded(garden.plant(key, b"x") for key in comes)
                await bounded(garden.uproot(key) for key in comes)
            done.set()

        async def watch() -> None:
            while not done.is_set():
                keys = [listed.key for listed in await list_all(store, FOREIGN_PREFIX, limit=7)]
                assert len(keys) == len(set(keys))
                assert set(stays) <= set(keys)

        await asyncio.gather(churn(), watch())
        assert await keys_of(store, REPOSITORIES) == stays
