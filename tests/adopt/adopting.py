"""`bucketry adopt` as its users run it, and what a registry serves afterwards compared with what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.images import digest_of
from tests.support.old_registry import Place
from tests.support.old_registry_filling import Contents
from tests.support.reading import Reader
from tests.support.tools import run, search_path, tool, with_parent

PROGRAM = Path(sys.executable).parent / "bucketry"
TREE = "docker/registry/v2/"


@dataclass(frozen=True)
class Adopted:
    """What a run has left: its exit code, its events, and what it said on standard error."""

    code: int
    events: tuple[Mapping[str, Any], ...]
    said: str

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def ended(self) -> Mapping[str, Any]:
        assert self.events, self.said
        assert self.events[-1]["event"] == "ended", self.said
        return self.events[-1]

    def taken(self, kind: str) -> set[tuple[str, str]]:
        return {(event["repository"], event["name"]) for event in self.of("taken") if event["kind"] == kind}


def environ(place: Place) -> dict[str, str]:
    """None of the caller's settings, and what is needed to reach the place."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, **place.environ()}


def begin(place: Place, *options: str) -> subprocess.Popen[bytes]:
    """A run whose events come by its standard output."""
    return subprocess.Popen(
        with_parent([str(PROGRAM), "adopt", place.url, "--json", *options]),
        env=environ(place),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def adopt(place: Place, *options: str) -> Adopted:
    with begin(place, *options) as process:
        out, err = process.communicate(timeout=100)
    return Adopted(process.returncode, tuple(map(json.loads, out.splitlines())), err.decode())


def assert_serves(reader: Reader, contents: Contents) -> None:
    """Every image byte by byte: manifests by tag and by digest, blobs, referrers; no tag that was deleted."""
    catalog = reader.json("/v2/_catalog")["repositories"]
    assert set(catalog) == {name for name, _ in contents}
    for name, held in contents:
        assert set(reader.tags(name)) == set(held.tags), name
        for tag, digest in held.tags.items():
            assert digest_of(reader.manifest(name, tag)) == digest, (name, tag)
        for digest in held.manifests:
            document = json.loads(reader.manifest(name, digest))
            for entry in [*document.get("layers", ()), *filter(None, [document.get("config")])]:
                if entry["digest"] not in contents.absent:
                    assert len(reader.blob(name, entry["digest"])) == entry["size"]
        for subject, referrers in held.referrers.items():
            listed = reader.json(f"/v2/{name}/referrers/{subject}")["manifests"]
            assert {entry["digest"] for entry in listed} == referrers, (name, subject)


def assert_pulled_by_crane(reader: Reader, contents: Contents, folder: Path) -> None:
    """Every image by tag and by digest."""
    host = reader.url.removeprefix("http://")
    for name, held in contents:
        for tag, digest in held.tags.items():
            layers = {layer["digest"] for layer in json.loads(reader.manifest(name, tag)).get("layers", ())}
            if not layers & contents.absent:  # It would look for them elsewhere.
                _assert_pulls(folder, f"{host}/{name}:{tag}", digest)
                _assert_pulls(folder, f"{host}/{name}@{digest}", digest)


def _assert_pulls(folder: Path, name: str, digest: str) -> None:
    """crane gets all of an image or index, and writes what has the digests it is named by."""
    with tempfile.TemporaryDirectory(dir=folder) as layout:
        _crane(folder, "pull", "--format=oci", name, layout)
        blobs = {path.name: path.read_bytes() for path in Path(layout, "blobs", "sha256").iterdir()}
    assert digest.removeprefix("sha256:") in blobs
    assert all(digest_of(blob) == f"sha256:{encoded}" for encoded, blob in blobs.items())


def _crane(folder: Path, *arguments: str) -> str:
    return run([tool("crane"), "--insecure", *arguments], env={"PATH": search_path(), "HOME": str(folder)})


def own_bytes(place: Place) -> int:
    """Bytes of what is beside the old tree."""
    return sum(int(str(mark[0])) for path, mark in place.marks().items() if not path.startswith(TREE))


def old_marks(place: Place) -> dict[str, tuple[object, ...]]:
    return {path: mark for path, mark in place.marks().items() if path.startswith(TREE)}
