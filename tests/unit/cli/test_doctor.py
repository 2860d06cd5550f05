"""``bucketry doctor``: a table or JSON, and an exit code that a script can use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.store.rclone import Rclone, run_rclone

from bucketry.cli import main


@pytest.fixture
def rclone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rclone]:
    with run_rclone(tmp_path) as server:
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_good_store_is_shown_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "store")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in ("write if absent", "5 races of 16 writers", "presigned GET", "sent through the server"):
        assert words in captured.out
    assert captured.out.splitlines()[-1] == "This store can hold a registry."


def test_json_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "memory:", "--json", "--quick"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["store"] == "memory:"
    assert report["refusal"] is None
    assert report["checks"][0]["name"] == "round trip"
    assert set(report["checks"][0]) == {"name", "status", "seen", "means", "weight"}


def test_the_configured_store_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUCKETRY_STORE__URL", f"file:{tmp_path}/store")
    assert main(["doctor", "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["store"] == f"file:{tmp_path}/store"


def test_a_setting_before_the_store_does_not_swallow_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--set", "log.level=debug", "--quick", "--json", "memory:"]) == 0
    assert json.loads(capsys.readouterr().out)["store"] == "memory:"


def test_a_store_that_ignores_conditions_is_refused(rclone: Rclone, capsys: pytest.CaptureFixture[str]) -> None:
    store = f"s3://{rclone.bucket}"
    assert main(["doctor", store, "--quick"]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"Refused: {store} cannot hold a registry (write if absent)" in captured.out
    assert main(["doctor", store, "--quick", "--json"]) == 1
    assert "told they had won" in json.loads(capsys.readouterr().out)["refusal"]


def test_serve_refuses_it_too(rclone: Rclone, capsys: pytest.CaptureFixture[str]) -> None:
    store = f"s3://{rclone.bucket}"
    assert main(["serve", "--store", store, "--listen", "127.0.0.1:0"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith(f"bucketry: {store} cannot hold a registry")


def test_a_store_that_is_down_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in Rclone("http://127.0.0.1:1", "bucket").environ().items():
        monkeypatch.setenv(name, value)
    assert main(["doctor", "s3://bucket", "--set", "store.deadline=0.1s"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert "127.0.0.1:1" in line
