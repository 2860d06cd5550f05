"""Keys as paths: no two keys share a file on any file system, no key leaves its folder, and every path reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.store.checks import is_key
from bucketry.store.paths import MAX_NAME, is_piece, key_to_path, names_to_segment, segment_to_names

CHARACTERS = "aAbBzZ09._~-"
segments = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=8),
    st.text(CHARACTERS, min_size=MAX_NAME - 3, max_size=3 * MAX_NAME),
    st.builds(lambda text, count: text * count, st.sampled_from([".", "A", "aA", ".A"]), st.integers(30, 300)),
).filter(lambda segment: segment not in (".", ".."))
keys = st.lists(segments, min_size=1, max_size=4).map("/".join).filter(is_key)


@given(segments)
def test_a_segment_reads_back_from_its_names(segment: str) -> None:
    names = segment_to_names(segment)
    assert names_to_segment(names) == segment
    assert [is_piece(name) for name in names] == [True] * (len(names) - 1) + [False]


@given(keys)
def test_a_path_stays_below_its_root_and_is_no_dotfile(key: str) -> None:
    for name in key_to_path(key).split("/"):
        assert name
        assert not name.startswith(".")
        assert len(name) <= MAX_NAME + 1


@given(keys, keys)
def test_different_keys_have_different_paths_even_where_case_is_folded(one: str, other: str) -> None:
    assert (key_to_path(one).casefold() == key_to_path(other).casefold()) == (one == other)


@given(keys)
def test_a_path_is_lower_case(key: str) -> None:
    assert key_to_path(key) == key_to_path(key).lower()


@given(st.lists(st.text("aAb.^/~é \n", min_size=1, max_size=6), min_size=1, max_size=3).map(tuple))
def test_what_reads_as_a_segment_is_what_the_segment_is_written_as(names: tuple[str, ...]) -> None:
    segment = names_to_segment(names)
    assert segment is None or segment_to_names(segment) == names


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("blobs/sha256/0f/0f00", "blobs/sha256/0f/0f00"),
        ("repos/a/~tags/Latest", "repos/a/~tags/^latest"),
        (".git/..a", "^.git/^..a"),
        ("a/" + "b" * MAX_NAME, "a/" + "b" * MAX_NAME),
        ("a/" + "b" * (MAX_NAME + 1), "a/" + "b" * MAX_NAME + "^/b"),
        ("a/" + "b" * MAX_NAME + "..", "a/" + "b" * MAX_NAME + "^/^.."),
        ("b" * (MAX_NAME - 1) + "C", "b" * (MAX_NAME - 1) + "^/^c"),
    ],
)
def test_paths_look_like_their_keys(key: str, path: str) -> None:
    assert key_to_path(key) == path


@pytest.mark.parametrize(
    "name", ["A", "a^", "^", "^^a", "a^.b", "^1", ".a", "..", "^.", "^..", "a b", "ä", "a\n", "b" * (MAX_NAME + 1)]
)
def test_foreign_names_are_no_segment(name: str) -> None:
    assert names_to_segment((name,)) is None
