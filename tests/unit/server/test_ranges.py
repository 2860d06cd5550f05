"""Byte ranges: what is asked for of a blob, and where a chunk says that it belongs."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.oci.errors import UploadInvalid
from bucketry.server.ranges import MAX_RANGES, ByteRange, Unsatisfiable, parse_content_range, parse_range


def spans(header: str | None, size: int) -> list[tuple[int, int]] | None:
    found = parse_range(header, size)
    return None if found is None else [(each.start, each.stop) for each in found]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-99", [(0, 100)]),
        ("bytes=0-100", [(0, 100)]),
        ("bytes=0-999999", [(0, 100)]),
        ("bytes=99-", [(99, 100)]),
        ("bytes=-1", [(99, 100)]),
        ("bytes=-100", [(0, 100)]),
        ("bytes=-101", [(0, 100)]),
        ("BYTES=0-0", [(0, 1)]),
        ("bytes = 0-0", [(0, 1)]),
        ("bytes=\t0-0 ", [(0, 1)]),
        ("bytes=0-0,", [(0, 1)]),
        ("bytes=,0-0", [(0, 1)]),
        ("bytes=0-0,50-59", [(0, 1), (50, 60)]),
        ("bytes=50-59,0-0", [(0, 1), (50, 60)]),
        ("bytes=0-9,10-19", [(0, 20)]),
        ("bytes=0-9,5-7", [(0, 10)]),
        ("bytes=0-9,200-300", [(0, 10)]),
        ("bytes=0-,-1", [(0, 100)]),
        ("items=0-0", None),
        ("bytes", None),
        ("", None),
        ("bytes=x", None),
        ("bytes=-", None),
        ("bytes=0-0,x", None),
        ("bytes=1-2-3", None),
        ("bytes=+1-2", None),
        ("bytes=1_0-20", None),
        ("bytes=١-٢", None),
        ("bytes=" + "9" * 20 + "-", None),
    ],
)
def test_what_a_range_header_asks_for_of_a_hundred_bytes(
    header: str | None, expected: list[tuple[int, int]] | None
) -> None:
    assert spans(header, 100) == expected


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=5-4", 100), ("bytes=0-0", 0), ("bytes=", 9)]
)
def test_range_without_a_byte_of_the_blob_is_unsatisfiable(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


@given(
    size=st.integers(1, 300),
    specs=st.lists(
        st.tuples(st.none() | st.integers(0, 400), st.none() | st.integers(0, 400)), min_size=1, max_size=12
    ),
)
def test_ranges_are_the_bytes_that_were_asked_for_once_in_order(
    size: int, specs: list[tuple[int | None, int | None]]
) -> None:
    texts = [f"{'' if first is None else first}-{'' if last is None else last}" for first, last in specs]
    wanted: set[int] = set()
    for first, last in specs:
        if first is None and last is not None:
            wanted |= set(range(max(0, size - last), size))
        elif first is not None:
            wanted |= set(range(first, size if last is None else min(size, last + 1)))
    try:
        found = parse_range("bytes=" + ", ".join(texts), size)
    except Unsatisfiable:
        assert not wanted
        return
    if found is None:
        assert "-" in texts
        return
    bytes_found = [at for each in found for at in range(each.start, each.stop)]
    assert bytes_found == sorted(wanted)
    assert all(before.stop < after.start for before, after in itertools.pairwise(found))


def test_more_ranges_than_anyone_needs_are_the_whole_blob() -> None:
    assert (
        len(parse_range("bytes=" + ",".join(f"{2 * at}-{2 * at}" for at in range(MAX_RANGES)), 10_000) or [])
        == MAX_RANGES
    )
    assert parse_range("bytes=" + ",".join(f"{2 * at}-{2 * at}" for at in range(MAX_RANGES + 1)), 10_000) is None


@pytest.mark.parametrize("piece", ["0-,", "-1,", ",", " \t", "1-1 ,", "9" * 19 + "-,", "5-4,"])
def test_time_does_not_grow_faster_than_the_header(piece: str) -> None:
    began = time.perf_counter()
    for _ in range(3):
        try:
            parse_range("bytes=" + piece * (100_000 // len(piece)), 1000)
        except Unsatisfiable:
            pass
    assert time.perf_counter() - began < 0.5


@given(st.text(max_size=60), st.integers(0, 10**6))
def test_no_header_is_an_error_of_the_parser(text: str, size: int) -> None:
    for header in (text, "bytes=" + text):
        try:
            found = parse_range(header, size)
        except Unsatisfiable:
            continue
        assert found is None or all(0 <= each.start < each.stop <= size for each in found)


@pytest.mark.parametrize("form", ["{}-{}", "bytes {}-{}/{}", "bytes {}-{}/*", "bytes={}-{}", " {}-{} "])
@given(first=st.integers(0, 10**12), length=st.integers(1, 10**12))
@settings(max_examples=20)
def test_content_range_in_the_forms_of_the_spec_and_of_http(form: str, first: int, length: int) -> None:
    header = form.format(first, first + length - 1, first + length)
    assert parse_content_range(header) == ByteRange(first, first + length)


def test_no_content_range_is_none() -> None:
    assert parse_content_range(None) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "0",
        "0-",
        "-5",
        "5-4",
        "a-b",
        "bytes */5",
        "lines 0-4",
        "0-4/x",
        "bytes  0-4",
        "0-4 5",
        "0 - 4",
        "٠-٤",
        "9" * 20 + "-" + "9" * 21,
    ],
)
def test_content_range_that_is_none_is_refused_with_the_right_form(header: str) -> None:
    with pytest.raises(UploadInvalid, match="FIRST-LAST"):
        parse_content_range(header)


def test_refusal_repeats_no_more_than_the_beginning_of_a_header() -> None:
    with pytest.raises(UploadInvalid) as refused:
        parse_content_range("x" * 10_000)
    assert len(refused.value.message) < 300
