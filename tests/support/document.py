"""The OpenAPI document of the parallel extension, as something that answers are held against."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
from tests.support.api import Answer

FILE = Path(__file__).parents[2] / "docs" / "reference" / "extension.openapi.json"
_KINDS = {"name": ".+", "part": "[0-9]+"}
"""Of parameters in a path; others are anything but a slash."""


@dataclass(frozen=True)
class Document:
    content: Mapping[str, Any]

    def operation(self, method: str, target: str) -> Mapping[str, Any]:
        """What the document says of a request. Fails where it says nothing."""
        path = target.partition("?")[0]
        for template, item in self.content["paths"].items():
            if re.fullmatch(_pattern(template), path):
                assert method.lower() in item, f"{method} {template} is not documented"
                found: Mapping[str, Any] = item[method.lower()]
                return found
        raise AssertionError(f"{path} is not documented")

    def check(self, method: str, target: str, sent: bytes | None, answer: Answer) -> None:
        """Fails for an answer that the document does not have, or has otherwise.

        So does a request of JSON that the server took, and the document does not allow.
        """
        operation = self.operation(method, target)
        where = f"{method} {target}: {answer}"
        assert str(answer.status) in operation["responses"], f"an undocumented status: {where}"
        response = self._resolved(operation["responses"][str(answer.status)])
        for name, header in response.get("headers", {}).items():
            assert name in answer.headers or not header.get("required"), f"no {name}: {where}"
        content = response.get("content", {})
        if not content:
            assert answer.body == b"", where
        else:
            assert answer.headers["Content-Type"] in content, where
            self._check_body(answer.body, answer.headers["Content-Type"], content, where)
        if answer.status < 300 and sent is not None and "requestBody" in operation:
            for media_type, kind in operation["requestBody"]["content"].items():
                self._check_body(sent, media_type, {media_type: kind}, f"what was sent with {where}")

    def _check_body(self, body: bytes, media_type: str, content: Mapping[str, Any], where: str) -> None:
        if not media_type.endswith("json"):
            return
        schema = content[media_type]["schema"]
        value = json.loads(body)
        root = {"components": self.content["components"], **schema}
        errors = list(jsonschema.Draft202012Validator(root).iter_errors(value))
        assert not errors, f"{errors[0].message}: {where}"
        known = self._resolved(schema)["properties"]
        assert set(value) <= set(known), f"undocumented members {set(value) - set(known)}: {where}"

    def _resolved(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        found: Any = item
        while "$ref" in found:
            reference, found = found["$ref"], self.content
            for step in reference.removeprefix("#/").split("/"):
                found = found[step]
        resolved: Mapping[str, Any] = found
        return resolved


@cache
def _pattern(template: str) -> str:
    pieces = re.split(r"\{(\w+)\}", template)
    return "".join(_KINDS.get(piece, "[^/]+") if index % 2 else re.escape(piece) for index, piece in enumerate(pieces))


@cache
def document() -> Document:
    return Document(json.loads(FILE.read_text(encoding="utf-8")))
