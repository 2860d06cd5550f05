"""``bucketry access``: a file of rules is looked at, a decision explained, a line for a file of users made."""

from __future__ import annotations

import getpass
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketry.access import htpasswd_line, parse_htpasswd
from bucketry.cli import main

RULES = """\
users = "htpasswd"

[groups]
dev = ["user:alice", "user:bob"]

[[issuer]]
name = "github"
url = "https://token.actions.githubusercontent.com"
audience = "registry.example.com"

[[rule]]
who = ["group:dev"]
repositories = ["team/**"]
allow = ["pull", "push"]

[[rule]]
who = ["oidc:github"]
claims = { repository_owner = "acme", ref = ["refs/heads/main", "refs/tags/*"] }
repositories = ["team/**"]
allow = ["pull", "push"]

[[rule]]
who = ["user:alice"]
allow = ["catalog"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(RULES)
    (tmp_path / "htpasswd").write_text(
        "".join(f"{htpasswd_line(name, 'x', salt=bytes(16))}\n" for name in ("alice", "bob"))
    )
    return path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_that_is_right(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["access", "check", str(file)]) == 0

    captured = capsys.readouterr()
    assert captured.out == (
        f"{file} can be used: 3 rules, 1 group, 1 issuer, 0 patterns of immutable tags, 2 users; 0 warnings\n"
    )
    assert captured.err == ""


def test_warnings_are_printed_and_no_failure(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(RULES + '\n[[rule]]\nwho = ["user:carol"]\nrepositories = ["team/app", "x_"]\nallow = ["pull"]\n')

    assert main(["access", "check", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == [
        f"warning: {file}: rule 4 (line 26): 'x_' matches no name that a repository can have",
        f"warning: {file}: rule 4 (line 26) names user:carol, who is not in htpasswd",
    ]
    assert lines[-1].endswith("; 2 warnings")


def test_users_that_cannot_be_read_here_are_a_warning(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "htpasswd").unlink()

    assert main(["access", "check", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        f"warning: {file}: htpasswd cannot be read here, so nobody looked whether it has the users' names"
    )


def test_each_problem_is_a_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text('[[rule]]\nwho = ["alice"]\nrepositories = ["A"]\nallow = ["pul"]\n')

    assert main(["access", "check", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    place = f"bucketry: {file}: rule 1 (line 1): "
    assert [line.removeprefix(place) for line in captured.err.splitlines()] == [
        "'alice' is nobody; did you mean user:alice or robot:alice?",
        "allow: 'pul' is no action; did you mean pull?",
        "repositories: 'A' matches no repository: write a name in lower case, with * for any part of it, such as "
        "team/*, or team/** for all that is below team",
    ]


@pytest.mark.parametrize(
    ("users", "problem"),
    [
        ("alice:$apr1$a$b\n", "line 1: alice has an MD5 hash"),
        ("caf\udce9:x\n", r"line 1: 'caf\ufffd' is no name of a user"),
    ],
)
def test_a_file_of_users_that_cannot_be_used(
    users: str, problem: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "htpasswd").write_text(users, errors="surrogateescape")

    assert main(["access", "check", str(file)]) == 2
    assert problem in capsys.readouterr().err


def test_a_file_that_is_not_there_or_no_text(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["access", "check", str(file) + "x"]) == 1
    assert "No such file" in capsys.readouterr().err
    file.write_bytes(b"\xff\xfe")
    assert main(["access", "check", str(file)]) == 2
    assert "is not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (
            ["user:alice", "push", "team/app"],
            0,
            [
                'allowed: rule 1 (line 11) allows it: who = ["group:dev"], repositories = ["team/**"], '
                'allow = ["pull", "push"]'
            ],
        ),
        (
            ["user:bob", "delete", "team/app"],
            1,
            [
                "denied: no rule allows user:bob to delete from team/app",
                "  rule 1 (line 11) allows pull and push there, and not delete",
            ],
        ),
        (
            ["user:bob", "catalog"],
            1,
            [
                "denied: no rule allows user:bob to list the repositories",
                "  rule 1 (line 11) allows pull and push there, and not catalog",
                "  rule 3 (line 22) allows it to user:alice, and user:bob is not among them",
            ],
        ),
        (
            ["oidc:github", "pull", "team/app", "--claim", "repository_owner=acme", "--claim", "ref=refs/heads/dev"],
            1,
            [
                "denied: no rule allows oidc:github to pull from team/app",
                "  rule 1 (line 11) allows it to group:dev, and oidc:github is not among them",
                "  rule 2 (line 16) allows it where the claim ref is 'refs/heads/main' or 'refs/tags/*', and it is "
                "'refs/heads/dev'",
            ],
        ),
        (
            ["anonymous", "pull", "team/app"],
            1,
            [
                "denied: no rule allows anonymous to pull from team/app",
                "  rule 1 (line 11) allows it to group:dev, and anonymous is not among them",
                "  rule 2 (line 16) allows it to oidc:github, and anonymous is not among them",
            ],
        ),
        (
            ["robot:ci", "delete", "other"],
            1,
            [
                "denied: no rule allows robot:ci to delete from other",
                "  robot:ci may do besides what its own list allows: that is in the store, and not looked at here",
            ],
        ),
    ],
)
def test_a_decision_is_explained(
    arguments: list[str], code: int, lines: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["access", "explain", *arguments, "--file", str(file)]) == code
    assert capsys.readouterr().out.splitlines() == lines


def test_a_claim_that_is_given_twice_is_a_list(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claims = ["repository_owner=acme", "ref=x", "ref=refs/tags/v1", "ref=y=z"]
    flags = [word for claim in claims for word in ("--claim", claim)]

    assert main(["access", "explain", "oidc:github", "push", "team/app", "--file", str(file), *flags]) == 0
    assert capsys.readouterr().out.startswith("allowed: rule 2 (line 16) allows it")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["alice", "pull", "team/app"], "'alice' is no principal: write anonymous, user:NAME"),
        (["user:\u0430lice", "pull", "team/app"], r"'\u0430lice' is no name of a user"),
        (["user:alice", "pul", "team/app"], "'pul' is no action: there are pull, push, overwrite"),
        (["user:alice", "pull", "Team/app"], "'Team/app' is not a repository name"),
        (["oidc:github", "pull", "a", "--claim", "ref"], "--claim 'ref': write NAME=VALUE"),
        (["user:alice", "pull", "a", "--claim", "ref=x"], "user:alice has claims, which only an ID token has"),
    ],
)
def test_what_was_asked_wrongly_is_told(
    arguments: list[str], problem: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["access", "explain", *arguments, "--file", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert problem in captured.err


def test_a_line_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\r\nmore\n"))

    assert main(["access", "hash", "alice"]) == 0
    captured = capsys.readouterr()
    assert parse_htpasswd(captured.out, path="-").verify("alice", "correct horse")
    assert "correct" not in captured.out + captured.err


def test_two_lines_for_one_password_differ(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.StringIO("same\n"))
        assert main(["access", "hash", "alice"]) == 0
    one, other = capsys.readouterr().out.splitlines()

    assert one != other


@pytest.mark.parametrize(("typed", "code"), [(["a", "a"], 0), (["a", "b"], 2)])
def test_in_a_terminal_it_is_asked_for_twice(
    typed: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: Iterator[str] = iter(typed)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(answers))

    assert main(["access", "hash", "alice"]) == code
    captured = capsys.readouterr()
    if code:
        assert (captured.out, captured.err) == ("", "bucketry: the two were not the same\n")
    else:
        assert parse_htpasswd(captured.out, path="-").verify("alice", "a")


@pytest.mark.parametrize(
    ("name", "password", "problem"),
    [
        ("alice", "", "the password is empty"),
        ("a:b", "x", "'a:b' is no name of a user"),
        ("alice", "x" * 1025, "1025 bytes"),
    ],
)
def test_no_line_for_what_cannot_be(
    name: str, password: str, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(password))

    assert main(["access", "hash", name]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert problem in captured.err
