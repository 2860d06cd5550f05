# ruff: noqa: E501 (tables of messages)
from __future__ import annotations

from itertools import count

import bcrypt
import pytest
from argon2.low_level import Type, hash_secret
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.access import (
    PrincipalInvalid,
    Users,
    UsersInvalid,
    hash_password,
    htpasswd,
    htpasswd_line,
    parse_htpasswd,
)
from bucketry.access.htpasswd import MAX_PASSWORD

SALT = bytes(range(16))


def cheap_bcrypt(password: str, kind: str = "2b", cost: int = 4) -> str:
    text = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode()
    return text.replace("$2b$", f"${kind}$")


def cheap_argon2(password: str, kind: Type = Type.ID, memory: int = 8, passes: int = 1, lanes: int = 1) -> str:
    return hash_secret(password.encode(), SALT, passes, memory, lanes, 16, kind).decode()


BCRYPT = cheap_bcrypt("right")
ARGON2 = cheap_argon2("right")


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(UsersInvalid) as caught:
        parse_htpasswd(text, path="htpasswd")
    return caught.value.problems


@pytest.mark.parametrize(
    "found",
    [cheap_bcrypt("right", "2a"), cheap_bcrypt("right", "2b"), cheap_bcrypt("right", "2y"), ARGON2],
    ids=count(),
)
def test_the_right_password_and_no_other(found: str) -> None:
    users = parse_htpasswd(f"alice:{found}\n", path="htpasswd")

    assert users.verify("alice", "right")
    for name, password in [
        ("alice", "wrong"),
        ("alice", "right "),
        ("alice", "Right"),
        ("alice", "right\0"),
        ("alice", "right\0x"),
        ("alice", ""),
        ("alice", found),
        ("alice", "x" * (MAX_PASSWORD + 1)),
        ("alice", "\ud800"),
        ("Alice", "right"),
        ("alice ", "right"),
        ("bob", "right"),
        ("", "right"),
        ("\ud800", "right"),
    ]:
        assert not users.verify(name, password), (name, password)


@pytest.mark.parametrize("password", ["p\u00e4ss", "\U0001f511 key", "a" * 72, "a" * 73, "a" * MAX_PASSWORD, " x "])
def test_passwords_of_every_kind(password: str) -> None:
    users = Users({"b": cheap_bcrypt(password), "a": cheap_argon2(password)})

    assert users.verify("a", password)
    assert users.verify("b", password)
    assert not users.verify("a", password + "x")
    assert not users.verify("b", "x" + password)


def test_a_name_that_is_unknown_costs_what_a_known_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def matches(found: str, secret: bytes) -> bool:
        checked.append(found)
        return True

    monkeypatch.setattr(htpasswd, "_matches", matches)
    users = Users({"alice": BCRYPT, "bob": ARGON2})

    assert users.verify("alice", "x")
    for n in range(50):
        assert not users.verify(f"stranger-{n}", "x")
    assert len(checked) == 51
    assert set(checked[1:]) == {BCRYPT, ARGON2}
    for _ in range(5):
        users.verify("stranger-1", "y")
    assert set(checked[51:]) == {checked[2]}  # the same for every try, or the time would tell
    assert not Users({}).verify("alice", "x")


def test_a_password_that_nobody_can_have_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(htpasswd, "_matches", None)
    users = Users({"alice": BCRYPT})

    for name in ("alice", "stranger"):
        for password in ("", "x" * 1025, "\u00e4" * 513, "a\0b", "\ud800"):
            assert not users.verify(name, password)


def test_comments_blank_lines_and_line_ends() -> None:
    text = f"\ufeff# users\r\n\r\nalice:{BCRYPT}\r\n  # more\n\t\nbob:{ARGON2} \n"
    users = parse_htpasswd(text, path="htpasswd")

    assert users.names == {"alice", "bob"}
    assert "alice" in users
    assert "carol" not in users
    assert len(users) == 2
    assert users.verify("bob", "right")
    assert len(parse_htpasswd("", path="htpasswd")) == 0


