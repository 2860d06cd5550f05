"""The client against real registries: bucketry on a folder and on S3, and distribution, whichever is installed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from tests.support.fixtures import Registry
from tests.support.images import MIB, Blob, Image, Index
from tests.transfer.peers import PASSWORD, USER, peer

from bucketry.hashing import Checkpoints, NotingHasher, new, resumable
from bucketry.oci import Descriptor, Digest, ImageReference, media_types
from bucketry.transfer.contract import RawManifest
from bucketry.transfer.errors import ContentMismatch, ImageMissing, NotAuthenticated, PartLost
from bucketry.transfer.remote import CredentialStore, RemoteRepository, Session
from bucketry.transfer.remote.credentials import Credentials, Given
from bucketry.transfer.remote.extension import ExtensionUpload


@pytest.fixture(scope="module")
def peer_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with peer(tmp_path_factory.mktemp("peer")) as registry:
        yield registry


@pytest.fixture(scope="module")
def guarded_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """It lets in only `USER`."""
    with peer(tmp_path_factory.mktemp("guarded"), users=True) as registry:
        yield registry


@pytest.fixture(params=["local", "s3", "peer"])
def anywhere(request: pytest.FixtureRequest) -> Registry:
    registry: Registry = request.getfixturevalue(f"{request.param}_registry")
    return registry


@pytest_asyncio.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    session = Session(CredentialStore({}, tmp_path))
    yield session
    await session.close()


def at(session: Session, registry: Registry, repository: str, tag: str = "v1") -> RemoteRepository:
    return RemoteRepository(session, ImageReference.parse(f"{registry.host}/{repository}:{tag}"))


def described(blob: Blob) -> Descriptor:
    return Descriptor(media_type=blob.media_type, digest=blob.digest, size=len(blob.data))


def raw(blob: Blob) -> RawManifest:
    return RawManifest(blob.data, blob.media_type, Digest.parse(blob.digest))


async def pieces(data: bytes, size: int = 700_000) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


async def push(target: RemoteRepository, image: Image, tag: str | None = "v1") -> None:
    async def blob(each: Blob) -> None:
        if not await target.has_blob(described(each)):
            await target.put_blob(described(each), pieces(each.data))

    await asyncio.gather(*(blob(each) for each in (image.config, *image.layers)))
    await target.put_manifest(raw(image.manifest), tag)


async def read(source: RemoteRepository, blob: Blob, parallel: int = 8) -> bytes:
    reader = source.blob(described(blob))
    size = len(blob.data)
    step = max(1, -(-size // parallel))

    async def part(start: int) -> bytes:
        return b"".join([piece async for piece in reader.read(start, min(start + step, size))])

    return b"".join(await asyncio.gather(*(part(start) for start in range(0, size, step))))


async def test_an_image_is_pushed_and_read_back(
    anywhere: Registry, session: Session, repository: str, image: Image
) -> None:
    target = at(session, anywhere, repository)
    assert not await target.has_manifest(Digest.parse(image.digest))

    await push(target, image)

    anywhere.reader.assert_holds(repository, "v1", image)
    assert await target.has_manifest(Digest.parse(image.digest))
    assert await target.manifest() == raw(image.manifest)
    assert await target.manifest(Digest.parse(image.digest)) == raw(image.manifest)
    for blob in (image.config, *image.layers):
        assert await target.has_blob(described(blob))
        assert await read(target, blob) == blob.data


async def test_an_index_is_pushed_by_digest_and_tag(
    anywhere: Registry, session: Session, repository: str, index: Index
) -> None:
    target = at(session, anywhere, repository)

    for image in index.images:
        await push(target, image, None)
    await target.put_manifest(raw(index.manifest), "v1")

    anywhere.reader.assert_holds(repository, "v1", index)
    assert await target.tags() == ("v1",)


async def test_a_blob_is_mounted_from_another_repository(
    anywhere: Registry, session: Session, repository: str, small_image: Image
) -> None:
    await push(at(session, anywhere, f"{repository}/base"), small_image)
    target = at(session, anywhere, f"{repository}/derived")
    layer = described(small_image.layers[0])

    assert not await target.has_blob(layer, mount_from=f"{repository}/absent")
    assert await target.has_blob(layer, mount_from=f"{repository}/base")
    assert await target.has_blob(layer)


async def test_tags_of_many_pages_are_all_found(
    anywhere: Registry, session: Session, repository: str, small_image: Image
) -> None:
    target = at(session, anywhere, repository)
    await push(target, small_image, "v0")
    tags = [f"v{number}" for number in range(12)]
    for tag in tags:
        await target.put_manifest(raw(small_image.manifest), tag)

    assert await target.tags() == tuple(sorted(tags))


async def test_referrers_are_found_again(
    anywhere: Registry, session: Session, repository: str, small_image: Image
) -> None:
    """By the API where there is one, by a tag where not."""
    target = at(session, anywhere, repository)
    await push(target, small_image)
    empty = Blob(b"{}", media_types.OCI_EMPTY)
    await target.put_blob(described(empty), pieces(empty.data))
    subject = Digest.parse(small_image.digest)
    assert await target.referrers(subject) == ()

    for kind in ("application/vnd.example.sbom", "application/vnd.example.signature"):
        document = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "artifactType": kind,
            "config": described(empty),
            "layers": [described(empty)],
            "subject": raw(small_image.manifest).descriptor,
        }
        body = msgspec.json.encode(document)
        await target.put_manifest(RawManifest(body, media_types.OCI_MANIFEST, Digest.of(body)))

    found = await target.referrers(subject)
    assert sorted(str(each.artifact_type) for each in found) == [
        "application/vnd.example.sbom",
        "application/vnd.example.signature",
    ]


async def test_what_is_not_there_is_missing(
    anywhere: Registry, session: Session, repository: str, small_image: Image
) -> None:
    source = at(session, anywhere, repository)

    with pytest.raises(ImageMissing, match=f"reading {repository}:v1"):
        await source.manifest()
    with pytest.raises(ImageMissing):
        await read(source, small_image.config)
    assert not await source.has_blob(described(small_image.config))
    assert await source.referrers(Digest.parse(small_image.digest)) == ()


async def test_bytes_of_another_digest_are_not_taken(
    anywhere: Registry, session: Session, repository: str, small_image: Image
) -> None:
    target = at(session, anywhere, repository)
    layer = small_image.layers[0]

    with pytest.raises(ContentMismatch):
        await target.put_blob(described(layer), pieces(bytes(len(layer.data))))
    assert not await target.has_blob(described(layer))
    await target.put_blob(described(layer), pieces(layer.data))


# The parallel extension


@pytest.fixture
def layer(repository: str) -> Blob:
    """Of several parts and segments, the last ones short; no other test has it, or the registry would know it."""
    return Blob(random.Random(repository).randbytes(20 * MIB + 12_345), media_types.OCI_LAYER)


@pytest.fixture
def checkpoints(layer: Blob) -> Checkpoints | None:
    hasher = NotingHasher(new("sha256"))
    hasher.update(layer.data)
    return hasher.checkpoints()


async def begun(target: RemoteRepository, blob: Blob, *, known: bool = True) -> ExtensionUpload:
    digest, size = (Digest.parse(blob.digest), len(blob.data)) if known else (None, None)
    upload = await target.begin(digest=digest, size=size, part_size=5 * MIB)
    assert upload is not None
    return upload


def cut(upload: ExtensionUpload, data: bytes) -> dict[int, memoryview]:
    view, size = memoryview(data), upload.part_size
    return {number: view[(number - 1) * size : number * size] for number in range(1, -(-len(data) // size) + 1)}


async def complete(upload: ExtensionUpload, blob: Blob, checkpoints: Checkpoints | None) -> list[int]:
    heard: list[int] = []
    await upload.complete(Digest.parse(blob.digest), len(blob.data), checkpoints, verified=heard.append)
    return heard


@pytest.mark.parametrize("known", [True, False])
async def test_a_layer_goes_up_in_parts(
    registry: Registry, session: Session, repository: str, layer: Blob, checkpoints: Checkpoints | None, known: bool
) -> None:
    target = at(session, registry, repository)
    assert await target.takes_parts()
    upload = await begun(target, layer, known=known)
    parts = cut(upload, layer.data)
    assert len(parts) >= 3

    await asyncio.gather(*(upload.put(number, parts[number]) for number in reversed(parts)))
    assert await upload.sent() == {number: len(part) for number, part in parts.items()}
    assert not await target.has_blob(described(layer))
    heard = await complete(upload, layer, checkpoints)

    assert heard[-1] == len(layer.data)
    assert await read(target, layer) == layer.data
    assert await target.begin(digest=Digest.parse(layer.digest), size=len(layer.data)) is None
    assert await target.resume(upload.session) is None


async def test_parts_go_to_the_bucket_where_there_is_one(
    registry: Registry, session: Session, repository: str, layer: Blob
) -> None:
    upload = await begun(at(session, registry, repository), layer)

    address = await upload._address(1, lost=0)

    assert address.own == (registry.kind == "local")
    assert (address.url.host, address.url.port) != ("127.0.0.1", int(registry.host.rpartition(":")[2])) or address.own
    await upload.cancel()


async def test_a_layer_goes_on_where_another_process_ended(
    registry: Registry, session: Session, repository: str, layer: Blob, tmp_path: Path
) -> None:
    first = await begun(at(session, registry, repository), layer)
    parts = cut(first, layer.data)
    await first.put(2, parts[2])

    other = Session(CredentialStore({}, tmp_path))
    try:
        second = await at(other, registry, repository).resume(first.session)
        assert second is not None
        assert second.part_size == first.part_size
        assert await second.sent() == {2: len(parts[2])}
        for number in parts.keys() - {2}:
            await second.put(number, parts[number])
        await complete(second, layer, None)
        assert await read(at(other, registry, repository), layer) == layer.data
    finally:
        await other.close()


async def test_other_bytes_are_refused_and_never_seen(
    registry: Registry, session: Session, repository: str, layer: Blob, checkpoints: Checkpoints | None
) -> None:
    target = at(session, registry, repository)
    upload = await begun(target, layer)
    parts = {number: bytes(part) for number, part in cut(upload, layer.data).items()}
    parts[2] = bytes([parts[2][0] ^ 1]) + parts[2][1:]
    await asyncio.gather(*(upload.put(number, part) for number, part in parts.items()))

    with pytest.raises(ContentMismatch):
        await complete(upload, layer, checkpoints)

    assert not await target.has_blob(described(layer))


async def test_an_upload_that_was_given_up_is_lost(
    registry: Registry, session: Session, repository: str, layer: Blob
) -> None:
    target = at(session, registry, repository)
    upload = await begun(target, layer)
    parts = cut(upload, layer.data)
    await upload.put(1, parts[1])

    await upload.cancel()

    with pytest.raises(PartLost):
        await complete(upload, layer, None)
    assert await target.resume(upload.session) is None


@pytest.mark.skipif(not resumable(), reason="no libcrypto whose SHA-256 can be stored: nothing is noted")
async def test_what_anybody_pushed_has_checkpoints(
    registry: Registry, session: Session, repository: str, layer: Blob, checkpoints: Checkpoints | None
) -> None:
    target = at(session, registry, repository)
    await target.put_blob(described(layer), pieces(layer.data))

    assert await target.blob(described(layer)).checkpoints() == checkpoints


async def test_a_registry_without_the_extension_has_none(
    peer_registry: Registry, session: Session, repository: str, small_image: Image
) -> None:
    target = at(session, peer_registry, repository)
    await push(target, small_image)

    assert not await target.takes_parts()
    assert await target.blob(described(small_image.layers[0])).checkpoints() is None


# A registry that asks for credentials


async def test_with_credentials_a_guarded_registry_works(
    guarded_registry: Registry, repository: str, image: Image
) -> None:
    session = Session(Given(Credentials("the test", USER, PASSWORD)))
    try:
        target = at(session, guarded_registry, repository)
        await push(target, image)
        assert await read(target, image.layers[-1]) == image.layers[-1].data
        assert await session.registry(guarded_registry.host).check()
    finally:
        await session.close()


async def test_without_credentials_a_guarded_registry_says_what_to_do(
    guarded_registry: Registry, session: Session, repository: str
) -> None:
    with pytest.raises(NotAuthenticated, match=f"bucketry login {guarded_registry.host}"):
        await at(session, guarded_registry, repository).manifest()


async def test_wrong_credentials_are_blamed_on_their_file(guarded_registry: Registry, repository: str) -> None:
    session = Session(Given(Credentials("/some/config.json", USER, "wrong")))
    try:
        with pytest.raises(NotAuthenticated, match=r"^wrong credentials for .*, from /some/config\.json: "):
            await at(session, guarded_registry, repository).manifest()
    finally:
        await session.close()
