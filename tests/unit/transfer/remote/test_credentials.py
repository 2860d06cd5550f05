"""What files and helpers know: which entry is taken, who is blamed for a broken one, and what is written back."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bucketry.transfer.errors import Misconfigured
from bucketry.transfer.remote import helpers
from bucketry.transfer.remote.credentials import Credentials, CredentialStore
from bucketry.transfer.remote.helpers import Finished, Helper, Verb, run_program

SECRET = "canary-secret-41bd"
HUB = "https://index.docker.io/v1/"


def auth(user: str = "alice", password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@dataclass
class Helpers:
    """Helper programs that remember. ``down`` is raised instead of running one."""

    kept: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    calls: list[tuple[str, Verb, str]] = field(default_factory=list)
    down: Exception | None = None
    answer: Finished | None = None

    async def __call__(self, program: str, verb: Verb, given: bytes) -> Finished:
        name = program.removeprefix("docker-credential-")
        if verb == "store":
            document = json.loads(given)
            self.calls.append((name, verb, document["ServerURL"]))
        else:
            self.calls.append((name, verb, given.decode()))
        if self.down is not None:
            raise self.down
        if self.answer is not None:
            return self.answer
        if verb == "store":
            self.kept[name, document["ServerURL"]] = document["Username"], document["Secret"]
            return Finished(0, b"")
        found = self.kept.get((name, given.decode()))
        if found is None:
            return Finished(1, b"credentials not found in native keychain\n")
        if verb == "erase":
            del self.kept[name, given.decode()]
            return Finished(0, b"")
        document = {"ServerURL": given.decode(), "Username": found[0], "Secret": found[1]}
        return Finished(0, json.dumps(document).encode())


@dataclass
class Home:
    """A person's files."""

    path: Path
    environ: dict[str, str] = field(default_factory=dict)
    helpers: Helpers = field(default_factory=Helpers)

    @property
    def docker(self) -> Path:
        return self.path / ".docker" / "config.json"

    @property
    def store(self) -> CredentialStore:
        return CredentialStore(self.environ, self.path, run=self.helpers)

    def write(self, document: Mapping[str, Any] | str, path: Path | None = None) -> Path:
        path = path or self.docker
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
        return path

    def read(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.docker.read_text())
        return document


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def test_nothing_is_known_where_nothing_is_written(home: Home) -> None:
    assert await home.store.find("reg.example", "team/app") is None
    home.write("")
    assert await home.store.find("reg.example", "team/app") is None
    home.write({"auths": {"other.example": auth(), "reg.example": {}}, "credHelpers": None})
    assert await home.store.find("reg.example", "team/app") is None


async def test_a_user_and_password_know_their_file(home: Home) -> None:
    home.write({"auths": {"reg.example": auth(password="with:colon")}})

    found = await home.store.find("reg.example", "team/app")

    assert found == Credentials(str(home.docker), "alice", "with:colon")
    assert found.basic() == base64.b64encode(b"alice:with:colon").decode()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"username": "a", "password": "b"}, Credentials("", "a", "b")),
        ({"identitytoken": "i"}, Credentials("", identity_token="i")),
        ({**auth("<token>", "i")}, Credentials("", identity_token="i")),
        ({**auth("a", ""), "identitytoken": "i"}, Credentials("", "a", "", "i")),
        ({"registrytoken": "r"}, Credentials("", registry_token="r")),
        ({"auth": base64.b64encode(b"a:b\0\0").decode()}, Credentials("", "a", "b")),
    ],
)
async def test_every_form_of_an_entry_is_read(home: Home, entry: dict[str, str], expected: Credentials) -> None:
    home.write({"auths": {"reg.example": entry}})

    found = await home.store.find("reg.example")

    assert found is not None
    assert found == Credentials(
        str(home.docker), expected.username, expected.password, expected.identity_token, expected.registry_token
    )


@pytest.mark.parametrize(
    ("repository", "user"),
    [
        ("team/app", "app"),
        ("team/app/sub", "app"),
        ("team/other", "team"),
        ("teams/app", "host"),
        ("team", "team"),
        ("", "host"),
    ],
)
async def test_the_longest_key_that_fits_is_taken(home: Home, repository: str, user: str) -> None:
    keys = {"reg.example": "host", "reg.example/team": "team", "reg.example/team/app": "app"}
    home.write({"auths": {key: auth(user) for key, user in keys.items()}})

    found = await home.store.find("reg.example", repository)

    assert found is not None
    assert found.username == user


