"""``docs/how-to/secure-a-registry.md``, done as it says: its commands in their order, its files, its proxy."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.api import Api
from tests.support.clients import Client
from tests.support.images import make_image, write_docker_archive, write_layout
from tests.support.ports import answers, free_port
from tests.support.server import Daemon, Server, assert_no_fault, ended, start
from tests.support.tls import Tls, make_tls
from tests.support.tools import tool
from tests.support.web import NGINX
from tests.support.web import answers as answers_https

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "secure-a-registry.md"
BLOCK = re.compile(r"^```(?P<kind>[a-z]+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
PASSWORDS = {"alice": "canary-alice-5d1c", "bob": "canary-bob-90fe"}
RELOAD = 0.3


def blocks(kind: str) -> list[str]:
    return [match["text"] for match in BLOCK.finditer(PAGE.read_text()) if match["kind"] == kind]


class Shell:
    """Runs the page's lines in a folder, where a person would. A registry at ``port`` is its ``localhost:5000``."""

    def __init__(self, folder: Path, env: dict[str, str], port: int) -> None:
        self.folder = folder
        self.env = env
        self.port = port
        self.said: dict[str, str] = {}

    def runs(self, line: str) -> str:
        """What it printed. The test fails where the line does: what is to fail begins with ``!``, as on the page."""
        typed, given = line.replace("localhost:5000", f"localhost:{self.port}"), b""
        for name, password in PASSWORDS.items():
            if re.search(rf"hash {name}\b", line):
                given = f"{password}\n".encode()
            elif line.startswith("docker login") and line.endswith(f"-u {name}"):
                typed, given = f"{typed} --password-stdin", password.encode()
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", typed],
            cwd=self.folder,
            env=self.env,
            input=given,
            capture_output=True,
            timeout=60,
        )
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, f"{line}: {said}"
        self.said[line] = said
        return said


@contextmanager
def serving(folder: Path, line: str, env: dict[str, str], port: int) -> Iterator[Server]:
    log = folder / "server.log"
    outside = {**env, "BUCKETRY_SERVER__LISTEN": f"127.0.0.1:{port}", "BUCKETRY_ACCESS__RELOAD": f"{RELOAD}s"}
    server = Server(start(["bash", "-c", f"exec {line}"], log, env=outside, cwd=folder), log, port)
    with ended(server, lambda: answers(port, "/readyz")):
        yield server


def test_the_page_is_followed_from_its_first_line_to_its_last(docker: Client, tmp_path: Path) -> None:
    rules, github, gitlab = blocks("toml")
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    port = free_port()
    shell = Shell(tmp_path, dict(docker.env), port)
    image = make_image(seed=51, sizes=(400,))
    docker("load", "--input", write_docker_archive(tmp_path / "image.tar", image, "alpine:latest"))
    skipped = {'export PATH="$PWD/.venv/bin:$PATH"', "umask 077", "docker pull alpine"}
    assert skipped < set(lines)
    (serve,) = [line for line in lines if line.startswith("bucketry serve")]
    at = lines.index(serve)
    last = next(number for number, line in enumerate(lines) if line.startswith("bucketry token revoke"))

    (tmp_path / "access.toml").write_text(rules)
    for line in lines[:at]:
        if line not in skipped:
            shell.runs(line)
    assert "2 users; 0 warnings" in shell.said["bucketry access check access.toml"]
    assert "denied: " in shell.said["! bucketry access explain user:bob delete team/app --file access.toml"]

    with serving(tmp_path, serve, shell.env, port) as server:
        for line in lines[at + 1 : last + 1]:
            if line not in skipped:
                shell.runs(line)
        api = Api(port)
        assert api.get("/v2/public/alpine/manifests/v1").status == 200
        assert api.get("/v2/team/alpine/manifests/v1").status == 401
        (token,) = (tmp_path / "token.txt").read_text().split()
        assert token.startswith("bktr_ci_")
        assert token not in shell.said["bucketry token list"]
        time.sleep(2 * RELOAD)
        assert docker.fails("login", f"localhost:{port}", "-u", "ci", "--password-stdin", stdin=token.encode())

        (tmp_path / "access.toml").write_text(rules + github)
        for line in lines[last + 1 :]:
            shell.runs(line)
        assert "; 0 warnings" in shell.said["bucketry access check access.toml"]
        assert shell.said['grep \'"result":"denied"\' audit.log | tail']
        (tmp_path / "access.toml").write_text(rules + github + gitlab)
        shell.runs("bucketry access check access.toml")
        time.sleep(3 * RELOAD)
        assert "rules read again" in server.log()
        assert "refused" not in server.log()
        assert_no_fault(server)
        for secret in (*PASSWORDS.values(), token):
            assert secret not in server.log()
            assert secret not in (tmp_path / "audit.log").read_text()
    noted = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert {"user:alice", "anonymous", "robot:ci"} <= {line["principal"] for line in noted}


