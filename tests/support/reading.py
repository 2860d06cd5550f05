"""Reading a registry over plain HTTP, to see what a client's push has left there."""

from __future__ import annotations

import gzip
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from tests.support.images import OCI_INDEX, OCI_MANIFEST, Content, Image, digest_of

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join([OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST])


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Reader:
    """``url``: scheme, host and port of a registry that asks for no credentials. Redirects are followed."""

    url: str

    def request(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """Any answer, errors too."""
        request = urllib.request.Request(self.url + path, method=method, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return Answer(reply.status, reply.headers, reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        answer = self.request(path, headers=headers)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.body[:500]!r}"
        return answer

    def json(self, path: str) -> Any:
        return json.loads(self.get(path).body)

    def manifest(self, repository: str, reference: str) -> bytes:
        """A manifest's exact bytes; its digest header and media type are checked against them."""
        answer = self.get(f"/v2/{repository}/manifests/{reference}", {"Accept": ACCEPT})
        assert answer.headers["Docker-Content-Digest"] == digest_of(answer.body)
        declared = json.loads(answer.body).get("mediaType")
        assert declared in (None, answer.headers["Content-Type"])
        if reference.startswith("sha256:"):
            assert digest_of(answer.body) == reference
        return answer.body

    def blob(self, repository: str, digest: str) -> bytes:
        """A blob's bytes, which have the digest."""
        body = self.get(f"/v2/{repository}/blobs/{digest}").body
        assert digest_of(body) == digest
        return body

    def tags(self, repository: str) -> list[str]:
        tags: list[str] = self.json(f"/v2/{repository}/tags/list")["tags"]
        return tags

    def assert_holds(self, repository: str, reference: str, content: Content) -> None:
        """The reference gives this very content: manifests, configs and layers, byte by byte."""
        assert self.manifest(repository, reference) == content.manifest.data
        images = [content] if isinstance(content, Image) else content.images
        for image in images:
            assert self.manifest(repository, image.digest) == image.manifest.data
            for blob in (image.config, *image.layers):
                assert self.blob(repository, blob.digest) == blob.data

    def assert_same_image(self, repository: str, reference: str, image: Image) -> None:
        """The reference gives this image, though its client may have compressed the layers anew.

        The config is the same bytes, the layers unpack to the same tars, and all have their digests.
        """
        manifest = json.loads(self.manifest(repository, reference))
        assert self.blob(repository, manifest["config"]["digest"]) == image.config.data
        assert len(manifest["layers"]) == len(image.tars)
        for layer, tar in zip(manifest["layers"], image.tars, strict=True):
            data = self.blob(repository, layer["digest"])
            assert len(data) == layer["size"]
            assert (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data) == tar