@pytest.mark.parametrize("key", ["reg.example:5000", "https://reg.example:5000", "http://reg.example:5000/v2/"])
async def test_a_key_may_be_written_as_an_address(home: Home, key: str) -> None:
    home.write({"auths": {key: auth()}})

    assert await home.store.find("reg.example:5000") is not None
    assert await home.store.find("reg.example") is None
    assert await home.store.find("reg.example:5001") is None


@pytest.mark.parametrize("key", [HUB, "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/"])
async def test_docker_hub_has_many_keys(home: Home, key: str) -> None:
    home.write({"auths": {key: auth()}})

    assert await home.store.find("docker.io", "library/alpine") is not None


async def test_the_files_of_podman_come_after_those_of_docker(home: Home, tmp_path: Path) -> None:
    run, named = tmp_path / "run", tmp_path / "named.json"
    home.environ["XDG_RUNTIME_DIR"] = str(run)
    home.write({"auths": {"a.example": auth("docker")}})
    home.write({"auths": {name: auth("run") for name in ("a.example", "b.example")}}, run / "containers/auth.json")
    home.write(
        {"auths": {name: auth("config") for name in ("b.example", "c.example")}},
        tmp_path / ".config/containers/auth.json",
    )
    home.write({"auths": {"b.example": auth("named")}}, named)

    async def user(host: str) -> str | None:
        found = await home.store.find(host)
        return None if found is None else found.username

    assert [await user(f"{host}.example") for host in "abc"] == ["docker", "run", "config"]
    home.environ["REGISTRY_AUTH_FILE"] = str(named)
    assert [await user(f"{host}.example") for host in "abc"] == ["docker", "named", None]
    home.environ["DOCKER_CONFIG"] = str(tmp_path / "elsewhere")
    assert [await user(f"{host}.example") for host in "abc"] == [None, "named", None]


async def test_a_helper_of_the_host_comes_first_and_its_name_is_kept(home: Home) -> None:
    home.write(
        {
            "auths": {"reg.example": auth("file"), "b.example": auth("file"), "c.example": auth("file")},
            "credHelpers": {"reg.example": "special"},
            "credsStore": "general",
        }
    )
    home.helpers.kept = {
        ("special", "reg.example"): ("special", SECRET),
        ("general", "reg.example"): ("general", SECRET),
        ("general", "b.example"): ("<token>", "identity"),
    }

    special = await home.store.find("reg.example", "team/app")
    general = await home.store.find("b.example", "team/app")
    plain = await home.store.find("c.example", "team/app")

    assert special == Credentials(f"docker-credential-special ({home.docker})", "special", SECRET)
    assert general == Credentials(f"docker-credential-general ({home.docker})", identity_token="identity")
    assert plain is not None
    assert plain.username == "file"


async def test_helpers_know_docker_hub_by_its_old_address(home: Home) -> None:
    home.write({"credsStore": "desktop"})
    home.helpers.kept["desktop", HUB] = "alice", SECRET

    assert await home.store.find("docker.io", "library/alpine") is not None
    assert home.helpers.calls == [("desktop", "get", HUB)]


async def test_parts_of_a_registry_are_asked_for_only_where_the_file_speaks_of_them(home: Home) -> None:
    home.write({"credsStore": "desktop", "auths": {"reg.example/team": {}}})

    await home.store.find("reg.example", "team/app/web")

    assert home.helpers.calls == [("desktop", "get", "reg.example/team"), ("desktop", "get", "reg.example")]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('{"auths": {\n  "reg.example": }\n}', 2, "not JSON"),
        ("[]", 1, "object"),
        ("[" * 100_000, 1, "not JSON"),
        ('{\n"auths": []}', 2, "'auths': must be a JSON object"),
        ('{\n\n"auths": {\n"reg.example": 3}}', 4, "'reg.example': must be a JSON object"),
        ('{"auths": {\n"reg.example": {"auth": "%%%"}}}', 2, "auth is not base64"),
        ('{"auths": {\n"reg.example": {"auth": "bm9jb2xvbg=="}}}', 2, "auth is not base64 of user:password"),
        ('{"auths": {\n"reg.example": {"auth": 7}}}', 2, "auth must be text"),
        ('{"auths": {\n"reg.example": {"username": "\\ud800", "password": "x"}}}', 2, "holds what is no text"),
        ('{"auths": {},\n"credHelpers": {"reg.example": 7}}', 2, "name of a credential helper"),
        ('{\n"credsStore": 7}', 2, "must be text"),
    ],
)
async def test_a_broken_file_is_named_with_its_line(home: Home, text: str, line: int, words: str) -> None:
    home.write(text)

    with pytest.raises(Misconfigured) as caught:
        await home.store.find("reg.example", "team/app")

    assert str(caught.value).startswith(f"{home.docker}, line {line}: ")
    assert words in str(caught.value)


