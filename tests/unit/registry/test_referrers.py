from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from tests.unit.registry.helpers import OTHER, REPO, FakeClock, image, index, open_registry, push, truth

from bucketry.oci import Descriptor, Digest
from bucketry.registry import Registry
from bucketry.registry.referrers import Referrers
from bucketry.store.contract import ListedObject
from bucketry.store.memory import MemoryStore

CONFIG = b"{}"
SUBJECT = image(CONFIG)
SUBJECT_DIGEST = Digest.of(SUBJECT)


def referrer(number: int, kind: str = "signature", **more: str) -> bytes:
    return image(
        CONFIG, subject=SUBJECT, artifactType=f"application/{kind}", annotations={"number": str(number), **more}
    )


@pytest.fixture
async def registry(registry: Registry) -> Registry:
    await push(registry, REPO, CONFIG)
    return registry


async def refer(registry: Registry, body: bytes, algorithm: str = "sha256") -> Digest:
    digest = Digest.of(body, algorithm)
    assert (await registry.manifests.push(REPO, digest, body, None)).subject == SUBJECT_DIGEST
    return digest


async def listed(registry: Registry, *, limit: int | None = None, artifact_type: str | None = None) -> list[Digest]:
    """All pages."""
    found: list[Digest] = []
    after: Digest | None = None
    for _ in range(200):
        page = await registry.referrers.page(
            REPO, SUBJECT_DIGEST, artifact_type=artifact_type, limit=limit, after=after
        )
        assert limit is None or len(page.descriptors) <= limit
        found += [descriptor.parsed for descriptor in page.descriptors]
        if page.last is None:
            return found
        after = page.last
    raise AssertionError("the pages do not end")


async def test_a_subject_without_referrers_has_an_empty_list_though_it_is_not_there_itself(registry: Registry) -> None:
    assert await listed(registry) == []
    assert (await registry.referrers.page("no/such", SUBJECT_DIGEST)).descriptors == ()


async def test_a_referrer_is_listed_by_its_descriptor_and_before_its_subject_is_there(registry: Registry) -> None:
    body = referrer(1)
    digest = await refer(registry, body)

    (entry,) = (await registry.referrers.page(REPO, SUBJECT_DIGEST)).descriptors

    assert (entry.digest, entry.size) == (str(digest), len(body))
    assert (entry.artifact_type, entry.annotations) == ("application/signature", {"number": "1"})


async def test_without_a_type_of_its_own_an_image_has_its_configs_and_an_index_none(registry: Registry) -> None:
    await refer(registry, image(CONFIG, subject=SUBJECT))
    await refer(registry, index(subject=SUBJECT))

    found = (await registry.referrers.page(REPO, SUBJECT_DIGEST)).descriptors

    assert {entry.artifact_type for entry in found} == {"application/vnd.oci.image.config.v1+json", None}


async def test_referrers_are_their_repositorys(registry: Registry) -> None:
    await refer(registry, referrer(1))

    assert (await registry.referrers.page(OTHER, SUBJECT_DIGEST)).descriptors == ()


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000, None])
async def test_pages_hold_every_referrer_once_in_order_of_algorithm_and_digest(
    registry: Registry, limit: int | None
) -> None:
    digests = [await refer(registry, referrer(number), ("sha256", "sha512")[number % 2]) for number in range(7)]

    assert await listed(registry, limit=limit) == sorted(digests)


@pytest.mark.parametrize("limit", [1, 2, 5, None])
async def test_a_filter_holds_over_all_pages(registry: Registry, limit: int | None) -> None:
    signatures = [await refer(registry, referrer(number)) for number in range(4)]
    for number in range(5):
        await refer(registry, referrer(number, "sbom"), "sha512")

    assert await listed(registry, limit=limit, artifact_type="application/signature") == sorted(signatures)
    assert await listed(registry, limit=limit, artifact_type="application/none") == []


async def test_a_page_of_none_is_empty(registry: Registry) -> None:
    await refer(registry, referrer(1))

    page = await registry.referrers.page(REPO, SUBJECT_DIGEST, limit=0)

    assert (page.descriptors, page.last) == ((), None)


async def test_the_most_a_page_holds_is_the_owners(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    small = await open_registry(inner, clock, replica=2, max_page=3)
    for number in range(5):
        await refer(registry, referrer(number))

    for limit in (None, 1_000_000):
        assert len((await small.referrers.page(REPO, SUBJECT_DIGEST, limit=limit)).descriptors) == 3


async def test_a_referrer_that_is_deleted_between_two_pages_does_not_end_them(registry: Registry) -> None:
    digests = sorted([await refer(registry, referrer(number)) for number in range(6)])
    page = await registry.referrers.page(REPO, SUBJECT_DIGEST, limit=2)
    for digest in digests[1:4]:
        await registry.manifests.delete(REPO, digest)

    rest = await registry.referrers.page(REPO, SUBJECT_DIGEST, after=page.last)

    assert [entry.parsed for entry in rest.descriptors] == digests[4:]


async def test_a_deleted_referrer_is_listed_no_more(registry: Registry, inner: MemoryStore) -> None:
    kept, gone = await refer(registry, referrer(1)), await refer(registry, referrer(2))

    await registry.manifests.delete(REPO, gone)

    assert await listed(registry) == [kept]
    assert (await truth(inner)).problems == []


async def test_the_referrers_of_a_deleted_subject_stay(registry: Registry) -> None:
    await registry.manifests.push(REPO, "v1", SUBJECT, None)
    digest = await refer(registry, referrer(1))

    await registry.manifests.delete(REPO, SUBJECT_DIGEST)

    assert await listed(registry) == [digest]


class Watching(Referrers):
    """Knows the most bytes of descriptors that were read at once."""

    most = 0

    async def _read(self, batch: Sequence[ListedObject]) -> list[Descriptor | None]:
        self.most = max(self.most, sum(listed.size for listed in batch))
        return await super()._read(batch)


@pytest.mark.parametrize(("artifact_type", "count"), [(None, 24), ("application/signature", 12)])
async def test_a_page_and_what_is_read_for_it_stay_below_the_size_of_a_manifest(
    clock: FakeClock, inner: MemoryStore, artifact_type: str | None, count: int
) -> None:
    """Annotations are the pusher's: a page of a thousand entries of 4 MiB each would be the server's end."""
    registry = await open_registry(inner, clock, max_manifest=10_000)
    registry.referrers = watching = Watching(inner, settings=registry.settings)
    await push(registry, REPO, CONFIG)
    for number in range(12):
        await refer(registry, referrer(number, padding="x" * 3000))
        await refer(registry, referrer(number, "sbom", padding="x" * 9000))

    assert len(await listed(registry, artifact_type=artifact_type)) == count

    assert 9000 < watching.most <= 10_000
    page = await registry.referrers.page(REPO, SUBJECT_DIGEST)
    assert sum(len(msgspec.json.encode(entry)) for entry in page.descriptors) <= 10_000
    assert page.last is not None


async def test_one_entry_larger_than_a_page_is_a_page(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    for number in range(3):
        await refer(registry, referrer(number, padding="x" * 3000))
    small = await open_registry(inner, clock, replica=2, max_manifest=100)

    assert len((await small.referrers.page(REPO, SUBJECT_DIGEST)).descriptors) == 1
    assert len(await listed(small)) == 3
