"""The clients, as fixtures. Each gets a home of its own: neither finds what the other or a person left in theirs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.fixtures import Registry
from tests.support.tools import root_only, run, search_path, tool


@dataclass(frozen=True)
class Client:
    """A command-line client. Calling it runs it to its end, in an environment of its own, and gives what it said."""

    program: str
    env: Mapping[str, str]
    options: Sequence[str | Path] = ()

    def __call__(self, *arguments: str | Path, stdin: bytes | None = None, cwd: Path | None = None) -> str:
        return run([self.program, *self.options, *arguments], env=self.env, stdin=stdin, cwd=cwd)

    def fails(self, *arguments: str | Path, stdin: bytes | None = None) -> str:
        """Runs a command that must not work, and gives what it said."""
        command = [self.program, *map(str, self.options), *map(str, arguments)]
        done = subprocess.run(command, env=dict(self.env), input=stdin or b"", capture_output=True, timeout=120)
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode != 0, f"{arguments} works: {said}"
        return said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with the least configuration: podman and its kin take unsigned images."""
    folder = tmp_path / "home"
    policy = folder / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    return folder


@pytest.fixture
def client_env(home: Path, tmp_path: Path) -> dict[str, str]:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PATH": search_path(), "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}


@pytest.fixture
def crane(client_env: dict[str, str]) -> Client:
    return Client(tool("crane"), client_env, ["--insecure"])


@pytest.fixture
def oras(client_env: dict[str, str]) -> Client:
    return Client(tool("oras"), client_env)


@pytest.fixture
def regctl(client_env: dict[str, str], registry: Registry) -> Client:
    return Client(tool("regctl"), client_env, ["--host", f"reg={registry.host},tls=disabled"])


@pytest.fixture
def skopeo(client_env: dict[str, str]) -> Client:
    return Client(tool("skopeo"), client_env)


@pytest.fixture
def helm(client_env: dict[str, str]) -> Client:
    return Client(tool("helm"), client_env)


@pytest.fixture
def podman(storage_env: dict[str, str]) -> Client:
    root_only("podman on a storage of its own")
    return Client(tool("podman"), storage_env)


@pytest.fixture
def buildah(storage_env: dict[str, str]) -> Client:
    root_only("buildah on a storage of its own")
    return Client(tool("buildah"), storage_env)


@pytest.fixture
def docker(client_env: dict[str, str], docker_host: str) -> Client:
    return Client(tool("docker"), {**client_env, "DOCKER_HOST": docker_host})


@pytest.fixture
def ctr(client_env: dict[str, str], containerd_address: str) -> Client:
    return Client(tool("ctr"), client_env, ["--address", containerd_address])


@pytest.fixture
def storage_env(client_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """An environment in which podman and buildah keep their images below tmp_path, without overlay mounts."""
    root, runroot = tmp_path / "storage", tmp_path / "run"
    config = tmp_path / "storage.conf"
    config.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{root}"\nrunroot = "{runroot}"\n')
    return {**client_env, "CONTAINERS_STORAGE_CONF": str(config)}
