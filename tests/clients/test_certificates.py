"""Clients show a certificate to a registry that speaks HTTPS itself: what its names allow works, and who is denied
reads what was missing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tests.clients.test_helm import package
from tests.support.certificates import Authority, Pair
from tests.support.clients import Client
from tests.support.daemons import short_folder, succeeds
from tests.support.images import make_image, write_docker_archive, write_layout
from tests.support.secure_server import Secure, command, owner_files, secure
from tests.support.server import Daemon, Server, assert_no_fault, ended, start
from tests.support.tools import root_only, search_path, tool

RULES = """
[[rule]]
who = ["cert:CN=builder"]
repositories = ["team/**"]
allow = ["pull", "push", "overwrite"]

[[rule]]
who = ["cert:URI:spiffe://acme.example/reader"]
repositories = ["team/**"]
allow = ["pull"]

[[rule]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]
"""
IMAGE = make_image(seed=81, sizes=(5_000, 300))
CLIENTS = ("podman", "buildah", "skopeo", "oras", "regctl", "helm", "curl", "bucketry")
"""docker has a test of its own. crane shows no certificate: it has no option for one, and reads no folder."""
Command: TypeAlias = Sequence[str | Path]


@dataclass(frozen=True)
class Parties:
    clients: Authority
    builder: Pair
    reader: Pair
    stranger: Pair
    """By another authority."""


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    clients = Authority(tmp_path_factory.mktemp("clients"), "clients")
    strangers = Authority(tmp_path_factory.mktemp("strangers"), "strangers")
    reader = clients.client("some host", "URI:spiffe://acme.example/reader")
    return Parties(clients, clients.client("builder"), reader, strangers.client("builder"))


@pytest.fixture(scope="module")
def door(parties: Parties, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("door")
    tls = owner_files(folder, Authority(folder, "servers"))
    with secure(folder, tls, RULES, tls__client_certificates="optional", tls__client_ca=parties.clients.file) as server:
        yield server


class Kit:
    """A client that shows a certificate, or none. ``home``: its own, with nobody else's certificate in it."""

    unseen = "cert:URI:spiffe://acme.example/reader may not pull from {}"

    def __init__(self, client: Client, door: Secure, pair: Pair | None, folder: Path) -> None:
        folder.mkdir()
        self.host = f"127.0.0.1:{door.port}"
        self.pair = pair
        self.folder = folder
        self.trust = door.trust
        self.client = client
        self.prepare()

    def prepare(self) -> None:
        self.layout = write_layout(self.folder / "layout", IMAGE, "v1")

    @property
    def certs(self) -> Path:
        """As docker reads it, and its kin."""
        folder = self.folder / "certs"
        if self.pair is not None:
            return self.pair.install(folder, self.trust)
        folder.mkdir(exist_ok=True)
        (folder / "ca.crt").write_bytes(self.trust.read_bytes())
        return folder

    def repository(self, below: str) -> str:
        return f"{below}/{type(self).__name__.lower()}"

    def remote(self, below: str) -> str:
        return f"{self.host}/{self.repository(below)}:v1"

    def push(self, below: str) -> Command:
        raise AssertionError("each client has its own way")

    def pull(self, below: str, folder: Path) -> Command:
        raise AssertionError("each client has its own way")


class Podman(Kit):
    def prepare(self) -> None:
        super().prepare()
        self.client("pull", f"oci:{self.layout}:v1")

    def push(self, below: str) -> Command:
        return ("push", "--cert-dir", self.certs, IMAGE.config.digest, f"docker://{self.remote(below)}")

    def pull(self, below: str, folder: Path) -> Command:
        return ("pull", "--cert-dir", self.certs, self.remote(below))


class Buildah(Podman):
    pass


