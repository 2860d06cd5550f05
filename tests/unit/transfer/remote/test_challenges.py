"""What servers write into WWW-Authenticate, the good ones and the others."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.transfer.remote.challenges import MAX_CHALLENGES, MAX_HEADER, Challenge, parse_challenges


def parsed(*headers: str) -> list[tuple[str, dict[str, str]]]:
    return [(challenge.scheme, dict(challenge.parameters)) for challenge in parse_challenges(headers)]


BEARER = 'Bearer realm="https://auth.example/token",service="reg.example",scope="repository:a/b:pull,push"'
BEARER_PARSED = (
    "bearer",
    {"realm": "https://auth.example/token", "service": "reg.example", "scope": "repository:a/b:pull,push"},
)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([BEARER], [BEARER_PARSED]),
        (['Basic realm="a registry"'], [("basic", {"realm": "a registry"})]),
        (["Basic"], [("basic", {})]),
        ([BEARER + ', Basic realm="x"'], [BEARER_PARSED, ("basic", {"realm": "x"})]),
        (['Basic realm="x"', BEARER], [("basic", {"realm": "x"}), BEARER_PARSED]),
        (['Negotiate, Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['Negotiate YII+/==, Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['bEaReR REALM="https://a"'], [("bearer", {"realm": "https://a"})]),
        (["Bearer realm=token , service = s"], [("bearer", {"realm": "token", "service": "s"})]),
        (['Bearer realm="a\\"b\\\\c"'], [("bearer", {"realm": 'a"b\\c'})]),
        (['Bearer realm="a, Basic realm=b"'], [("bearer", {"realm": "a, Basic realm=b"})]),
        (['Bearer realm="first",realm="second"'], [("bearer", {"realm": "first"})]),
        (['Bearer realm="no commas" service="x"'], [("bearer", {"realm": "no commas", "service": "x"})]),
        (['Bearer realm="https://a",error="insufficient_scope"'], [
            ("bearer", {"realm": "https://a", "error": "insufficient_scope"})
        ]),
        (['Bearer realm="never closed'], [("bearer", {})]),
        ([""], []),
        ([", ,,"], []),
        (["=nothing"], []),
        (['"quoted"'], []),
        ([], []),
    ],
)  # fmt: skip
def test_challenges_are_read_as_they_are_written(
    headers: list[str], expected: list[tuple[str, dict[str, str]]]
) -> None:
    assert parsed(*headers) == expected


@given(st.lists(st.text(st.characters(codec="latin-1"), max_size=200), max_size=3))
@settings(max_examples=300, deadline=None)
def test_no_header_is_an_error(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower() != ""


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z]{1,10}", fullmatch=True),
            st.dictionaries(
                st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
                st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
                min_size=1,
                max_size=4,
            ),
        ),
        max_size=4,
    )
)
@settings(max_examples=200, deadline=None)
def test_what_is_written_comes_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )

    assert parsed(header) == [(scheme.lower(), parameters) for scheme, parameters in challenges]


@pytest.mark.parametrize(
    "header",
    [
        "Bearer " * (MAX_HEADER // 8),
        'Bearer realm="' + "\\" * (MAX_HEADER - 20),
        "a=" * (MAX_HEADER // 2),
        'Bearer x="' + 'y",x="' * (MAX_HEADER // 8),
        "," * MAX_HEADER,
        "A" * MAX_HEADER,
        "Bearer " + " " * (MAX_HEADER - 10) + "x",
    ],
    ids=lambda header: header[:16],
)
def test_a_hostile_header_costs_little(header: str) -> None:
    began = time.perf_counter()
    found = parse_challenges([header] * 4)

    assert time.perf_counter() - began < 0.5
    assert len(found) <= MAX_CHALLENGES


def test_a_header_that_is_too_long_is_as_good_as_none() -> None:
    assert parse_challenges([BEARER + "," + "x" * MAX_HEADER, "Basic"]) == (Challenge("basic", {}),)
