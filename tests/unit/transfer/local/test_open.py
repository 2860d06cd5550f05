"""Names of images on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucketry.transfer.errors import NameUnusable
from bucketry.transfer.local.docker_archive import DockerArchive
from bucketry.transfer.local.docker_archive_filling import DockerArchiveFilling
from bucketry.transfer.local.docker_daemon import DockerFilling, DockerImage
from bucketry.transfer.local.oci_archive import OciArchive
from bucketry.transfer.local.oci_archive_filling import OciArchiveFilling
from bucketry.transfer.local.oci_layout import OciLayout
from bucketry.transfer.local.oci_layout_filling import OciLayoutFilling
from bucketry.transfer.local.open import LocalName, Surroundings, open_destination, open_source

AROUND = Surroundings({}, Path("/nowhere"), Path("/nowhere/cache"))
NAMES = [
    ("oci:layout:v1", "layout", "v1", OciLayout, OciLayoutFilling),
    ("oci:/a/b", "/a/b", None, OciLayout, OciLayoutFilling),
    ("oci-archive:x.tar:v1", "x.tar", "v1", OciArchive, OciArchiveFilling),
    ("docker-archive:x.tar", "x.tar", None, DockerArchive, DockerArchiveFilling),
    ("docker-archive:x.tar:host:5000/a/b:v1", "x.tar", "host:5000/a/b:v1", DockerArchive, DockerArchiveFilling),
    ("docker-daemon:host:5000/a/b:v1", "", "host:5000/a/b:v1", DockerImage, DockerFilling),
]


@pytest.mark.parametrize(("text", "path", "image", "source", "destination"), NAMES)
def test_a_name_opens_what_it_says(
    text: str, path: str, image: str | None, source: type[object], destination: type[object]
) -> None:
    name = LocalName.parse(text)

    assert name is not None
    assert (name.path, name.image) == (path, image)
    opened = open_source(name, AROUND)
    filled = open_destination(name, AROUND)
    assert type(opened) is source
    assert type(filled) is destination
    assert opened.name == filled.name == text


@pytest.mark.parametrize("text", ["app:v1", "host:5000/app", "s3://bucket/app:v1", "ocifoo:x", "oci", "docker-daemon"])
def test_another_name_is_none_of_these(text: str) -> None:
    assert LocalName.parse(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("oci:", "write oci:DIR:tag"),
        ("oci::v1", "write oci:DIR:tag"),
        ("oci-archive:", "write oci-archive:FILE:tag"),
        ("docker-archive::app:v1", "write docker-archive:FILE:name:tag"),
        ("docker-daemon:", "write docker-daemon:name:tag"),
    ],
)
def test_half_a_name_is_refused_with_the_whole_one(text: str, says: str) -> None:
    with pytest.raises(NameUnusable, match=says):
        LocalName.parse(text)


@pytest.mark.parametrize("text", ["docker-daemon:UPPER:v1", "docker-daemon:app@sha256:" + "0" * 64])
def test_a_name_that_docker_does_not_take_is_refused_at_once(text: str) -> None:
    name = LocalName.parse(text)

    assert name is not None
    with pytest.raises(NameUnusable):
        open_destination(name, AROUND)


def test_a_path_with_a_colon_is_taken_where_there_is_such_a_file(tmp_path: Path) -> None:
    path = tmp_path / "2026-11-24T10:22.tar"
    path.write_bytes(b"")

    for text, image in ((f"{path}", None), (f"{tmp_path}/other:v1", "v1")):
        name = LocalName.parse(f"oci-archive:{text}")
        assert name is not None
        assert (name.path, name.image) == ((str(path), None) if image is None else (f"{tmp_path}/other", "v1"))
