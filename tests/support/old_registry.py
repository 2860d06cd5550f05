"""Registries of the kind that buckets are adopted from: CNCF distribution 2.8 and 3, on a folder or on a bucket.

Both write the tree ``docker/registry/v2/`` below their root. A `Place` is where such a tree lies, for tests to look at
it, to break it, and to show that nobody changed it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.store.seaweed import Seaweed
from tests.support.fixtures import Registry
from tests.support.ports import answers, free_port
from tests.support.server import Server, ended, start
from tests.support.tools import APT, GO, missing, run, search_path


@dataclass(frozen=True)
class Version:
    """A release line: the program it runs as, and what of its behaviour tests depend on."""

    name: str
    program: str
    installed_by: str
    s3_options: tuple[tuple[str, object], ...] = ()
    deletes_tags: bool = False
    """Whether DELETE of a manifest by its tag removes the tag alone; else there is no way to remove just a tag."""

    empty_uploads: bool = False
    """Whether a blob of no bytes can be uploaded to S3: 2.8 completes an upload of no parts, which S3 refuses."""

    def path(self) -> str:
        """Of the program, or the test's end."""
        found = shutil.which(self.program, path=search_path())
        if found is None:
            missing(f"{self.program} is not installed: {self.installed_by}")
        return found

    def __str__(self) -> str:
        return self.name


V2 = Version("2.8", "docker-registry", APT)
"""Of Debian's package docker-registry."""

V3 = Version("3", "registry", GO, (("forcepathstyle", True),), deletes_tags=True, empty_uploads=True)
"""Built from its Go module."""

VERSIONS = (V2, V3)


class Place(Protocol):
    """Where a registry keeps its tree. Paths are relative to the root, so they begin with `TREE`."""

    @property
    def url(self) -> str:
        """The root as bucketry names stores."""
        ...

    def environ(self) -> dict[str, str]:
        """What a process needs to reach it beside the ``url``."""
        ...

    def storage(self, version: Version) -> dict[str, object]:
        """The registry's own settings for it."""
        ...

    def marks(self) -> dict[str, tuple[object, ...]]:
        """Every file, and what changes with each write to it; the first value is its size in bytes."""
        ...

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, data: bytes) -> None: ...

    def remove(self, path: str) -> None: ...


@dataclass(frozen=True)
class FolderPlace:
    folder: Path

    @property
    def url(self) -> str:
        return str(self.folder)

    def environ(self) -> dict[str, str]:
        return {}

    def storage(self, version: Version) -> dict[str, object]:
        return {"filesystem": {"rootdirectory": str(self.folder)}}

    def marks(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in self.folder.rglob("*"):
            if path.is_file():
                seen = path.stat()
                found[path.relative_to(self.folder).as_posix()] = (seen.st_size, seen.st_mtime_ns, seen.st_ino)
        return found

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def remove(self, path: str) -> None:
        (self.folder / path).unlink()


@dataclass(frozen=True)
class BucketPlace:
    """A part of the bucket of a running SeaweedFS; ``root`` without slashes at its ends, or empty."""

    seaweed: Seaweed
    root: str

    @property
    def url(self) -> str:
        return f"s3://{self.seaweed.bucket}/{self.root}".rstrip("/")

    def environ(self) -> dict[str, str]:
        return self.seaweed.environ()

    def storage(self, version: Version) -> dict[str, object]:
        return {
            "s3": {
                "region": self.seaweed.region,
                "regionendpoint": self.seaweed.endpoint,
                "bucket": self.seaweed.bucket,
                "rootdirectory": f"/{self.root}",
                "accesskey": self.seaweed.access_key,
                "secretkey": self.seaweed.secret_key,
                "secure": False,
                "v4auth": True,
                **dict(version.s3_options),
            }
        }

    def marks(self) -> dict[str, tuple[object, ...]]:
        prefix = self._key("")
        with self._client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.seaweed.bucket, Prefix=prefix)
            return {
                listed["Key"].removeprefix(prefix): (listed["Size"], listed["ETag"], listed["LastModified"])
                for page in pages
                for listed in page.get("Contents", ())
            }

    def read(self, path: str) -> bytes:
        with self._client() as client:
            body: bytes = client.get_object(Bucket=self.seaweed.bucket, Key=self._key(path))["Body"].read()
            return body

    def write(self, path: str, data: bytes) -> None:
        with self._client() as client:
            client.put_object(Bucket=self.seaweed.bucket, Key=self._key(path), Body=data)

    def remove(self, path: str) -> None:
        with self._client() as client:
            client.delete_object(Bucket=self.seaweed.bucket, Key=self._key(path))

    def _key(self, path: str) -> str:
        return f"{self.root}/{path}" if self.root else path

    @contextmanager
    def _client(self) -> Iterator[Any]:
        client = self.seaweed.client()
        try:
            yield client
        finally:
            client.close()


@dataclass(frozen=True)
class OldRegistry(Registry):
    """A running one. Deleting is enabled, and it sends blobs itself, with no redirect to the bucket."""

    version: Version
    place: Place
    config: Path
    log_path: Path

    @property
    def takes_empty_blobs(self) -> bool:
        return self.version.empty_uploads or isinstance(self.place, FolderPlace)

    def collect_garbage(self, *, untagged: bool = False) -> str:
        """Its own collection, which must not meet a push; ``untagged``: of manifests that no tag names too.

        Gives what it said. It keeps no cache, so it sees at once what is gone.
        """
        options = ["--delete-untagged"] if untagged else []
        return run([self.version.path(), "garbage-collect", *options, self.config], env=_environ())


@contextmanager
def old_registry(version: Version, place: Place, folder: Path) -> Iterator[OldRegistry]:
    """A running registry on what ``place`` has already; ``folder`` takes its configuration and its log."""
    program, port = version.path(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / f"old-{port}.yml", folder / f"old-{port}.log"
    settings = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {**place.storage(version), "delete": {"enabled": True}, "redirect": {"disable": True}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "for tests only"},
        # Images with layers that lie elsewhere (non-distributable ones) are refused without it.
        "validation": {"manifests": {"urls": {"allow": ["^https://"]}}},
    }
    config.write_text(json.dumps(settings))  # JSON is YAML too.
    server = Server(start([program, "serve", config], log, env=_environ()), log, port)
    with ended(server, lambda: answers(port, "/v2/")):
        yield OldRegistry(server.host, f"distribution {version}", version, place, config, log)


def _environ() -> dict[str, str]:
    """No AWS_* and no REGISTRY_* of the caller's; version 3 traces to a collector that is not there unless told not."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "OTEL_TRACES_EXPORTER": "none"}