MAKE = "; `bucketry access hash alice` makes a right one (or `htpasswd -nB alice`)"


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ("$apr1$abcdefgh$0123456789abcdefghijkl", "alice has an MD5 hash (htpasswd without -B), and only bcrypt and argon2id are taken"),
        ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "alice has a SHA-1 hash (htpasswd -s), and only bcrypt and argon2id are taken"),
        ("$1$abcdefgh$0123456789abcdefghijkl", "alice has an MD5 hash, and only bcrypt and argon2id are taken"),
        ("$5$abc$def", "alice has a SHA-256 hash (htpasswd -2), and only bcrypt and argon2id are taken"),
        ("$6$abc$def", "alice has a SHA-512 hash (htpasswd -5), and only bcrypt and argon2id are taken"),
        ("$y$abc$def", "alice has a yescrypt hash, and only bcrypt and argon2id are taken"),
        ("{SSHA}abc", "alice has a hash of an LDAP server, and only bcrypt and argon2id are taken"),
        ("hunter2", "alice has no hash of a known kind, and only bcrypt and argon2id are taken"),
        ("", "alice has no password, and only bcrypt and argon2id are taken"),
        (BCRYPT[:-1], "alice has a bcrypt hash that was cut off or mistyped, and only bcrypt and argon2id are taken"),
        (BCRYPT + ":Alice", "alice has a bcrypt hash that was cut off or mistyped, and only bcrypt and argon2id are taken"),
        (BCRYPT.replace("$2b$", "$2x$"), "alice has a bcrypt hash that was cut off or mistyped, and only bcrypt and argon2id are taken"),
        (BCRYPT.replace("$04$", "$03$"), "the bcrypt cost of alice's hash is 3: there is none below 4"),
        (BCRYPT.replace("$04$", "$15$"), "the bcrypt cost of alice's hash is 15, so a check would take about 2 seconds: at most 14 is allowed"),
        (BCRYPT.replace("$04$", "$31$"), "the bcrypt cost of alice's hash is 31, so a check would take about 131072 seconds: at most 14 is allowed"),
        (cheap_argon2("x", Type.I), "alice has an argon2 hash of another kind than argon2id, and only bcrypt and argon2id are taken"),
        (cheap_argon2("x", Type.D), "alice has an argon2 hash of another kind than argon2id, and only bcrypt and argon2id are taken"),
        (ARGON2.replace("v=19", "v=16"), "the argon2id hash of alice is of version 16: 19 is the only one that is taken"),
        (ARGON2.replace("m=8,", "m=262145,"), "the argon2id hash of alice takes 262145 KiB of memory for each check: at most 262144 are allowed"),
        (ARGON2.replace("m=8,", "m=4294967295,"), "the argon2id hash of alice takes 4294967295 KiB of memory for each check: at most 262144 are allowed"),
        (ARGON2.replace("m=8,t=1", "m=262144,t=5"), "the argon2id hash of alice takes 5 passes over 262144 KiB for each check: at most 4 are allowed"),
        (ARGON2.replace("t=1", "t=4294967295"), "the argon2id hash of alice takes 4294967295 passes over 8 KiB for each check: at most 131072 are allowed"),
        (ARGON2.replace("m=8,t=1,p=1", "m=8192,t=1,p=17"), "the argon2id hash of alice takes 17 lanes: at most 16 are allowed"),
        (ARGON2.replace("m=8", "m=7"), "the argon2id hash of alice has parameters that cannot be"),
        (ARGON2.replace("t=1", "t=0"), "the argon2id hash of alice has parameters that cannot be"),
        (ARGON2.replace("p=1", "p=0"), "the argon2id hash of alice has parameters that cannot be"),
        (ARGON2[:-8], "the argon2id hash of alice was cut off or mistyped"),
        (ARGON2[:-1], "the argon2id hash of alice was cut off or mistyped"),
        (ARGON2.partition(",p=")[0], "alice has an argon2id hash that was cut off or mistyped, and only bcrypt and argon2id are taken"),
    ],
    ids=count(),
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_named_with_what_to_do(found: str, problem: str) -> None:
    text = f"# users\ngood:{BCRYPT}\nalice:{found}\n"

    assert problems(text) == (f"htpasswd: line 3: {problem}{MAKE}",)


