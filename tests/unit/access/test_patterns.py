from __future__ import annotations

import time
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.access.oracle import matches, text_matches

from bucketry.access.languages import can_match, covers
from bucketry.access.patterns import TextGlob, repository_glob
from bucketry.oci.errors import NameInvalid
from bucketry.oci.glob import RepositoryGlob
from bucketry.oci.reference import parse_repository


def is_name(text: str) -> bool:
    try:
        parse_repository(text)
    except NameInvalid:
        return False
    return True


SHORT = [name for size in range(1, 6) for name in map("".join, product("ab-_/", repeat=size)) if is_name(name)]


def is_pattern(text: str) -> bool:
    try:
        RepositoryGlob(text)
    except NameInvalid:
        return False
    return True


patterns = st.text("ab-_/*?", min_size=1, max_size=6).filter(is_pattern)


@settings(max_examples=200, deadline=None)
@given(st.text("ab*\n", max_size=8), st.text("ab\n", max_size=8))
def test_a_text_pattern_matches_as_the_oracle_does(pattern: str, text: str) -> None:
    assert TextGlob(pattern).matches(text) == text_matches(pattern, text)


@settings(max_examples=200, deadline=None)
@given(st.text("ab*", max_size=5), st.text("ab*", max_size=5), st.text("ab", max_size=7))
def test_what_covers_a_text_pattern_matches_all_that_it_does(outer: str, inner: str, text: str) -> None:
    if TextGlob(outer).covers(TextGlob(inner)) and text_matches(inner, text):
        assert text_matches(outer, text)


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        ("*", "a*", True),
        ("a*", "ab*", True),
        ("a*", "a", True),
        ("refs/*", "refs/heads/*", True),
        ("*a*", "xax*", True),
        ("ab*", "a*", False),
        ("a", "a*", False),
        ("a*b", "a*", False),
        ("", "*", False),
    ],
)
def test_a_text_pattern_covers_these(outer: str, inner: str, covered: bool) -> None:
    assert TextGlob(outer).covers(TextGlob(inner)) == covered


def test_a_text_pattern_takes_no_time_whatever_it_is_made_for() -> None:
    began = time.perf_counter()
    assert not TextGlob("*a" * 200 + "b").matches("a" * 1024)
    assert not TextGlob("*a" * 200 + "*b").matches("a" * 100_000)

    assert time.perf_counter() - began < 2


def test_a_text_pattern_has_its_limit() -> None:
    with pytest.raises(ValueError, match="at most 1024"):
        TextGlob("a" * 1025)


@pytest.mark.parametrize(
    "pattern", ["team/*", "*/*/*/*/*/app", "team/**", "**", "**/team-*/app-*", "*-*-*", "a/*/b/*/c/*/d/*/**"]
)
def test_patterns_that_people_write_are_taken(pattern: str) -> None:
    assert repository_glob(pattern).pattern == pattern


@pytest.mark.parametrize("pattern", ["*a*a*a*b", "**a**a**a**b", "*a*a*a*", "**/a/**/a/**/a/**/b"])
def test_patterns_that_are_slow_to_match_are_refused(pattern: str) -> None:
    with pytest.raises(NameInvalid, match="4 wildcards within its parts: at most 3 are allowed; write several"):
        repository_glob(pattern)


@pytest.mark.parametrize("pattern", ["*a*a*b", "**a**a**ab", "*a*a*/b", "*/" * 60 + "b", "**/a/**/a/**/a/b"])
def test_the_slowest_patterns_that_are_taken_are_not_slow(pattern: str) -> None:
    glob = repository_glob(pattern)
    began = time.perf_counter()
    for name in ("a" * 255, "a/" * 127 + "a"):
        assert not glob.matches(name)

    assert time.perf_counter() - began < 0.5


@settings(max_examples=300, deadline=None)
@given(patterns, st.sampled_from(SHORT))
def test_a_pattern_for_repositories_matches_as_the_oracle_does(pattern: str, name: str) -> None:
    assert RepositoryGlob(pattern).matches(name) == matches(pattern, name)


@settings(max_examples=200, deadline=None)
@given(patterns.filter(lambda pattern: len(pattern) <= 4))
def test_whether_a_pattern_matches_any_name_is_found_by_trying_all_short_ones(pattern: str) -> None:
    glob = RepositoryGlob(pattern)
    assert can_match(pattern) == any(glob.matches(name) for name in SHORT)


@settings(max_examples=300, deadline=None)
@given(st.lists(patterns, min_size=1, max_size=3).map(tuple), patterns)
def test_what_covers_a_pattern_matches_all_names_that_it_does(outer: tuple[str, ...], inner: str) -> None:
    if covers(outer, inner):
        globs, glob = [RepositoryGlob(one) for one in outer], RepositoryGlob(inner)
        assert all(any(one.matches(name) for one in globs) for name in SHORT if glob.matches(name))


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        (["team/**"], "team/*", True),
        (["team/**"], "team/**", True),
        (["team/**"], "team/app", True),
        (["team/**"], "team", True),
        (["team/**"], "team/*/x-?", True),
        (["**"], "*-x", True),
        (["*", "*/**"], "**", True),
        (["a*", "?b*", "*"], "?", True),
        (["*/**"], "**", True),
        (["team/*", "team/*/**"], "team/**/app", True),
        (["*-*", "*"], "a--b", True),
        (["team/*"], "team/**", False),
        (["team/*"], "team", False),
        (["team/a*"], "team/*", False),
        (["a?"], "a*", False),
        (["*a"], "*", False),
        (["*/b"], "*/?", False),
    ],
)
def test_a_pattern_is_covered_by_these(outer: list[str], inner: str, covered: bool) -> None:
    assert covers(tuple(outer), inner) == covered


@pytest.mark.parametrize(
    ("pattern", "possible"),
    [
        ("team/", False),
        ("team/-x", False),
        ("a..b", False),
        ("a___b", False),
        ("a__b", True),
        ("a---b", True),
        ("*_-*", False),
        ("_*", False),
        ("**/", False),
        ("a/**/", False),
        ("team/***", True),
        ("?" * 255, True),
        ("?/" * 127 + "?*?", False),
        ("?/" * 127 + "?*", True),
    ],
)
def test_a_pattern_matches_no_name_where_the_grammar_has_none(pattern: str, possible: bool) -> None:
    assert can_match(pattern) == possible


def test_long_patterns_are_compared_in_bounded_time() -> None:
    began = time.perf_counter()
    covers(("**" + "?" * 200 + "/**", "*b" * 2 + "**"), "**a" + "?" * 200 + "b**")
    can_match("a" * 254 + "*")

    assert time.perf_counter() - began < 5
