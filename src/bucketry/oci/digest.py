"""Content digests: ``algorithm:hex`` (image spec, "Digests").

The spec's grammar is wider than what a registry can verify. A digest is kept only in the form its algorithm
registers: lower-case hex of the exact length. So text and `Digest` are one-to-one, and safe in a key or a
path.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from bucketry.oci.errors import DigestInvalid, UnsupportedAlgorithm
from bucketry.oci.text import quoted

Buffer: TypeAlias = bytes | bytearray | memoryview

_HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
_HEX: Final = {name: re.compile(f"[0-9a-f]{{{length}}}") for name, length in _HEX_LENGTH.items()}

ALGORITHMS: Final[frozenset[str]] = frozenset(_HEX_LENGTH)
"""The algorithms this registry computes."""

_ALGORITHM: Final = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*")
_ENCODED: Final = re.compile(r"[a-zA-Z0-9=_-]+")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest that can be verified: one of `ALGORITHMS`, and lower-case ``hex`` of that algorithm's length.

    No other value can exist: the constructor raises what `parse` raises.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        pattern = _HEX.get(self.algorithm)
        if pattern is None or not pattern.fullmatch(self.hex):
            raise _refusal(self.algorithm, self.hex)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest written as ``algorithm:hex``.

        Raises `UnsupportedAlgorithm` where the spec's grammar holds but the algorithm is not in `ALGORITHMS`,
        and `DigestInvalid` for anything else that is not exactly a digest.
        """
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise DigestInvalid(
                f"{quoted(text)} is not a digest: write algorithm:hex, such as sha256: and 64 hex digits"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: Buffer, algorithm: str = "sha256") -> Digest:
        """The digest of ``data``. Raises `UnsupportedAlgorithm` for an algorithm not in `ALGORITHMS`."""
        if algorithm not in ALGORITHMS:
            raise _unsupported(algorithm)
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def _refusal(algorithm: str, encoded: str) -> DigestInvalid:
    text = f"{algorithm}:{encoded}"
    length = _HEX_LENGTH.get(algorithm)
    if length is not None:
        return DigestInvalid(
            f"{quoted(text, 160)} is not a {algorithm} digest: "
            f"it needs exactly {length} lower-case hex digits after the colon"
        )
    if _ALGORITHM.fullmatch(algorithm) and _ENCODED.fullmatch(encoded):
        return _unsupported(algorithm)
    return DigestInvalid(
        f"{quoted(text)} is not a digest: write algorithm:hex in lower case, such as sha256: and 64 hex digits"
    )


def _unsupported(algorithm: str) -> UnsupportedAlgorithm:
    return UnsupportedAlgorithm(
        f"digest algorithm {quoted(algorithm)} is not supported here: use {' or '.join(sorted(ALGORITHMS))}"
    )
