"""JSON that is nearly right: one place of a document, or of its text, is another."""

from __future__ import annotations

import base64
import json
import random
from typing import Any, Final

from tests.support.api import ABSENT


class _Raw(str):
    """Text that stands in JSON as it is."""


def _bottomless(opening: str, closing: str, depth: int) -> _Raw:
    return _Raw(opening * depth + closing * depth)


_ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, [], {}, "", "x" * 5000, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 1.5, 300.0),
    *(_Raw(text) for text in ("1e400", "-1e400", "NaN", "Infinity", "-0", "1E3", "01", "9" * 300, "9" * 5000, "0x10")),
    *(_Raw(text) for text in (r'"\ud800"', r'"\udc00\ud800"', r'"\u0000"', '"\xff\xfe"', '"\x00"', '"\\x"', "'a'")),
    _bottomless("[", "]", 50),
    _bottomless("[", "]", 3000),
    _bottomless('{"a":', "1}", 500).replace("}1", "}"),
    *([[]], [[[{}]]], {"": ""}, {"digest": ABSENT}, [1, "a", None], "sha256:", ABSENT, "sha512:" + "a" * 128),
    *(
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v1+json",
        "a/b",
        "../..",
    ),
    *("\u202e", "\u212a", "ｓha256:" + "0" * 64, ["x"] * 300, {str(n): n for n in range(200)}),
)
_KEYS: Final = (
    *("layers", "manifests", "config", "subject", "mediaType", "schemaVersion", "annotations", "blobs", "digest"),
    *("size", "urls", "data", "platform", "artifactType", "Layers", "MEDIATYPE", "parts", "checkpoints", "partSize"),
    *("__proto__", "", "a\x00b", "\u017fize"),
)


def written(value: Any) -> bytes:
    """JSON, but for what is raw in it."""
    raws: list[str] = []

    def plain(node: Any) -> Any:
        if isinstance(node, _Raw):
            raws.append(str(node))
            return f"@@{len(raws) - 1}@@"
        if isinstance(node, dict):
            return {name: plain(member) for name, member in node.items()}
        if isinstance(node, list):
            return [plain(member) for member in node]
        return node

    text = json.dumps(plain(value))
    for number, raw in enumerate(raws):
        text = text.replace(f'"@@{number}@@"', raw)
    return text.encode("latin-1")


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        found += _places(member, (*path, name))
    return found


def changed(source: random.Random, document: Any) -> Any:
    """The document with one place in it changed; what is not changed is shared."""
    path = source.choice(_places(document))
    return _changed(source, document, path)


def _changed(source: random.Random, value: Any, path: tuple[Any, ...]) -> Any:
    if path:
        copy = value.copy()
        copy[path[0]] = _changed(source, value[path[0]], path[1:])
        return copy
    way = source.randrange(6)
    if way == 0 and isinstance(value, dict) and value:
        copy = dict(value)
        del copy[source.choice(list(copy))]
        return copy
    if way == 1 and isinstance(value, dict):
        return {**value, source.choice(_KEYS): source.choice(_ODD)}
    if way == 2 and isinstance(value, list):
        return (value or [{}]) * source.choice((2, 3, 40))
    if way == 3 and isinstance(value, str) and value:
        at = source.randrange(len(value))
        return value[:at] + source.choice(("", "\x00", "A", "/", ":", "\u2024", value, " ")) + value[at + 1 :]
    if way == 4 and isinstance(value, int):
        return source.choice((float(value), -value, value + 1, str(value), value * 10**30, _Raw(f"{value}e0")))
    return source.choice(_ODD)


def json_bytes(source: random.Random, document: Any) -> bytes:
    """A document that is wrong in its members, its text, or both."""
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        document = changed(source, document)
    data = written(document)
    way = source.randrange(24)
    at = source.randrange(len(data) + 1)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + source.randbytes(source.randrange(1, 4)) + data[at:]
    if way == 2 and data.startswith(b"{") and len(data) > 2:
        name = source.choice(list(document)) if isinstance(document, dict) and document else "size"
        return data[:-1] + b"," + json.dumps(name).encode() + b":" + written(source.choice(_ODD)) + b"}"
    if way == 3:
        return source.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\n\n ", b"\x00")) + data
    if way == 4:
        return data + source.choice((b"{}", b"\x00", b"]", b" " * 70_000, data))
    if way == 5:
        return document_text(source, data)
    return data


def document_text(source: random.Random, data: bytes) -> bytes:
    """The same in other encodings."""
    text = data.decode("latin-1")
    return source.choice(
        (text.encode("utf-16"), text.encode("utf-32"), base64.b64encode(data), data.replace(b'"', b"'"))
    )
