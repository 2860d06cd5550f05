"""Both kinds of site keep every promise of the contract."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.store.site_suite")

from tests.store.seaweed import Seaweed  # noqa: E402
from tests.store.site_suite import Place, SiteSuite  # noqa: E402

from bucketry.store.contract import MIN_PART  # noqa: E402
from bucketry.store.local import LocalStore  # noqa: E402
from bucketry.store.s3 import S3Store  # noqa: E402
from bucketry.store.s3.site import S3Site  # noqa: E402
from bucketry.store.site_folder import FolderSite  # noqa: E402

_prefixes = itertools.count()


class TestFolder(SiteSuite):
    @pytest.fixture
    async def place(self, tmp_path: Path) -> AsyncIterator[Place]:
        root = tmp_path / "site"

        def leftovers() -> list[str]:
            return os.listdir(root / ".bucketry-tmp") if root.exists() else []

        site, other, store = FolderSite(root), FolderSite(root), LocalStore(tmp_path / "store")
        for each in (site, other, store):
            await each.start()
        yield Place(site, other, store, leftovers, min_part=4096)
        for each in (site, other, store):
            await each.close()


class TestBucket(SiteSuite):
    @pytest.fixture
    async def place(self, seaweed: Seaweed) -> AsyncIterator[Place]:
        number = next(_prefixes)
        settings = seaweed.settings(f"site{number}")

        def leftovers() -> list[str]:
            client = seaweed.client()
            try:
                found = client.list_multipart_uploads(Bucket=seaweed.bucket, Prefix=f"{settings.prefix}/")
            finally:
                client.close()
            return [upload["Key"] for upload in found.get("Uploads", [])]

        site, other = (S3Site(settings, min_part=MIN_PART) for _ in range(2))
        store = S3Store(seaweed.settings(f"store{number}"))
        for each in (site, other, store):
            await each.start()
        yield Place(site, other, store, leftovers, min_part=MIN_PART, effort=0.2)
        for each in (site, other, store):
            await each.close()
