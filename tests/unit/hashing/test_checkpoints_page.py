"""The page that others implement checkpoints from, held against this implementation."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.hashing.lists import REFERENCE, failing, flipped, listed, native, noted, pattern, segments

from bucketry import hashing
from bucketry.hashing import MAX_ENCODED, MAX_SEGMENT, MAX_SEGMENTS, SEGMENT, Checkpoints

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "sha256-checkpoints.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Vector:
    size: int
    segment: int
    digest: str
    states: tuple[str, ...]
    file: bytes


def fields(block: str) -> tuple[dict[str, str], tuple[str, ...]]:
    values: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        found = re.fullmatch(r"(\S.*?)?\s+([0-9a-f]+)", line)
        assert found is not None, line
        name = found[1] or name
        values[name] = values.get(name, "") + found[2]
    states = tuple(value for name, value in values.items() if name.startswith("state"))
    assert [name for name in values if name.startswith("state")] == [f"state {n + 1}" for n in range(len(states))]
    return values, states


def vectors() -> list[Vector]:
    found = [fields(block) for block in blocks("text")]
    return [
        Vector(int(each["size"]), int(each["segment"]), each["digest"], states, bytes.fromhex(each["file"]))
        for each, states in found
        if "size" in each
    ]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The page's own implementation, in plain Python."""
    compression, verification = (block for block in blocks("python") if "bucketry" not in block)
    names: dict[str, Any] = {}
    exec(compile(compression + verification, str(PAGE), "exec"), names)
    return names


def test_the_pages_vectors_are_right() -> None:
    assert [(vector.size, vector.segment) for vector in vectors()] == [
        (0, 64), (64, 64), (65, 64), (128, 64), (200, 64), (300, 128),
    ]  # fmt: skip
    for vector in vectors():
        oracle = listed(pattern(vector.size), vector.segment)
        assert vector.digest == oracle.digest
        assert "".join(vector.states) == oracle.states.hex()
        assert vector.file == oracle.encode()
        assert Checkpoints.parse(vector.file) == oracle


@native
def test_the_pages_vectors_verify_here() -> None:
    for vector in vectors():
        blob = pattern(vector.size)
        assert noted(blob, vector.segment).encode() == vector.file
        assert failing(Checkpoints.parse(vector.file), blob) == []


def test_the_pages_example_agrees(example: dict[str, Any]) -> None:
    for vector in vectors():
        blob, wanted = pattern(vector.size), bytes.fromhex(vector.digest)
        assert example["holds"](vector.file, wanted, blob)
        assert not example["holds"](vector.file, bytes(32), blob)
        assert not example["holds"](vector.file, wanted, blob + b"\0")
        assert not example["holds"](vector.file, wanted, blob[:-1] if blob else b"x")
        for bit in range(0, 8 * len(vector.file), 37):
            assert not example["holds"](flipped(vector.file, bit), wanted, blob)
        for bit in range(0, 8 * len(blob), 97):
            assert not example["holds"](vector.file, wanted, flipped(blob, bit))


@native
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(blob=st.binary(max_size=300), segment=segments, seed=st.integers(0), draw=st.data())
def test_the_pages_example_and_this_implementation_judge_alike(
    example: dict[str, Any], blob: bytes, segment: int, seed: int, draw: st.DataObject
) -> None:
    changes = st.sampled_from([lambda data: data, lambda data: flipped(data, seed % (8 * len(data)))])
    file = draw.draw(changes)(listed(blob, segment).encode())
    if blob:
        blob = draw.draw(changes)(blob)
    try:
        parsed = Checkpoints.parse(file)
    except ValueError:
        assert not example["holds"](file, file[24:56], blob)
        return
    assert example["holds"](file, bytes.fromhex(parsed.digest), blob) == (
        parsed.size == len(blob) and failing(parsed, blob) == []
    )


def test_what_the_page_says_is_rejected_is(example: dict[str, Any]) -> None:
    last = vectors()[-1]
    blob, wanted, file = pattern(last.size), bytes.fromhex(last.digest), last.file

    def header(*, size: int = 300, segment: int = 128) -> bytes:
        return file[:8] + size.to_bytes(8, "big") + segment.to_bytes(8, "big") + file[24:]

    assert header() == file
    refused = [
        *(flipped(file, 8 * at) for at in range(8)),
        header(size=256), header(size=385),
        header(segment=0), header(segment=127), header(segment=MAX_SEGMENT + 64),
        file[:-32], file + bytes(32), file[:-1], file + b"\0",
    ]  # fmt: skip
    for each in refused:
        with pytest.raises(ValueError):
            Checkpoints.parse(each)
        assert not example["holds"](each, wanted, blob)
    for size in (257, 384):
        assert Checkpoints.parse(header(size=size)).size == size


@native
def test_the_pages_forgery_passes_two_segments_of_three() -> None:
    _, (state,) = next(found for found in map(fields, blocks("text")) if "size" not in found[0])
    true = Checkpoints.parse(vectors()[-1].file)
    forged = dataclasses.replace(true, states=bytes.fromhex(state) + true.states[32:])
    assert failing(forged, bytes(128) + pattern(300)[128:]) == [1]


@native
def test_the_pages_use_of_bucketry_works() -> None:
    (block,) = (block for block in blocks("python") if "bucketry" in block)
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert names["check"].holds()


def test_the_pages_numbers_are_this_implementations() -> None:
    text = PAGE.read_text()
    assert f"at most {MAX_SEGMENTS}" in text
    assert f"from 64 to {MAX_SEGMENT} " in text
    assert f"no more than {MAX_ENCODED} bytes" in text
    assert f"8 MiB ({SEGMENT})" in text
    assert f"`{hashing.MEDIA_TYPE}`" in text
    words = " ".join(re.findall("[0-9a-f]{8}", REFERENCE.initial.hex()))
    assert f"`{words}`" in text
