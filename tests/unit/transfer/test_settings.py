"""What may be set, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.transfer.settings import MIB, TransferSettings, cache_folder


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CACHE_HOME": "/caches", "HOME": "/home/a"}, "/caches/bucketry"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/a"}, "/home/a/.cache/bucketry"),
        ({"HOME": "/home/a"}, "/home/a/.cache/bucketry"),
    ],
)
def test_the_cache_is_where_caches_are(environ: dict[str, str], folder: str) -> None:
    assert cache_folder(environ) == Path(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parallel": 0}, "1 to 64"),
        ({"parallel": 65}, "1 to 64"),
        ({"memory": 1}, "at least 4 MiB"),
        ({"part_size": 0}, "does not fit"),
        ({"memory": 8 * MIB, "part_size": 9 * MIB}, "does not fit"),
        ({"retries": -1}, "0 or more"),
    ],
)
def test_what_cannot_be_is_told(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransferSettings(**values)  # type: ignore[arg-type]


@given(st.one_of(st.none(), st.integers(0, 5 * 2**40)))
def test_parts_are_as_many_as_a_store_takes(size: int | None) -> None:
    part = TransferSettings().part(size)

    assert part >= 8 * MIB
    assert size is None or part * 10_000 >= size
    assert TransferSettings(part_size=5 * MIB).part(size) == 5 * MIB
