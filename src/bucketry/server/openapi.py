"""The OpenAPI document of the parallel extension, from the types that both ends use.

python -m bucketry.server.openapi docs/reference/extension.openapi.json            write it
python -m bucketry.server.openapi --check docs/reference/extension.openapi.json    is it up to date?
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bucketry.transfer import wire

_BODIES = (
    wire.Begin,
    wire.Present,
    wire.Opened,
    wire.Status,
    wire.UrlsWanted,
    wire.Urls,
    wire.Complete,
    wire.Extensions,
)
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "description": "Repository."}
_SESSION = {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}
_PART = {
    "name": "part",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "description": "Part n begins at byte (n - 1) * partSize.",
}
_DIGEST = {"name": "digest", "in": "path", "required": True, "schema": {"type": "string"}}
_UPLOADS = f"/v2/{{name}}/{wire.NAME}/uploads"
_UPLOAD = f"{_UPLOADS}/{{session}}"
_ERRORS = {
    "ErrorBody": {
        "title": "ErrorBody",
        "type": "object",
        "description": "The distribution spec's error form.",
        "required": ["errors"],
        "properties": {
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "detail": {}},
                },
            }
        },
    }
}


def _json(kind: type, description: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    media_type = "application/json" if kind is wire.Extensions else wire.UPLOAD_TYPE
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    answer: dict[str, Any] = {"description": description, "content": {media_type: {"schema": schema}}}
    if headers:
        answer["headers"] = {
            name: {"description": about, "required": True, "schema": {"type": "string"}}
            for name, about in headers.items()
        }
    return answer


def _body(kind: type, *, required: bool = True) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"required": required, "content": {wire.UPLOAD_TYPE: {"schema": schema}}}


def _error(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
    }


_RESPONSES = {
    "Invalid": _error("NAME_INVALID, DIGEST_INVALID, SIZE_INVALID, UNSUPPORTED: something that cannot be right"),
    "Closed": _error(
        "BLOB_UPLOAD_INVALID: the session takes no parts any more, as it is being completed or has failed; "
        "DIGEST_INVALID: other bytes than were announced, where the blob is one part; "
        "SIZE_INVALID, UNSUPPORTED: something that cannot be right"
    ),
    "UploadUnknown": _error("BLOB_UPLOAD_UNKNOWN: no such session here, or it has ended: begin another"),
    "BlobUnknown": _error("BLOB_UNKNOWN: no such blob here, or it has no checkpoints"),
    "Denied": _error("DENIED: the store takes no writes"),
    "Silent": _error("UNSUPPORTED: the body stopped coming"),
    "Unavailable": _error("UNAVAILABLE: try again after Retry-After seconds"),
    "Full": _error("UNAVAILABLE: the store is full"),
}
_STATUSES = {
    "Invalid": "400",
    "Closed": "400",
    "UploadUnknown": "404",
    "BlobUnknown": "404",
    "Denied": "403",
    "Silent": "408",
    "Unavailable": "503",
    "Full": "507",
}


def _shared(*names: str) -> dict[str, Any]:
    """Answers that several requests have. 503 is everywhere; 500, a defect, is nowhere."""
    return {_STATUSES[name]: {"$ref": f"#/components/responses/{name}"} for name in (*names, "Unavailable")}


_WRITES = ("Denied", "Silent", "Full")


def paths() -> dict[str, dict[str, Any]]:
    """The paths of the document: what the server's table of routes is compared with."""
    return {
        f"/v2/{wire.DISCOVER}": {
            "get": {
                "operationId": "discover",
                "summary": "Which extensions this registry has",
                "responses": {"200": _json(wire.Extensions, "The list"), **_shared()},
            }
        },
        _UPLOADS: {
            "parameters": [_NAME],
            "post": {
                "operationId": "begin",
                "summary": "Begin: is the blob there, or how are its parts sent? Or by one PUT?",
                "requestBody": _body(wire.Begin, required=False),
                "responses": {
                    "200": _json(wire.Present, "The repository has the blob"),
                    "201": _json(wire.Opened, "A session", {"Location": "The session"}),
                    **_shared("Invalid", *_WRITES),
                },
            },
        },
        _UPLOAD: {
            "parameters": [_NAME, _SESSION],
            "get": {
                "operationId": "status",
                "summary": "Where a session stands: which parts have arrived, how much is verified",
                "responses": {
                    "200": _json(wire.Status, "The session"),
                    **_shared("Invalid", "UploadUnknown", "Denied"),
                },
            },
            "delete": {
                "operationId": "cancel",
                "summary": "Give the upload up; its parts are freed",
                "responses": {
                    "204": {"description": "Done"},
                    "400": _error("BLOB_UPLOAD_INVALID: it is being verified; NAME_INVALID"),
                    **_shared("UploadUnknown", "Denied", "Full"),
                },
            },
        },
        f"{_UPLOAD}/urls": {
            "parameters": [_NAME, _SESSION],
            "post": {
                "operationId": "urls",
                "summary": "Where to PUT parts. May be asked again at any time, as URLs expire",
                "requestBody": _body(wire.UrlsWanted),
                "responses": {
                    "200": _json(wire.Urls, "The URLs"),
                    **_shared("Closed", "UploadUnknown", "Silent"),
                },
            },
        },
        f"{_UPLOAD}/parts/{{part}}": {
            "parameters": [_NAME, _SESSION, _PART],
            "put": {
                "operationId": "putPart",
                "summary": "Send a part through the registry, where it has no URLs of the bucket",
                "requestBody": {
                    "required": True,
                    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
                },
                "responses": {
                    "201": {
                        "description": "It has arrived",
                        "headers": {"ETag": {"required": True, "schema": {"type": "string"}}},
                    },
                    **_shared("Closed", "UploadUnknown", *_WRITES),
                },
            },
        },
        f"{_UPLOAD}/complete": {
            "parameters": [_NAME, _SESSION],
            "post": {
                "operationId": "complete",
                "summary": "Make the parts the blob, once its bytes are verified. The same request may be sent again",
                "requestBody": _body(wire.Complete),
                "responses": {
                    "201": _json(
                        wire.Status,
                        "The blob is there",
                        {"Location": "The blob", "Docker-Content-Digest": "Its digest"},
                    ),
                    "202": _json(
                        wire.Status,
                        "Its bytes are being read back: send the same request again",
                        {"Location": "The session", "Retry-After": "Seconds"},
                    ),
                    "400": _error(
                        "BLOB_UPLOAD_INVALID with detail.missing: parts to send; SIZE_INVALID with detail.parts: "
                        "those that are not as long as their places; DIGEST_INVALID: checkpoints of another blob, or "
                        "other bytes, and then the session has failed; UNSUPPORTED: something that cannot be right"
                    ),
                    **_shared("UploadUnknown", *_WRITES),
                },
            },
        },
        f"/v2/{{name}}/{wire.NAME}/checkpoints/{{digest}}": {
            "parameters": [_NAME, _DIGEST],
            "get": {
                "operationId": "checkpoints",
                "summary": "The SHA-256 checkpoints of a blob of this repository",
                "responses": {
                    "200": {
                        "description": "A list, as docs/reference/sha256-checkpoints.md has it",
                        "headers": {"ETag": {"required": True, "schema": {"type": "string"}}},
                        "content": {wire.CHECKPOINTS_TYPE: {"schema": {"type": "string", "format": "binary"}}},
                    },
                    **_shared("Invalid", "BlobUnknown"),
                },
            },
        },
    }


