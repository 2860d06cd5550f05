"""A reader that asks for everything that a site names, and finds all of it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from tests.publish.conftest import Place
from tests.support.images import OCI_INDEX, digest_of
from tests.support.reading import ACCEPT


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Walked:
    """``tags``: the digest of each, by ``name:tag``. ``blobs`` and ``manifests``: ``name@digest`` of all below them."""

    tags: Mapping[str, str]
    manifests: frozenset[str]
    blobs: frozenset[str]


@dataclass
class Walker:
    """A client with one connection, to be closed. What it finds wrong is an `AssertionError`."""

    place: Place
    _connection: http.client.HTTPConnection | None = None
    _read: set[str] = field(default_factory=set)
    """Digests whose bytes were right once: then it is enough that they are there."""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(self, path: str, method: str = "GET") -> Answer:
        if self._connection is None:
            host, context = self.place.host, self.place.context
            self._connection = (
                http.client.HTTPConnection(host, timeout=30)
                if context is None
                else http.client.HTTPSConnection(host, timeout=30, context=context)
            )
        try:
            self._connection.request(method, path, headers={"Accept": ACCEPT})
            answer = self._connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def get(self, path: str) -> Answer:
        answer = self.request(path)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.body[:300]!r}"
        return answer

    def names(self) -> list[str]:
        found: list[str] = json.loads(self.get("/v2/_catalog").body)["repositories"]
        return found

    def tags(self, name: str) -> list[str] | None:
        """None where there is no such repository any more."""
        answer = self.request(f"/v2/{name}/tags/list")
        if answer.status == 404:
            assert name not in self.names(), f"{name} is in the catalog, and has no tags/list"
            return None
        assert answer.status == 200, f"tags of {name}: {answer.status}"
        document = json.loads(answer.body)
        assert document["name"] == name
        found: list[str] = document["tags"]
        return found

    def manifest(self, name: str, reference: str) -> bytes | None:
        """With the right digest and media type. None where a tag is not in the list any more."""
        path = f"/v2/{name}/manifests/{reference}"
        answer = self.request(path)
        if answer.status == 404 and ":" not in reference:
            assert reference not in (self.tags(name) or ()), f"{name}:{reference} is in the list, and not there"
            return None
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.body[:300]!r}"
        digest = digest_of(answer.body)
        told = answer.headers["Docker-Content-Digest"]
        assert told == (digest if self.place.tells_digests else None), path
        if ":" in reference:
            assert digest == reference
        declared = json.loads(answer.body).get("mediaType")
        assert declared in (None, answer.headers["Content-Type"]), path
        return answer.body

    def walk(self) -> Walked:
        """From the catalog to the last blob and the last referrer."""
        tags: dict[str, str] = {}
        manifests: set[str] = set()
        blobs: set[str] = set()

        def descend(name: str, body: bytes) -> None:
            digest = digest_of(body)
            if f"{name}@{digest}" in manifests:
                return
            manifests.add(f"{name}@{digest}")
            document: dict[str, Any] = json.loads(body)
            for entry in (document.get("config"), *document.get("layers", ())):
                if entry is not None:
                    blobs.add(f"{name}@{entry['digest']}")
                    self._blob(name, entry["digest"], entry["size"])
            for entry in document.get("manifests", ()):
                child = self.manifest(name, entry["digest"])
                assert child is not None
                descend(name, child)
            answer = self.get(f"/v2/{name}/referrers/{digest}")
            assert answer.headers["Content-Type"] == OCI_INDEX
            for entry in json.loads(answer.body)["manifests"]:
                referrer = self.manifest(name, entry["digest"])
                assert referrer is not None
                descend(name, referrer)

        for name in self.names():
            for tag in self.tags(name) or ():
                body = self.manifest(name, tag)
                if body is not None:
                    tags[f"{name}:{tag}"] = digest_of(body)
                    descend(name, body)
        return Walked(tags, frozenset(manifests), frozenset(blobs))

    def _blob(self, name: str, digest: str, size: int) -> None:
        path = f"/v2/{name}/blobs/{digest}"
        if digest in self._read:
            answer = self.request(path, "HEAD")
            assert answer.status == 200, f"HEAD {path}: {answer.status}"
            assert int(answer.headers["Content-Length"]) == size
        else:
            answer = self.get(path)
            assert digest_of(answer.body) == digest
            self._read.add(digest)


def walk(place: Place) -> Walked:
    """What a stranger finds, who has seen nothing yet."""
    with closing(Walker(place)) as walker:
        return walker.walk()
