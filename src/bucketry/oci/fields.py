"""A manifest's JSON, read so that no two readers can differ about it, in bounded memory.

JSON lets a name come twice and leaves open which one counts; Go's decoder, which most clients use, also takes
``Layers`` for ``layers``. Either would let a manifest name other blobs to a client than to the registry that
keeps them alive, so both are refused in the manifest itself and in its descriptors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from bucketry.oci.descriptor import Descriptor
from bucketry.oci.errors import ManifestInvalid
from bucketry.oci.text import quoted

MAX_DEPTH: Final = 100
"""Levels of objects and arrays, the outermost included."""

MAX_VALUES: Final = 200_000
"""Commas outside strings: about as many as values. 4 MiB of the shortest valid descriptors have 114,000."""

_T = TypeVar("_T")


class _Name:
    """A member name of a JSON object, equal only to itself: a dict of them keeps a name that came twice."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _name(wanted: type, text: Any) -> Any:
    return wanted(text)


_MEMBERS: Final = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_name)
_LIST_OF_MEMBERS: Final = msgspec.json.Decoder(list[dict[_Name, msgspec.Raw]], dec_hook=_name)
_INTEGER: Final = msgspec.json.Decoder(int)
_TEXT: Final = msgspec.json.Decoder(str)
_ANNOTATIONS: Final = msgspec.json.Decoder(dict[str, str])
_DESCRIPTOR: Final = msgspec.json.Decoder(Descriptor)
_DESCRIPTORS: Final = msgspec.json.Decoder(tuple[Descriptor, ...])

_MANIFEST_NAMES: Final = {
    name.casefold(): name
    for name in (
        "schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "blobs", "subject",
        "annotations", "fsLayers",
    )
}  # fmt: skip
_DESCRIPTOR_NAMES: Final = {
    field.encode_name.casefold(): field.encode_name for field in msgspec.structs.fields(Descriptor)
}


class Fields:
    """The members of a manifest, each decoded when it is asked for.

    ``null`` counts as absent (Go writes it for an empty list), except for `require`. A member of the wrong
    type raises `ManifestInvalid`, which names the place in the document.
    """

    __slots__ = ("_names", "_raw")

    def __init__(self, members: Mapping[str, msgspec.Raw]) -> None:
        self._names = frozenset(members)
        self._raw = {name: raw for name, raw in members.items() if bytes(raw) != b"null"}

    @classmethod
    def read(cls, body: bytes) -> Fields:
        """The members of the JSON object in ``body``, whose length is bounded already.

        Raises `ManifestInvalid`.
        """
        if not body:
            raise ManifestInvalid("the body is empty: send the manifest as JSON")
        # Counted in the bytes, because objects would take forty times the memory of a hostile body.
        if body.count(b",") > MAX_VALUES and _outside_strings(body).count(b",") > MAX_VALUES:
            raise ManifestInvalid(f"the manifest has more than {MAX_VALUES} values: split it")
        try:
            body.decode("utf-8")
            members = _MEMBERS.decode(body)
        except UnicodeDecodeError as error:
            raise ManifestInvalid(f"the manifest is not UTF-8: a wrong byte at offset {error.start}") from None
        except RecursionError:
            raise _too_deep() from None
        except msgspec.ValidationError:
            raise ManifestInvalid("the manifest is not a JSON object: it must be {...}") from None
        except msgspec.DecodeError as error:
            raise ManifestInvalid(f"the manifest is not JSON: {error}") from None
        if _deeper_than(body, MAX_DEPTH):
            raise _too_deep()
        _check_names(members, _MANIFEST_NAMES, "")
        return cls({name.text: raw for name, raw in members.items()})

    def has(self, name: str) -> bool:
        """Whether ``name`` is there and not ``null``."""
        return name in self._raw

    def require(self, name: str, why: str) -> None:
        """Raise unless ``name`` is there, or is there as ``null``."""
        if name not in self._names:
            raise ManifestInvalid(f"the manifest has no {name}: {why}")

    def refuse(self, *names: str, why: str) -> None:
        """Raise if one of ``names`` is there."""
        for name in names:
            if name in self._raw:
                raise ManifestInvalid(f"the manifest has a field {name}, but {why}: leave it out")

    def integer(self, name: str) -> int | None:
        return self._get(name, _INTEGER)

    def text(self, name: str) -> str | None:
        return self._get(name, _TEXT)

    def annotations(self) -> dict[str, str]:
        return self._get("annotations", _ANNOTATIONS) or {}

    def descriptor(self, name: str) -> Descriptor | None:
        value = self._get(name, _DESCRIPTOR)
        if value is not None:
            _check_names(_MEMBERS.decode(self._raw[name]), _DESCRIPTOR_NAMES, f"{name}.")
        return value

    def descriptors(self, name: str) -> tuple[Descriptor, ...]:
        values = self._get(name, _DESCRIPTORS)
        if values is None:
            return ()
        for number, members in enumerate(_LIST_OF_MEMBERS.decode(self._raw[name])):
            _check_names(members, _DESCRIPTOR_NAMES, f"{name}[{number}].")
        return values

    def _get(self, name: str, decoder: msgspec.json.Decoder[_T]) -> _T | None:
        raw = self._raw.get(name)
        if raw is None:
            return None
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError as error:
            # msgspec writes "reason - at `$.path`", its $ being this field.
            reason, _, path = str(error).rpartition(" - at `$")
            where = f"{name}{path.rstrip('`')}" if reason else name
            raise ManifestInvalid(f"{where} is wrong: {reason or error}") from None
        except msgspec.DecodeError as error:
            raise ManifestInvalid(f"{name} is not JSON: {error}") from None


def _check_names(members: Mapping[_Name, msgspec.Raw], known: Mapping[str, str], place: str) -> None:
    seen: set[str] = set()
    for name in members:
        text = name.text
        if text in seen:
            raise ManifestInvalid(f"the manifest is ambiguous: {place}{quoted(text)} is there twice; keep one")
        seen.add(text)
        right = known.get(text.casefold(), text)
        if right != text:
            raise ManifestInvalid(f"the manifest is ambiguous: write {place}{right} and not {quoted(text)}")


_SLICE: Final = 64 * 1024
"""Bytes split at a time, so that a body of quotes does not become millions of objects."""

_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_TO_SQUARE: Final = bytes.maketrans(b"{}", b"[]")


def _outside_strings(body: bytes) -> bytes:
    """``body`` without its strings: exactly, as far as it is well-formed JSON."""
    # Backslashes are only in strings. Without those escaped and the quotes escaped, a string ends at a quote.
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    outside = bytearray()
    within = 0  # 1 where a piece begins within a string
    for start in range(0, len(plain), _SLICE):
        pieces = plain[start : start + _SLICE].split(b'"')
        outside += b"".join(pieces[within::2])
        within ^= (len(pieces) - 1) & 1
    return bytes(outside)


def _deeper_than(body: bytes, levels: int) -> bool:
    """Whether ``body``, which is well-formed JSON, nests deeper than ``levels``."""
    if body.count(b"[") + body.count(b"{") <= levels:
        return False
    nest = _outside_strings(body).translate(_TO_SQUARE, _NOT_BRACKETS)
    for _ in range(levels):
        nest = nest.replace(b"[]", b"")  # takes the innermost level off
        if not nest:
            return False
    return True


def _too_deep() -> ManifestInvalid:
    return ManifestInvalid(f"the manifest nests deeper than {MAX_DEPTH} levels: no manifest needs that")
