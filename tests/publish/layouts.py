"""What must be in an OCI layout that a client filled."""

from __future__ import annotations

import json
from pathlib import Path

from tests.publish.content import Stored
from tests.support.images import blob_path, digest_of


def assert_in_layout(layout: Path, item: Stored) -> None:
    """All of it, byte by byte."""
    for digest, data in item.parts.items():
        assert blob_path(layout, digest).read_bytes() == data, digest
    named = [entry["digest"] for entry in json.loads((layout / "index.json").read_text())["manifests"]]
    assert item.digest in named


def assert_whole(layout: Path) -> str:
    """All that the layout's index names is in it, with the right bytes; the digest of what it names."""
    (root,) = json.loads((layout / "index.json").read_text())["manifests"]
    waiting = [root]
    while waiting:
        entry = waiting.pop()
        data = blob_path(layout, entry["digest"]).read_bytes()
        assert digest_of(data) == entry["digest"]
        if "manifest" in entry["mediaType"] or "index" in entry["mediaType"]:
            document = json.loads(data)
            config = [document["config"]] if "config" in document else []
            waiting += [*config, *document.get("layers", ()), *document.get("manifests", ())]
    return str(root["digest"])
