"""The command line as a whole: help, exit codes, one clear line for each error, a light start."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bucketry import __version__
from bucketry.cli import app, copy, doctor, inspect, login, main, pull, push, serve
from bucketry.server.config import Loaded
from bucketry.store.contract import AccessDenied

HEAVY = ("aiohttp", "asyncio", "botocore", "granian", "msgspec", "prometheus_client", "rich", "starlette", "structlog")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_version_imports_nothing_heavy() -> None:
    code = "import json, sys; from bucketry.cli import main; main(['version']); print(json.dumps(list(sys.modules)))"
    version, modules = python(code).splitlines()
    assert version.startswith(f"bucketry {__version__} (")
    assert set(HEAVY) & set(json.loads(modules)) == set()


def test_a_worker_that_imports_the_program_loads_no_command_line() -> None:
    modules = json.loads(python("import json, sys, bucketry.cli; print(json.dumps(list(sys.modules)))"))
    assert {"cyclopts", "rich", "bucketry.cli.app"} & set(modules) == set()


def test_the_program_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bucketry.cli", "--version"], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == f"bucketry {__version__}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["serve", "doctor", "config", "version", "docker push localhost:5000/alpine:v1"]),
        ([], ["serve", "doctor", "docker push"]),
        (["push", "--help"], ["SOURCE", "DEST", "docker-archive:FILE", "s3://BUCKET", "--compression", "--parallel N"]),
        (["pull", "--help"], ["REF", "DEST", "--platform OS/ARCH", "--all-platforms", "--memory SIZE", "--json"]),
        (["copy", "--help"], ["--all-tags", "--referrers", "--insecure", "--part-size SIZE", "--quiet"]),
        (["inspect", "--help"], ["REF", "--raw", "--json", "--platform OS/ARCH"]),
        (["login", "--help"], ["--password-stdin", "~/.docker/config.json"]),
        (["serve", "--help"], ["--store URL", "--listen HOST:PORT", "--workers N", "--set", "127.0.0.1:5000", "s3://"]),
        (["doctor", "--help"], ["STORE", "--json", "exit code", "store.endpoint="]),
        (["config", "show", "--help"], ["--json", "masked", "BUCKETRY_SECTION__KEY"]),
    ],
)
def test_help_says_what_how_and_by_default(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["srve"], 2, 'Did you mean "serve"?'),
        (["serve", "--lisen", "x"], 2, "Did you mean --listen?"),
        (["serve", "extra"], 2, "extra"),
        (["serve", "--workers", "many"], 2, '"many"'),
        (["serve", "--workers", "1000"], 2, "server.workers (--workers): "),
        (["serve", "--listen", "nowhere"], 2, "server.listen (--listen): "),
        (["serve", "--set", "upload.part_size"], 2, "write SECTION.KEY=VALUE"),
        (["serve", "--set", "upload.partsize=1"], 2, "did you mean upload.part_size?"),
        (["serve", "--config", "/nonexistent/bucketry.toml"], 2, "No such file"),
        (["serve", "--store", "s4://bucket", "--listen", "127.0.0.1:0"], 2, "there are no s4: stores"),
        (["doctor", "https://s3.example/bucket"], 2, "store.endpoint"),
        (["doctor", "s3://user:hush@bucket"], 2, "credentials"),
        (["doctor", "/dev/null/folder"], 1, "/dev/null"),
    ],
)
def test_an_error_is_one_clear_line(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("bucketry: ")
    assert words in line
    assert "hush" not in line


def test_a_traceback_is_for_those_who_ask(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", "--set", "upload.partsize=1"]
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main([*arguments, "--debug"]) == 2
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert captured.splitlines()[-1].startswith("bucketry: ")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Loaded]:
    """What ``serve`` hands to the server, instead of a server."""
    runs: list[Loaded] = []

    def run(loaded: Loaded) -> int:
        runs.append(loaded)
        return 7

    monkeypatch.setattr("bucketry.server.run.run", run)
    for name in ("BUCKETRY_CONFIG", "BUCKETRY_STORE__URL"):
        monkeypatch.delenv(name, raising=False)
    return runs


def test_serve_hands_over_the_configuration_and_says_nothing(
    runs: list[Loaded], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve"]) == 7
    arguments = ["serve", "--store", "s3://b/p", "--listen", "[::]:0", "--workers", "3"]
    arguments += ["--set", "log.level=debug", "--set=store.endpoint=http://127.0.0.1:1"]
    assert main(arguments) == 7
    assert capsys.readouterr() == ("", "")
    default, given = runs
    assert set(default.origins.values()) == {"default"}
    config = given.config
    assert (config.store.url, config.server.listen, config.server.workers) == ("s3://b/p", "[::]:0", 3)
    assert (config.log.level, config.store.endpoint) == ("debug", "http://127.0.0.1:1")
    assert given.origins["store.url"] == "--store"
    assert given.origins["store.endpoint"] == "--set"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (AccessDenied("s3://b: not allowed\nto write"), 1, "bucketry: s3://b: not allowed to write"),
        (OSError(98, "Address already in use"), 1, "bucketry: [Errno 98] Address already in use"),
        (FileNotFoundError(2, "No such file", "/x"), 1, "bucketry: /x: No such file"),
        (KeyError("surprise"), 1, "bucketry: unexpected KeyError: 'surprise'; --debug shows where. Please report it."),
    ],
)
def test_an_error_of_the_server_is_one_clear_line(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(loaded: Loaded) -> int:
        raise error

    monkeypatch.setattr("bucketry.server.run.run", run)
    assert main(["serve"]) == code
    assert capsys.readouterr() == ("", line + "\n")


def test_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(loaded: Loaded) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("bucketry.server.run.run", run)
    assert main(["serve"]) == app.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    command = f"{sys.executable} -m bucketry.cli config show | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "examples",
    [
        *(command.EXAMPLES for command in (copy, doctor, inspect, pull, push, serve)),
        login.LOGIN_EXAMPLES,
        login.LOGOUT_EXAMPLES,
        app.build().help_epilogue,
    ],
)
def test_examples_fit_a_narrow_terminal(examples: str) -> None:
    for line in examples.splitlines():
        if line.startswith("    "):
            assert len(line.strip()) <= 76, line
