"""Names of stores, and the options that reach them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucketry.store.local import LocalStore
from bucketry.store.memory import MemoryStore
from bucketry.store.open import StoreNameInvalid, StoreOptions, open_store, s3_settings
from bucketry.store.s3 import S3Store


def test_memory() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}", "FILE:{}"])
async def test_a_folder(form: str, tmp_path: Path) -> None:
    store = open_store(form.format(tmp_path / "a b"))
    assert isinstance(store, LocalStore)
    await store.start()
    await store.put("data/x", b"x")
    await store.close()
    assert (tmp_path / "a b").is_dir()


def test_a_relative_folder_is_below_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("./data").url == f"file:{tmp_path}/data"
    assert open_store("./data:v1").url == f"file:{tmp_path}/data%3Av1"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/data").url == f"file:{tmp_path}/data"


def test_a_bucket() -> None:
    store = open_store("s3://bucket/some/prefix/", StoreOptions(endpoint="http://127.0.0.1:1", region="eu-1"))
    assert isinstance(store, S3Store)
    assert store.url == "s3://bucket/some/prefix"


def test_each_option_reaches_the_bucket_and_the_url_wins() -> None:
    options = StoreOptions(
        endpoint="http://127.0.0.1:1",
        region="eu-1",
        addressing="path",
        checksum="sha256",
        sign_payload=True,
        sse="aws:kms",
        sse_kms_key_id="key",
        storage_class="STANDARD_IA",
        public_endpoint="https://s3.example",
        ca_bundle="/ca.pem",
        profile=None,
        anonymous=False,
        access_key_id="AKIA",
        secret_access_key="hush",
        session_token="hush",
        max_connections=7,
        connect_timeout=1.0,
        read_timeout=2.0,
        retries=2,
        deadline=3.0,
    )
    settings = s3_settings("s3://bucket/p?region=eu-2&deadline=4", options)
    renamed = {"access_key_id": "access_key", "secret_access_key": "secret_key"}
    for name in StoreOptions.__dataclass_fields__:
        if name in {"fsync", "region", "deadline"}:
            continue
        assert getattr(settings, renamed.get(name, name)) == getattr(options, name), name
    assert (settings.region, settings.deadline) == ("eu-2", 4.0)


@pytest.mark.parametrize(
    ("query", "found", "able"),
    [("", None, False), ("", True, True), ("", False, False), ("?checked_put=false", True, False)]
    + [("?checked_put=true", found, True) for found in (None, False)],
)
def test_what_a_probe_found_of_checked_puts_is_passed_on(query: str, found: bool | None, able: bool) -> None:
    options = StoreOptions(endpoint="http://127.0.0.1:1", access_key_id="AKIA", secret_access_key="hush")
    assert open_store(f"s3://bucket{query}", options, checked_put=found).capabilities.checked_put is able
    assert not open_store("memory:", checked_put=found).capabilities.checked_put
    anonymous = StoreOptions(endpoint="http://127.0.0.1:1", anonymous=True)
    assert not open_store("s3://bucket", anonymous, checked_put=found).capabilities.checked_put


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "s3://BUCKET/PREFIX"),
        ("s4://bucket", "there are no s4: stores"),
        ("gs://bucket", "there are no gs: stores"),
        ("files:/x", "did you mean file:?"),
        ("memry:", "did you mean memory:?"),
        ("data:v1", "write ./data:"),
        ("https://s3.example/bucket", "store.endpoint"),
        ("memory:x", "nothing behind"),
        ("file://elsewhere/x", "another machine"),
        ("file:", "no folder"),
        ("/x\0y", "NUL"),
        ("s3://", "bucket"),
        ("s3://bucket?regoin=x", "region"),
        ("s3://user:hush@bucket", "credentials"),
        ("s3://bucket/pre fix", "prefix"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, words: str) -> None:
    with pytest.raises(StoreNameInvalid) as caught:
        open_store(name)
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(StoreNameInvalid, match="GLACIER"):
        open_store("s3://bucket", StoreOptions(storage_class="GLACIER"))


def test_no_representation_shows_a_secret() -> None:
    assert "hush" not in repr(StoreOptions(secret_access_key="hush", session_token="hush"))
