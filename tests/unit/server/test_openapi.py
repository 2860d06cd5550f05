"""The OpenAPI document of the extension against the server that it describes."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
from tests.support.document import FILE

from bucketry.registry import MemoryBudget, Registry
from bucketry.server import openapi
from bucketry.server.extension import ExtensionHandlers
from bucketry.server.routes import Route, resolve
from bucketry.store.memory import MemoryStore
from bucketry.transfer import wire

VALUES = {"name": "team/app", "session": "s", "part": "7", "digest": "sha256:" + "0" * 64}


async def test_paths_and_methods_are_those_of_the_server() -> None:
    registry = await Registry.open(MemoryStore())
    handlers = ExtensionHandlers(registry, MemoryBudget(1), public_url="", presign_expires=60)
    served = {route: {method.lower() for method in methods} for route, methods in handlers.table.items()}
    documented: dict[Route, set[str]] = {}
    for template, item in openapi.paths().items():
        target = resolve(re.sub(r"\{(\w+)\}", lambda found: VALUES[found[1]], template))
        assert target.route not in documented
        documented[target.route] = set(item) - {"parameters"}
        named = set(re.findall(r"\{(\w+)\}", template))
        assert {parameter["name"] for parameter in item.get("parameters", [])} == named
    assert documented == served
    await registry.close()


def test_file_is_up_to_date(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert openapi.main(["--check", str(FILE)]) == 0
    other = tmp_path / "extension.openapi.json"
    assert openapi.main(["--check", str(other)]) == 1
    assert openapi.main([str(other)]) == 0
    assert other.read_bytes() == FILE.read_bytes()
    other.write_text("{}")
    assert openapi.main(["--check", str(other)]) == 1
    assert "out of date" in capsys.readouterr().err
    assert openapi.main([]) == openapi.main(["--check"]) == 2


def test_schemas_are_schemas_and_every_reference_leads_somewhere() -> None:
    content = openapi.document()
    for name, schema in content["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("title") == name
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', openapi.render())):
        found = content
        for step in reference.split("/"):
            found = found[step]
        assert found


def test_every_operation_has_an_id_of_its_own_and_an_answer_that_succeeds() -> None:
    operations = [
        operation for item in openapi.paths().values() for method, operation in item.items() if method != "parameters"
    ]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert any(status.startswith("2") for status in operation["responses"]), operation["operationId"]
        assert "503" in operation["responses"]


def test_members_that_answers_always_have_are_required() -> None:
    schemas = openapi.document()["components"]["schemas"]
    assert set(schemas["Opened"]["required"]) == {
        "state", "session", "partSize", "maxParts", "segment", "direct"
    }  # fmt: skip
    assert "state" in schemas["Present"]["required"]
    assert schemas["Status"]["required"] == ["state"]
    assert schemas["Begin"]["required"] == []
    assert set(schemas["Begin"]["properties"]) == set(wire.Begin.__struct_encode_fields__)
