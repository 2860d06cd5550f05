"""helm: a chart as an artifact."""

from __future__ import annotations

from pathlib import Path

from tests.support.clients import Client
from tests.support.fixtures import Registry
from tests.support.images import digest_of

CHART = """apiVersion: v2
name: greeter
version: {version}
description: says hello
"""
TEMPLATE = """apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}
data:
  greeting: {{ .Values.greeting }}
"""


def package(helm: Client, folder: Path, version: str) -> Path:
    chart = folder / f"chart-{version}" / "greeter"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(CHART.format(version=version))
    (chart / "values.yaml").write_text("greeting: hello\n")
    (chart / "templates" / "greeting.yaml").write_text(TEMPLATE)
    helm("package", chart, "--destination", folder)
    return folder / f"greeter-{version}.tgz"


def test_a_chart_comes_back_byte_by_byte(helm: Client, registry: Registry, repository: str, tmp_path: Path) -> None:
    packed = package(helm, tmp_path, "1.2.3")
    base = f"oci://{registry.host}/{repository}"
    helm("push", "--plain-http", packed, base)
    assert registry.reader.blob(f"{repository}/greeter", digest_of(packed.read_bytes())) == packed.read_bytes()
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    helm("pull", "--plain-http", f"{base}/greeter", "--version", "1.2.3", "--destination", pulled)
    assert (pulled / packed.name).read_bytes() == packed.read_bytes()
    rendered = helm("template", "--plain-http", "hi", f"{base}/greeter", "--version", "1.2.3")
    assert "greeting: hello" in rendered


def test_the_newest_version_is_found_among_the_tags(
    helm: Client, registry: Registry, repository: str, tmp_path: Path
) -> None:
    base = f"oci://{registry.host}/{repository}"
    # A version may hold a plus sign, which no tag can; helm writes an underscore instead.
    for version in ("1.9.0", "1.10.0+build.7", "2.0.0-rc.1"):
        helm("push", "--plain-http", package(helm, tmp_path, version), base)
    assert sorted(registry.reader.tags(f"{repository}/greeter")) == ["1.10.0_build.7", "1.9.0", "2.0.0-rc.1"]
    assert "version: 1.10.0+build.7" in helm("show", "chart", "--plain-http", f"{base}/greeter")
