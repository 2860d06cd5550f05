"""``bucketry config show``: what is set, and by what; never a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bucketry.cli import main
from bucketry.server.config import MASK, SETTINGS

SECRET = "hush-hush"


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    file = tmp_path / "bucketry.toml"
    file.write_text(f'[store]\naccess_key_id = "AKIA"\nsecret_access_key = "{SECRET}"\n[upload]\nexpire = "2d"\n')
    monkeypatch.setenv("BUCKETRY_UPLOAD__PART_SIZE", "6MiB")
    return ["config", "show", "--config", str(file), "--listen", "127.0.0.1:80", "--set", "log.access=no"]


def test_each_value_with_its_origin(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == list(SETTINGS)
    assert lines["upload.part_size"] == ["6MiB", "environment BUCKETRY_UPLOAD__PART_SIZE"]
    assert lines["upload.expire"] == ["2d", f"file {tmp_path / 'bucketry.toml'}"]
    assert lines["server.listen"] == ["127.0.0.1:80", "--listen"]
    assert lines["log.access"] == ["false", "--set"]
    assert lines["store.region"] == ["-", "default"]
    assert lines["store.secret_access_key"][0] == MASK


def test_json_has_sizes_in_bytes_and_durations_in_seconds(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--json"]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(SETTINGS)
    assert rows["upload.part_size"]["value"] == 6 * 1024**2
    assert rows["upload.expire"]["value"] == 172800
    assert rows["log.access"] == {"key": "log.access", "value": False, "origin": "--set"}
    assert rows["delivery.proxy_networks"]["value"] == []
    assert rows["store.secret_access_key"]["value"] == MASK
    assert rows["store.session_token"]["value"] is None


@pytest.mark.parametrize("more", [[], ["--json"], ["--debug"], ["--set", "store.secret_access_key= x"]])
def test_no_secret_is_shown(more: list[str], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*arguments, *more])
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err
