"""Uploads in parts from their beginning to their end, against a registry that follows RFC 3."""

from __future__ import annotations

import asyncio
import base64
import json

import msgspec
import pytest
from aiohttp import web
from tests.unit.transfer.remote.conftest import Clock
from tests.unit.transfer.remote.parts_registry import (
    BASE,
    DATA,
    DIGEST,
    DISCOVERED,
    OPENED,
    PART,
    SESSION,
    UPLOAD,
    Registry,
    begun,
    json_answer,
    send,
    unheard,
)
from tests.unit.transfer.remote.scripted import Scripted, challenge, error
from tests.unit.transfer.remote.test_extension_checkpoints import CHECKPOINTS, described, listed

from bucketry import hashing
from bucketry.hashing import Checkpoints
from bucketry.transfer import wire
from bucketry.transfer.errors import ContentMismatch, NotAuthenticated, Refused, TransferError, Unreachable
from bucketry.transfer.remote import RemoteRepository
from bucketry.transfer.remote.credentials import Credentials
from bucketry.transfer.remote.extension import STANDSTILL

# Whether there is one


async def test_the_extension_is_asked_for_once(registry: Registry, repository: RemoteRepository) -> None:
    assert await asyncio.gather(*(repository.takes_parts() for _ in range(5))) == [True] * 5
    assert len(registry.server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=404),
        lambda: web.Response(status=500),
        lambda: web.Response(body=b"<html>"),
        lambda: web.Response(body=b"[" * 100_000),
        lambda: json_answer({"extensions": []}),
        lambda: json_answer({"extensions": [{"name": "_other", "description": "", "url": "", "endpoints": []}]}),
        lambda: json_answer({}),
        lambda: web.Response(status=302, headers={"Location": "javascript:"}),
    ],
)
async def test_whatever_else_a_registry_says_means_no(
    server: Scripted, repository: RemoteRepository, answer: object
) -> None:
    path = f"/v2/{wire.DISCOVER}"
    server.on("GET", path, answer)  # type: ignore[arg-type]

    assert not await repository.takes_parts()
    assert not await repository.takes_parts()

    assert len(server.requests("GET", path)) == 1


async def test_what_a_registry_that_is_down_takes_is_not_known(server: Scripted, repository: RemoteRepository) -> None:
    await server.stop()

    with pytest.raises(Unreachable):
        await repository.takes_parts()


async def test_who_is_not_let_in_at_the_door_is_told_so(server: Scripted, repository: RemoteRepository) -> None:
    server.on("GET", f"/v2/{wire.DISCOVER}", lambda: challenge("Basic realm=x"))
    server.on("GET", "/v2/", lambda: challenge("Basic realm=x"))

    with pytest.raises(NotAuthenticated):
        await repository.takes_parts()


# Beginning, and going on


async def test_an_upload_begins(registry: Registry, repository: RemoteRepository) -> None:
    upload = await repository.begin(digest=DIGEST, size=len(DATA), part_size=2000)

    assert upload is not None
    assert (upload.session, upload.part_size, upload.max_parts) == (SESSION, PART, 10_000)
    [asked] = registry.server.asked
    assert asked.json() == {"digest": str(DIGEST), "size": len(DATA), "partSize": 2000}
    assert asked.headers["Content-Type"] == wire.UPLOAD_TYPE


async def test_neither_digest_nor_size_need_be_known(registry: Registry, repository: RemoteRepository) -> None:
    assert await repository.begin() is not None
    assert registry.server.asked[0].json() == {}


async def test_what_is_there_is_not_sent(registry: Registry, repository: RemoteRepository) -> None:
    present = {"state": "present", "digest": str(DIGEST), "size": len(DATA)}
    registry.server.on("POST", f"{BASE}/uploads", lambda: json_answer(present))

    assert await repository.begin(digest=DIGEST, size=len(DATA)) is None


@pytest.mark.parametrize(
    "change", [{"session": "a/b"}, {"session": ""}, {"partSize": 0}, {"maxParts": 0}, {"partSize": "x"}, {"session": 1}]
)
async def test_a_session_that_cannot_be_is_refused(
    registry: Registry, repository: RemoteRepository, change: dict[str, object]
) -> None:
    registry.server.on("POST", f"{BASE}/uploads", lambda: json_answer({**OPENED, **change}, 201))

    with pytest.raises(Refused, match="beginning an upload to team/app"):
        await repository.begin()


async def test_an_upload_goes_on_in_another_process(registry: Registry, repository: RemoteRepository) -> None:
    await send(await begun(repository), 1, 3)

    upload = await repository.resume(SESSION)

    assert upload is not None
    assert upload.part_size == PART
    assert await upload.sent() == {1: PART, 3: PART}
    await send(upload, 2)
    assert await upload.sent() == {1: PART, 2: PART, 3: PART}


@pytest.mark.parametrize("state", ["done", "failed"])
async def test_an_upload_that_has_ended_does_not_go_on(
    registry: Registry, repository: RemoteRepository, state: str
) -> None:
    registry.server.on("GET", UPLOAD, lambda: json_answer({"state": state, "partSize": PART}))
    assert await repository.resume(SESSION) is None
    registry.server.on("GET", UPLOAD, lambda: error(404, "BLOB_UPLOAD_UNKNOWN", "the upload has ended"))
    assert await repository.resume(SESSION) is None


