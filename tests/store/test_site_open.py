"""Names of sites, and the options that reach them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucketry.store.open import StoreNameInvalid, StoreOptions
from bucketry.store.s3.site import S3Site
from bucketry.store.site import Served
from bucketry.store.site_folder import FolderSite
from bucketry.store.site_open import open_site


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}", "FILE:{}"])
async def test_a_folder(form: str, tmp_path: Path) -> None:
    site = open_site(form.format(tmp_path / "a b"))
    assert isinstance(site, FolderSite)
    await site.start()
    await site.put("x", b"x", served=Served())
    await site.close()
    assert (tmp_path / "a b/x").read_bytes() == b"x"


async def test_whether_a_folder_is_flushed_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda fd: pytest.fail("flushed"))
    site = open_site(str(tmp_path / "site"), StoreOptions(fsync=False))
    await site.put("x", b"x", served=Served())
    await site.close()


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_site("~/data").url == f"file:{tmp_path}/data"


def test_a_bucket() -> None:
    site = open_site("s3://bucket/some/prefix/?region=eu-2", StoreOptions(endpoint="http://127.0.0.1:1", region="eu-1"))
    assert isinstance(site, S3Site)
    assert site.url == "s3://bucket/some/prefix"
    assert site.keeps_headers


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "the site has no name"),
        ("https://cdn.example/v2", "name where its files are, s3://BUCKET/PREFIX or a folder"),
        ("memory:", "a site is s3://BUCKET/PREFIX or a folder"),
        ("gs://bucket", "there are no gs: sites"),
        ("s3://", "no bucket"),
        ("s3://bucket?nonsense=1", "nonsense"),
        ("s3://key:secret@bucket", "credentials do not belong"),
        ("file:", "names no folder"),
        ("file://other.example/x", "another machine"),
        ("a\0b", "NUL"),
    ],
)
def test_other_names_are_refused_in_words(name: str, said: str) -> None:
    with pytest.raises(StoreNameInvalid, match=said):
        open_site(name)
