"""`bucketry-site.json` is changed by one at a time, read with care, and never by a bucketry that does not know it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import msgspec
import pytest
from tests.support.sites import MemorySite, SiteDisk
from tests.unit.transfer.fakes import descriptor

from bucketry.oci import Digest
from bucketry.transfer.errors import Refused
from bucketry.transfer.site import state as state_module
from bucketry.transfer.site.state import Entry, Overtaken, PlatformSize, Repository, State, StateFile, decode, encode

DIGEST = str(Digest.of(b"manifest"))
ENTRY = Entry(DIGEST, "application/vnd.oci.image.index.v1+json", 10, 1.5, (PlatformSize("linux/amd64", DIGEST, 4),))
FULL = State(
    format=1,
    created=1.0,
    nonce="n",
    repositories={
        "team/app": Repository(
            {"v1": ENTRY},
            {DIGEST: ENTRY},
            {DIGEST: (descriptor(b"signature", "application/vnd.oci.image.manifest.v1+json"),)},
        ),
        "filled": Repository(referrers={DIGEST: ()}),
    },
    pending={"team/app:v1": 2.0},
    leaving={f"v2/app/blobs/{DIGEST}": 3.0},
    going={f"v2/app/manifests/{DIGEST}": 4.0},
    removals=5,
)


def ids() -> Callable[[], str]:
    numbers = count()
    return lambda: f"id-{next(numbers)}"


def test_it_is_read_as_it_was_written() -> None:
    assert decode(encode(FULL), "state") == FULL


def test_it_is_json_that_people_can_read() -> None:
    document = json.loads(encode(FULL))
    entry = document["repositories"]["team/app"]["tags"]["v1"]
    assert entry == {
        "digest": DIGEST,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "size": 10,
        "updated": 1.5,
        "platforms": [{"platform": "linux/amd64", "digest": DIGEST, "size": 4}],
    }
    assert encode(FULL).count(b"\n") > 10


def test_what_lists_name_has_something_published() -> None:
    assert FULL.names() == ["team/app"]
    assert FULL.tag("team/app", "v1") == ENTRY
    assert FULL.tag("team/app", "v2") is None
    assert FULL.tag("nothing", "v1") is None
    assert FULL.referrers("nothing", Digest.parse(DIGEST)) == ()


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(Refused, match=r"s3://b: bucketry-site\.json has format 2.*use a newer bucketry"):
        decode(b'{"format": 2, "repositories": [1]}', "s3://b: bucketry-site.json")


@pytest.mark.parametrize(
    "change",
    [
        {"repositories": {"../etc": Repository()}},
        {"repositories": {"app": Repository({"a/b": ENTRY})}},
        {"repositories": {"app": Repository({"v1": msgspec.structs.replace(ENTRY, digest="sha256:../../x")})}},
        {"repositories": {"app": Repository(digests={"v1": ENTRY})}},
        {"repositories": {"app": Repository(referrers={"x": ()})}},
        {"leaving": {"index.html": 1.0}},
        {"leaving": {"v2/app/blobs/../../index.html": 1.0}},
        {"going": {"bucketry-site.json": 1.0}},
        {"pending": {"v1": 1.0}},
        {"pending": {"app:../v1": 1.0}},
        {"format": 0},
        {"repositories": {"app": Repository({"v1": msgspec.structs.replace(ENTRY, media_type="text/html\r\nX: y")})}},
        {"repositories": {"app": Repository({"v1": msgspec.structs.replace(ENTRY, updated=1e300)})}},
        {"repositories": {"app": Repository({"v1": msgspec.structs.replace(ENTRY, updated=-1.0)})}},
    ],
    ids=str,
)
def test_what_would_be_acted_on_and_shown_is_checked(change: dict[str, object]) -> None:
    with pytest.raises(Refused, match="not what bucketry wrote"):
        decode(encode(msgspec.structs.replace(FULL, **change)), "state")


DEEP = b'{"format":1,"created":1,"nonce":"n","more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"format":1}', b'{"format":"1"}', b"\xff", DEEP])
def test_what_is_no_state_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match="not what bucketry wrote"):
        decode(body, "state")


async def test_what_nobody_could_read_again_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    site = MemorySite()
    file = StateFile(site, ids=ids())
    held = await file.create(1.0)
    monkeypatch.setattr(state_module, "LIMIT", 2000)
    many = Repository({f"v{number}": ENTRY for number in range(20)})
    with pytest.raises(Refused, match="the most is 2,000"):
        await file.swap(held, msgspec.structs.replace(held.state, repositories={"app": many}))
    found = await file.read()
    assert found is not None
    assert found.state == held.state


async def test_of_many_changes_none_is_lost() -> None:
    disk, tokens = SiteDisk(), ids()
    first = StateFile(MemorySite(disk), ids=tokens)
    held = await first.create(1.0)

    async def add(number: int) -> None:
        file = StateFile(MemorySite(disk), ids=tokens)

        def apply(state: State) -> State:
            repositories = {**state.repositories, f"app{number}": Repository({"v1": ENTRY})}
            return msgspec.structs.replace(state, repositories=repositories)

        await file.change(held, apply)

    await asyncio.gather(*map(add, range(20)))

    found = await first.read()
    assert found is not None
    assert found.state.names() == sorted(f"app{number}" for number in range(20))


async def test_of_several_that_make_a_site_one_does() -> None:
    disk, tokens = SiteDisk(), ids()
    made = await asyncio.gather(*(StateFile(MemorySite(disk), ids=tokens).create(float(n)) for n in range(5)))
    assert len({held.state.nonce for held in made}) == 1
    assert len({held.etag for held in made}) == 1


async def test_what_changes_nothing_asks_nothing() -> None:
    site = MemorySite()
    file = StateFile(site, ids=ids())
    held = await file.create(1.0)
    site.log.clear()
    assert await file.change(held, lambda state: state) is held
    assert site.log == []


async def test_a_swap_is_of_the_very_state(tmp_path: Path) -> None:
    site = MemorySite()
    file = StateFile(site, ids=ids())
    held = await file.create(1.0)
    changed = msgspec.structs.replace(held.state, removals=1)
    again = await file.swap(held, changed)
    assert again.state.nonce != held.state.nonce
    with pytest.raises(Overtaken):
        await file.swap(held, changed)


async def test_a_state_that_vanishes_is_said() -> None:
    site = MemorySite()
    file = StateFile(site, ids=ids())
    held = await file.create(1.0)
    await site.delete_many(["bucketry-site.json"])
    assert await file.read() is None
    with pytest.raises(Refused, match="deleted meanwhile"):
        await file.change(held, lambda state: msgspec.structs.replace(state, removals=state.removals + 1))
