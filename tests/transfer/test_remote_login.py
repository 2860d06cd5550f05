"""``bucketry login`` and ``logout`` as they are typed, against a registry that asks for credentials."""

from __future__ import annotations

import base64
import getpass
import io
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fixtures import Registry
from tests.transfer.peers import PASSWORD, USER, peer

from bucketry.cli import main

HELPER = f"""#!{sys.executable}
import json, pathlib, sys
kept = pathlib.Path(__file__).parent / "kept.json"
known = json.loads(kept.read_text()) if kept.exists() else {{}}
given = sys.stdin.read()
if sys.argv[1] == "store":
    document = json.loads(given)
    known[document["ServerURL"]] = document
elif given not in known:
    print("credentials not found in native keychain")
    sys.exit(1)
elif sys.argv[1] == "get":
    print(json.dumps(known[given]))
else:
    del known[given]
kept.write_text(json.dumps(known))
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with peer(tmp_path_factory.mktemp("guarded"), users=True) as registry:
        yield registry


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's file of a person who has nothing else."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker" / "config.json"


def types(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_password_from_standard_input_is_checked_and_kept(
    guarded: Registry,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: str,
) -> None:
    types(monkeypatch, PASSWORD + end)

    assert main(["login", guarded.host, "-u", USER, "--password-stdin"]) == 0

    captured = capsys.readouterr()
    assert captured.out == f"Logged in to {guarded.host} as {USER}. The credentials are kept in {file}\n"
    assert f"the password is in {file}" in captured.err
    assert PASSWORD not in captured.out + captured.err
    kept = json.loads(file.read_text())["auths"][guarded.host]
    assert kept == {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_wrong_passwords_are_not_kept(
    guarded: Registry, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, "canary-wrong\n")

    assert main(["login", guarded.host, "-u", USER, "--password-stdin"]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith(f"bucketry: wrong credentials for {guarded.host}, from what was typed")
    assert "canary" not in line
    assert not file.exists()


def test_in_a_terminal_they_are_asked_for(
    guarded: Registry, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(f"{USER}\n"))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: PASSWORD)

    assert main(["login", guarded.url]) == 0

    assert guarded.host in json.loads(file.read_text())["auths"]
    assert PASSWORD not in capsys.readouterr().out


def test_a_helper_keeps_them_and_forgets_them(
    guarded: Registry,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = tmp_path / "bin" / "docker-credential-test"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    file.parent.mkdir()
    file.write_text('{"credsStore": "test", "other": [1]}')
    types(monkeypatch, PASSWORD)

    assert main(["login", guarded.host, "-u", USER, "--password-stdin"]) == 0
    captured = capsys.readouterr()
    assert f"are kept in docker-credential-test ({file})" in captured.out
    assert captured.err == ""
    assert json.loads(file.read_text()) == {"credsStore": "test", "other": [1], "auths": {guarded.host: {}}}

    assert main(["logout", guarded.host]) == 0
    assert f"removed from docker-credential-test ({file})" in capsys.readouterr().out
    assert json.loads(file.read_text()) == {"credsStore": "test", "other": [1], "auths": {}}
    assert main(["logout", guarded.host]) == 0
    assert capsys.readouterr().out == f"Not logged in to {guarded.host}\n"


def test_logging_out_says_where_credentials_still_are(
    guarded: Registry, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "auth.json"
    other.write_text(json.dumps({"auths": {guarded.host: {"auth": base64.b64encode(b"a:b").decode()}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(other))
    types(monkeypatch, PASSWORD)
    assert main(["login", guarded.host, "-u", USER, "--password-stdin"]) == 0
    capsys.readouterr()

    assert main(["logout", guarded.host]) == 0

    captured = capsys.readouterr()
    assert captured.out == f"Logged out of {guarded.host}: removed from {file}\n"
    assert f"there are still credentials for {guarded.host}, in {other}" in captured.err


def test_a_registry_that_asks_for_nothing_has_checked_nothing(
    local_registry: Registry, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, PASSWORD)

    assert main(["login", local_registry.host, "-u", USER, "--password-stdin"]) == 0

    assert "asked for no credentials, so nobody has checked these" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["login", "localhost:1"], 2, "--password-stdin reads it from standard input"),
        (["login", "localhost:1", "--password-stdin"], 2, "needs the user's name"),
        (["login", "localhost:1", "-u", "a:b", "--password-stdin"], 2, "without a colon"),
        (["login", "localhost:1", "-u", "", "--password-stdin"], 2, "a user's name"),
        (["login", "localhost:1", "-u", USER, "--password-stdin", "--insecure"], 1, "localhost:1: no connection"),
        (["login", "registry", "-u", USER, "--password-stdin"], 2, "'registry' cannot stand for a registry"),
        (["login", "reg.example/team/app", "-u", USER, "--password-stdin"], 2, "write its host alone"),
        (["login", "reg.example:port", "-u", USER, "--password-stdin"], 2, "reg.example:port"),
        (["login", "127.0.0.1:1", "-u", USER, "--password-stdin"], 1, "127.0.0.1:1: no connection"),
        (["logout", "a b"], 2, "is not a registry host"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    arguments: list[str], code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, PASSWORD)

    assert main(arguments) == code

    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert words in line
    assert PASSWORD not in line


@pytest.mark.parametrize("text", ["", f"{USER}\n"])
def test_a_terminal_that_is_closed_is_one_clear_line(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def closed(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(sys, "stdin", Terminal(text))
    monkeypatch.setattr(getpass, "getpass", closed)

    assert main(["login", "localhost:1"]) == 2
    assert "a password are needed" in capsys.readouterr().err


def test_a_broken_file_is_named(
    guarded: Registry, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.mkdir()
    file.write_text('{\n"auths": }')
    types(monkeypatch, PASSWORD)

    assert main(["login", guarded.host, "-u", USER, "--password-stdin"]) == 2

    assert capsys.readouterr().err.startswith(f"bucketry: {file}, line 2: not JSON")
    assert file.read_text() == '{\n"auths": }'