async def test_bytes_that_are_no_text_are_named_with_their_line(home: Home) -> None:
    home.write("")
    home.docker.write_bytes(b"{\n\n\xff}")

    with pytest.raises(Misconfigured, match="line 3: it is not UTF-8"):
        await home.store.find("reg.example")


async def test_a_broken_entry_of_another_registry_is_nobodys_business(home: Home) -> None:
    home.write({"auths": {"other.example": 7, "reg.example": auth()}})

    assert await home.store.find("reg.example") is not None


@pytest.mark.parametrize(
    ("down", "answer", "words"),
    [
        (FileNotFoundError(), None, "docker-credential-desktop, which is not in PATH"),
        (PermissionError(13, "Permission denied"), None, "cannot be run: Permission denied"),
        (TimeoutError(), None, "did not answer within 60 s"),
        (None, Finished(1, b"the keychain\x1b[2J is locked"), "failed to get: the keychain [2J is locked"),
        (None, Finished(3, b""), "exit code 3"),
        (None, Finished(0, b"no json"), "does not answer as credential helpers do"),
        (None, Finished(0, b'{"Username": "a", "Secret": "\\ud800"}'), "does not answer as credential helpers do"),
        (None, Finished(0, b'{"Username": 1, "Secret": "x"}'), "does not answer as credential helpers do"),
        (None, Finished(0, b"[" * 100_000), "does not answer as credential helpers do"),
    ],
)
async def test_a_helper_that_fails_is_named_with_the_file_that_names_it(
    home: Home, down: Exception | None, answer: Finished | None, words: str
) -> None:
    home.write({"credsStore": "desktop"})
    home.helpers.down, home.helpers.answer = down, answer

    with pytest.raises(Misconfigured) as caught:
        await home.store.find("reg.example")

    assert words in str(caught.value)
    assert str(home.docker) in str(caught.value)
    assert "docker-credential-desktop" in str(caught.value)


@pytest.mark.parametrize("name", ["../evil", "a b", "a/b", "-x", "x" * 200])
async def test_a_helper_is_a_name_and_no_path(home: Home, name: str) -> None:
    home.write({"credsStore": name})

    with pytest.raises(Misconfigured, match="is no name of a credential helper"):
        await home.store.find("reg.example")
    assert home.helpers.calls == []


async def test_what_is_stored_is_found_and_for_its_owner_only(home: Home) -> None:
    stored = await home.store.store("reg.example:5000", "alice", SECRET)

    assert stored.place == str(home.docker)
    assert stored.warning is not None
    assert SECRET not in stored.warning
    assert stat.S_IMODE(home.docker.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.docker.parent.stat().st_mode) == 0o700
    assert await home.store.find("reg.example:5000") == Credentials(str(home.docker), "alice", SECRET)
    assert [path.name for path in home.docker.parent.iterdir()] == ["config.json"]


async def test_storing_keeps_what_it_does_not_know(home: Home) -> None:
    other = auth("other")
    document = {"proxies": {"default": {"httpProxy": "http://p"}}, "auths": {"o.example": other}, "HttpHeaders": {}}
    home.write(document)
    os.chmod(home.docker, 0o644)

    await home.store.store("reg.example", "alice", SECRET)
    await home.store.store("reg.example", "bob", SECRET)

    assert home.read() == {**document, "auths": {"o.example": other, "reg.example": auth("bob")}}
    assert stat.S_IMODE(home.docker.stat().st_mode) == 0o600
    assert await home.store.erase("reg.example") == (str(home.docker),)
    assert home.read() == document
    assert await home.store.erase("reg.example") == ()


