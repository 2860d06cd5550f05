"""Which blob a layer became: a hint, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucketry.oci import Digest
from bucketry.transfer.layer_cache import CompressedLayer, LayerCache

DIFF, BLOB = Digest.of(b"diff"), Digest.of(b"blob")


def test_what_was_added_is_found_for_the_same_form(tmp_path: Path) -> None:
    LayerCache(tmp_path / "cache").add(DIFF, "gzip:1/x", BLOB, 7)

    assert LayerCache(tmp_path / "cache").get(DIFF, "gzip:1/x") == CompressedLayer(str(BLOB), 7)
    assert LayerCache(tmp_path / "cache").get(DIFF, "gzip:1/y") is None
    assert LayerCache(tmp_path / "cache").get(BLOB, "gzip:1/x") is None


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    layers = {f"{Digest.of(str(i).encode())} gzip": {"digest": str(BLOB), "size": i} for i in range(4096)}
    (tmp_path / "layers.json").write_text(json.dumps({"version": 1, "layers": layers}))
    cache = LayerCache(tmp_path)

    cache.add(DIFF, "gzip", BLOB, 1)

    assert cache.get(Digest.of(b"0"), "gzip") is None
    assert cache.get(Digest.of(b"1"), "gzip") is not None
    assert cache.get(DIFF, "gzip") is not None


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=100),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: st.dictionaries(st.sampled_from(["version", "layers", f"{DIFF} gzip", "digest"]), inner),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_a_damaged_file_counts_as_empty(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "layers.json").write_bytes(data)
    cache = LayerCache(tmp_path)

    assert cache.get(DIFF, "gzip") is None
    cache.add(DIFF, "gzip", BLOB, 1)
    assert cache.get(DIFF, "gzip") == CompressedLayer(str(BLOB), 1)


def test_values_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    layers = {f"{DIFF} a": {"digest": "sha256:short", "size": 1}, f"{DIFF} b": {"digest": str(BLOB), "size": -1}}
    (tmp_path / "layers.json").write_text(json.dumps({"version": 1, "layers": layers}))

    assert LayerCache(tmp_path).get(DIFF, "a") is None
    assert LayerCache(tmp_path).get(DIFF, "b") is None


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    LayerCache(tmp_path / "file").add(DIFF, "gzip", BLOB, 1)
