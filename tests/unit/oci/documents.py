"""Manifests as documents, and how they are parsed and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bucketry.oci import media_types as mt
from bucketry.oci.digest import Digest
from bucketry.oci.errors import ManifestInvalid
from bucketry.oci.manifest import Manifest, parse_manifest

Document = dict[str, Any]


def descriptor(content: str, media_type: str = mt.OCI_LAYER_GZIP, **more: object) -> Document:
    data = content.encode()
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data), **more}


CONFIG = descriptor("config", mt.OCI_CONFIG)
LAYER = descriptor("layer")
CHILD = descriptor("child", mt.OCI_MANIFEST)
IMAGE: Document = {"schemaVersion": 2, "mediaType": mt.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: Document = {"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": [CHILD]}


def parse(document: object, content_type: str | None = None) -> Manifest:
    return parse_manifest(json.dumps(document).encode(), content_type)


def without(document: Document, *names: str) -> Document:
    return {name: value for name, value in document.items() if name not in names}


def refused(body: bytes | object, content_type: str | None = None) -> str:
    """The message with which ``body`` is refused."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(data, content_type)
    assert caught.value.code == "MANIFEST_INVALID"
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600
    return caught.value.message


def digests_of(documents: list[Document]) -> list[str]:
    return [document["digest"] for document in documents]