@pytest.mark.parametrize("text", ["", "../../v2/", "a/b", "a?b", "x" * 2000, "ü"])
async def test_what_is_no_session_is_not_asked_for(registry: Registry, repository: RemoteRepository, text: str) -> None:
    assert await repository.resume(text) is None
    assert registry.server.asked == []


# Completing


async def test_completing_sends_digest_size_and_checkpoints(registry: Registry, repository: RemoteRepository) -> None:
    hasher = hashing.NotingHasher(hashing.new("sha256"), 64)
    hasher.update(DATA)
    checkpoints = hasher.checkpoints()
    heard: list[int] = []
    upload = await begun(repository)

    await upload.complete(DIGEST, len(DATA), checkpoints, verified=heard.append)

    [asked] = registry.completes
    assert (asked["digest"], asked["size"]) == (str(DIGEST), len(DATA))
    if checkpoints is not None:
        assert Checkpoints.parse(base64.b64decode(asked["checkpoints"])) == checkpoints
    assert heard == [len(DATA)]


async def test_completing_asks_again_until_it_is_done(
    registry: Registry, repository: RemoteRepository, clock: Clock
) -> None:
    registry.polls = 3
    heard: list[int] = []
    upload = await begun(repository)

    await upload.complete(DIGEST, len(DATA), None, verified=heard.append)

    assert heard == [1000, 2000, 3000, len(DATA)]
    assert clock.slept == [3.0, 3.0, 3.0]
    assert len(registry.completes) == 4
    assert {json.dumps(each) for each in registry.completes} == {json.dumps({"digest": str(DIGEST), "size": len(DATA)})}


async def test_verification_that_stands_still_is_given_up(
    registry: Registry, repository: RemoteRepository, clock: Clock
) -> None:
    registry.server.on(
        "POST",
        f"{UPLOAD}/complete",
        lambda: json_answer({"state": "verifying", "verified": 7}, 202, {"Retry-After": "60"}),
    )
    upload = await begun(repository)

    with pytest.raises(Unreachable, match="stands still"):
        await upload.complete(DIGEST, len(DATA), None, verified=unheard)

    assert STANDSTILL <= sum(clock.slept) <= STANDSTILL + 120


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            lambda: error(400, "DIGEST_INVALID", "another digest", detail={"segments": [1]}),
            ContentMismatch,
            "another digest",
        ),
        (
            lambda: error(400, "BLOB_UPLOAD_INVALID", "parts", detail={"missing": [3, 7]}),
            Unreachable,
            "parts are missing (3, 7)",
        ),
        (
            lambda: error(400, "SIZE_INVALID", "parts", detail={"parts": [2]}),
            Unreachable,
            "parts have another size (2)",
        ),
        (lambda: json_answer({"state": "failed", "error": "it\x1b broke"}, 202), ContentMismatch, "it broke"),
        (lambda: error(503, "UNAVAILABLE", "later", headers={"Retry-After": "9"}), Unreachable, "later"),
        (lambda: error(400, "BLOB_UPLOAD_INVALID", "no"), Refused, "no"),
        (lambda: web.Response(status=202, body=b"<html>"), Refused, "not understood"),
    ],
)
async def test_what_goes_wrong_at_the_end_is_told_apart(
    registry: Registry, repository: RemoteRepository, answer: object, kind: type[TransferError], words: str
) -> None:
    upload = await begun(repository)
    registry.server.on("POST", f"{UPLOAD}/complete", answer)  # type: ignore[arg-type]

    with pytest.raises(TransferError) as caught:
        await upload.complete(DIGEST, len(DATA), None, verified=unheard)

    assert type(caught.value) is kind
    assert words in str(caught.value)


async def test_an_upload_is_given_up(registry: Registry, repository: RemoteRepository) -> None:
    upload = await begun(repository)
    await upload.cancel()
    assert len(registry.server.requests("DELETE", UPLOAD)) == 1

    registry.server.on("DELETE", UPLOAD, lambda: error(500, "UNKNOWN", "no"))
    with pytest.raises(Unreachable):
        await upload.cancel()


async def test_wrong_credentials_are_said_at_the_beginning(
    registry: Registry, repository: RemoteRepository, login: Credentials
) -> None:
    registry.server.on("POST", f"{BASE}/uploads", lambda: challenge("Basic realm=x"))

    with pytest.raises(NotAuthenticated, match="wrong credentials"):
        await repository.begin()


# Checkpoints


def test_the_script_says_what_the_wire_says() -> None:
    """The scripted registry of these tests speaks the same format as the real one."""
    assert msgspec.convert(OPENED, wire.Opened).session == SESSION
    assert msgspec.convert(DISCOVERED, wire.Extensions).extensions[1].name == wire.NAME


async def test_a_site_that_has_checkpoints_alone_is_read_and_takes_no_parts(
    registry: Registry, repository: RemoteRepository
) -> None:
    named = {"name": "_bucketry", "description": "", "url": "", "endpoints": ["_bucketry/checkpoints"]}
    registry.server.on("GET", "/v2/_oci/ext/discover", lambda: json_answer({"extensions": [named]}))
    registry.server.on("GET", CHECKPOINTS, lambda: web.Response(body=listed(), content_type=wire.CHECKPOINTS_TYPE))

    assert await repository.blob(described()).checkpoints() == Checkpoints.parse(listed())
    assert not await repository.takes_parts()
