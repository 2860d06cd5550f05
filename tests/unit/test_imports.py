"""The layers of the house: imports go downwards only, and each layer stays away from what it must not know."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import bucketry

SOURCE = Path(bucketry.__file__).parent

HTTP_SERVERS = frozenset({"starlette", "granian", "uvicorn"})
HTTP_CLIENTS = frozenset({"aiohttp", "httpx", "urllib3", "requests", "http"})
S3_CLIENTS = frozenset({"botocore", "boto3", "aiobotocore", "bucketry.store.s3"})
TERMINAL = frozenset({"cyclopts", "rich"})
INPUT_AND_OUTPUT = frozenset(
    {"asyncio", "os", "io", "socket", "ssl", "pathlib", "shutil", "tempfile", "subprocess", "fcntl", "mmap", "select"}
)
CLOCK_AND_CHANCE = frozenset({"time", "datetime", "random", "secrets", "uuid"})


@dataclass(frozen=True)
class Layer:
    """What a layer may import of bucketry besides itself, and which modules, with all below them, it must not."""

    below: frozenset[str]
    never: frozenset[str]


PURE = Layer(
    below=frozenset(),
    never=INPUT_AND_OUTPUT
    | CLOCK_AND_CHANCE
    | HTTP_SERVERS
    | HTTP_CLIENTS
    | S3_CLIENTS
    | TERMINAL
    | {"urllib.request"},
)
LAYERS = {
    "oci": PURE,
    "hashing": PURE,
    "access": Layer(below=frozenset({"oci"}), never=PURE.never),
    "store": Layer(below=frozenset(), never=HTTP_SERVERS | TERMINAL),
    "registry": Layer(
        below=frozenset({"store", "hashing", "access", "oci"}),
        never=HTTP_SERVERS | HTTP_CLIENTS | S3_CLIENTS | TERMINAL,
    ),
    "transfer": Layer(
        below=frozenset({"registry", "store", "hashing", "access", "oci"}),
        never=HTTP_SERVERS | frozenset({"botocore", "boto3", "aiobotocore", "cyclopts"}),
    ),
    "server": Layer(
        below=frozenset({"transfer", "registry", "store", "hashing", "access", "oci"}),
        never=S3_CLIENTS | TERMINAL,
    ),
    "cli": Layer(
        below=frozenset({"server", "transfer", "registry", "store", "hashing", "access", "oci"}),
        never=frozenset({"botocore", "boto3", "aiobotocore"}),
    ),
}


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module imported anywhere in ``source``, a module of ``package``.

    Those inside functions and under TYPE_CHECKING count too. Of ``from a import b`` it gives ``a.b``, since ``b`` may
    be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for name in node.names:
                yield node.lineno, f"{module}.{name.name}"


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def violations(source: str, layer: str, package: str) -> list[str]:
    """What ``source``, a module of ``package`` in ``layer``, imports and must not, each with its line."""
    rules = LAYERS[layer]
    allowed = {layer, *rules.below}
    found = []
    for line, name in imports(source, package):
        _, _, inner = name.partition("bucketry.")
        if is_within(name, "bucketry") and inner.split(".")[0] in LAYERS and inner.split(".")[0] not in allowed:
            found.append(f"line {line}: {layer} is not above {name}")
        for module in sorted(rules.never):
            if is_within(name, module):
                found.append(f"line {line}: {layer} must not know {module}")
    return found


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    parts = path.relative_to(SOURCE).parts
    source = path.read_text(encoding="utf-8")
    if len(parts) == 1:
        # The package itself is imported by every layer, so it is below them all.
        assert [name for _, name in imports(source, "bucketry") if is_within(name, "bucketry")] == []
        return
    assert violations(source, parts[0], ".".join(["bucketry", *parts[:-1]])) == []


def test_every_package_has_its_layer() -> None:
    packages = {path.relative_to(SOURCE).parts[0] for path in modules() if path.parent != SOURCE}

    assert packages == set(LAYERS)


@pytest.mark.parametrize("layer", ["oci", "hashing", "access"])
def test_the_pure_layers_open_no_file(layer: str) -> None:
    for path in sorted((SOURCE / layer).rglob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert not names & {"open", "print", "input", "exec", "eval", "__import__"}, path


@pytest.mark.parametrize(
    ("layer", "source", "complaint"),
    [
        ("oci", "import asyncio", "line 1: oci must not know asyncio"),
        ("oci", "import os.path", "oci must not know os"),
        ("oci", "from pathlib import Path", "oci must not know pathlib"),
        ("oci", "from bucketry.hashing import x", "oci is not above bucketry.hashing.x"),
        ("access", "import secrets", "access must not know secrets"),
        ("access", "from bucketry.store.contract import Store", "access is not above bucketry.store.contract.Store"),
        ("store", "from bucketry import access", "store is not above bucketry.access"),
        ("hashing", "from bucketry import oci", "hashing is not above bucketry.oci"),
        ("hashing", "import bucketry.store", "hashing is not above bucketry.store"),
        ("store", "from bucketry.oci.digest import Digest", "store is not above bucketry.oci.digest"),
        ("store", "from ..oci import Digest", "store is not above bucketry.oci.Digest"),
        ("store", "from .. import hashing", "store is not above bucketry.hashing"),
        ("registry", "def f():\n    import aiohttp", "line 2: registry must not know aiohttp"),
        ("registry", "if TYPE_CHECKING:\n    from bucketry.server import x", "registry is not above bucketry.server"),
        ("registry", "from botocore.session import Session", "registry must not know botocore"),
        ("registry", "import starlette.requests as r", "registry must not know starlette"),
        ("registry", "from bucketry import store, transfer", "registry is not above bucketry.transfer"),
        ("transfer", "from bucketry.server.app import x", "transfer is not above bucketry.server.app"),
        ("server", "from bucketry.store.s3.client import x", "server must not know bucketry.store.s3"),
        ("server", "from bucketry.store import s3", "server must not know bucketry.store.s3"),
        ("server", "import botocore", "server must not know botocore"),
        ("server", "from bucketry.cli import main", "server is not above bucketry.cli"),
    ],
)
def test_the_check_sees_a_violation(layer: str, source: str, complaint: str) -> None:
    found = violations(source, layer, f"bucketry.{layer}")

    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("oci", "from bucketry.oci.errors import OCIError\nfrom .digest import Digest\nimport osmosis"),
        ("registry", "from bucketry.store.contract import Store\nfrom bucketry import hashing, oci, __version__"),
        ("store", "import aiohttp, botocore, asyncio, os"),
        ("server", "import starlette\nfrom bucketry.store.open import open_store\nimport bucketry.registry"),
        ("cli", "from bucketry.server import config\nimport rich"),
    ],
)
def test_the_check_lets_through_what_is_allowed(layer: str, source: str) -> None:
    assert violations(source, layer, f"bucketry.{layer}") == []
