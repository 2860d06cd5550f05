from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.access import (
    AccessError,
    Action,
    Policy,
    PrincipalInvalid,
    RobotRecord,
    Standing,
    TokenInvalid,
    is_token,
    make_token,
    parse_token,
)
from bucketry.access.robots import TOKEN_PATTERN, token_digest

SECRET = bytes(range(32))
TOKEN = make_token("ci", SECRET)


def record(**changes: Any) -> RobotRecord:
    values: dict[str, Any] = {
        "name": "ci",
        "repositories": ("team/*",),
        "actions": (Action.PULL, Action.PUSH),
        "created": 1000.0,
        "digest": token_digest(TOKEN),
        "expires": 2000.0,
    }
    return RobotRecord(**values | changes)


names = st.from_regex(r"[a-z0-9]{1,5}([._-][a-z0-9]{1,5}){0,3}", fullmatch=True)


@given(names, st.binary(min_size=32, max_size=32))
def test_a_token_says_whose_it_is(name: str, secret: bytes) -> None:
    text = make_token(name, secret)
    token = parse_token(text)

    assert token.name == name
    assert token.digest == token_digest(text)
    assert re.fullmatch(TOKEN_PATTERN, text)
    assert is_token(text)
    assert len(text) == len(f"bktr_{name}_") + 43 + 1 + 6


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_two_secrets_make_two_tokens(one: bytes, other: bytes) -> None:
    assert (make_token("ci", one) == make_token("ci", other)) == (one == other)


@settings(max_examples=200)
@given(names, st.integers(0), st.sampled_from("abcXYZ019_-. \u0430\n"))
def test_one_wrong_character_is_told_from_a_wrong_token(name: str, at: int, character: str) -> None:
    text = make_token(name, SECRET)
    at %= len(text)
    changed = text[:at] + character + text[at + 1 :]
    if changed == text:
        return
    with pytest.raises(TokenInvalid, match="cut off or mistyped") as caught:
        parse_token(changed)
    assert text[10:] not in str(caught.value)


@pytest.mark.parametrize("size", range(len(TOKEN)))
def test_a_token_that_was_cut_off_anywhere_is_told(size: int) -> None:
    for text in (TOKEN[:size], TOKEN[-size:] if size else ""):
        with pytest.raises(TokenInvalid, match="all of it begins with bktr_ and its last 6 characters fit the rest"):
            parse_token(text)


@pytest.mark.parametrize("text", [" " + TOKEN, TOKEN + "\n", TOKEN * 2, TOKEN.upper(), "bktr_" * 10**5, "", "bktr_"])
def test_what_is_near_a_token_is_none(text: str) -> None:
    with pytest.raises(TokenInvalid):
        parse_token(text)


def test_passwords_are_no_tokens() -> None:
    assert not is_token("hunter2")
    assert not is_token("")
    assert is_token("bktr_anything")


@pytest.mark.parametrize("name", ["", "CI", "a/b", "../a", "a__b", "c\u0456", "a" * 65])
def test_a_token_needs_the_name_of_a_robot(name: str) -> None:
    with pytest.raises(PrincipalInvalid, match="is no name of a robot"):
        make_token(name, SECRET)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_token_needs_all_its_chance(size: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        make_token("ci", bytes(size))


@pytest.mark.parametrize(
    ("changes", "text", "now", "standing"),
    [
        ({}, TOKEN, 1999.9, Standing.GOOD),
        ({"expires": None}, TOKEN, 1e12, Standing.GOOD),
        ({}, TOKEN, 2000.0, Standing.EXPIRED),
        ({"revoked": 1500.0}, TOKEN, 1400.0, Standing.REVOKED),
        ({"revoked": 1500.0}, TOKEN, 3000.0, Standing.REVOKED),
        ({}, make_token("ci", bytes(32)), 1500.0, Standing.WRONG),
        ({"revoked": 1500.0, "expires": 1.0}, make_token("ci", bytes(32)), 1600.0, Standing.WRONG),
        ({}, make_token("other", SECRET), 1500.0, Standing.WRONG),
        ({"name": "other"}, TOKEN, 1500.0, Standing.WRONG),
    ],
)
def test_where_a_token_stands(changes: dict[str, Any], text: str, now: float, standing: Standing) -> None:
    assert record(**changes).standing(parse_token(text), now) is standing


def test_a_record_comes_back_as_it_was_written() -> None:
    one = record()

    assert RobotRecord.decode(one.encode()) == one
    assert msgspec.json.decode(one.encode())["actions"] == ["pull", "push"]
    assert TOKEN.encode() not in one.encode()
    # Written by a newer bucketry: what it added is not for us.
    later = msgspec.json.decode(one.encode()) | {"note": "x"}
    assert RobotRecord.decode(msgspec.json.encode(later)) == one


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"},
        {"name": "CI"},
        {"digest": "x"},
        {"digest": "A" * 64},
        {"actions": ["fly"]},
        {"repositories": ["Team/*"]},
        {"repositories": ["*a*a*a*b"]},
        {"repositories": "team"},
        {"created": None},
    ],
)
def test_a_record_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    data = msgspec.json.encode(msgspec.json.decode(record().encode()) | change)
    with pytest.raises(AccessError, match="a robot's record in the store cannot be read: "):
        RobotRecord.decode(data)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"name": "ci"'])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(AccessError, match="cannot be read"):
        RobotRecord.decode(data)


def test_a_robot_may_do_what_its_record_says() -> None:
    robot = record().principal()

    assert str(robot) == "robot:ci"
    assert Policy().decide(robot, Action.PUSH, "team/app").allowed
    assert not Policy().decide(robot, Action.DELETE, "team/app").allowed
    assert not Policy().decide(robot, Action.PULL, "other").allowed