class Skopeo(Kit):
    def push(self, below: str) -> Command:
        return ("copy", "--dest-cert-dir", self.certs, f"oci:{self.layout}:v1", f"docker://{self.remote(below)}")

    def pull(self, below: str, folder: Path) -> Command:
        return ("copy", "--src-cert-dir", self.certs, f"docker://{self.remote(below)}", f"oci:{folder}:v1")


class Oras(Kit):
    unseen = "{}:v1: not found"

    def flags(self, end: str) -> list[str | Path]:
        trusted: list[str | Path] = [f"{end}-ca-file", self.trust]
        if self.pair is None:
            return trusted
        return [*trusted, f"{end}-cert-file", self.pair.certificate, f"{end}-key-file", self.pair.key]

    def push(self, below: str) -> Command:
        return ("copy", *self.flags("--to"), "--from-oci-layout", f"{self.layout}:v1", self.remote(below))

    def pull(self, below: str, folder: Path) -> Command:
        return ("copy", *self.flags("--from"), self.remote(below), "--to-oci-layout", f"{folder}:v1")


class Regctl(Kit):
    def prepare(self) -> None:
        super().prepare()
        shown: list[str | Path] = []
        if self.pair is not None:
            shown = ["--client-cert", self.pair.certificate.read_text(), "--client-key", self.pair.key.read_text()]
        home = self.folder / "home"
        home.mkdir()
        self.client = replace(self.client, env={**self.client.env, "HOME": str(home)})
        self.client("registry", "set", self.host, "--skip-check", "--cacert", self.trust.read_text(), *shown)

    def push(self, below: str) -> Command:
        return ("image", "copy", f"ocidir://{self.layout}:v1", self.remote(below))

    def pull(self, below: str, folder: Path) -> Command:
        return ("image", "copy", self.remote(below), f"ocidir://{folder}:v1")


class Helm(Kit):
    def prepare(self) -> None:
        self.chart = package(self.client, self.folder, "1.2.3")
        shown: list[str | Path] = (
            [] if self.pair is None else ["--cert-file", self.pair.certificate, "--key-file", self.pair.key]
        )
        self.flags: list[str | Path] = ["--ca-file", self.trust, *shown]

    def repository(self, below: str) -> str:
        return f"{below}/helm/greeter"

    def push(self, below: str) -> Command:
        return ("push", *self.flags, self.chart, f"oci://{self.host}/{below}/helm")

    def pull(self, below: str, folder: Path) -> Command:
        folder.mkdir()
        return ("pull", *self.flags, f"oci://{self.host}/{self.repository(below)}", "--destination", folder)


class Curl(Kit):
    """It pushes no more than a blob, of four bytes."""

    DIGEST = "sha256:" + "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"

    def prepare(self) -> None:
        (self.folder / "blob").write_bytes(b"data")
        shown: list[str | Path] = [] if self.pair is None else ["--cert", self.pair.certificate, "--key", self.pair.key]
        self.flags: list[str | Path] = ["-sS", "--fail-with-body", "--cacert", self.trust, *shown]

    def push(self, below: str) -> Command:
        target = f"https://{self.host}/v2/{self.repository(below)}/blobs/uploads/?digest={self.DIGEST}"
        return (*self.flags, "-X", "POST", "--data-binary", f"@{self.folder / 'blob'}", target)

    def pull(self, below: str, folder: Path) -> Command:
        return (*self.flags, "-o", folder, f"https://{self.host}/v2/{self.repository(below)}/blobs/{self.DIGEST}")


class Bucketry(Kit):
    def prepare(self) -> None:
        super().prepare()
        home = self.folder / "home"
        certs = home / ".config" / "containers" / "certs.d"
        certs.mkdir(parents=True)
        self.certs.rename(certs / self.host)
        self.client = replace(self.client, env={**self.client.env, "HOME": str(home)})

    def push(self, below: str) -> Command:
        return ("push", f"oci:{self.layout}:v1", self.remote(below))

    def pull(self, below: str, folder: Path) -> Command:
        return ("pull", self.remote(below), f"oci:{folder}:v1")


