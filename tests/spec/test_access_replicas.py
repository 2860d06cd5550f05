"""Two replicas, processes of their own over one store and one file of rules: what ends at one ends at the other, within
`access.reload` (CVE-2025-23208), and keys are rotated while both serve."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import bcrypt
import msgspec
import pytest
from tests.support.access import basic as basic_value
from tests.support.api import Api
from tests.support.ports import wait_until
from tests.support.server import Server, assert_no_fault, bucketry, descendants
from tests.unit.server.auth.forging import unb64

from bucketry.access import Action, RobotRecord, make_token
from bucketry.access.robots import token_digest
from bucketry.registry import layout
from bucketry.registry.access_keys import DAY, SIGNING, KeyRecord
from bucketry.registry.robots import Robots
from bucketry.registry.settings import SystemClock
from bucketry.store.contract import Store
from bucketry.store.local import LocalStore

_T = TypeVar("_T")

RELOAD = 0.5
SLACK = 1.0
"""Seconds: what a look at the files, and two busy cores, may take beyond it."""
PASSWORDS = {"alice": "pw-alice", "bob": "pw-bob"}
RULES = """
users = "htpasswd"

[[rule]]
who = ["user:alice", "user:bob", "robot:ci"]
repositories = ["team/**"]
allow = ["pull"]
"""
TARGET = "/v2/team/app/tags/list"
SCOPE = "repository:team/app:pull"
IN, OUT, HIDDEN = "there is no repository team/app", 401, 404


def users(*names: str) -> str:
    rounds = bcrypt.gensalt(4)
    return "".join(f"{name}:{bcrypt.hashpw(PASSWORDS[name].encode(), rounds).decode()}\n" for name in names)


def in_store(folder: Path, work: Callable[[Store], Awaitable[_T]]) -> _T:
    """What another program does with the store, beside the replicas."""

    async def opened() -> _T:
        store = LocalStore(folder / "store")
        await store.start()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(opened())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "htpasswd").write_text(users("alice", "bob"))
    (tmp_path / "access.toml").write_text(RULES)
    return tmp_path


def replica(folder: Path, name: str) -> Iterator[Server]:
    options = ("--access", str(folder / "access.toml"), "--set", f"access.reload={RELOAD}s", "--workers", "2")
    with bucketry(str(folder / "store"), folder / name, options=options) as running:
        yield running
        assert_no_fault(running)


@pytest.fixture
def one(folder: Path) -> Iterator[Api]:
    for server in replica(folder, "one"):
        yield Api(server.port)


@pytest.fixture
def other(folder: Path, one: Api) -> Iterator[Api]:
    for server in replica(folder, "other"):
        yield Api(server.port)


def basic(name: str, password: str | None = None) -> dict[str, str]:
    word = PASSWORDS[name] if password is None else password
    return {"Authorization": basic_value(name, word)}


def bearer(api: Api, headers: dict[str, str]) -> dict[str, str]:
    answer = api.request("GET", f"/token?scope={SCOPE}", headers=headers)
    assert answer.status == 200, answer
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def kid_of(headers: dict[str, str]) -> str:
    return str(json.loads(unb64(headers["Authorization"][7:].split(".")[0]))["kid"])


def outcome(api: Api, headers: dict[str, str]) -> str | int:
    """`IN` where the repository was looked for; else the status."""
    answer = api.request("GET", TARGET, headers=headers)
    return IN if answer.status == 404 and answer.message == IN else answer.status


def every(apis: tuple[Api, ...], presented: list[dict[str, str]], expected: str | int) -> None:
    """Each of them, at each of these, and at each of their workers as far as chance goes."""
    for api in apis:
        for headers in presented:
            found = {outcome(api, headers) for _ in range(6)}
            assert found == {expected}, (api.port, headers["Authorization"][:10], found)


async def _create(store: Store, token: str, name: str = "ci") -> None:
    record = RobotRecord(
        name=name, repositories=("team/*",), actions=(Action.PULL,), created=time.time(), digest=token_digest(token)
    )
    await Robots(store, clock=SystemClock(), reload=1).create(record)


def test_robot_that_is_revoked_ends_at_every_replica(folder: Path, one: Api, other: Api) -> None:
    token = make_token("ci", bytes(range(32)))
    in_store(folder, lambda store: _create(store, token))
    presented = [basic("x", token), {"Authorization": f"Bearer {token}"}, bearer(one, basic("x", token))]
    every((one, other), presented, IN)
    in_store(folder, lambda store: Robots(store, clock=SystemClock(), reload=1).revoke("ci"))
    time.sleep(RELOAD + SLACK)
    every((one, other), presented, OUT)
    assert one.request("GET", "/token", headers=basic("x", token)).status == 401
    again = make_token("ci", bytes(32))
    in_store(folder, lambda store: _create(store, again))
    time.sleep(RELOAD + SLACK)
    every((one, other), presented, OUT)
    every((one, other), [basic("x", again)], IN)


def test_rule_that_is_removed_ends_at_every_replica(folder: Path, one: Api, other: Api) -> None:
    presented = [basic("bob"), bearer(one, basic("bob")), bearer(other, basic("bob"))]
    alice = [basic("alice"), bearer(other, basic("alice"))]
    every((one, other), [*presented, *alice], IN)
    (folder / "access.toml").write_text(RULES.replace(', "user:bob"', ""))
    time.sleep(RELOAD + SLACK)
    every((one, other), presented, HIDDEN)
    every((one, other), alice, IN)


def test_user_who_is_deleted_ends_at_every_replica(folder: Path, one: Api, other: Api) -> None:
    presented = [basic("bob"), bearer(one, basic("bob"))]
    alice = [basic("alice"), bearer(one, basic("alice"))]
    every((one, other), [*presented, *alice], IN)
    kept = [line for line in (folder / "htpasswd").read_text().splitlines() if not line.startswith("bob:")]
    (folder / "htpasswd").write_text("\n".join(kept))
    time.sleep(RELOAD + SLACK)
    every((one, other), presented, OUT)
    every((one, other), alice, IN)


def test_keys_are_rotated_while_both_serve(folder: Path) -> None:
    """The first key ends to sign in the middle of it; what it signed goes on being good, at either replica."""
    signs_for = 6.0
    created = time.time() - SIGNING + signs_for
    old = f"{int(created // DAY):06d}"
    seed = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
    record = msgspec.json.encode(KeyRecord(algorithm="EdDSA", seed=seed, created=created))
    in_store(folder, lambda store: store.put(layout.access_key(old), record))
    for first in replica(folder, "one"):
        for second in replica(folder, "other"):
            one, other = Api(first.port), Api(second.port)
            before = [bearer(api, basic("alice")) for api in (one, other)]
            assert {kid_of(each) for each in before} == {old}
            every((one, other), before, IN)
            time.sleep(max(0.0, created + SIGNING - time.time()) + 0.1)
            after = [bearer(one, basic("alice"))]
            after.append(bearer(other, basic("alice")))
            (new,) = {kid_of(each) for each in after}
            assert new == f"{int(time.time() // DAY):06d}" != old
            every((other, one), [*after, *before], IN)


def test_replicas_that_start_at_once_without_keys_take_each_others_tokens(folder: Path) -> None:
    for first in replica(folder, "one"):
        for second in replica(folder, "other"):
            apis = (Api(first.port), Api(second.port))
            tokens = [bearer(api, basic(name)) for api in apis for name in PASSWORDS]
            every(apis, tokens, IN)
            assert len(list((folder / "store").rglob("access/keys/*"))) == 1


def test_workers_that_are_replaced_while_the_rules_are_broken_go_on_with_the_old_ones(folder: Path) -> None:
    """SIGHUP, certificates that are renewed, a worker that died: none of them makes a broken file an outage."""
    options = ("--access", str(folder / "access.toml"), "--set", f"access.reload={RELOAD}s", "--workers", "1")
    with bucketry(str(folder / "store"), folder / "one", options=options) as server:
        api = Api(server.port)
        every((api,), [basic("alice")], IN)
        (folder / "access.toml").write_text("[[rule]]\nwho = 'nobody'\n")
        (worker,) = workers(server)
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: worker not in workers(server), seconds=30, what=server.log, alive=server.alive)
        every((api,), [basic("alice")], IN)
        every((api,), [basic("alice", "wrong")], OUT)
        (folder / "access.toml").write_text(RULES.replace('"user:alice", ', ""))
        time.sleep(RELOAD + SLACK)
        every((api,), [basic("alice")], HIDDEN)
        assert_no_fault(server)
        assert "the new rules are refused" in server.log()


def workers(server: Server) -> set[int]:
    """The processes that serve, but for the one that watches over what they leave behind."""
    found = set()
    for pid in descendants(server.process.pid):
        with contextlib.suppress(FileNotFoundError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found
