"""A repository read and written, against registries of all kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web
from tests.unit.transfer.remote.conftest import NewServer
from tests.unit.transfer.remote.samples import (
    BASIC,
    BLOB,
    BLOB_PATH,
    BODY,
    LAYER,
    MANIFEST,
    TYPE,
    UPLOADS,
    TokenRegistry,
    manifest,
    pieces,
)
from tests.unit.transfer.remote.scripted import Asked, Scripted, challenge, error, redirect

from bucketry.oci import Descriptor, Digest, ImageReference, media_types
from bucketry.transfer.contract import RawManifest
from bucketry.transfer.errors import (
    ContentMismatch,
    ImageMissing,
    NotPermitted,
    Refused,
    SourceDamaged,
    Unreachable,
)
from bucketry.transfer.remote import RemoteRepository, Session
from bucketry.transfer.remote.credentials import Credentials

SUBJECT = Digest.of(b"subject")
FALLBACK = f"/v2/team/app/manifests/sha256-{SUBJECT.hex}"
REFERRERS = f"/v2/team/app/referrers/{SUBJECT}"


def index(*manifests: Descriptor) -> bytes:
    return msgspec.json.encode({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": manifests})


# Reading


async def test_a_manifest_is_the_exact_bytes_and_their_digest(server: Scripted, repository: RemoteRepository) -> None:
    server.on("GET", MANIFEST, manifest)
    server.on("GET", f"/v2/team/app/manifests/{Digest.of(BODY)}", manifest)

    by_name = await repository.manifest()
    by_digest = await repository.manifest(by_name.digest)

    assert by_name == by_digest == RawManifest(BODY, TYPE, Digest.of(BODY))
    accept = server.asked[0].headers["Accept"]
    for media_type in (*media_types.IMAGES, *media_types.INDEXES):
        assert media_type in accept


async def test_a_digest_in_the_reference_comes_before_its_tag(server: Scripted, session: Session) -> None:
    digest = Digest.of(BODY, "sha512")
    repository = RemoteRepository(session, ImageReference.parse(f"{server.host}/team/app:v1@{digest}"))
    server.on("GET", f"/v2/team/app/manifests/{digest}", manifest)

    assert (await repository.manifest()).digest == digest
    assert repository.name == f"{server.host}/team/app:v1@{digest}"
    assert repository.pull_command == f"docker pull {server.host}/team/app"


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream", None])
async def test_the_media_type_is_the_bodys_where_the_header_is_of_no_use(
    server: Scripted, repository: RemoteRepository, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    server.on("GET", MANIFEST, lambda: web.Response(body=BODY, headers=headers))

    assert (await repository.manifest()).media_type == TYPE


@pytest.mark.parametrize("body", [b"<html>", b"", b'{"schemaVersion": 1}'])
async def test_what_is_no_manifest_is_said_to_be_none(
    server: Scripted, repository: RemoteRepository, body: bytes
) -> None:
    server.on("GET", MANIFEST, lambda: web.Response(body=body, content_type="text/html"))

    with pytest.raises(SourceDamaged, match="reading team/app:v1"):
        await repository.manifest()


async def test_an_image_that_is_not_there_is_named(server: Scripted, repository: RemoteRepository) -> None:
    server.on("GET", MANIFEST, lambda: error(404, "MANIFEST_UNKNOWN", "no such tag"))

    with pytest.raises(ImageMissing, match=rf"{server.host}: reading team/app:v1: not found \(no such tag\)"):
        await repository.manifest()


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [(429, {"Retry-After": "12"}, 12.0), (503, {}, None), (500, {}, None), (503, {"Retry-After": "999999"}, 3600.0)],
)
async def test_later_is_told_apart_from_no(
    server: Scripted, repository: RemoteRepository, status: int, headers: dict[str, str], seconds: float | None
) -> None:
    server.on("GET", MANIFEST, lambda: error(status, "TOOMANYREQUESTS", "slow down", headers=headers))

    with pytest.raises(Unreachable, match="slow down") as caught:
        await repository.manifest()

    assert caught.value.retry_after == seconds


async def test_a_date_in_retry_after_is_seconds_from_the_others_now(
    server: Scripted, repository: RemoteRepository
) -> None:
    headers = {"Date": "Tue, 24 Nov 2026 10:00:00 GMT", "Retry-After": "Tue, 24 Nov 2026 10:00:30 GMT"}
    server.on("GET", MANIFEST, lambda: error(503, "UNAVAILABLE", "later", headers=headers))

    with pytest.raises(Unreachable) as caught:
        await repository.manifest()

    assert caught.value.retry_after == 30


async def test_tags_of_all_pages_are_in_order(server: Scripted, repository: RemoteRepository) -> None:
    def tags(asked: Asked) -> web.Response:
        if "last=b" in asked.target:
            return web.json_response({"name": "team/app", "tags": ["c", "d"]})
        link = '</v2/team/app/tags/list?n=1000&last=b>; rel="next"'
        return web.json_response({"name": "team/app", "tags": ["a", "b"]}, headers={"Link": link})

    server.on("GET", "/v2/team/app/tags/list", tags)

    assert await repository.tags() == ("a", "b", "c", "d")
    assert server.asked[0].target == "/v2/team/app/tags/list?n=1000"


@pytest.mark.parametrize("body", [b'{"name": "team/app", "tags": null}', b'{"name": "team/app"}', b'{"tags": []}'])
async def test_no_tags_are_none(server: Scripted, repository: RemoteRepository, body: bytes) -> None:
    server.on("GET", "/v2/team/app/tags/list", lambda: web.Response(body=body))

    assert await repository.tags() == ()


@pytest.mark.parametrize("body", [b"[]", b"<html>", b'{"tags": [1]}'])
async def test_a_list_outside_the_spec_is_refused(server: Scripted, repository: RemoteRepository, body: bytes) -> None:
    server.on("GET", "/v2/team/app/tags/list", lambda: web.Response(body=body))

    with pytest.raises(Refused, match="outside the spec"):
        await repository.tags()


async def test_referrers_of_all_pages(server: Scripted, repository: RemoteRepository) -> None:
    other = Descriptor(media_type=TYPE, digest=str(Digest.of(b"other")), size=5)

    def referrers(asked: Asked) -> web.Response:
        if asked.target.endswith("?page=2"):
            return web.Response(body=index(other), content_type=TYPE)
        return web.Response(body=index(BLOB), headers={"Content-Type": TYPE, "Link": f"<{REFERRERS}?page=2>; rel=next"})

    server.on("GET", REFERRERS, referrers)

    assert await repository.referrers(SUBJECT) == (BLOB, other)


@pytest.mark.parametrize(
    "answer",
    [
        lambda: error(404, "NOT_FOUND", "404 page not found"),
        lambda: error(405, "UNSUPPORTED", "no"),
        lambda: web.Response(text="<html>hello</html>", content_type="text/html"),
    ],
)
async def test_where_there_is_no_api_a_tag_has_the_referrers(
    server: Scripted, repository: RemoteRepository, answer: object
) -> None:
    server.on("GET", REFERRERS, answer)  # type: ignore[arg-type]
    assert await repository.referrers(SUBJECT) == ()

    server.on("GET", FALLBACK, lambda: web.Response(body=index(BLOB), content_type=TYPE))
    assert await repository.referrers(SUBJECT) == (BLOB,)


async def test_no_referrers_are_none_and_no_tag_is_asked_for(server: Scripted, repository: RemoteRepository) -> None:
    server.on("GET", REFERRERS, lambda: web.Response(body=index(), content_type=TYPE))

    assert await repository.referrers(SUBJECT) == ()
    assert server.requests("GET", FALLBACK) == []


async def test_denied_referrers_are_an_error(server: Scripted, repository: RemoteRepository) -> None:
    server.on("GET", REFERRERS, lambda: error(403, "DENIED", "not for you"))

    with pytest.raises(NotPermitted):
        await repository.referrers(SUBJECT)


# Blobs


async def test_a_blob_is_there_or_not(server: Scripted, repository: RemoteRepository, stranger: Scripted) -> None:
    assert not await repository.has_blob(BLOB)
    server.on("HEAD", BLOB_PATH, lambda: web.Response(status=405))
    assert not await repository.has_blob(BLOB)
    server.on("HEAD", BLOB_PATH, lambda: web.Response())
    assert await repository.has_blob(BLOB)
    server.on("HEAD", BLOB_PATH, lambda: redirect(f"{stranger.url}/key"))
    stranger.on("HEAD", "/key", lambda: web.Response())
    assert await repository.has_blob(BLOB)
    stranger.on("HEAD", "/key", lambda: web.Response(status=403))
    assert not await repository.has_blob(BLOB)


async def test_a_blob_is_mounted(server: Scripted, repository: RemoteRepository) -> None:
    server.on("POST", UPLOADS, lambda: web.Response(status=201))

    assert await repository.has_blob(BLOB, mount_from="base/image")

    [asked] = server.requests("POST", UPLOADS)
    assert asked.target == f"{UPLOADS}?mount={BLOB.digest}&from=base%2Fimage"


async def test_a_mount_asks_for_the_right_to_read_there(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    registry = TokenRegistry(server)
    server.on(
        "POST",
        UPLOADS,
        lambda asked: web.Response(status=201) if asked.authorization else challenge(registry.challenge),
    )

    assert await repository.has_blob(BLOB, mount_from="base/image")

    [token] = server.requests("GET", "/token")
    assert "scope=repository:team/app:pull,push&scope=repository:base/image:pull" in token.target


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 500])
async def test_a_mount_that_is_refused_only_means_that_the_blob_is_sent(
    server: Scripted, repository: RemoteRepository, status: int
) -> None:
    headers = {"WWW-Authenticate": "Basic realm=x"} if status == 401 else {}
    server.on("POST", UPLOADS, lambda: error(status, "DENIED", "no", headers=headers))

    assert not await repository.has_blob(BLOB, mount_from="base/image")


async def test_an_upload_in_place_of_a_mount_is_given_up(server: Scripted, repository: RemoteRepository) -> None:
    server.on("POST", UPLOADS, lambda: web.Response(status=202, headers={"Location": f"{UPLOADS}id?s=1"}))

    assert not await repository.has_blob(BLOB, mount_from="base/image")

    assert [asked.target for asked in server.requests("DELETE", f"{UPLOADS}id")] == [f"{UPLOADS}id?s=1"]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("{url}/u/1", "/u/1?digest={digest}"),
        ("/u/1?_state=a%2Fb+c%3D", "/u/1?_state=a%2Fb+c%3D&digest={digest}"),
        ("1", "/v2/team/app/blobs/uploads/1?digest={digest}"),
    ],
)
async def test_a_blob_is_sent_to_where_the_registry_says(
    server: Scripted, repository: RemoteRepository, location: str, target: str
) -> None:
    where = target.partition("?")[0]
    server.on("POST", UPLOADS, lambda: web.Response(status=202, headers={"Location": location.format(url=server.url)}))
    server.on("PUT", where, lambda: web.Response(status=201))

    await repository.put_blob(BLOB, pieces())

    [asked] = server.requests("PUT", where)
    assert asked.body == LAYER
    assert asked.target == target.format(digest=BLOB.digest.replace(":", "%3A"))
    assert asked.headers["Content-Length"] == str(len(LAYER))
    assert asked.headers["Content-Type"] == "application/octet-stream"
    assert "Transfer-Encoding" not in asked.headers


async def test_an_empty_blob_is_sent(server: Scripted, repository: RemoteRepository) -> None:
    empty = Descriptor(media_type="x/y", digest=str(Digest.of(b"")), size=0)
    takes_uploads(server)

    await repository.put_blob(empty, pieces(b""))

    assert server.requests("PUT", "/u/1")[0].headers["Content-Length"] == "0"


def takes_uploads(server: Scripted) -> None:
    server.on("POST", UPLOADS, lambda: web.Response(status=202, headers={"Location": "/u/1"}))
    server.on("PUT", "/u/1", lambda: web.Response(status=201))


class Broken(SourceDamaged):
    pass


async def test_an_error_of_the_source_stays_what_it_is(server: Scripted, repository: RemoteRepository) -> None:
    takes_uploads(server)

    async def broken() -> AsyncIterator[bytes]:
        yield LAYER[:100_000]
        await asyncio.sleep(0.01)
        raise Broken("the archive ends here")

    with pytest.raises(Broken, match="the archive ends here"):
        await repository.put_blob(BLOB, broken())


@pytest.mark.parametrize("data", [LAYER[:-1], LAYER + b"x", b""])
async def test_a_source_of_another_size_is_damaged(server: Scripted, repository: RemoteRepository, data: bytes) -> None:
    takes_uploads(server)

    with pytest.raises(SourceDamaged, match="the source gave"):
        await repository.put_blob(BLOB, pieces(data))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "DIGEST_INVALID", ContentMismatch),
        (400, "SIZE_INVALID", ContentMismatch),
        (413, "SIZE_LIMIT", Refused),
        (403, "DENIED", NotPermitted),
        (404, "BLOB_UPLOAD_UNKNOWN", ImageMissing),
        (507, "UNAVAILABLE", Refused),
        (503, "UNAVAILABLE", Unreachable),
    ],
)
async def test_a_refusal_says_why(
    server: Scripted, repository: RemoteRepository, status: int, code: str, kind: type[Exception]
) -> None:
    takes_uploads(server)
    server.on("PUT", "/u/1", lambda: error(status, code, "because"))

    with pytest.raises(kind, match=f"writing {BLOB.digest} to team/app.*because"):
        await repository.put_blob(BLOB, pieces())


async def test_an_answer_that_comes_early_is_heard(server: Scripted, repository: RemoteRepository) -> None:
    takes_uploads(server)
    size = 1 << 30

    async def early(request: web.BaseRequest) -> web.StreamResponse:
        await request.content.read(1000)
        return error(413, "SIZE_INVALID", "too large for us", headers={"Connection": "close"})

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(1024):
            yield bytes(1 << 20)

    server.raw("PUT", "/u/1", early)

    with pytest.raises((ContentMismatch, Unreachable)):
        async with asyncio.timeout(10):
            await repository.put_blob(Descriptor(media_type="x/y", digest=BLOB.digest, size=size), zeros())


async def test_a_connection_that_breaks_may_be_tried_again(server: Scripted, repository: RemoteRepository) -> None:
    takes_uploads(server)

    async def drop(request: web.BaseRequest) -> web.StreamResponse:
        await request.content.read(1000)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.raw("PUT", "/u/1", drop)

    with pytest.raises(Unreachable, match="the connection broke"):
        await repository.put_blob(BLOB, pieces())

    assert len(server.requests("PUT", "/u/1")) == 1


async def test_a_token_that_ends_within_an_upload_means_to_begin_again(
    server: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    registry = TokenRegistry(server)

    def begin(asked: Asked) -> web.Response:
        if (asked.authorization or "").removeprefix("Bearer ") not in registry.good:
            return challenge(registry.challenge)
        return web.Response(status=202, headers={"Location": "/u/1"})

    server.on("POST", UPLOADS, begin)
    server.on("PUT", "/u/1", lambda: challenge(registry.challenge))
    with pytest.raises(Unreachable, match="a token ended"):
        await repository.put_blob(BLOB, pieces())

    server.on("PUT", "/u/1", lambda asked: web.Response(status=201 if asked.authorization == "Bearer token-2" else 401))
    await repository.put_blob(BLOB, pieces())


# Manifests written


async def test_a_manifest_is_put_by_its_tag_once(server: Scripted, repository: RemoteRepository) -> None:
    server.on("PUT", MANIFEST, lambda: web.Response(status=201))

    await repository.put_manifest(RawManifest(BODY, TYPE, Digest.of(BODY)), "v1")

    [asked] = server.asked
    assert (asked.body, asked.headers["Content-Type"]) == (BODY, TYPE)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_manifest_without_a_tag_is_put_by_its_digest(
    server: Scripted, repository: RemoteRepository, algorithm: str
) -> None:
    digest = Digest.of(BODY, algorithm)
    path = f"/v2/team/app/manifests/{digest}"
    server.on("PUT", path, lambda: web.Response(status=201))
    server.on("PUT", MANIFEST, lambda: web.Response(status=201))

    await repository.put_manifest(RawManifest(BODY, TYPE, digest))
    assert [asked.path for asked in server.asked] == [path]
    await repository.put_manifest(RawManifest(BODY, TYPE, digest), "v1")
    assert [asked.path for asked in server.asked][1:] == [MANIFEST] if algorithm == "sha256" else [path, MANIFEST]


async def test_a_manifest_whose_blobs_are_missing_is_refused(server: Scripted, repository: RemoteRepository) -> None:
    server.on("PUT", MANIFEST, lambda: error(404, "MANIFEST_BLOB_UNKNOWN", "push the blob first"))

    with pytest.raises(Refused, match="push the blob first"):
        await repository.put_manifest(RawManifest(BODY, TYPE, Digest.of(BODY)), "v1")


def referrer(number: int) -> RawManifest:
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": "application/vnd.example.sbom",
        "config": {"mediaType": media_types.OCI_EMPTY, "digest": str(Digest.of(b"{}")), "size": 2},
        "layers": [],
        "subject": {"mediaType": media_types.OCI_MANIFEST, "digest": str(SUBJECT), "size": 7},
        "annotations": {"number": str(number)},
    }
    body = msgspec.json.encode(document)
    return RawManifest(body, media_types.OCI_MANIFEST, Digest.of(body))


@pytest.mark.parametrize("api", [True, False])
async def test_where_there_is_no_api_a_referrer_is_added_to_the_tag(
    server: Scripted, repository: RemoteRepository, api: bool
) -> None:
    kept: list[bytes] = []
    headers = {"OCI-Subject": str(SUBJECT)} if api else {}
    manifests = [referrer(1), referrer(2)]
    for each in manifests:
        server.on("PUT", f"/v2/team/app/manifests/{each.digest}", lambda: web.Response(status=201, headers=headers))

    def keep(asked: Asked) -> web.Response:
        kept.append(asked.body)
        return web.Response(status=201)

    def give() -> web.Response:
        return web.Response(body=kept[-1], content_type=TYPE) if kept else error(404, "MANIFEST_UNKNOWN", "")

    server.on("PUT", FALLBACK, keep)
    server.on("GET", FALLBACK, give)

    await asyncio.gather(*(repository.put_manifest(each) for each in [*manifests, *manifests]))

    assert len(kept) == (0 if api else 2)
    found = await repository.referrers(SUBJECT)
    assert {entry.digest for entry in found} == (set() if api else {str(each.digest) for each in manifests})
    assert {entry.artifact_type for entry in found} <= {"application/vnd.example.sbom"}


async def test_sessions_are_shared_and_credentials_are_not(
    new_server: NewServer, server: Scripted, session: Session, login: Credentials
) -> None:
    """A push from one registry to another: each gets its own credentials only."""
    other = await new_server()
    for each in (server, other):
        each.on("GET", MANIFEST, lambda asked: manifest() if asked.authorization == BASIC else challenge("Basic"))
    there = RemoteRepository(session, ImageReference.parse(f"{other.host}/team/app:v1"))
    here = RemoteRepository(session, ImageReference.parse(f"{server.host}/team/app:v1"))

    assert (await here.manifest()).body == BODY
    with pytest.raises(Exception, match="asks for credentials"):
        await there.manifest()

    assert {asked.authorization for asked in other.asked} == {None}
