"""Clients log in to a registry with rules: what is allowed works, and who is denied reads what was missing.

Over plain HTTP and over TLS, each client with the means that it has to be told of an authority.
"""

from __future__ import annotations

import base64
import http.client
import re
import shutil
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.clients.test_helm import package
from tests.support.clients import Client
from tests.support.images import Image, make_image, write_docker_archive, write_layout
from tests.support.ports import free_port
from tests.support.server import Server, assert_no_fault, ended, start
from tests.support.tls import Tls, make_tls
from tests.support.tools import run, tool

from bucketry.access import htpasswd_line

RULES = """
users = "htpasswd"

[[rule]]
who = ["user:alice"]
repositories = ["team/**", "public/**"]
allow = ["pull", "push", "overwrite"]

[[rule]]
who = ["user:bob"]
repositories = ["team/**"]
allow = ["pull"]

[[rule]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]
"""
PASSWORDS = {"alice": "canary-alice-5d1c", "bob": "canary-bob-90fe"}
CLIENTS = ("docker", "podman", "skopeo", "crane", "oras", "regctl", "helm", "bucketry")
Command: TypeAlias = Sequence[str | Path]


@dataclass(frozen=True)
class Door:
    """A registry with rules. ``tls``: what it shows where it speaks HTTPS. ``robot``: a token for all of ``team``."""

    server: Server
    tls: Tls | None
    robot: str

    @property
    def host(self) -> str:
        return self.server.host

    @property
    def secrets(self) -> list[str]:
        return [*PASSWORDS.values(), self.robot]