async def test_storing_replaces_all_spellings_of_a_host(home: Home) -> None:
    home.write({"auths": {"https://reg.example/v1/": auth("old"), "index.docker.io": auth("old")}})

    await home.store.store("reg.example", "alice", SECRET)
    await home.store.store("docker.io", "alice", SECRET)

    assert home.read()["auths"] == {"reg.example": auth(), HUB: auth()}


async def test_storing_writes_through_a_link(home: Home, tmp_path: Path) -> None:
    real = home.write({}, tmp_path / "dotfiles" / "docker.json")
    home.docker.parent.mkdir()
    home.docker.symlink_to(real)

    await home.store.store("reg.example", "alice", SECRET)

    assert home.docker.is_symlink()
    assert json.loads(real.read_text())["auths"] == {"reg.example": auth()}


@pytest.mark.parametrize("settings", [{"credsStore": "desktop"}, {"credHelpers": {"reg.example": "desktop"}}])
async def test_a_helper_keeps_the_secret_out_of_the_file(home: Home, settings: dict[str, Any]) -> None:
    home.write({**settings, "auths": {"reg.example": auth("old")}})

    stored = await home.store.store("reg.example", "alice", SECRET)

    assert (stored.place, stored.warning) == (f"docker-credential-desktop ({home.docker})", None)
    assert home.read() == {**settings, "auths": {"reg.example": {}}}
    assert SECRET not in home.docker.read_text()
    assert await home.store.find("reg.example") == Credentials(stored.place, "alice", SECRET)
    assert await home.store.erase("reg.example") == (stored.place,)
    assert await home.store.find("reg.example") is None
    assert home.read() == {**settings, "auths": {}}


async def test_a_helper_that_repeats_the_secret_is_not_quoted(home: Home) -> None:
    home.write({"credsStore": "desktop"})
    home.helpers.answer = Finished(1, f"cannot keep {SECRET}".encode())

    with pytest.raises(Misconfigured) as caught:
        await home.store.store("reg.example", "alice", SECRET)

    assert SECRET not in str(caught.value)
    assert "cannot keep ***" in str(caught.value)
    assert not home.read().get("auths")


async def test_a_broken_file_is_not_overwritten(home: Home) -> None:
    home.write("{not json")

    with pytest.raises(Misconfigured):
        await home.store.store("reg.example", "alice", SECRET)

    assert home.docker.read_text() == "{not json"


async def test_a_file_that_cannot_be_written_is_named(home: Home, tmp_path: Path) -> None:
    home.path.joinpath(".docker").write_text("a file where a folder should be")

    with pytest.raises(Misconfigured, match=r"config\.json cannot be"):
        await home.store.store("reg.example", "alice", SECRET)


def test_secrets_are_not_shown() -> None:
    credentials = Credentials("file", "alice", SECRET, SECRET, SECRET)

    assert SECRET not in repr(credentials)
    assert "alice" in repr(credentials)
    assert set(credentials.secrets()) == {SECRET, credentials.basic()}
    assert SECRET not in repr(Finished(0, SECRET.encode()))


PROGRAM = f"""#!{sys.executable}
import json, pathlib, sys
kept = pathlib.Path(__file__).parent / "kept"
given = sys.stdin.read()
if sys.argv[1] == "store":
    kept.write_text(given)
elif sys.argv[1] == "erase":
    kept.unlink()
elif not kept.exists() or json.loads(kept.read_text())["ServerURL"] != given:
    print("credentials not found in native keychain")
    sys.exit(1)
else:
    print(kept.read_text())
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker-credential-real, a program of its own in PATH."""
    path = tmp_path / "bin" / "docker-credential-real"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    return path


async def test_a_real_program_is_run(program: Path) -> None:
    helper = Helper("real", "config.json")

    assert await helper.get("reg.example") is None
    await helper.store("reg.example", "alice", SECRET)
    assert await helper.get("reg.example") == ("alice", SECRET)
    assert await helper.get("other.example") is None
    assert await helper.erase("reg.example")
    assert await helper.get("reg.example") is None


async def test_a_program_that_hangs_is_ended(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    monkeypatch.setattr(helpers, "TIMEOUT", 0.3)

    with pytest.raises(TimeoutError):
        await run_program(program.name, "get", b"reg.example")


async def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured, match="docker-credential-absent, which is not in PATH"):
        await Helper("absent", "config.json").get("reg.example")
