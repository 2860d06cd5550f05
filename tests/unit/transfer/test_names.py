"""What people type, and what is meant."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.oci import Digest
from bucketry.transfer.errors import NameUnusable
from bucketry.transfer.names import Role, parse_place

DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("text", "role", "kind", "image"),
    [
        ("localhost:5000/app:v1", "push to", "registry", "localhost:5000/app:v1"),
        ("docker://alpine", "pull from", "registry", "docker.io/library/alpine"),
        ("docker://alpine", "push from", "registry", "docker.io/library/alpine"),
        (f"reg.example/app@{DIGEST}", "copy from", "registry", f"reg.example/app@{DIGEST}"),
        ("oci/app:v1", "copy to", "registry", "docker.io/oci/app:v1"),
        ("file/app", "copy to", "registry", "docker.io/file/app"),
    ],
)
def test_registries(text: str, role: Role, kind: str, image: str) -> None:
    place = parse_place(text, role=role)

    assert (place.kind, str(place.image)) == (kind, image)


@pytest.mark.parametrize(
    ("text", "image", "plain", "path"),
    [
        ("https://reg.example/team/app:v1", "reg.example/team/app:v1", False, ""),
        ("http://localhost:8080/app", "localhost:8080/app", True, ""),
        ("https://cdn.example/some/Folder//team/app:v1", "cdn.example/team/app:v1", False, "/some/Folder"),
        (f"https://cdn.example//app@{DIGEST}", f"cdn.example/app@{DIGEST}", False, ""),
    ],
)
@pytest.mark.parametrize("role", ["pull from", "copy from", "push from", "inspect"])
def test_sites(text: str, image: str, plain: bool, path: str, role: Role) -> None:
    place = parse_place(text, role=role)

    assert (place.kind, str(place.image), place.plain, place.path) == ("site", image, plain, path)


@pytest.mark.parametrize("role", ["push from", "pull to"])
def test_a_plain_name_is_the_engines_where_images_are_local(role: Role) -> None:
    assert parse_place("app:v1", role=role) == parse_place("app:v1", role=role)
    assert parse_place("app:v1", role=role).kind == "docker-daemon"
    assert parse_place("localhost:5000/app:v1", role=role).name == "localhost:5000/app:v1"
    assert parse_place("docker-daemon:app:v1", role=role).name == "app:v1"


@pytest.mark.parametrize(
    ("text", "kind", "path", "name"),
    [
        ("docker-archive:app.tar", "docker-archive", "app.tar", ""),
        ("docker-archive:/tmp/app.tar:team/app:v1", "docker-archive", "/tmp/app.tar", "team/app:v1"),
        ("oci:layout", "oci", "layout", ""),
        ("oci:./layout:v1", "oci", "./layout", "v1"),
        (f"oci:layout:@{DIGEST}", "oci", "layout", f"@{DIGEST}"),
        ("oci-archive:a.tar:v1", "oci-archive", "a.tar", "v1"),
    ],
)
def test_files(text: str, kind: str, path: str, name: str) -> None:
    place = parse_place(text, role="push from")

    assert (place.kind, place.path, place.name) == (kind, path, name)


@pytest.mark.parametrize(
    ("text", "candidates", "tag"),
    [
        ("s3://bucket/app:v1", [("s3://bucket", "app")], "v1"),
        ("s3://bucket/p/app", [("s3://bucket/p", "app"), ("s3://bucket", "p/app")], None),
        (
            "s3://bucket/Prefix/team/app:v1",
            [("s3://bucket/Prefix/team", "app"), ("s3://bucket/Prefix", "team/app")],
            "v1",
        ),
        ("s3://bucket/p//team/app:v1", [("s3://bucket/p", "team/app")], "v1"),
        ("s3://bucket//team/app:v1", [("s3://bucket", "team/app")], "v1"),
        (
            "s3://bucket/p/app:v1?endpoint=http://127.0.0.1:9000",
            [
                ("s3://bucket/p?endpoint=http://127.0.0.1:9000", "app"),
                ("s3://bucket?endpoint=http://127.0.0.1:9000", "p/app"),
            ],
            "v1",
        ),
        ("file:/srv/app:v1", [("file:/srv", "app"), ("file:/", "srv/app")], "v1"),
        ("file:///srv/app:v1", [("file:/srv", "app"), ("file:/", "srv/app")], "v1"),
        ("file:/srv//team/app:v1", [("file:/srv", "team/app")], "v1"),
        ("file:./data/app:v1", [("file:./data", "app"), ("file:.", "data/app")], "v1"),
    ],
)
def test_buckets_and_folders(text: str, candidates: list[tuple[str, str]], tag: str | None) -> None:
    place = parse_place(text, role="push to")

    assert list(place.candidates()) == candidates
    assert place.tag == tag


def test_a_digest_in_a_bucket() -> None:
    place = parse_place(f"s3://bucket/p/app@{DIGEST}", role="pull from")

    assert place.reference == DIGEST
    assert place.candidates()[0] == ("s3://bucket/p", "app")


@pytest.mark.parametrize(
    ("text", "role", "message"),
    [
        ("docker-deamon:app:v1", "push from", "did you mean docker-daemon:"),
        ("docker-archiv:app.tar", "push from", "did you mean docker-archive:"),
        ("oci-arhive:app.tar", "push from", "did you mean oci-archive:"),
        ("S3://bucket/app", "push to", "did you mean s3:"),
        ("s4://bucket/app", "push to", "did you mean s3:"),
        ("gs://bucket/app", "push to", "did you mean s3:"),
        ("dir:/tmp/app", "pull to", "did you mean oci:"),
        ("containers-storage:app", "push from", "did you mean docker-daemon:"),
        ("https://reg.example/app", "push to", "leave out https://"),
        ("https://reg.example/app", "copy to", "leave out https://"),
        ("https://reg.example/App", "pull from", "repository name"),
        ("https://reg.example/../x//app", "pull from", "no path of a site"),
        ("https://reg.example/a b//app", "pull from", "no path of a site"),
        ("https://user@reg.example/app", "pull from", "user@reg.example"),
        ("ftp://reg.example/app", "pull from", "there are no ftp://"),
        ("s3:bucket/app", "push to", "s3://BUCKET/PREFIX/NAME:TAG"),
        ("s3://bucket", "push to", "s3://BUCKET/PREFIX/NAME:TAG"),
        ("s3://bucket/", "push to", "empty folder"),
        ("s3://bucket/a/../app", "push to", "dots"),
        ("s3://bucket/App", "push to", "not a repository name"),
        ("s3://bucket/app:-", "push to", "not a tag"),
        ("s3://bucket/app@sha256:1", "push to", "not a sha256 digest"),
        ("file://host/app", "push to", "another machine"),
        ("oci:", "pull to", "names no file"),
        ("oci:dir:", "pull to", "names no file"),
        ("docker-daemon:", "push from", "names no image"),
        ("App:v1", "push to", "repository name"),
        ("", "push to", "no name"),
        (" app", "push to", "no name"),
        ("app\n", "push to", "no name"),
        ("docker-archive:a.tar", "push to", "cannot be what is pushed to"),
        ("docker-archive:a.tar", "copy from", "bucketry push does that"),
        ("oci:dir", "copy to", "HOST/NAME:TAG, s3://"),
        ("s3://bucket/app", "pull to", "docker-daemon:NAME:TAG"),
    ],
)
def test_what_cannot_be_says_what_can(text: str, role: Role, message: str) -> None:
    with pytest.raises(NameUnusable) as raised:
        parse_place(text, role=role)

    assert message in str(raised.value)


@pytest.mark.parametrize("text", ["postgres:16", "docker-registry:2", "filebeat:8", "ocis:1", "memory:1", "dirt:1"])
def test_names_that_only_look_alike_are_names(text: str) -> None:
    assert parse_place(text, role="pull from").kind == "registry"


@settings(max_examples=300)
@given(st.text(alphabet="as3:/@.-file docker\x00?é", max_size=30), st.sampled_from(["push from", "push to", "pull to"]))
def test_anything_is_a_place_or_told_to_be_none(text: str, role: Role) -> None:
    try:
        place = parse_place(text, role=role)
    except NameUnusable:
        return
    assert place.text == text
    if place.kind == "bucket":
        assert place.candidates()
