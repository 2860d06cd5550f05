from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.oci.errors import NameInvalid
from bucketry.oci.glob import RepositoryGlob


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("team/app", ["team/app"], ["team/app2", "team/app/x", "xteam/app"]),
        ("team/*", ["team/a", "team/a-b"], ["team", "team/a/b", "teams/a"]),
        ("team/**", ["team", "team/a", "team/a/b"], ["teams/a", "x/team/a"]),
        ("**/app", ["app", "a/app", "a/b/app"], ["xapp", "app/x"]),
        ("*", ["a", "a.b"], ["a/b"]),
        ("**", ["a", "a/b/c"], []),
        ("a?c", ["abc"], ["ac", "a/c", "abbc"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("a.c", ["a.c"], ["abc"]),
        ("team-*/app", ["team-x/app", "team-/app"], ["team-x/y/app"]),
    ],
)
def test_a_pattern_matches_these_and_not_others(pattern: str, matched: list[str], others: list[str]) -> None:
    glob = RepositoryGlob(pattern)
    assert [glob.matches(name) for name in matched] == [True] * len(matched)
    assert [glob.matches(name) for name in others] == [False] * len(others)


@pytest.mark.parametrize(
    ("pattern", "prefix", "literal"),
    [
        ("team/app", "team/app", "team/app"),
        ("team/*", "team", None),
        ("team/**", "team", None),
        ("team/a*/b", "team", None),
        ("te*", "", None),
        ("a/b/c?", "a/b", None),
    ],
)
def test_the_prefix_is_what_all_that_match_begin_with(pattern: str, prefix: str, literal: str | None) -> None:
    glob = RepositoryGlob(pattern)
    assert (glob.prefix, glob.literal) == (prefix, literal)


@pytest.mark.parametrize(
    "pattern", ["", "Team/*", "/team", "a//b", "a b", "a" * 256, "team/[ab]", "täm", "team/", ".", "../*", "a/./b"]
)
def test_what_no_repository_can_match_is_refused(pattern: str) -> None:
    with pytest.raises(NameInvalid, match="such as team/"):
        RepositoryGlob(pattern)


@given(
    st.text("ab/*?", min_size=1, max_size=12).filter(lambda text: "//" not in text and "/" not in (text[0], text[-1])),
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join),
)
def test_what_matches_has_the_prefix(pattern: str, name: str) -> None:
    glob = RepositoryGlob(pattern)
    if glob.matches(name) and glob.prefix:
        assert name == glob.prefix or name.startswith(f"{glob.prefix}/")


def by_trying(pattern: str, name: str) -> bool:
    """What the documentation says, without a thought for time."""
    if not pattern:
        return not name
    if pattern.startswith("/**"):
        return by_trying(pattern[3:], name) or (
            name.startswith("/") and any(by_trying(pattern[3:], name[at:]) for at in range(1, len(name) + 1))
        )
    if pattern.startswith("**/"):
        return by_trying(pattern[3:], name) or any(
            by_trying(pattern[3:], name[at + 1 :]) for at in range(len(name)) if name[at] == "/"
        )
    if pattern.startswith("**"):
        return any(by_trying(pattern[2:], name[at:]) for at in range(len(name) + 1))
    if pattern.startswith("*"):
        part = name.partition("/")[0]
        return any(by_trying(pattern[1:], name[at:]) for at in range(len(part) + 1))
    if not name:
        return False
    same = name[0] != "/" if pattern[0] == "?" else pattern[0] == name[0]
    return same and by_trying(pattern[1:], name[1:])


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**", "?", "/"]), min_size=1, max_size=9)
    .map("".join)
    .filter(lambda text: "***" not in text and "//" not in text and "/" not in (text[0], text[-1])),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4).map("/".join),
)
@settings(max_examples=1000)
def test_a_pattern_matches_what_it_is_said_to_match(pattern: str, name: str) -> None:
    assert RepositoryGlob(pattern).matches(name) == by_trying(pattern, name)


@pytest.mark.parametrize(
    "pattern", ["t*a*a*a*a*a*a*a*a", "**/a/**/a/**/a/**/a/**/b", "**a**a**a**a**a**a", "**/*a*a*a*a*b"]
)
def test_no_pattern_takes_longer_than_the_name_is_long(pattern: str) -> None:
    glob = RepositoryGlob(pattern)

    def steps(name: str) -> int:
        count = 0

        def counted(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(counted)
        try:
            glob.matches(name)
        finally:
            sys.setprofile(None)
        return count

    # Calls of functions; a regular expression is one, so none of these may be one.
    once, twice = steps("ta" * 60 + "c"), steps("ta" * 120 + "c")
    assert 60 < once < twice < 2.2 * once
