"""Names of images on this machine, as a person types them, and what they open.

::

    docker-daemon:name:tag              an image of the local Docker Engine; also its id, sha256:…
    docker-archive:FILE[:name:tag]      a file of docker save; its image by name, or by tag alone
    oci:DIR[:tag]                       an OCI image layout in a folder
    oci-archive:FILE[:tag]              an OCI image layout in a tar

They are skopeo's words. A path ends at the first colon after it, unless there is a file of the longer name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bucketry.oci.text import quoted
from bucketry.transfer.contract import Destination, SavedImage, Source
from bucketry.transfer.errors import NameUnusable
from bucketry.transfer.local.docker_archive import DockerArchive
from bucketry.transfer.local.docker_archive_filling import DockerArchiveFilling
from bucketry.transfer.local.docker_daemon import DockerFilling, DockerImage
from bucketry.transfer.local.docker_engine import DockerEngine, find_engine
from bucketry.transfer.local.oci_archive import OciArchive
from bucketry.transfer.local.oci_archive_filling import OciArchiveFilling
from bucketry.transfer.local.oci_layout import OciLayout
from bucketry.transfer.local.oci_layout_filling import OciLayoutFilling

KINDS: Final = ("docker-daemon", "docker-archive", "oci", "oci-archive")


@dataclass(frozen=True, slots=True)
class LocalName:
    """``path``: empty for docker-daemon. ``image``: a name or a tag, None where none was typed."""

    kind: str
    path: str
    image: str | None

    @classmethod
    def parse(cls, text: str) -> LocalName | None:
        """None where ``text`` is of no kind of these. Raises `NameUnusable`."""
        kind, colon, rest = text.partition(":")
        if not colon or kind not in KINDS:
            return None
        if kind == "docker-daemon":
            if not rest:
                raise NameUnusable(f"{quoted(text)} names no image: write docker-daemon:name:tag")
            return cls(kind, "", rest)
        path, image = _split(rest)
        if not path:
            what = "DIR:tag" if kind == "oci" else "FILE:tag" if kind == "oci-archive" else "FILE:name:tag"
            raise NameUnusable(f"{quoted(text)} names no file: write {kind}:{what}")
        return cls(kind, path, image)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``env`` and ``home`` say where the Docker Engine is; ``cache`` is a folder for what is loaded into it."""

    env: Mapping[str, str]
    home: Path
    cache: Path


def open_source(name: LocalName, around: Surroundings) -> Source | SavedImage:
    """Nothing is read yet. Raises `NameUnusable`, `Misconfigured`."""
    path = Path(name.path)
    match name.kind:
        case "docker-daemon":
            return DockerImage(DockerEngine(find_engine(around.env, around.home)), name.image or "")
        case "docker-archive":
            return DockerArchive(path, name.image)
        case "oci":
            return OciLayout(path, name.image)
        case _:
            return OciArchive(path, name.image)


def open_destination(name: LocalName, around: Surroundings) -> Destination:
    """Nothing is written yet. Raises `NameUnusable`, `Misconfigured`."""
    path = Path(name.path)
    match name.kind:
        case "docker-daemon":
            engine = DockerEngine(find_engine(around.env, around.home))
            return DockerFilling(engine, name.image or "", around.cache / "loading")
        case "docker-archive":
            return DockerArchiveFilling(path, name.image)
        case "oci":
            return OciLayoutFilling(path, name.image)
        case _:
            return OciArchiveFilling(path, name.image)


def _split(rest: str) -> tuple[str, str | None]:
    path, colon, image = rest.partition(":")
    if colon and not os.path.exists(path) and os.path.exists(rest):
        return rest, None
    return path, image or None