KITS: dict[str, type[Kit]] = {kit.__name__.lower(): kit for kit in (*Kit.__subclasses__(), Buildah)}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, client_env: dict[str, str]) -> tuple[str, Client]:
    name = request.param
    if name in ("podman", "buildah"):
        found: Client = request.getfixturevalue(name)
        return name, found
    return name, Client(tool(name), client_env)


def test_each_certificate_may_what_its_names_may(
    client: tuple[str, Client], door: Secure, parties: Parties, tmp_path: Path
) -> None:
    name, program = client
    builder, reader = (KITS[name](program, door, pair, tmp_path / who) for who, pair in
                       (("builder", parties.builder), ("reader", parties.reader)))  # fmt: skip
    builder.client(*builder.push("team"))
    reader.client(*reader.pull("team", tmp_path / "pulled"))
    said = reader.client.fails(*reader.push("team/kept"))
    assert f"cert:URI:spiffe://acme.example/reader may not push to {reader.repository('team/kept')}" in said
    said = reader.client.fails(*reader.pull("other", tmp_path / "not-pulled"))
    assert reader.unseen.format(reader.repository("other")) in said or name == "curl"
    assert not any(line["principal"] == "anonymous" and line["action"] == "push" for line in door.audited())


def test_who_shows_none_is_anonymous(
    client: tuple[str, Client], door: Secure, parties: Parties, tmp_path: Path
) -> None:
    name, program = client
    builder = KITS[name](program, door, parties.builder, tmp_path / "builder")
    builder.client(*builder.push("team"))
    nobody = KITS[name](program, door, None, tmp_path / "nobody")
    refused = nobody.client.fails(*nobody.pull("team", tmp_path / "not-pulled"))
    assert re.search("(?i)unauthorized|authentication required|log ?in|credentials|401", refused), refused


def test_who_shows_one_of_another_authority_is_not_let_in(
    client: tuple[str, Client], door: Secure, parties: Parties, tmp_path: Path
) -> None:
    name, program = client
    stranger = KITS[name](program, door, parties.stranger, tmp_path / "stranger")
    refused = stranger.client.fails(*stranger.push("team"))
    assert re.search("(?i)unknown (certificate authority|ca)|bad certificate|certificate", refused), refused


def test_bucketry_says_where_a_certificate_belongs_that_a_registry_requires(
    client_env: dict[str, str], parties: Parties, tmp_path: Path
) -> None:
    tls = owner_files(tmp_path, Authority(tmp_path / "servers", "servers"))
    asked: dict[str, Any] = {"tls__client_certificates": "required", "tls__client_ca": parties.clients.file}
    with secure(tmp_path / "door", tls, RULES, let_in=parties.builder, **asked) as door:
        nobody = Bucketry(Client(tool("bucketry"), client_env), door, None, tmp_path / "nobody")
        refused = nobody.client.fails(*nobody.push("team"))
        assert f"put client.cert and client.key into /etc/docker/certs.d/{nobody.host}" in refused
        builder = Bucketry(Client(tool("bucketry"), client_env), door, parties.builder, tmp_path / "builder")
        builder.client(*builder.push("team"))


def test_crane_shows_none(client_env: dict[str, str], door: Secure, parties: Parties, tmp_path: Path) -> None:
    """It is let in where certificates are optional, and logs in, or gets what everybody may."""
    crane = Client(tool("crane"), {**client_env, "SSL_CERT_FILE": str(door.trust)})
    host = f"127.0.0.1:{door.port}"
    parties.builder.install(Path(client_env["HOME"], ".docker", "certs.d", host), door.trust)
    parties.builder.install(Path(client_env["HOME"], ".config", "containers", "certs.d", host), door.trust)
    layout = write_layout(tmp_path / "layout", IMAGE, "v1")
    assert re.search("(?i)unauthorized", crane.fails("push", layout, f"{host}/team/crane:v1"))


# docker

