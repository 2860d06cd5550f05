"""``docs/how-to/tls.md``, done as it says: its commands in their order, with its file of rules."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.images import make_image, write_layout
from tests.support.ports import free_port
from tests.support.server import Server, assert_no_fault, ended, start
from tests.support.tools import tool

from bucketry.server.config import load

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "tls.md"
BLOCK = re.compile(r"^```(?P<kind>[a-z]+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
PORT = "5443"


def blocks(kind: str) -> list[str]:
    return [match["text"] for match in BLOCK.finditer(PAGE.read_text()) if match["kind"] == kind]


class Shell:
    """Runs the page's lines in a folder. What is at its port 5443 is at ``port`` here, and alpine is ``alpine``."""

    def __init__(self, folder: Path, env: dict[str, str], port: int, alpine: Path) -> None:
        self.folder = folder
        self.env = env
        self.changes = {
            f"localhost:{PORT}": f"localhost:{port}",
            "docker://docker.io/library/alpine": f"oci:{alpine}:v1",
        }

    def typed(self, line: str) -> str:
        for page, here in self.changes.items():
            line = line.replace(page, here)
        return line

    def runs(self, line: str) -> str:
        """What it printed. ``openssl ca`` asks whether it is meant."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", self.typed(line)],
            cwd=self.folder,
            env=self.env,
            input=b"y\ny\n",
            capture_output=True,
            timeout=60,
        )
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, f"{line}: {said}"
        return said

    @contextmanager
    def serves(self, line: str, port: int) -> Iterator[Server]:
        log = self.folder / "server.log"
        log.unlink(missing_ok=True)
        server = Server(
            start(["bash", "-c", f"exec {self.typed(line)}"], log, env=self.env, cwd=self.folder), log, port
        )
        ask = [tool("curl"), "-sf", "--cacert", "server.crt", f"https://localhost:{port}/readyz"]

        with ended(server, lambda: subprocess.run(ask, cwd=self.folder, stdout=subprocess.DEVNULL).returncode == 0):
            yield server
            assert_no_fault(server)


def test_the_walk_is_followed_from_the_authority_to_the_list_of_the_revoked(
    client_env: dict[str, str], tmp_path: Path
) -> None:
    for name in ("openssl", "curl", "skopeo"):
        tool(name)
    port = free_port()
    image = make_image(seed=91, sizes=(400,))
    shell = Shell(tmp_path, dict(client_env), port, write_layout(tmp_path / "alpine", image, "v1"))
    (rules,) = [text for text in blocks("toml") if "[[rule]]" in text]
    (tmp_path / "access.toml").write_text(rules)
    (tmp_path / "htpasswd").write_text("")
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    first, second = (number for number, line in enumerate(lines) if line.startswith("bucketry serve"))

    for line in lines[:first]:
        said = shell.runs(line)
        if line.startswith("bucketry access explain"):
            assert "allowed" in said
    with shell.serves(lines[first], port) as server:
        for line in lines[first + 1 : second]:
            said = shell.runs(line)
            if line.startswith("bucketry inspect"):
                assert image.manifest.digest in said
        assert "a client's certificate was refused" not in server.log()
    with shell.serves(lines[second], port) as server:
        for line in lines[second + 1 :]:
            shell.runs(line)
        assert '"error":"certificate revoked"' in server.log()


def test_the_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    shown = [text for text in blocks("toml") if "[[rule]]" not in text]
    assert len(shown) == 3
    for text in shown:
        tomllib.loads(text)
        file = tmp_path / "bucketry.toml"
        file.write_text(text if "cert =" in text else text + "cert = 'a'\nkey = 'b'\n" if "[tls]" in text else text)
        load(file, {}, {})


def test_what_the_page_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE.read_text()) if "://" not in link]
    assert links
    for link in links:
        assert (PAGE.parent / link).is_file(), link


def test_every_setting_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:tls|limits|access|server)\.[a-z_]+)`", PAGE.read_text())) - {"access.toml"}
    assert {"tls.client_crl", "limits.header_timeout"} <= named
    config = load(None, {}, {}).config
    for name in named:
        section, setting = name.split(".")
        assert hasattr(getattr(config, section), setting), name
