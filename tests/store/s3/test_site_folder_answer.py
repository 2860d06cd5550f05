"""What a bucket answers to clients that ask for a folder's own name before all else."""

from __future__ import annotations

import pytest
from tests.store.s3.fake import Act, FakeS3, says
from tests.store.seaweed import Seaweed

from bucketry.store.s3 import S3Settings
from bucketry.store.s3.site import S3Site
from bucketry.store.site import Served

JSON = Served("application/json", "public, max-age=60")
FILE = "v2/a/tags/list"


@pytest.mark.parametrize("missing", [None, says(404, "NotFound"), says(403, "Forbidden")])
async def test_an_object_is_made_where_there_is_no_answer(fake: FakeS3, missing: Act | None) -> None:
    site = await fake.started_site(prefix="images")
    fake.script.append(missing)
    assert await site.answer_folder("v2/", served=JSON)

    body, headers = fake.objects["images/v2/"]
    assert body == b""
    assert (headers["content-type"], headers["cache-control"]) == (JSON.content_type, JSON.cache_control)
    fake.asked.clear()
    assert not await site.answer_folder("v2/", served=JSON)
    assert fake.methods() == ["HEAD"]


async def test_it_is_no_file_of_the_site(fake: FakeS3) -> None:
    site = await fake.started_site()
    await site.answer_folder("v2/", served=JSON)
    await site.put(FILE, b"{}", served=JSON)

    assert [file.path async for file in site.list("")] == [FILE]
    assert [file.path async for file in site.list("v2/")] == [FILE]


@pytest.mark.parametrize(
    "refusal",
    [
        says(400, "XMinioInvalidObjectName"),
        says(501, "NotImplemented"),
        says(500, "InternalError"),
        says(403, "AccessDenied"),
        says(404, "NoSuchBucket"),
    ],
)
async def test_a_service_that_takes_no_such_name_is_left_as_it_is(fake: FakeS3, refusal: Act) -> None:
    site = await fake.started_site()
    fake.script += [None, refusal]

    assert not await site.answer_folder("v2/", served=JSON)
    assert fake.methods() == ["HEAD", "PUT"]
    assert fake.objects == {}


async def test_where_it_cannot_be_told_nothing_is_made(fake: FakeS3) -> None:
    site = await fake.started_site()
    fake.script.append(says(503, "SlowDown"))

    assert not await site.answer_folder("v2/", served=JSON)
    assert fake.methods() == ["HEAD"]


async def test_a_folder_is_meant(fake: FakeS3) -> None:
    site = await fake.started_site()
    with pytest.raises(ValueError, match="prefix"):
        await site.answer_folder("v2", served=JSON)


async def test_services_that_may_keep_folders_are_told_apart(fake: FakeS3) -> None:
    assert not (await fake.started_site()).flat
    for endpoint in (None, "https://s3.eu-west-1.amazonaws.com"):
        site = S3Site(fake.settings(endpoint=endpoint))
        await site._connect()
        try:
            assert site.flat
        finally:
            await site.close()


async def test_a_real_one_answers_and_keeps_its_files(seaweed: Seaweed, settings: S3Settings) -> None:
    site = S3Site(settings)
    await site.start()
    try:
        await site.answer_folder("v2/", served=JSON)
        await site.put(FILE, b"{}", served=JSON)
        assert not await site.answer_folder("v2/", served=JSON)
        assert [file.path async for file in site.list("")] == [FILE]
        assert (await site.get(FILE)).body == b"{}"
    finally:
        await site.close()