def test_a_line_of_the_audit_log_is_as_the_page_shows_it(tmp_path: Path) -> None:
    (shown,) = (json.loads(text) for text in blocks("json"))
    from bucketry.server.audit import Line

    assert set(shown) <= set(Line.__struct_fields__)
    assert list(shown) == [name for name in Line.__struct_fields__ if name in shown]


def status_from(address: str, port: int, tls: Tls) -> int:
    """What somebody at another address of this machine, who has not logged in, gets for what is private."""
    context = ssl.create_default_context(cafile=str(tls.authority))
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=20, context=context, source_address=(address, 0)
    )
    try:
        connection.request("GET", "/v2/team/app/tags/list")
        return connection.getresponse().status
    finally:
        connection.close()


def test_behind_the_proxy_of_the_page_clients_log_in_and_are_told_apart(
    client_env: dict[str, str], tmp_path: Path
) -> None:
    tls, port, https = make_tls(tmp_path / "tls"), free_port(), free_port()
    (text,) = blocks("nginx")
    replaced = {
        "listen 443 ssl": f"listen 127.0.0.1:{https} ssl",
        "/etc/nginx/registry.crt": str(tls.certificate),
        "/etc/nginx/registry.key": str(tls.key),
        "127.0.0.1:5000": f"127.0.0.1:{port}",
        "server_name registry.example.com": "server_name _",
    }
    for page, here in replaced.items():
        assert page in text
        text = text.replace(page, here)
    (serve,) = [line.strip() for line in PAGE.read_text().splitlines() if "server.trusted_proxies=" in line]
    serve = (
        serve.replace("https://registry.example.com", f"https://127.0.0.1:{https}") + " --set access.audit=audit.log"
    )
    pushed = ["repository:team/app:pull,push,overwrite"]
    (tmp_path / "access.toml").write_text(blocks("toml")[0])
    shell = Shell(tmp_path, client_env, port)
    for name in PASSWORDS:
        shell.runs(f"bucketry access hash {name} >> htpasswd")
    folder = tmp_path / "nginx"
    folder.mkdir()
    config = NGINX.format(folder=folder, server=text)
    (folder / "nginx.conf").write_text(f"user root;{config}" if os.geteuid() == 0 else config)
    command: list[str | Path] = [tool("nginx"), "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]
    with serving(tmp_path, serve, client_env, port) as server:
        proxy = Daemon(start(command, folder / "log"), folder / "log")
        with ended(proxy, lambda: answers_https(https, "/readyz", tls)):
            crane = Client(tool("crane"), {**client_env, "SSL_CERT_FILE": str(tls.authority)})
            host = f"127.0.0.1:{https}"
            crane("auth", "login", host, "-u", "alice", "--password-stdin", stdin=PASSWORDS["alice"].encode())
            layout = write_layout(tmp_path / "layout", make_image(seed=52, sizes=(400,)), "v1")
            crane("push", layout, f"{host}/team/app:v1")
            assert "user:alice may not push to other/app" in crane.fails("push", layout, f"{host}/other/app:v1")
            assert not answers_https(https, "/metrics", tls)
            assert status_from("127.0.0.2", https, tls) == 401
            assert f'realm="https://{host}/token"' in Api(port).get("/v2/").header("WWW-Authenticate")
        assert_no_fault(server)
    noted = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert {line["address"] for line in noted} == {"127.0.0.1", "127.0.0.2"}
    assert pushed in [line["scopes"] for line in noted if line["action"] == "token"]


@pytest.mark.parametrize("name", ["how-to/secure-a-registry.md", "threat-model.md"])
def test_what_the_pages_link_to_is_there(name: str) -> None:
    page = PAGE.parents[1] / name
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert links
    for link in links:
        assert (page.parent / link).is_file(), link
