"""The audit log of a server that runs: two workers write it, it is rotated meanwhile, and holds no secret."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.support.access import basic as basic_value
from tests.support.api import ABSENT, Api
from tests.support.images import make_image
from tests.support.server import Server, assert_no_fault, bucketry
from tests.transfer.command import Person

from bucketry.access import htpasswd_line

RULES = """
users = "htpasswd"

[[rule]]
who = ["user:alice"]
repositories = ["team/**"]
allow = ["pull", "push", "delete"]

[[rule]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]
"""
PASSWORD = "canary-alice-5d1c"
GUESS = "canary-guess-77aa"
IMAGE = make_image(81, (300,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "access.toml").write_text(RULES)
    (tmp_path / "htpasswd").write_text(htpasswd_line("alice", PASSWORD, salt=bytes(16)) + "\n")
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, str(folder / "audit.log")) as running:
        yield running


def serving(folder: Path, audit: str, *also: str) -> Any:
    options = ("--access", str(folder / "access.toml"), "--set", f"access.audit={audit}", "--workers", "2", *also)
    return bucketry(str(folder / "store"), folder / "server", options=options)


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": basic_value(name, password)}


ALICE = basic("alice", PASSWORD)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def pick(line: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in names)


def push(api: Api, headers: dict[str, str], repository: str, tag: str) -> int:
    for blob in (IMAGE.config, *IMAGE.layers):
        answer = api.request("POST", f"/v2/{repository}/blobs/uploads/?digest={blob.digest}", blob.data, headers)
        if answer.status != 201:
            return answer.status
    types = {**headers, "Content-Type": IMAGE.manifest.media_type}
    return api.request("PUT", f"/v2/{repository}/manifests/{tag}", IMAGE.manifest.data, types).status


def test_who_did_what_is_told_in_order(server: Server, folder: Path) -> None:
    api, log = Api(server.port), folder / "audit.log"
    began = datetime.now(UTC).timestamp()
    assert push(api, ALICE, "team/app", "v1") == 201
    assert api.request("GET", "/v2/team/app/manifests/v1", headers=ALICE).status == 200
    assert api.get("/v2/public/x/tags/list").status == 404
    assert api.get("/v2/").status == 401
    assert api.request("PUT", "/v2/other/app/manifests/v1", IMAGE.manifest.data, ALICE).status == 403
    assert api.get("/v2/team/app/manifests/v1").status == 401
    assert api.request("GET", "/v2/other/app/tags/list", headers=ALICE).status == 404
    assert api.request("DELETE", f"/v2/team/app/blobs/{ABSENT}", headers=ALICE).status == 404
    given = {**ALICE, "X-Request-Id": "delete-1"}
    assert api.request("DELETE", f"/v2/team/app/manifests/{IMAGE.digest}", headers=given).status == 202

    config, layer, manifest, denied, stranger, unseen, failed, deleted = lines(log)
    for blob, line in ((IMAGE.config, config), (IMAGE.layers[0], layer)):
        assert pick(line, "principal", "method", "action", "repository", "digest", "status", "result") == (
            *("user:alice", "password", "push", "team/app", blob.digest, 201, "allowed"),
        )
    assert pick(manifest, "action", "reference", "digest") == ("push", "v1", IMAGE.digest)
    assert pick(denied, "principal", "action", "repository", "status", "result", "reason") == (
        *("user:alice", "push", "other/app", 403, "denied", "DENIED"),
    )
    assert pick(stranger, "principal", "method", "action", "result", "reason") == (
        *("anonymous", "none", "pull", "denied", "UNAUTHORIZED"),
    )
    assert pick(unseen, "action", "status", "result", "reason") == ("pull", 404, "denied", "NAME_UNKNOWN")
    assert pick(failed, "action", "reference", "result", "reason") == ("delete", ABSENT, "failed", "BLOB_UNKNOWN")
    assert pick(deleted, "action", "reference", "digest", "request_id", "address") == (
        *("delete", IMAGE.digest, IMAGE.digest, "delete-1", "127.0.0.1"),
    )
    for line in lines(log):
        assert line["time"].endswith("Z")
        assert began - 1 <= datetime.fromisoformat(line["time"]).timestamp() <= time.time() + 1
        assert line["request_id"]


def test_logins_and_tokens_are_told_and_no_secret_is(server: Server, folder: Path) -> None:
    api, log = Api(server.port), folder / "audit.log"
    query = urlencode([("service", "bucketry"), ("scope", "repository:team/app:pull,push,delete,admin")])
    issued = api.request("GET", f"/token?{query}", headers=ALICE).json()["token"]
    form = urlencode({"grant_type": "password", "service": "bucketry", "username": "alice", "password": GUESS})
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert api.request("POST", "/token", form.encode(), kind).status == 401
    assert api.request("GET", "/token?service=bucketry", headers=basic("alice", GUESS)).status == 401
    assert api.request("GET", "/v2/", headers=basic("alice", GUESS)).status == 401
    assert api.request("GET", "/v2/", headers=basic(GUESS, "mistaken-for-the-name")).status == 401
    assert (
        api.request("GET", "/v2/", headers={"Authorization": f"Bearer {issued[:-12]}canary{issued[-6:]}"}).status == 401
    )
    assert api.request("GET", f"/v2/{GUESS}/manifests/{GUESS}").status == 401
    assert api.request("GET", "/token?service=bucketry&scope=nonsense", headers=ALICE).status == 400
    person = Person.at(folder / "person")
    options = ("--repository", "team/*", "--allow", "pull,push", "--store", folder / "store", "-q")
    robot = person.types("token", "create", "ci", *options).out.strip()
    assert push(api, basic("any", robot), "team/app", "v1") == 201
    assert api.request("GET", "/v2/", headers=basic("any", robot[:-1])).status == 401
    assert api.request("DELETE", f"/v2/team/app/manifests/{robot}", headers=ALICE).status == 404

    held = {"Authorization": f"Bearer {issued}"}
    assert api.request("DELETE", f"/v2/team/app/blobs/{ABSENT}", headers=held).status == 404

    token, posted, got, base, nobody, forged, guessed, *rest, by_token = lines(log)
    assert pick(by_token, "principal", "method", "token_id") == ("user:alice", "password", token["token_id"])
    assert pick(token, "principal", "method", "action", "scopes", "result") == (
        *("user:alice", "password", "token", ["repository:team/app:pull,push,delete"], "allowed"),
    )
    assert len(token["token_id"]) >= 16
    for line, action in ((posted, "token"), (got, "token"), (base, "login")):
        assert pick(line, "principal", "claimed", "action", "result", "reason") == (
            *(None, "user:alice", action, "denied", "password"),
        )
    assert pick(nobody, "principal", "claimed", "result") == (None, None, "denied")
    assert pick(forged, "principal", "result", "reason") == (None, "denied", "signature")
    assert pick(guessed, "principal", "result") == ("anonymous", "denied")
    assert [pick(line, "principal", "method", "action") for line in rest[:3]] == [
        ("robot:ci", "robot token", "push")
    ] * 3
    assert pick(rest[3], "principal", "reason") == (None, "malformed")
    assert pick(rest[4], "action", "reference", "result") == ("delete", None, "failed")
    assert len(rest) == 5
    text = log.read_text()
    for secret in (PASSWORD, robot, robot[:-7], issued, issued.rpartition(".")[2], ALICE["Authorization"].split()[1]):
        assert secret not in text
    # It was presented as a repository's name and a tag, once; never as anything else.
    assert text.replace(f'"{GUESS}"', "").count(GUESS) == 0
    assert_no_fault(server)


def test_a_rotated_file_is_made_anew_and_no_line_is_lost_or_torn(server: Server, folder: Path) -> None:
    api, log = Api(server.port), folder / "audit.log"

    def some(first: int) -> None:
        for number in range(first, first + 40):
            headers = {"X-Request-Id": f"n{number}"}
            assert api.request("GET", f"/v2/team/app/manifests/{'t' * 100}", headers=headers).status == 401

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(some, range(0, 160, 40)))
        log.rename(folder / "audit.log.1")
        time.sleep(1.1)
        list(threads.map(some, range(160, 320, 40)))
    before, after = lines(folder / "audit.log.1"), lines(log)
    assert sorted(line["request_id"] for line in before + after) == sorted(f"n{number}" for number in range(320))
    assert len(after) == 160
    assert_no_fault(server)


def test_a_full_disk_stops_nothing_and_shows_in_the_metrics(folder: Path) -> None:
    with serving(folder, "/dev/full") as server:
        api = Api(server.port)
        assert push(api, ALICE, "team/app", "v1") == 201
        assert api.metric("bucketry_audit_lost_lines_total") == 3
        (said, *more) = [line for line in server.log().splitlines() if "lines of the audit log are lost" in line]
        assert "No space left on device" in said
        assert len(more) <= 1  # One of each worker at the most.


def test_a_file_that_cannot_be_written_stops_the_start(folder: Path) -> None:
    person = Person.at(folder / "person")
    options = ("--store", folder / "store", "--access", folder / "access.toml", "--listen", "127.0.0.1:0")
    done = person.types("serve", *options, "--set", f"access.audit={folder}/none/audit.log")
    done.fails(1, "access.audit", "No such file or directory")


def test_reads_proxies_and_standard_error(folder: Path) -> None:
    also = (
        "--set",
        "access.audit_reads=true",
        "--set",
        "server.trusted_proxies=127.0.0.0/8",
        "--set",
        "log.access=false",
    )
    with serving(folder, "-", *also) as server:
        api = Api(server.port)
        headers = {**ALICE, "X-Forwarded-For": "10.1.1.1, 192.0.2.7"}
        assert api.request("GET", "/v2/team/app/tags/list", headers=headers).status == 404
        assert api.get("/v2/public/app/tags/list", x_forwarded_for="nonsense").status == 404
        found = [json.loads(line) for line in server.log().splitlines() if line.startswith('{"time"')]
        assert [pick(line, "principal", "action", "status", "result", "address") for line in found] == [
            ("user:alice", "pull", 404, "failed", "192.0.2.7"),
            ("anonymous", "pull", 404, "failed", "127.0.0.1"),
        ]
        server.terminate()


def test_without_rules_changes_are_noted_too(tmp_path: Path) -> None:
    options = ("--set", f"access.audit={tmp_path}/audit.log", "--workers", "1")
    with bucketry(str(tmp_path / "store"), tmp_path / "server", options=options) as server:
        api = Api(server.port)
        api.push_image("team/app", "v1")
        assert api.get("/v2/team/app/tags/list").status == 200
    assert [pick(line, "principal", "action", "reference") for line in lines(tmp_path / "audit.log")] == [
        ("anonymous", "push", None),
        ("anonymous", "push", "v1"),
    ]