def ready(port: int, tls: Tls | None) -> bool:
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    else:
        context = ssl.create_default_context(cafile=str(tls.authority))
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=context)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@pytest.fixture(scope="module", params=["http", "https"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "access.toml").write_text(RULES)
    lines = (htpasswd_line(name, password, salt=bytes(16)) for name, password in PASSWORDS.items())
    (folder / "htpasswd").write_text("\n".join(lines) + "\n")
    tls, port = None, free_port()
    command: list[str | Path] = [
        tool("bucketry"),
        "serve",
        "--listen",
        f"127.0.0.1:{port}",
        "--store",
        folder / "store",
    ]
    command += ["--access", folder / "access.toml", "--set", f"access.audit={folder}/audit.log", "--workers", "2"]
    if request.param == "https":
        tls = make_tls(folder / "tls")
        command += ["--set", f"tls.cert={tls.certificate}", "--set", f"tls.key={tls.key}"]
    log = folder / "log"
    server = Server(start(command, log, cwd=folder), log, port)
    with ended(server, lambda: ready(port, tls)):
        making = (tool("bucketry"), "token", "create", "ci", "--repository", "team/**", "--allow", "pull,push", "-q")
        door = Door(server, tls, run([*making, "--store", folder / "store"]).strip())
        yield door
        assert_no_fault(server)
        for secret in door.secrets:
            assert secret not in server.log()
            assert secret not in (folder / "audit.log").read_text()


class Kit:
    """A client and how it is told what to do, with an image or a chart to push. ``flags``: for a registry over HTTP.

    Of what it pushes to ``team`` the repository is `repository` ("team").
    """

    plain: Command = ()
    unseen = "user:bob may not pull from {}"
    """What it says of a repository that bob may not pull from. It is for the server to say, and for some in vain."""
    checks = True
    """Whether a login tries the password."""

    def __init__(self, client: Client, door: Door, image: Image, folder: Path) -> None:
        self.client = client
        self.host = door.host
        self.image = image
        self.folder = folder
        self.flags = self.plain if door.tls is None else ()
        self.prepare()

    def prepare(self) -> None:
        self.layout = write_layout(self.folder / "layout", self.image, "v1")

    def repository(self, below: str) -> str:
        return f"{below}/{type(self).__name__.lower()}"

    def remote(self, below: str) -> str:
        return f"{self.host}/{self.repository(below)}:v1"

    def login(self, user: str) -> Command:
        return ("login", *self.flags, self.host, "-u", user, "--password-stdin")

    def push(self, below: str) -> Command:
        raise AssertionError("each client has its own way")

    def pull(self, below: str, folder: Path) -> Command:
        raise AssertionError("each client has its own way")


class Docker(Kit):
    def prepare(self) -> None:
        self.client("load", "--input", write_docker_archive(self.folder / "image.tar", self.image, "login/test:v1"))

    def push(self, below: str) -> Command:
        self.client("tag", "login/test:v1", self.remote(below))
        return ("push", self.remote(below))

    def pull(self, below: str, folder: Path) -> Command:
        return ("pull", self.remote(below))


class Podman(Kit):
    plain = ("--tls-verify=false",)

    def prepare(self) -> None:
        super().prepare()
        self.client("pull", f"oci:{self.layout}:v1")

    def push(self, below: str) -> Command:
        return ("push", *self.flags, self.image.config.digest, f"docker://{self.remote(below)}")

    def pull(self, below: str, folder: Path) -> Command:
        return ("pull", *self.flags, self.remote(below))


class Skopeo(Kit):
    plain = ("--tls-verify=false",)

    def push(self, below: str) -> Command:
        flags = [str(flag).replace("--", "--dest-") for flag in self.flags]
        return ("copy", *flags, f"oci:{self.layout}:v1", f"docker://{self.remote(below)}")

    def pull(self, below: str, folder: Path) -> Command:
        flags = [str(flag).replace("--", "--src-") for flag in self.flags]
        return ("copy", *flags, f"docker://{self.remote(below)}", f"oci:{folder}:v1")


class Crane(Kit):
    plain = ("--insecure",)
    checks = False

    def login(self, user: str) -> Command:
        return ("auth", *super().login(user))

    def push(self, below: str) -> Command:
        return (*self.flags, "push", self.layout, self.remote(below))

    def pull(self, below: str, folder: Path) -> Command:
        return (*self.flags, "pull", "--format=oci", self.remote(below), folder)


class Oras(Kit):
    plain = ("--plain-http",)
    unseen = "{}:v1: not found"

    def push(self, below: str) -> Command:
        flags = [str(flag).replace("--", "--to-") for flag in self.flags]
        return ("copy", *flags, "--from-oci-layout", f"{self.layout}:v1", self.remote(below))

    def pull(self, below: str, folder: Path) -> Command:
        flags = [str(flag).replace("--", "--from-") for flag in self.flags]
        return ("copy", *flags, self.remote(below), "--to-oci-layout", f"{folder}:v1")


class Regctl(Kit):
    plain = ("registry", "set", "--tls=disabled", "--skip-check")

    def prepare(self) -> None:
        super().prepare()
        if self.flags:
            self.client(*self.flags, self.host)

    def login(self, user: str) -> Command:
        return ("registry", "login", self.host, "-u", user, "--pass-stdin")

    def push(self, below: str) -> Command:
        return ("image", "copy", f"ocidir://{self.layout}:v1", self.remote(below))

    def pull(self, below: str, folder: Path) -> Command:
        return ("image", "copy", self.remote(below), f"ocidir://{folder}:v1")


class Helm(Kit):
    plain = ("--plain-http",)

    def prepare(self) -> None:
        self.chart = package(self.client, self.folder, "1.2.3")

    def repository(self, below: str) -> str:
        return f"{below}/helm/greeter"

    def login(self, user: str) -> Command:
        return ("registry", *super().login(user))

    def push(self, below: str) -> Command:
        return ("push", *self.flags, self.chart, f"oci://{self.host}/{below}/helm")

    def pull(self, below: str, folder: Path) -> Command:
        folder.mkdir()
        return ("pull", *self.flags, f"oci://{self.host}/{self.repository(below)}", "--destination", folder)


class Bucketry(Kit):
    def push(self, below: str) -> Command:
        return ("push", f"oci:{self.layout}:v1", self.remote(below))

    def pull(self, below: str, folder: Path) -> Command:
        return ("pull", self.remote(below), f"oci:{folder}:v1")


KITS: dict[str, type[Kit]] = {kit.__name__.lower(): kit for kit in Kit.__subclasses__()}
IMAGE = make_image(seed=61, sizes=(5_000, 300))


@pytest.fixture(params=CLIENTS)
def kit(request: pytest.FixtureRequest, door: Door, client_env: dict[str, str], tmp_path: Path) -> Kit:
    name = request.param
    if name in ("docker", "podman"):
        client: Client = request.getfixturevalue(name)
    else:
        client = Client(tool(name), client_env)
    if door.tls is not None:
        # docker takes whatever this machine's own address shows. podman, skopeo and bucketry look into a folder of the
        # registry's name, and bucketry goes to this machine by HTTPS where there is one; the others heed the variable.
        trusted = Path(client.env["HOME"], ".config", "containers", "certs.d", door.host)
        trusted.mkdir(parents=True, exist_ok=True)
        (trusted / "ca.crt").write_bytes(door.tls.authority.read_bytes())
        client = replace(client, env={**client.env, "SSL_CERT_FILE": str(door.tls.authority)})
    return KITS[name](client, door, IMAGE, tmp_path)


def login(kit: Kit, user: str, password: str | None = None) -> str:
    return kit.client(*kit.login(user), stdin=(password or PASSWORDS[user]).encode())


def manifest(door: Door, repository: str, tag: str) -> int:
    """The status of what alice gets for it."""
    host = door.host.partition(":")[0]
    if door.tls is None:
        connection = http.client.HTTPConnection(host, door.server.port, timeout=20)
    else:
        context = ssl.create_default_context(cafile=str(door.tls.authority))
        connection = http.client.HTTPSConnection(host, door.server.port, timeout=20, context=context)
    credentials = base64.b64encode(f"alice:{PASSWORDS['alice']}".encode()).decode()
    try:
        connection.request(
            "HEAD", f"/v2/{repository}/manifests/{tag}", headers={"Authorization": f"Basic {credentials}"}
        )
        return connection.getresponse().status
    finally:
        connection.close()


def tag_of(kit: Kit) -> str:
    return "1.2.3" if isinstance(kit, Helm) else "v1"


def test_who_may_pushes_and_pulls_and_so_do_strangers_where_they_may(kit: Kit, door: Door, tmp_path: Path) -> None:
    said = login(kit, "alice")
    assert PASSWORDS["alice"] not in said
    for below in ("team", "public"):
        kit.client(*kit.push(below))
        assert manifest(door, kit.repository(below), tag_of(kit)) == 200
        kit.client(*kit.pull(below, tmp_path / f"pulled-{below}"))

    stranger = forgets(kit)
    kit.client = stranger
    kit.client(*kit.pull("public", tmp_path / "pulled-by-a-stranger"))
    refused = kit.client.fails(*kit.pull("team", tmp_path / "not-pulled"))
    assert re.search("(?i)unauthorized|authentication required|log ?in|credentials", refused), refused


def test_who_is_denied_reads_what_was_missing(kit: Kit, door: Door, tmp_path: Path) -> None:
    login(kit, "alice")
    kit.client(*kit.push("team/given"))
    login(kit, "bob")
    kit.client(*kit.pull("team/given", tmp_path / "pulled"))
    said = kit.client.fails(*kit.push("team/kept"))
    assert f"user:bob may not push to {kit.repository('team/kept')}" in said
    said = kit.client.fails(*kit.pull("other", tmp_path / "not-pulled"))
    assert kit.unseen.format(kit.repository("other")) in said
    assert manifest(door, kit.repository("team/kept"), tag_of(kit)) == 404


def test_a_robots_token_is_a_password(kit: Kit, door: Door, tmp_path: Path) -> None:
    said = login(kit, "ci", door.robot)
    assert door.robot not in said
    kit.client(*kit.push("team/robot"))
    kit.client(*kit.pull("team/robot", tmp_path / "pulled"))
    said = kit.client.fails(*kit.push("public/robot"))
    assert f"robot:ci may not push to {kit.repository('public/robot')}" in said


def test_a_wrong_password_is_refused(kit: Kit, tmp_path: Path) -> None:
    password = b"canary-guess-77aa"
    if kit.checks:
        said = kit.client.fails(*kit.login("eve"), stdin=password)
    else:
        kit.client(*kit.login("eve"), stdin=password)
        said = kit.client.fails(*kit.pull("team", tmp_path / "not-pulled"))
    assert re.search("(?i)password is wrong|unauthorized|invalid username/password|wrong credentials", said), said
    assert password.decode() not in said


def forgets(kit: Kit) -> Client:
    """The client in another home: it knows the registry's authority, and no credentials."""
    home = kit.folder / "stranger"
    for kept in (Path(".config", "containers"), Path(".docker", "certs.d")):
        if (Path(kit.client.env["HOME"]) / kept).is_dir():
            shutil.copytree(
                Path(kit.client.env["HOME"]) / kept, home / kept, ignore=shutil.ignore_patterns("auth.json")
            )
    runtime = kit.folder / "stranger-runtime"
    runtime.mkdir(mode=0o700)
    stranger = replace(kit.client, env={**kit.client.env, "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)})
    if isinstance(kit, Regctl) and kit.flags:
        home.mkdir(parents=True, exist_ok=True)
        stranger(*kit.flags, kit.host)
    return stranger
