"""The keys that sign tokens: nobody else of the machine reads them, and whoever deletes them ends all tokens."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.spec.test_access_replicas import IN, OUT, RULES, basic, bearer, every, outcome, users
from tests.support.api import Api
from tests.support.server import Server, assert_no_fault, bucketry
from tests.transfer.command import Person

from bucketry.registry.access_keys import REFRESH

NOBODY = 65534
WARNING = "bucketry: warning: every user of this machine can read"


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """What most accounts have: what they make, others may read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may enter, unlike those of tests."""
    folder = Path(tempfile.mkdtemp(prefix="bucketry-keys-"))
    folder.chmod(0o755)
    (folder / "htpasswd").write_text(users("alice", "bob"))
    (folder / "access.toml").write_text(RULES)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as running:
        yield running
        assert_no_fault(running)


def serving(folder: Path, name: str = "one", workers: int = 1) -> AbstractContextManager[Server]:
    options = ("--access", str(folder / "access.toml"), "--set", "access.reload=0.5s", "--workers", str(workers))
    return bucketry(str(folder / "store"), folder / name, options=options)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def as_nobody(*command: str | Path) -> bool:
    """Whether it works as another user of the machine. Only root can try."""
    done = subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=(), capture_output=True, timeout=20)
    return done.returncode == 0


def assert_closed(store: Path) -> None:
    """Nobody else reads a key, nor a key that is being written."""
    assert mode(store / "access") == 0o700
    assert mode(store / ".bucketry-tmp") == 0o751
    keys = [path for path in (store / "access").rglob("*") if path.is_file()]
    assert keys
    if os.geteuid() == 0:
        assert as_nobody("cat", store / "bucketry.json"), "others may read the rest of the store here"
        assert not any(as_nobody("cat", key) for key in keys)
        assert not as_nobody("ls", store / ".bucketry-tmp")


def token_create(folder: Path, name: str = "ci") -> str:
    """What is said on standard error."""
    options = ("--repository", "team/**", "--allow", "pull", "--store", folder / "store", "-q")
    done = Person.at(folder / "person").types("token", "create", name, *options)
    assert done.code == 0, done.err
    return done.err


def test_keys_are_their_owners_whatever_the_umask(server: Server, folder: Path) -> None:
    bearer(Api(server.port), basic("alice"))
    assert_closed(folder / "store")
    assert token_create(folder) == ""
    assert_closed(folder / "store")
    assert WARNING not in server.log()


def test_keys_that_are_made_anew_after_all_were_deleted_are_their_owners(server: Server, folder: Path) -> None:
    api = Api(server.port)
    bearer(api, basic("alice"))
    shutil.rmtree(folder / "store" / "access")
    assert token_create(folder) == ""
    assert_closed(folder / "store")
    bearer(api, basic("alice"))


def test_robots_that_are_made_before_there_are_rules_are_their_owners(folder: Path) -> None:
    with bucketry(str(folder / "store"), folder / "open", options=("--workers", "1")):
        assert not (folder / "store" / "access").exists()
        assert token_create(folder) == ""
        assert_closed(folder / "store")


def test_keys_that_others_can_read_are_warned_of_in_one_line(folder: Path) -> None:
    with serving(folder) as first:
        bearer(Api(first.port), basic("alice"))
    access = folder / "store" / "access"
    access.chmod(0o755)
    with serving(folder, "warned") as running:
        (line,) = [line for line in running.log().splitlines() if line.startswith(WARNING)]
        assert line.startswith(f"{WARNING} {access}, ")
        assert f"chmod 700 {access}" in line
        assert token_create(folder).startswith(f"{WARNING} {access}, ")
    folder.chmod(0o700)  # Nobody comes as far as that.
    with serving(folder, "hidden") as running:
        assert WARNING not in running.log()
    folder.chmod(0o755)
    access.chmod(0o700)
    with serving(folder, "closed") as running:
        assert WARNING not in running.log()


@pytest.mark.timeout(180)
def test_whoever_deletes_the_keys_ends_all_tokens_within_a_minute(folder: Path) -> None:
    """With the servers' own clocks, so it takes that minute: there is no setting for it."""
    with serving(folder, "one", 2) as first, serving(folder, "other", 2) as second:
        apis = (Api(first.port), Api(second.port))
        tokens = [bearer(api, basic(name)) for api in apis for name in ("alice", "bob")]
        every(apis, tokens, IN)
        deleted = time.monotonic()
        for key in (folder / "store" / "access" / "keys").iterdir():
            key.unlink()
        looked = deleted
        while not all_refused(apis, tokens):
            time.sleep(0.5)
            looked = time.monotonic()
            assert looked - deleted < REFRESH + 5, "tokens are taken for more than a minute"
        # Not because the tokens had expired, nor because nobody is let in any more.
        assert time.monotonic() - deleted < 120
        fresh = [bearer(api, basic(name)) for api in apis for name in ("alice", "bob")]
        every(apis, fresh, IN)
        assert all_refused(apis, tokens)
        for running in (first, second):
            assert_no_fault(running)


def all_refused(apis: Sequence[Api], tokens: list[dict[str, str]]) -> bool:
    """At every worker, as far as chance goes. At once: each waits until keys may be listed again."""
    with ThreadPoolExecutor(24) as pool:
        return set(pool.map(outcome, *zip(*itertools.product(apis, tokens * 3), strict=True))) == {OUT}
