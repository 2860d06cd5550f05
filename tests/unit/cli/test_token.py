"""``bucketry token``: robots are made, listed and revoked on the store itself, and what is typed wrongly is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bucketry.access import RobotRecord, parse_token
from bucketry.access.robots import TOKEN_PATTERN
from bucketry.cli import main
from bucketry.registry import Registry
from bucketry.store.local import LocalStore


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BUCKETRY_CONFIG", "BUCKETRY_STORE__URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    async def make() -> None:
        opened = LocalStore(tmp_path / "store")
        await opened.start()
        await (await Registry.open(opened)).close()
        await opened.close()

    asyncio.run(make())
    return tmp_path / "store"


def record(store: Path, name: str) -> RobotRecord:
    """What the store has of a robot, wherever in the folder that is."""
    (file,) = (path for path in (store / "access" / "robots").rglob("*") if path.is_file() and name in path.name)
    body = file.read_bytes()
    start = body.index(b'{"name"')
    return RobotRecord.decode(body[start : body.index(b"}", start) + 1])


def create(store: Path, *options: str, name: str = "ci") -> int:
    given = options or ("--repository", "team/**", "--allow", "pull,push")
    return main(["token", "create", name, *given, "--store", str(store)])


def documents(store: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main(["token", "list", "--json", "--store", str(store)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_token_is_shown_once_with_all_that_a_person_needs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--repository", "team/**", "--repository", "base", "--allow", "push,pull", "--expires", "90d")
    assert create(store, *options) == 0
    out, err = capsys.readouterr()
    token = out.removesuffix("\n")
    assert re.fullmatch(TOKEN_PATTERN, token)
    assert token not in err
    made = record(store, "ci")
    assert made.digest == hashlib.sha256(token.encode()).hexdigest() == parse_token(token).digest
    assert made.repositories == ("team/**", "base")
    assert made.expires is not None
    assert made.expires - made.created == 90 * 86400
    until = datetime.fromtimestamp(made.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
    for words in (
        "shown this once",
        "may      pull, push\n",
        "on       team/**, base\n",
        f"good     until {until}\n",
        "to move a tag that is there",
        "docker login localhost:5000 -u ci --password-stdin",
        f"bucketry token revoke ci --store {store}",
    ):
        assert words in err
    for file in store.rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes()


def test_quiet_prints_the_token_and_nothing_else(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(store, "--repository", "a", "--allow", "pull", "-q") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(TOKEN_PATTERN + "\n", out)
    assert err == ""


def test_the_host_to_log_in_to_is_the_public_one(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(store, "--repository", "a", "--allow", "admin", "--set", "server.public_url=https://r.example") == 0
    err = capsys.readouterr().err
    assert "docker login r.example -u ci " in err
    assert "until it is revoked" in err
    assert "overwrite" not in err
    assert create(store, "--repository", "a", "--allow", "pull", "--set", "server.listen=0.0.0.0:5000", name="b") == 0
    assert "docker login HOST -u b " in capsys.readouterr().err


def test_json_tells_the_token_and_the_rest(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(store, "--repository", "a/*", "--allow", "pull", "--allow", "delete", "--json") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == ""
    assert re.fullmatch(TOKEN_PATTERN, document.pop("token"))
    assert datetime.fromisoformat(document.pop("created")).tzinfo == UTC
    assert document == {
        "name": "ci",
        "state": "good",
        "repositories": ["a/*"],
        "allow": ["pull", "delete"],
        "expires": None,
        "revoked": None,
    }


def test_a_list_shows_who_may_do_what_and_no_token(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "list", "--store", str(store)]) == 0
    assert capsys.readouterr().out == f"There are no robots in {store}\n"
    assert create(store, "--repository", "team/**", "--allow", "pull,push", name="zed") == 0
    assert create(store, "--repository", "base", "--allow", "pull", "--expires", "1s", name="abe") == 0
    tokens = re.findall(TOKEN_PATTERN, capsys.readouterr().out)
    assert len(tokens) == 2
    assert [each["name"] for each in documents(store, capsys)] == ["abe", "zed"]
    assert main(["token", "list", "--store", str(store)]) == 0
    said = capsys.readouterr().out
    for words in ("zed", "abe", "pull, push", "team/**", "revoked"):
        assert words in said
    assert not any(token in said or parse_token(token).digest in said for token in tokens)


def test_a_revoked_robot_is_told_as_such_and_its_name_is_free(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(store) == 0
    capsys.readouterr()
    assert main(["token", "revoke", "ci", "--store", str(store)]) == 0
    assert capsys.readouterr().out == (
        "The token of robot ci is revoked: servers refuse it within 10s (their access.reload)\n"
    )
    (document,) = documents(store, capsys)
    assert document["state"] == "revoked"
    assert document["revoked"] is not None
    assert main(["token", "revoke", "ci", "--store", str(store)]) == 0
    assert "was revoked before" in capsys.readouterr().out
    assert create(store) == 0
    assert [each["state"] for each in documents(store, capsys)] == ["good"]


def test_the_second_robot_of_a_name_is_refused_and_the_first_stays(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create(store) == 0
    before = record(store, "ci")
    capsys.readouterr()
    assert create(store) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "bucketry: there is a robot ci already: revoke it first, or choose another name\n"
    assert record(store, "ci") == before


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ci", ("--repository", "a", "--allow", "pull,pus"), "--allow: 'pus' is no action; did you mean push?"),
        ("ci", ("--repository", "a", "--allow", "write"), "did you mean push?"),
        (
            "ci",
            ("--repository", "a", "--allow", "xyzzy"),
            "there are pull, push, overwrite, delete, catalog, metrics, admin",
        ),
        ("ci", ("--repository", "Team/*", "--allow", "pull"), "--repository: 'Team/*' matches no repository"),
        ("ci", ("--repository", "a_", "--allow", "pull"), "--repository: 'a_' matches no name"),
        ("ci", ("--repository", "*a*b*c*d*", "--allow", "pull"), "write several patterns"),
        ("ci", ("--repository", "a", "--allow", "pull", "--expires", "soon"), "--expires: 'soon' is not a duration"),
        ("ci", ("--repository", "a", "--allow", "pull", "--expires", "0"), "is not between 1s and 3650d"),
        ("ci", ("--repository", "a", "--allow", "pull", "--expires", "9999d"), "is not between 1s and 3650d"),
        ("ci", ("--allow", "pull"), "--repository"),
        ("ci", ("--repository", "a"), "--allow"),
        ("CI", ("--repository", "a", "--allow", "pull"), "'CI' is no name of a robot"),
    ],
)
def test_what_is_typed_wrongly_is_said_in_a_line_and_nothing_is_made(
    name: str, options: tuple[str, ...], words: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create(store, *options, name=name) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
    assert documents(store, capsys) == []


def test_nobody_of_that_name_can_be_revoked(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "revoke", "cy", "--store", str(store)]) == 1
    assert f"there is no robot cy in {store}" in capsys.readouterr().err
    assert main(["token", "revoke", "C/y", "--store", str(store)]) == 2


@pytest.mark.parametrize("command", [["create", "ci", "--repository", "a", "--allow", "pull"], ["list"]])
@pytest.mark.parametrize("url", ["missing", "empty", "memory:"])
def test_a_store_without_a_registry_is_refused_and_left_alone(
    command: list[str], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["token", *command, "--store", url]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "there is no registry in " in err
    assert "--store" in err
    assert not (tmp_path / "missing").exists()
    assert not (tmp_path / "empty" / "access").exists()
