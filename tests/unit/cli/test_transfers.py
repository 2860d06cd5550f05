"""Push, pull, copy and inspect as they are typed: what is meant by it, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bucketry.cli import app, main
from bucketry.cli import moving as commands
from bucketry.cli.progress import Style
from bucketry.store.contract import Unavailable
from bucketry.transfer import errors, events
from bucketry.transfer.names import Place
from bucketry.transfer.places import Opening
from bucketry.transfer.settings import MIB, TransferSettings

DIGEST = "sha256:" + "0d" * 32
ENDED = events.Ended(digest=DIGEST, moved=2 * MIB, skipped=0, seconds=0.5, parallel=2, pull="docker pull it")


class Thing:
    """A source, target or destination that was opened."""

    def __init__(self, closed: list[str], what: str) -> None:
        self._closed = closed
        self._what = what

    async def tags(self) -> tuple[str, ...]:
        return ("v1", "v2")

    async def close(self) -> None:
        self._closed.append(self._what)


@dataclass
class Asked:
    """What a command asked of the transfer, instead of a transfer. ``fault``: what is raised there."""

    places: dict[str, Place] = field(default_factory=dict)
    opening: Opening | None = None
    options: dict[str, Any] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)
    styles: list[Style] = field(default_factory=list)
    fault: BaseException | None = None
    act: Callable[[], None] = lambda: None

    @property
    def settings(self) -> TransferSettings:
        settings = self.options["settings"]
        assert isinstance(settings, TransferSettings)
        return settings

    def opens(self, what: str) -> Callable[[Place, Opening], Any]:
        async def open_it(place: Place, opening: Opening) -> Thing:
            self.places[what], self.opening = place, opening
            return Thing(self.closed, what)

        return open_it

    async def transfer(self, source: object, target: object, **options: Any) -> events.Ended:
        self.options = options
        if self.fault is not None:
            raise self.fault
        self.act()
        await asyncio.sleep(0)
        options["listen"](events.Began(action="push", source="app:v1", target="reg.test/app:v1"))
        options["listen"](ENDED)
        return ENDED


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    asked = Asked()
    for function, what in (
        ("open_any", "source"),
        ("open_source", "source"),
        ("open_target", "target"),
        ("open_destination", "target"),
    ):
        monkeypatch.setattr(f"bucketry.transfer.places.{function}", asked.opens(what))
    for command in ("push", "pull", "copy"):
        monkeypatch.setattr(f"bucketry.transfer.{command}.{command}", asked.transfer)
    for name in [name for name in os.environ if name.startswith("BUCKETRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return asked


# Names


@pytest.mark.parametrize(
    ("arguments", "source", "target"),
    [
        ("localhost:5000/app:v1", ("docker-daemon", "localhost:5000/app:v1"), ("localhost:5000/app", "v1")),
        ("docker-daemon:reg.test/app:v1", ("docker-daemon", "reg.test/app:v1"), ("reg.test/app", "v1")),
        ("reg.test/app", ("docker-daemon", "reg.test/app"), ("reg.test/app", "latest")),
        ("team/app:v1", ("docker-daemon", "team/app:v1"), ("docker.io/team/app", "v1")),
        ("app:v1 reg.test/team/app:v2", ("docker-daemon", "app:v1"), ("reg.test/team/app", "v2")),
        ("docker-archive:a.tar:app:v1 reg.test/app", ("docker-archive", "app:v1"), ("reg.test/app", "latest")),
        ("oci:dir:v1 docker://reg.test/app:v1", ("oci", "v1"), ("reg.test/app", "v1")),
        (f"oci:dir reg.test/app@{DIGEST}", ("oci", ""), ("reg.test/app", None)),
    ],
)
def test_what_a_push_is_from_and_to(
    asked: Asked, arguments: str, source: tuple[str, str], target: tuple[str, str | None]
) -> None:
    assert main(["push", *arguments.split()]) == 0
    place = asked.places["source"]
    assert (place.kind, place.name) == source
    image = asked.places["target"].image
    assert image is not None
    assert f"{image.registry}/{image.repository}" == target[0]
    assert asked.options["tag"] == target[1]
    assert asked.closed == ["target", "source"]


def test_a_push_straight_to_a_bucket(asked: Asked) -> None:
    assert main(["push", "app:v1", "s3://bucket/prefix/app:v1", "--set", "store.endpoint=http://127.0.0.1:1"]) == 0
    assert asked.places["target"].candidates()[0] == ("s3://bucket/prefix", "app")
    assert asked.options["tag"] == "v1"
    assert asked.opening is not None
    assert asked.opening.options.endpoint == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "target", "reference"),
    [
        ("localhost:5000/app:v1", "docker-daemon:localhost:5000/app:v1", "v1"),
        ("docker://reg.test/app", "docker-daemon:reg.test/app:latest", "latest"),
        ("alpine:3", "docker-daemon:docker.io/library/alpine:3", "3"),
        (f"reg.test/app:v1@{DIGEST}", "docker-daemon:reg.test/app:v1", DIGEST),
        ("s3://b/p/app:v1", "docker-daemon:app:v1", "v1"),
        ("s3://b/p//team/app", "docker-daemon:team/app:latest", "latest"),
        ("file:/srv/registry/app:v1", "docker-daemon:app:v1", "v1"),
        ("reg.test/app:v1 other:v2", "other:v2", "v1"),
        (f"reg.test/app@{DIGEST} docker-daemon:app:v1", "docker-daemon:app:v1", DIGEST),
        ("reg.test/app:v1 oci:dir:v2", "oci:dir:v2", "v1"),
        ("oci:dir:v1 docker-archive:app.tar:app:v1", "docker-archive:app.tar:app:v1", None),
    ],
)
def test_what_a_pull_is_from_and_to(asked: Asked, arguments: str, target: str, reference: str | None) -> None:
    assert main(["pull", *arguments.split()]) == 0
    assert asked.places["target"].text == target
    given = asked.options["reference"]
    assert (given if given is None else str(given)) == reference
    assert asked.closed == ["source"]


@pytest.mark.parametrize(
    ("arguments", "tag", "then"),
    [
        ("reg.test/app:v1", None, "docker run reg.test/app:v1"),
        ("reg.test/app:v1 docker-daemon:app:v2", None, "docker run app:v2"),
        ("reg.test/team/app:v1 docker-archive:app.tar", "reg.test/team/app:v1", "docker load -i app.tar"),
        ("oci:dir:v1 docker-archive:app.tar", None, "docker load -i app.tar"),
        ("reg.test/app:v1 oci:dir:v2", "v2", None),
        ("reg.test/app:v1 oci-archive:app.tar", None, None),
    ],
)
def test_what_is_pulled_is_called(asked: Asked, arguments: str, tag: str | None, then: str | None) -> None:
    assert main(["pull", *arguments.split()]) == 0
    assert (asked.options["tag"], asked.options["then"]) == (tag, then)


@pytest.mark.parametrize(
    ("arguments", "tag", "tags"),
    [
        ("reg.test/app:v1 other.test/app", "v1", None),
        ("reg.test/app:v1 other.test/app:v2", "v2", None),
        ("reg.test/app other.test/app", "latest", None),
        ("reg.test/app other.test/app --all-tags", "latest", ("v1", "v2")),
        ("oci:dir:v1 s3://b/p/app:v1", "v1", None),
    ],
)
def test_what_a_copy_is_called(asked: Asked, arguments: str, tag: str, tags: tuple[str, ...] | None) -> None:
    assert main(["copy", *arguments.split()]) == 0
    assert (asked.options["tag"], asked.options["tags"]) == (tag, tags)
    assert asked.closed == ["target", "source"]


@pytest.mark.parametrize("command", ["push", "copy"])
def test_blobs_are_mounted_from_a_repository_of_the_same_registry(asked: Asked, command: str) -> None:
    assert main([command, "docker://reg.test/app:v1", "reg.test/other:v1"]) == 0
    assert asked.options["mount_from"] == "app"


# Options


def test_the_defaults_of_a_push(asked: Asked) -> None:
    assert main(["push", "app:v1", "reg.test/app:v1"]) == 0
    assert asked.settings == TransferSettings(memory=256 * MIB, compression="gzip")


def test_options_become_settings(asked: Asked) -> None:
    arguments = ["push", "app:v1", "reg.test/app:v1", "--parallel", "3", "--memory", "64MiB", "--part-size=8MB"]
    assert main([*arguments, "--compression", "zstd:7", "--platform", "linux/arm64/v8", "--referrers"]) == 0
    assert asked.settings == TransferSettings(
        parallel=3,
        memory=64 * MIB,
        part_size=8_000_000,
        compression="zstd:7",
        platform="linux/arm64/v8",
        referrers=True,
    )


@pytest.mark.parametrize(
    ("arguments", "whole", "platform"),
    [
        (["docker-daemon:app:v1"], False, None),
        (["docker-daemon:app:v1", "--platform", "linux/arm64"], False, "linux/arm64"),
        (["oci:dir"], False, None),
        (["oci:dir", "--all-platforms"], True, None),
        (["oci-archive:file", "--all-platforms"], True, None),
    ],
)
def test_which_images_of_an_index_are_pulled(
    asked: Asked, arguments: list[str], whole: bool, platform: str | None
) -> None:
    assert main(["pull", "reg.test/app:v1", *arguments]) == 0
    assert (asked.options["whole"], asked.settings.platform) == (whole, platform)


@pytest.mark.parametrize("dest", ["oci:dir", "oci-archive:file:v1"])
def test_referrers_are_pulled_where_there_is_a_place_for_them(dest: str, asked: Asked) -> None:
    assert main(["pull", "reg.test/app:v1", dest]) == 0
    assert not asked.settings.referrers
    assert main(["pull", "reg.test/app:v1", dest, "--referrers"]) == 0
    assert asked.settings.referrers


@pytest.mark.parametrize(
    ("flags", "style"),
    [
        ([], "auto"),
        (["--plain"], "plain"),
        (["--quiet"], "quiet"),
        (["-q"], "quiet"),
        (["--json"], "json"),
        (["--json", "--quiet"], "json"),
        (["--quiet", "--plain"], "quiet"),
    ],
)
def test_how_it_is_shown(flags: list[str], style: Style, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Style] = []

    def run(work: object, style: Style) -> int:
        seen.append(style)
        return 0

    monkeypatch.setattr("bucketry.cli.push.run", run)
    assert main(["push", "app:v1", "reg.test/app:v1", *flags]) == 0
    assert seen == [style]


# Wrong usage

PUSH = ["push", "app:v1", "reg.test/app:v1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["push"], "SOURCE requires an argument. (bucketry push --help)"),
        (["pull"], "REF requires an argument. (bucketry pull --help)"),
        (["copy", "reg.test/app:v1"], "DEST requires an argument. (bucketry copy --help)"),
        (["push", "app:v1", "reg.test/app:v1", "more"], "more"),
        ([*PUSH, "--paralell", "3"], "--parallel"),
        ([*PUSH, "--parallel", "0"], "--parallel 0: "),
        ([*PUSH, "--parallel", "65"], "choose 1 to 64"),
        ([*PUSH, "--parallel", "many"], '"many"'),
        ([*PUSH, "--memory", "lots"], '--memory lots is not a size; write "8MiB"'),
        ([*PUSH, "--memory", "1MiB"], "--memory 1MiB: "),
        ([*PUSH, "--part-size", "0"], "--part-size 0: "),
        ([*PUSH, "--part-size", "1GiB"], "--part-size 1GiB: "),
        ([*PUSH, "--compression", "lzma"], "write gzip, zstd or none"),
        ([*PUSH, "--compression", "gzip:high"], "gzip:3"),
        ([*PUSH, "--platform", "arm64"], "linux/amd64"),
        ([*PUSH, "--set", "store.endpont=x"], "did you mean store.endpoint?"),
        ([*PUSH, "--config", "/nonexistent/bucketry.toml"], "No such file"),
        (["push", "oci:dir:v1"], "oci:dir:v1 does not say where it is to be pushed to"),
        (["push", "s3://b/p/app:v1"], "s3://b/p/app:v1 does not say where it is to be pushed to"),
        (["push", "app:v1", "oci:dir:v1"], "HOST/NAME:TAG"),
        (["push", "app:v1", "s4://b/app"], "s3:"),
        (["push", "app:v1", "REG.test/App:v1"], "App"),
        (["push", "app:v1", "reg.test/app:v 1"], "'v 1' is not a tag"),
        (["pull", "reg.test/app:v1", "reg.test/app:v2", "--platform", "linux"], "linux/amd64"),
        (["pull", "oci:dir:v1"], "docker-daemon:NAME:TAG"),
        (["pull", f"reg.test/app@{DIGEST}"], "docker-daemon:NAME:TAG"),
        (["pull", f"s3://b/p/app@{DIGEST}"], "docker-daemon:NAME:TAG"),
        (["pull", "reg.test/app:v1", "--all-platforms"], "--all-platforms goes with oci: and oci-archive:"),
        (["pull", "reg.test/app:v1", "oci:d", "--all-platforms", "--platform", "linux/arm64"], "one or the other"),
        (["pull", "docker-daemon:app:v1"], "cannot be what is pulled"),
        (["pull", "reg.test/app:v1", "--referrers"], "docker-daemon:reg.test/app:v1 has no place for signatures"),
        (["pull", "reg.test/app:v1", "docker-archive:f", "--referrers"], "with --referrers pull to oci:DIR or"),
        (["copy", "docker-daemon:app:v1", "reg.test/app:v1"], "bucketry push does that"),
        (["copy", "reg.test/app:v1", "other.test/app", "--all-tags"], "--all-tags goes with names that have no tag"),
        (["copy", "reg.test/app:v1", f"other.test/app@{DIGEST}"], "a digest is what comes out of a copy"),
        (["inspect", "docker-archive:app.tar"], "cannot be what is inspected"),
        (["inspect", "reg.test/app:v1", "--platform", "x"], "linux/amd64"),
        (["inspect", "reg.test/app:v1", "--raw", "--json"], "one or the other"),
        (["login", "reg.test/team"], "write its host alone"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    arguments: list[str], words: str, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == app.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("bucketry: ")
    assert words in line
    assert asked.places == {}


# Errors on the way


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (errors.Unreachable("reg.test: no connection"), 1, "reg.test: no connection"),
        (errors.NotAuthenticated("wrong credentials"), 1, "wrong credentials"),
        (errors.NotPermitted("not\nallowed"), 1, "not allowed"),
        (errors.ImageMissing("no such tag"), 1, "no such tag"),
        (errors.SourceDamaged("it is damaged"), 1, "it is damaged"),
        (errors.ContentMismatch("another digest"), 1, "another digest"),
        (errors.NoSpace("the disk is full"), 1, "the disk is full"),
        (errors.NameUnusable("no such form"), 2, "no such form"),
        (errors.Misconfigured("config.json: no JSON"), 2, "config.json: no JSON"),
        (Unavailable("the bucket is away"), 1, "the bucket is away"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (ZeroDivisionError("oops"), 1, "unexpected ZeroDivisionError: oops; --debug shows where. Please report it."),
    ],
)
@pytest.mark.parametrize("command", ["push", "pull", "copy"])
def test_an_error_is_one_line(
    command: str, fault: Exception, code: int, line: str, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.fault = fault
    arguments = [command, "docker://reg.test/app:v1", {"pull": "oci:dir"}.get(command, "other.test/app:v1")]
    assert main(arguments) == code
    assert capsys.readouterr() == ("", f"bucketry: {line}\n")
    assert "source" in asked.closed

    assert main([*arguments, "--debug"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" in captured.err
    assert captured.err.splitlines()[-1] == f"bucketry: {line}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_says_how_to_go_on(
    number: signal.Signals, code: int, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    asked.act = lambda: os.kill(os.getpid(), number)

    async def forever(source: object, target: object, **options: Any) -> None:
        asked.act()
        await asyncio.sleep(30)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bucketry.transfer.push.push", forever)
        assert main(PUSH) == code
    assert capsys.readouterr() == ("", "bucketry: stopped. The same command goes on where it was stopped.\n")
    assert asked.closed == ["target", "source"]
    assert signal.getsignal(number) is before
    assert code in app.EXIT_CODES
    assert code in (commands.INTERRUPTED, commands.TERMINATED)


def test_the_result_is_on_standard_output(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PUSH, "--quiet"]) == 0
    result = f"pushed 2.0 MiB in 0.5 s, 4.0 MiB/s, up to 2 pieces at once\n{DIGEST}\ndocker pull it\n"
    assert capsys.readouterr() == (result, "")
    assert main([*PUSH, "--plain"]) == 0
    assert capsys.readouterr() == (result, "app:v1 -> reg.test/app:v1\n")
