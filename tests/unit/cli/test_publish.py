"""``bucketry publish``: what cannot be asked for, what images are called, and what is said at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from bucketry.cli import main
from bucketry.cli.publish import EXAMPLES, _name, _own
from bucketry.cli.publish_report import Outcome, Reached, read_policy, report
from bucketry.oci import Digest
from bucketry.transfer.contract import Source
from bucketry.transfer.events import Ended
from bucketry.transfer.names import parse_place
from bucketry.transfer.site.blobs import WAYS
from bucketry.transfer.site.counting import Count
from bucketry.transfer.site.gathering import ImageToPublish
from bucketry.transfer.site.publishing import Published
from bucketry.transfer.site.state import State

MIB = 1024 * 1024
DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name at least one image"]),
        (["reg.example/app", "--grace", "1h"], ["--grace goes with --prune"]),
        (["reg.example/app", "--prune", "--grace", "soon"], ["--grace soon", '"10m"']),
        (["docker-daemon:app:v1"], ["docker-daemon:app:v1", "bucketry push", "publish it from there"]),
        (["docker-archive:app.tar"], ["bucketry push"]),
        (["oci:layout:v1"], ["oci:layout:v1", "--name NAME"]),
        (["oci:layout:v1", "--name", "Team/App"], ["--name Team/App", "lower-case"]),
        (["oci:layout:v1", "--name", "app:"], ["--name app:", "tag"]),
        (["reg.example/a", "reg.example/b", "--name", "app:v1"], ["--name app:v1", "one tag is for one image"]),
        (["reg.example/app:v1", "--all-tags"], ["reg.example/app:v1", "have no tag"]),
        (["oci:layout", "--name", "app", "--all-tags"], ["oci:layout", "layout"]),
        (["reg.example/app", "--platform", "linux"], ["os/architecture"]),
        (["reg.example/app", "--parallel", "0"], ["--parallel 0"]),
        (["htps://reg.example/app"], ["htps"]),
    ],
)
def test_what_cannot_be_asked_for_is_said_in_one_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    assert main(["publish", *arguments, "--to", str(site)]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("bucketry: ")
    for word in words:
        assert word in said.err
    assert not site.exists()


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ("https://images.example.com", ["https:", "s3://BUCKET/PREFIX"]),
        ("memory:", ["memory:"]),
        ("gs://bucket", ["gs:"]),
        ("s3://", ["bucket"]),
        ("", ["name"]),
    ],
)
def test_a_site_that_cannot_be_is_said(site: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "localhost:1/app", "--to", site]) == 2

    said = capsys.readouterr().err
    for word in words:
        assert word in said


def test_where_to_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "reg.example/app"]) == 2
    assert "--to" in capsys.readouterr().err


def test_help_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "--help"]) == 0

    said = capsys.readouterr().out
    for word in ("REF", "--to SITE", "--name NAME[:TAG]", "--all-tags", "--platform OS/ARCH", "--no-referrers"):
        assert word in said
    for word in ("--prune", "--grace DURATION", "--dry-run", "--insecure", "--parallel N", "--json", "--config FILE"):
        assert word in said


def test_examples_fit_a_narrow_terminal() -> None:
    assert max(len(line.strip()) for line in EXAMPLES.splitlines() if line.startswith("    ")) <= 76


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("alpine:3", "alpine"),
        ("docker.io/library/alpine", "alpine"),
        ("docker.io/grafana/grafana", "grafana/grafana"),
        ("reg.example/library/alpine", "library/alpine"),
        ("reg.example:5000/team/app@" + DIGEST, "team/app"),
    ],
)
def test_images_keep_their_names_without_the_host(ref: str, name: str) -> None:
    assert _name(parse_place(ref, role="copy from"), cast(Source, None)) == name


def test_an_image_in_a_store_is_called_what_the_store_calls_it() -> None:
    class Found:
        repository = "team/app"

    assert _name(parse_place("s3://bucket/registry/team/app:v1", role="copy from"), cast(Source, Found())) == "team/app"


def test_a_name_may_have_a_tag() -> None:
    place = parse_place("oci:layout", role="copy from")

    assert _own("tools/app:v2", [place], all_tags=False) == ("tools/app", "v2")
    assert _own("tools/app", [place, place], all_tags=False) == ("tools/app", None)
    assert _own(None, [parse_place("reg.example/app", role="copy from")], all_tags=False) == (None, None)


def outcome(
    reached: Reached, *, images: int = 1, url: str = "s3://bucket", tag: str | None = "v1", **changes: Any
) -> Outcome:
    ways = {way: Count() for way in WAYS} | {"sent": Count(2, 3 * MIB), "already there": Count(1, MIB)}
    values: dict[str, Any] = {
        "state": State(format=1, created=0.0, nonce="n"),
        "ended": Ended(digest=DIGEST, moved=3 * MIB, skipped=MIB, seconds=1.26, parallel=4),
        "dry_run": False,
        "ways": ways,
        "written": {"blobs": Count(2, 3 * MIB), "tags": Count(1, 500), "state": Count(2, 900)},
        "requests": {"PUT": 1100, "GET": 4, "LIST": 1},
        "leaving": (),
        "removed": {},
        **changes,
    }
    one = ImageToPublish(cast(Source, None), "app", tag, Digest.parse(DIGEST) if tag is None else None)
    return Outcome(Published(**values), [one] * images, reached, url)


PUBLIC = Reached(page="https://bucket.s3.example/index.html", host="bucket.s3.example", public=True)


def test_the_end_has_counts_bytes_requests_seconds_and_what_to_type_next() -> None:
    assert report(outcome(PUBLIC, images=2), "auto") == [
        "published 2 images of app: 1.0 MiB already there, 3.0 MiB sent; 5 files written, 1,105 requests, 1.3 s",
        "https://bucket.s3.example/index.html",
        "docker pull bucket.s3.example/app:v1",
    ]


def test_what_has_no_tag_is_pulled_by_its_digest() -> None:
    assert report(outcome(PUBLIC, tag=None), "plain")[-1] == f"docker pull bucket.s3.example/app@{DIGEST}"


def test_a_bucket_that_nobody_may_read_is_said_with_the_policy_to_set() -> None:
    policy = read_policy("s3://bucket/images")
    reached = Reached(page="https://h/index.html", host="h", public=False, policy=policy)
    lines = report(outcome(reached, url="s3://bucket/images"), "auto")[1:]

    assert "Nobody but you may read it yet" in lines[0]
    assert json.loads("\n".join(lines[1:-1])) == policy
    assert policy["Statement"][0]["Resource"] == [
        "arn:aws:s3:::bucket/images/v2/*",
        "arn:aws:s3:::bucket/images/index.html",
    ]
    assert lines[-1] == "Then: docker pull h/app:v1"


def test_a_site_that_is_not_at_the_root_of_a_host_is_said() -> None:
    reached = Reached(page="https://s3.example/bucket/index.html", public=True)
    said = "\n".join(report(outcome(reached), "auto"))

    assert "at the root of a host" in said
    assert "https://s3.example/bucket/index.html" in said
    assert "docker pull" not in said


def test_who_may_read_may_be_unknown() -> None:
    reached = Reached(page="https://h/index.html", host="h")

    assert "could not be found out: try https://h/index.html" in "\n".join(report(outcome(reached), "auto"))


def test_of_a_folder_the_servers_files_are_named() -> None:
    lines = report(outcome(Reached(folder="file:/srv/my%20images"), url="file:/srv/my%20images"), "auto")

    assert '  nginx: server { root "/srv/my images"; include "/srv/my images/bucketry-nginx.conf"; … }' in lines
    assert any("cd '/srv/my images' && SITE=images.example.com caddy run" in line for line in lines)
    assert lines[-1] == "docker pull images.example.com/app:v1"


def test_what_leaves_and_what_left_is_counted() -> None:
    changes: dict[str, Any] = {"leaving": ("v2/a/blobs/x",), "removed": {"v2/a/blobs/y": MIB, "v2/a/manifests/v1": 500}}
    lines = report(outcome(PUBLIC, **changes), "quiet")

    assert lines[1:] == [
        "deleted 2 files, 1.0 MiB, that nobody needed any more",
        "1 file that nobody needs any more: a prune after the grace deletes them",
    ]


def test_quietly_the_result_alone_is_said() -> None:
    assert len(report(outcome(PUBLIC), "quiet")) == 1


def test_a_dry_run_shows_files_requests_storage_and_what_leaves() -> None:
    changes: dict[str, Any] = {
        "dry_run": True,
        "storage": (MIB, 4 * MIB),
        "removed": {"v2/app/manifests/old": 500},
        "leaving": tuple(f"v2/app/blobs/{number:02}" for number in range(25)),
    }
    said = "\n".join(report(outcome(Reached(), **changes), "auto"))

    for line in (
        "Nothing was written. s3://bucket would get 1 image of app:",
        "  sent                        2  3.0 MiB",
        "  copied by the store         0      0 B",
        "  PUT                     1,100",
        "  now                            1.0 MiB",
        "  then                           4.0 MiB",
        "no longer published: app:old",
        "  v2/app/blobs/19",
        "  and 5 more",
    ):
        assert line in said, said
    assert "v2/app/blobs/20" not in said
    assert "docker pull" not in said


def test_programs_get_all_of_it_in_one_line() -> None:
    changes: dict[str, Any] = {
        "leaving": tuple(f"p{number}" for number in range(25)),
        "storage": (1, 2),
        "dry_run": True,
    }
    reached = Reached(page="https://h/index.html", host="h", public=False, policy=read_policy("s3://bucket"))
    (line,) = report(outcome(reached, **changes), "json")
    told = json.loads(line)

    assert told["event"] == "published"
    assert told["dryRun"] is True
    assert told["site"] == "s3://bucket"
    assert told["images"] == ["app:v1"]
    assert told["ways"]["sent"] == {"files": 2, "bytes": 3 * MIB}
    assert told["requests"] == {"PUT": 1100, "GET": 4, "LIST": 1}
    assert len(told["leaving"]) == 25
    assert told["storage"] == {"before": 1, "after": 2}
    assert told["public"] is False
    assert told["policy"]["Statement"][0]["Principal"] == "*"
