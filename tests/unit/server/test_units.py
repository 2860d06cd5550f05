"""Sizes, durations and addresses, as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.server.units import format_duration, format_size, parse_duration, parse_size, split_listen


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8MiB", 8 * 1024**2),
        ("8MB", 8_000_000),
        ("8 mib", 8 * 1024**2),
        ("1.5GiB", 3 * 512 * 1024**2),
        ("1kB", 1000),
        ("64KiB", 65536),
        ("2TiB", 2 * 1024**4),
        ("0", 0),
        ("123", 123),
        ("7B", 7),
        (123, 123),
    ],
)
def test_a_size_is_read(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "8M", "8 parsecs", "-1", "1e6", "1.5B", "0.1KiB", "８MiB", "8MiB ", "9" * 40, -1]
)
def test_what_is_no_size_is_refused(text: int | str) -> None:
    with pytest.raises(ValueError, match=r"^is "):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("10m", 600.0),
        ("24h", 86400.0),
        ("7d", 604800.0),
        ("250ms", 0.25),
        ("1h30m", 5400.0),
        ("0.1s", 0.1),
        ("0", 0.0),
        ("5", 5.0),
        (5, 5.0),
        (0.5, 0.5),
    ],
)
def test_a_duration_is_read(text: float | str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "10 m", "10min", "-5s", "1h 30m", "inf", "nan", "1e3", float("inf"), float("nan"), -1.0]
)
def test_what_is_no_duration_is_refused(text: float | str) -> None:
    with pytest.raises(ValueError, match=r"^is "):
        parse_duration(text)


@given(st.integers(0, 10**15))
def test_a_size_is_shown_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**9).map(lambda millis: millis / 1000))
def test_a_duration_is_shown_exactly(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(("value", "shown"), [(8 * 1024**2, "8MiB"), (1000, "1000B"), (0, "0B"), (1024**3, "1GiB")])
def test_sizes_are_shown_in_the_largest_unit_that_fits(value: int, shown: str) -> None:
    assert format_size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(86400.0, "24h"), (604800.0, "7d"), (600.0, "10m"), (75.0, "75s"), (0.25, "250ms"), (0.1, "0.1s"), (0.0, "0s")],
)
def test_durations_are_shown_in_the_largest_unit_that_fits(value: float, shown: str) -> None:
    assert format_duration(value) == shown


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("[::1]:0", ("::1", 0)),
        ("registry.example:65535", ("registry.example", 65535)),
    ],
)
def test_an_address_is_split(text: str, address: tuple[str, int]) -> None:
    assert split_listen(text) == address


@pytest.mark.parametrize(
    "text", ["", "5000", ":5000", "host", "host:", "::1:5000", "host:65536", "a b:1", "h:-1", "h:1\n"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_listen(text)