@pytest.mark.parametrize(
    "found", ["hunter2", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", BCRYPT[:-1], ARGON2[:-1]], ids=count()
)
def test_no_message_holds_a_hash_or_a_password(found: str) -> None:
    for text in (f"alice:{found}", f"alice:x:{found}", found.replace(":", "")):
        for problem in problems(text):
            assert found not in problem
            assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("alice", "is not NAME:HASH"),
        (f":{BCRYPT}", "'' is no name of a user"),
        (f"al ice:{BCRYPT}", "'al ice' is no name of a user"),
        (f"\u0430lice:{BCRYPT}", r"'\u0430lice' is no name of a user"),
        (f"al\ufffdce:{BCRYPT}", r"'al\ufffdce' is no name of a user"),
        (f"al\x00ice:{BCRYPT}", r"'al\x00ice' is no name of a user"),
        (f"*:{BCRYPT}", "'*' is no name of a user"),
        (f"good:{ARGON2}", "good is in line 1 already; leave one of them"),
    ],
    ids=count(),
)
def test_names_that_are_none_or_there_twice(line: str, problem: str) -> None:
    (found,) = problems(f"good:{BCRYPT}\n{line}\n")

    assert found.startswith(f"htpasswd: line 2: {problem}")
    assert found.isascii()


def test_all_bad_lines_are_told_and_a_command_is_safe_to_copy() -> None:
    found = problems("a;rm:x\nb:y\n")

    assert len(found) == 2
    assert "`bucketry access hash 'a;rm'`" in found[0]


def test_a_low_bcrypt_cost_is_warned_of() -> None:
    users = parse_htpasswd(f"bob:{cheap_argon2('x')}\nalice:{BCRYPT}\n", path="htpasswd")

    assert users.warnings == (
        "htpasswd: line 2: the bcrypt cost of alice's hash is 4, which is soon guessed by whoever gets the file; "
        "`bucketry access hash alice` makes a better one",
    )


def test_the_size_of_the_file_is_limited() -> None:
    assert problems("#" * (1024 * 1024 + 1)) == ("htpasswd: has 1048577 characters: at most 1048576 are allowed",)


def test_users_show_no_hash() -> None:
    assert repr(Users({"alice": BCRYPT})) == "Users(1 names)"


def test_a_line_that_is_made_is_one_that_is_read() -> None:
    line = htpasswd_line("alice", "correct horse", salt=SALT)
    users = parse_htpasswd(line, path="htpasswd")

    assert line.startswith("alice:$argon2id$v=19$m=32768,t=3,p=1$")
    assert users.verify("alice", "correct horse")
    assert not users.verify("alice", "correct horse ")
    assert users.warnings == ()
    assert htpasswd_line("alice", "correct horse", salt=SALT) == line
    assert htpasswd_line("alice", "correct horse", salt=bytes(16)) != line


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("", "is empty"),
        ("x" * 1025, "has 1025 bytes: at most 1024 are allowed"),
        ("a\nb", "control characters"),
        ("a\0b", "control characters"),
        ("\ud800", "control characters"),
    ],
)
def test_a_password_that_no_client_can_send_gets_no_hash(password: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        hash_password(password, salt=SALT)


def test_a_line_needs_a_name_and_enough_salt() -> None:
    with pytest.raises(PrincipalInvalid):
        htpasswd_line("a b", "x", salt=SALT)
    with pytest.raises(ValueError, match="a salt of 16 bytes"):
        hash_password("x", salt=b"short")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    found: tuple[str, ...] = ()
    try:
        parse_htpasswd(text, path="htpasswd")
    except UsersInvalid as error:
        found = error.problems
    assert all(problem.startswith("htpasswd: line ") and problem.isascii() for problem in found)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(ARGON2) - 1), st.sampled_from("$,=./A0\u00e4"))
def test_a_mistyped_hash_is_refused_or_wrong(at: int, character: str) -> None:
    text = ARGON2[:at] + character + ARGON2[at + 1 :]
    try:
        users = parse_htpasswd(f"alice:{text}", path="htpasswd")
    except UsersInvalid:
        return
    # Of the last digit of base64 some bits mean nothing, so it may still be the right one.
    assert isinstance(users.verify("alice", "right"), bool)