def _schemas() -> dict[str, dict[str, Any]]:
    """Of all bodies. What an answer always has is required of it, though a reader could do without."""
    _, found = msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")
    schemas: dict[str, dict[str, Any]] = dict(found)
    for kind in _BODIES:
        if not kind.__struct_config__.omit_defaults:
            schemas[kind.__name__]["required"] = [
                field.encode_name for field in msgspec.structs.fields(kind) if field.default is not msgspec.UNSET
            ]
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
    return schemas


def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bucketry's parallel extension",
            "version": "1",
            "description": "Parts of one blob in parallel, beside the OCI distribution spec. Rules and reasons: "
            "docs/rfcs/0003-parallel-extension.md",
        },
        "paths": paths(),
        "components": {"schemas": {**_schemas(), **_ERRORS}, "responses": _RESPONSES},
    }


def render() -> str:
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    check = "--check" in arguments
    files = [Path(argument) for argument in arguments if argument != "--check"]
    if len(files) != 1:
        sys.stderr.write("usage: python -m bucketry.server.openapi [--check] FILE\n")
        return 2
    if not check:
        files[0].write_text(render(), encoding="utf-8")
    elif not files[0].exists() or files[0].read_text(encoding="utf-8") != render():
        sys.stderr.write(f"{files[0]} is out of date: python -m bucketry.server.openapi {files[0]}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
