"""``bucketry adopt``: what it says, what it ends with, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.store.rclone import Rclone, run_rclone
from tests.support.synthetic_tree import Shape, data_path, write_tree

from bucketry.cli import main
from bucketry.cli.adopt import BROKEN
from bucketry.cli.adopting import Lines, summary
from bucketry.cli.app import EXIT_CODES
from bucketry.registry.adoption import events

SHAPE = Shape(manifests=10, blobs=20, repositories=2, untagged_every=0)
TREE = "docker/registry/v2"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUCKETRY_CONFIG", "BUCKETRY_STORE__URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "old", SHAPE)
    return tmp_path / "old"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def blobs_of(repository: int) -> int:
    images = range(repository, SHAPE.manifests, SHAPE.repositories)
    return len(images) + len({layer for number in images for layer in SHAPE.layer_numbers(number)})


def test_it_says_what_was_done_and_what_to_type_next(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", str(tree)]) == 0
    out, err = capsys.readouterr()
    said = err.splitlines()
    assert said[0] == f"file:{tree} is a store of bucketry's now: bucketry.json was not there"
    assert sorted(said[1:]) == sorted(
        f"{SHAPE.repository(number)}: 5 manifests, 5 tags, {blobs_of(number)} blobs" for number in (0, 1)
    )
    last, following = out.splitlines()
    assert last.startswith("took over 10 manifests, 10 tags and 20 blobs of ")
    for words in ("from 2 repositories, in ", " requests; ", "written, no blob data"):
        assert words in last
    assert following == f"serve it: bucketry serve --store file:{tree}"


def test_a_second_run_says_that_nothing_is_new(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", str(tree)]) == 0
    capsys.readouterr()
    assert main(["adopt", str(tree), "--plain"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("nothing is new in 2 repositories, in ")
    assert "20 manifests and tags were taken over before" in out


def test_json_is_an_event_a_line(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", str(tree), "--json", "--verify"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    said = [json.loads(line) for line in out.splitlines()]
    assert [said[0]["event"], said[1]["event"], said[-1]["event"]] == ["note", "began", "ended"]
    assert sum(each["event"] == "taken" for each in said) == 10 + 10 + said[-1]["blobs"] + sum(
        each.get("again", False) for each in said
    )
    assert said[-1]["verified"] == said[-1]["bytes"] > 0


def test_a_dry_run_touches_nothing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(tree)
    assert main(["adopt", str(tree), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == f"file:{tree} would be made a store of bucketry's: bucketry.json was not there"
    assert out.splitlines()[0].startswith("would take over 10 manifests, 10 tags and 20 blobs of ")
    assert "written" not in out
    assert out.splitlines()[1] == f"take it over: bucketry adopt file:{tree}"
    assert files(tree) == before


def test_what_is_broken_has_an_exit_code_of_its_own(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = data_path(SHAPE.layer_digests[0])
    (tree / missing).unlink()
    assert BROKEN in EXIT_CODES
    assert main(["adopt", str(tree), "--quiet"]) == BROKEN
    out, err = capsys.readouterr()
    assert f"broken: {missing}: " in err
    assert "problems, told above: the same command looks at what is broken again" in out
    assert "took over" in out


def test_only_some_repositories(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", str(tree), "--repository", SHAPE.repository(1)]) == 0
    assert "5 manifests, 5 tags" in capsys.readouterr().out


def test_a_pattern_that_matches_nothing_is_told(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", str(tree), "--repository", "nobody/*"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"bucketry: file:{tree} has no repository that matches nobody/*\n"


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_where_a_pattern_matches_nothing_nothing_is_written(tree: Path, options: Sequence[str]) -> None:
    before = sorted(tree.rglob("*"))
    assert main(["adopt", str(tree), "--repository", "nobody/*", *options]) == 1
    assert sorted(tree.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--repository", "Team/*"], "--repository: 'Team/*' matches no repository"),
        (["--parallel", "0"], "--parallel 0: 1 to 256"),
        (["--parallel", "1000"], "--parallel 1000: 1 to 256"),
    ],
)
def test_what_cannot_be_meant_is_usage(
    tree: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    before = files(tree)
    assert main(["adopt", str(tree), *options]) == 2
    assert words in capsys.readouterr().err
    assert files(tree) == before


@pytest.mark.parametrize("wrong", ["", "a", f"a/b/{TREE}", "a/b/docker"])
def test_the_wrong_folder_is_told_with_the_right_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    right = tmp_path / "a" / "b"
    write_tree(right, SHAPE)
    before = files(tmp_path)
    assert main(["adopt", str(tmp_path / wrong)]) == 1
    err = capsys.readouterr().err
    assert f"there is no {TREE}/ below it" in err
    assert f"there is one in {right}: did you mean that?" in err
    assert files(tmp_path) == before


def test_a_tree_that_is_not_all_of_a_registry_is_refused(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tree / "docker" / "registry" / "lockfiles" / "database-in-use"
    lock.parent.mkdir()
    lock.write_bytes(b"")
    before = files(tree)
    assert main(["adopt", str(tree)]) == 1
    assert "keeps its tags and manifests in a database here" in capsys.readouterr().err
    assert files(tree) == before


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt", str(tmp_path / "none")]) == 1
    assert f"there is no {TREE}/ below it" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.fixture
def rclone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rclone]:
    with run_rclone(tmp_path) as server:
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_store_that_ignores_conditions_is_refused(
    rclone: Rclone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = next(path for path in tmp_path.rglob(rclone.bucket) if path.is_dir())
    write_tree(bucket, SHAPE)
    assert main(["adopt", f"s3://{rclone.bucket}"]) == 1
    assert "cannot hold a registry (write if absent)" in capsys.readouterr().err
    assert not (bucket / "bucketry.json").exists()


def test_secrets_are_not_shown_again(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--set",
        "store.access_key_id=id",
        "--set",
        "store.secret_access_key=hidden",
        "--set",
        "store.region=eu-1",
    ]
    assert main(["adopt", str(tree), *options]) == 0
    out, err = capsys.readouterr()
    assert "hidden" not in out + err
    assert "--set store.region=eu-1" in out


def test_lines_say_from_time_to_time_how_far_it_is() -> None:
    now, lines = 0.0, list[str]()
    show = Lines(lines.append, clock=lambda: now)
    show(events.Repository(repository="a"))
    show(events.Taken(kind="blob", repository="a", name="sha256:1", size=2048))
    assert lines == []
    now = 5.5
    show(events.Taken(kind="manifest", repository="a", name="sha256:2", size=10))
    assert lines == ["1 repository, 1 manifest, 0 tags, 1 blob of 2.0 KiB"]
    show(events.Kept(repository="a", tag="v1", old="sha256:3", here=None, why="the tag was deleted here"))
    assert lines[1:] == ["kept: a:v1 is not here, and is at sha256:3 there: the tag was deleted here"]


def test_the_last_line_has_all_totals() -> None:
    report = events.Report(
        repositories=3,
        manifests=1200,
        tags=1,
        blobs=2,
        bytes=3 * 1024**3,
        verified=1024,
        skipped=4,
        kept=1,
        problems=2,
        seconds=75,
        requests=12345,
        written=2048,
    )
    assert summary(report, verify=True) == [
        "took over 1,200 manifests, 1 tag and 2 blobs of 3.0 GiB from 3 repositories, in 1 min 15 s with 12,345 "
        "requests; 1.0 KiB were hashed; 2.0 KiB were written, no blob data; 4 manifests and tags were taken over "
        "before",
        "1 tag stayed as it is here",
        "2 problems, told above: the same command looks at what is broken again",
    ]
