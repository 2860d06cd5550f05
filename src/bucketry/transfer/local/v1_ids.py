"""Which layer is in ``<v1 id>/layer.tar``, before it is read: Docker up to 24 calls layers so in what it saves. No I/O.

A v1 id is a SHA-256 of what engines before 1.10 knew of a layer: the document beside it, ``<v1 id>/json``, and the
layer's chain id, which binds its bytes and those of all below it. The chain ids follow from the diff ids, and the
document comes before the layer: so the name can be computed, and says which layer it is.

As bytes it is a JSON object without spaces, its keys sorted: the document's, with the values as they are there, but for
``id`` and ``parent``; ``layer_id``, the chain id; and, but in the lowest layer, ``parent``, the digest of the layer
below. The documents of all layers but the uppermost are the same, an image that has nothing and was created at the
epoch. That is written in the engine's own time zone, and ``os`` is only added once the id is computed: neither can be
known without the document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from bucketry.oci import Digest

Fields: TypeAlias = Mapping[str, msgspec.Raw]
"""A JSON object, each value as it is written."""

_LAYER: Final = re.compile(r"([0-9a-f]{64})/layer\.tar")
_HEX: Final = re.compile(r'"[0-9a-f]{64}"')


def chain_ids(diff_ids: Sequence[Digest]) -> Iterator[Digest]:
    """Of each layer, with those below it (OCI image spec, config.md, "Layer ChainID")."""
    chain: Digest | None = None
    for diff_id in diff_ids:
        chain = diff_id if chain is None else Digest.of(f"{chain} {diff_id}".encode())
        yield chain


def v1_id(document: Fields, chain_id: Digest, parent: str | None) -> str:
    """64 hex digits. ``parent``: the id of the layer below."""
    said = {key: value for key, value in document.items() if key not in ("id", "parent")}
    said["layer_id"] = _text(str(chain_id))
    if parent is not None:
        said["parent"] = _text(f"sha256:{parent}")
    return hashlib.sha256(msgspec.json.encode(dict(sorted(said.items())))).hexdigest()


class V1Names:
    """The names of the layers of one image, whose ``diff_ids`` are in its order."""

    def __init__(self, diff_ids: Sequence[Digest]) -> None:
        self._diff_ids = tuple(diff_ids)
        self._chain_ids = tuple(chain_ids(self._diff_ids))
        self._lower: dict[str, Digest] | None = None
        """By id, all layers but the uppermost."""

    def diff_id(self, path: str, documents: Mapping[str, bytes]) -> Digest | None:
        """Of the layer at ``path``, with the ``documents`` that came before it; None where the name does not say."""
        named = _LAYER.fullmatch(path)
        if named is None or not self._diff_ids:
            return None
        if self._lower is not None and named[1] in self._lower:
            return self._lower[named[1]]
        document = _fields(documents.get(f"{named[1]}/json", b""))
        if document is None:
            return None
        # First of all, for its image may have been created at the epoch, too.
        if v1_id(document, self._chain_ids[-1], _parent(document)) == named[1]:
            return self._diff_ids[-1]
        if self._lower is None:
            # Once: one document of theirs is as good as another, and an archive may have many that are wrong.
            self._lower = self._of_lower(document)
        return self._lower.get(named[1])

    def _of_lower(self, document: Fields) -> dict[str, Digest]:
        empty = {key: value for key, value in document.items() if key != "os"}
        found: dict[str, Digest] = {}
        below = None
        for diff_id, chain_id in zip(self._diff_ids[:-1], self._chain_ids[:-1], strict=True):
            below = v1_id(empty, chain_id, below)
            found[below] = diff_id
        return found


def _fields(document: bytes) -> Fields | None:
    try:
        return msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _parent(document: Fields) -> str | None:
    written = bytes(document.get("parent", b"")).decode("utf-8", "replace")
    return written[1:-1] if _HEX.fullmatch(written) else None


def _text(value: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
