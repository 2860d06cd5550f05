"""Which blob a layer became when it was compressed, so that a second push need not compress it to know.

The file is a hint: that the target has the blob is asked every time. A damaged one counts as empty.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from bucketry.oci import Digest
from bucketry.oci.errors import DigestInvalid
from bucketry.transfer.files import write_whole

_VERSION: Final = 1
_MOST_LAYERS: Final = 4096
_MOST_BYTES: Final = 4 * 1024 * 1024


class CompressedLayer(msgspec.Struct, frozen=True):
    """``digest`` and ``size`` of the compressed bytes."""

    digest: str
    size: int


class _File(msgspec.Struct):
    version: int
    layers: dict[str, CompressedLayer]


class LayerCache:
    """``form`` in its methods says all that the compressed bytes depend on: format, level, version of the code."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "layers.json"

    def get(self, diff_id: Digest, form: str) -> CompressedLayer | None:
        found = self._read().get(f"{diff_id} {form}")
        if found is None or found.size < 0:
            return None
        try:
            Digest.parse(found.digest)
        except DigestInvalid:
            return None
        return found

    def add(self, diff_id: Digest, form: str, digest: Digest, size: int) -> None:
        """Of two runs that add at once, one may be forgotten."""
        key = f"{diff_id} {form}"
        layers = self._read()
        layers.pop(key, None)
        layers[key] = CompressedLayer(str(digest), size)
        for oldest in list(layers)[:-_MOST_LAYERS]:
            del layers[oldest]
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._path, msgspec.json.encode(_File(_VERSION, layers)))

    def _read(self) -> dict[str, CompressedLayer]:
        try:
            with self._path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
            held = msgspec.json.decode(data, type=_File)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
        return held.layers if held.version == _VERSION else {}