ADDRESS = "192.0.2.1"
"""docker takes addresses of this machine for ones without TLS that counts, and shows them no certificate."""
ALONE = f"""
ip link set lo up && ip address add {ADDRESS}/32 dev lo && mkdir -p /etc/docker && mount --bind "$1" /etc/docker &&
shift && exec "$@"
"""


@contextmanager
def alone(etc: Path) -> Iterator[tuple[Client, int]]:
    """A Docker daemon in a network of its own, with that address on it, and with ``etc`` in place of /etc/docker; and
    the process whose network it is."""
    root_only("a network of its own")
    env = {**os.environ, "PATH": search_path()}
    with short_folder() as folder:
        host = f"unix://{folder}/docker.sock"
        kept = (f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid")
        own = (f"--host={host}", f"--config-file={folder}/daemon.json", "--bridge=none")
        (folder / "daemon.json").write_text("{}")
        inside: list[str | Path] = [tool("unshare"), "--net", "--mount", "/bin/sh", "-c", ALONE, "alone", etc]
        served = [tool("dockerd"), *kept, *own, "--iptables=false", "--ip6tables=false"]
        daemon = Daemon(start([*inside, *served], folder / "log", env=env), folder / "log")
        with ended(daemon, lambda: succeeds([tool("docker"), "--host", host, "version"])):
            yield Client(tool("docker"), {**env, "DOCKER_HOST": host, "HOME": str(folder)}), daemon.process.pid


@contextmanager
def beside(pid: int, folder: Path, parties: Parties) -> Iterator[Secure]:
    """A registry in the network of a process."""
    folder.mkdir()
    servers = Authority(folder, "servers")
    tls, port, log = owner_files(folder, servers, f"IP:{ADDRESS}"), 5443, folder / "log"
    (folder / "access.toml").write_text(RULES)
    there = (tool("nsenter"), "--target", str(pid), "--net")
    asked = {"tls.client_certificates": "optional", "tls.client_ca": parties.clients.file}
    server = Server(start([*there, *command(folder, f"{ADDRESS}:{port}", tls, asked)], log, cwd=folder), log, port)
    ask = (tool("curl"), "-sf", "--cacert", str(servers.file), f"https://{ADDRESS}:{port}/readyz")
    with ended(server, lambda: succeeds([*there, *ask])):
        yield Secure(server, servers.file, folder)
        assert_no_fault(server)


def test_docker_shows_the_certificate_of_the_registrys_folder(parties: Parties, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    with alone(etc) as (docker, pid), beside(pid, tmp_path / "door", parties) as door:
        host = f"{ADDRESS}:{door.port}"
        folder = etc / "certs.d" / host
        docker("load", "--input", write_docker_archive(tmp_path / "image.tar", IMAGE, "shown/test:v1"))
        for below in ("team", "team/kept"):
            docker("tag", "shown/test:v1", f"{host}/{below}/docker:v1")

        parties.builder.install(folder, door.trust)
        docker("push", f"{host}/team/docker:v1")
        parties.reader.install(folder, door.trust)
        docker("pull", f"{host}/team/docker:v1")
        said = docker.fails("push", f"{host}/team/kept/docker:v1")
        assert "cert:URI:spiffe://acme.example/reader may not push to team/kept/docker" in said
        said = docker.fails("pull", f"{host}/other/docker:v1")
        assert "cert:URI:spiffe://acme.example/reader may not pull from other/docker" in said

        parties.stranger.install(folder, door.trust)
        assert "unknown certificate authority" in docker.fails("pull", f"{host}/team/docker:v1")
        for file in ("client.cert", "client.key"):
            (folder / file).unlink()
        assert "may require 'docker login'" in docker.fails("pull", f"{host}/team/docker:v1")
        pushed = [line for line in door.audited() if line["action"] == "push" and line["result"] == "allowed"]
        assert {(line["principal"], line["method"]) for line in pushed} == {("cert:CN=builder", "certificate")}
