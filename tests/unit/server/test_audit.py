"""The audit log: which requests are noted, what of them, and a file that is full, moved away or not to be had."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from bucketry.access import ANONYMOUS, OPEN, Action, Method, Principal, Scope, make_token
from bucketry.oci.errors import BlobUnknown, Denied, ManifestUnknown, NameUnknown, OCIError, ParameterInvalid
from bucketry.server import audit as module
from bucketry.server.audit import COMPLAIN_EVERY, LOOK_EVERY, Audit, AuditFile, refusal
from bucketry.server.auth.door import Issued
from bucketry.server.auth.errors import Challenged, CredentialsRefused, IssuerUnavailable, Reason, TooManyAttempts
from bucketry.server.auth.visitor import Challenge, Visitor
from bucketry.server.body import ClientGone
from bucketry.server.call import Noted
from bucketry.server.routes import Route, Target
from bucketry.store.contract import Unavailable

ALICE = Principal("user", "alice", method=Method.PASSWORD)
DIGEST = "sha256:" + "ab" * 32
MANIFEST = Target(Route.MANIFEST, "team/app", "v1")
LINE = b'{"a":1}\n'


def visitor(principal: Principal = ALICE) -> Visitor:
    return Visitor(principal, OPEN, Challenge("http://r/token", "r"))


def let_in(target: Target = MANIFEST, error: Exception | None = None) -> Noted:
    return Noted(target, visitor(), let_in=True, error=error)


class Lines:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.written.append(line)


def lines(
    method: str, noted: Noted, status: int, *, reads: bool = False, presented: bool = True, **given: Any
) -> list[dict[str, Any]]:
    sink = Lines()
    audit = Audit(sink, reads=reads, now=lambda: 1_795_531_385.5)
    facts: dict[str, Any] = {"digest": None, "request_id": "r1", "address": "10.0.0.9", **given}
    headers = [(b"authorization", b"Basic canary")] if presented else []
    request = Request({"type": "http", "method": method, "headers": headers})
    audit.request(request, noted, status=status, **facts)
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in sink.written)
    return [json.loads(line) for line in sink.written]


def pick(line: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in names)


def test_a_push_is_a_line_that_says_all_of_it() -> None:
    assert lines("PUT", let_in(), 201, digest=DIGEST) == [
        {
            "time": "2026-11-24T14:43:05.500Z",
            "principal": "user:alice",
            "method": "password",
            "action": "push",
            "repository": "team/app",
            "reference": "v1",
            "digest": DIGEST,
            "status": 201,
            "result": "allowed",
            "request_id": "r1",
            "address": "10.0.0.9",
        }
    ]


@pytest.mark.parametrize(
    ("method", "target", "action", "reference"),
    [
        ("PUT", Target(Route.MANIFEST, "a", DIGEST), "push", DIGEST),
        ("DELETE", Target(Route.MANIFEST, "a", "v1"), "delete", "v1"),
        ("DELETE", Target(Route.BLOB, "a", DIGEST), "delete", DIGEST),
        ("POST", Target(Route.UPLOADS, "a"), "push", None),
        ("PATCH", Target(Route.UPLOAD, "a", "secret-session"), "push", None),
        ("DELETE", Target(Route.UPLOAD, "a", "secret-session"), "push", None),
        ("POST", Target(Route.PARALLEL, "a"), "push", None),
        ("POST", Target(Route.PARALLEL_COMPLETE, "a", "secret-session"), "push", None),
        ("PUT", Target(Route.PARALLEL_PART, "a", "secret-session", 3), "push", None),
    ],
)
def test_whatever_changes_something_is_noted(method: str, target: Target, action: str, reference: str | None) -> None:
    (line,) = lines(method, let_in(target), 202)
    assert (line["action"], line.get("reference"), line["result"]) == (action, reference, "allowed")
    assert "secret" not in json.dumps(line)


def test_what_is_deleted_by_digest_has_its_digest() -> None:
    assert lines("DELETE", let_in(Target(Route.BLOB, "a", DIGEST)), 202)[0]["digest"] == DIGEST
    assert "digest" not in lines("DELETE", let_in(), 202)[0]


@pytest.mark.parametrize(
    "target", [MANIFEST, Target(Route.BLOB, "a", DIGEST), Target(Route.CATALOG), Target(Route.UPLOAD, "a", "s")]
)
def test_reads_are_noted_where_that_is_set(target: Target) -> None:
    for method in ("GET", "HEAD"):
        assert lines(method, let_in(target), 200) == []
        assert lines(method, let_in(target, ManifestUnknown("none")), 404) == []
        (line,) = lines(method, let_in(target), 200, reads=True)
        assert line["result"] == "allowed"


@pytest.mark.parametrize(
    ("error", "status", "result", "reason"),
    [
        (Denied("no"), 403, "denied", "DENIED"),
        (NameUnknown("no"), 404, "denied", "NAME_UNKNOWN"),
        (Challenged("log in", "Bearer"), 401, "denied", "UNAUTHORIZED"),
        (Challenged("wrong", "Bearer", reason=Reason.PASSWORD), 401, "denied", "password"),
        (CredentialsRefused("old", reason=Reason.EXPIRED), 401, "denied", "expired"),
    ],
)
def test_whoever_is_turned_away_is_noted_whatever_they_asked_for(
    error: OCIError, status: int, result: str, reason: str
) -> None:
    for method in ("GET", "HEAD", "PUT"):
        (line,) = lines(method, Noted(MANIFEST, visitor(), error=error), status)
        assert (line["result"], line["reason"], line["repository"]) == (result, reason, "team/app")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (BlobUnknown("none"), 404, "BLOB_UNKNOWN"),
        (NameUnknown("none"), 404, "NAME_UNKNOWN"),
        (Unavailable("down"), 503, "UNAVAILABLE"),
        (IssuerUnavailable("down", retry_after=1), 503, "UNAVAILABLE"),
        (ClientGone("gone"), 499, "client gone"),
        (RuntimeError("canary"), 500, "UNKNOWN"),
        (None, 416, None),
    ],
)
def test_what_was_allowed_and_failed_is_told_from_what_was_denied(
    error: Exception | None, status: int, reason: str | None
) -> None:
    (line,) = lines("PUT", let_in(error=error), status, digest=DIGEST)
    assert (line["result"], line.get("reason")) == ("failed", reason)
    assert "digest" not in line
    assert lines("GET", let_in(error=error), status) == []


def test_of_those_who_have_to_wait_the_ones_that_nobody_knows_are_noted() -> None:
    wait = TooManyAttempts("wait", retry_after=3)
    (line,) = lines("GET", Noted(MANIFEST, error=wait, claimed="user:alice"), 429)
    assert pick(line, "principal", "claimed", "result", "reason") == (None, "user:alice", "denied", "TOOMANYREQUESTS")
    (line,) = lines("GET", Noted(asks_token=True, error=wait), 429)
    assert pick(line, "action", "result") == ("token", "denied")
    assert lines("GET", Noted(MANIFEST, visitor(), error=wait), 429) == []
    assert lines("GET", Noted(error=wait), 429) == []


def test_a_tag_that_may_not_be_moved_is_denied() -> None:
    (line,) = lines("PUT", let_in(error=Denied("immutable")), 403)
    assert (line["result"], line["reason"], line["reference"]) == ("denied", "DENIED", "v1")


def test_credentials_that_are_not_taken_are_nobodys_and_what_they_claim_is_told_as_that() -> None:
    error = Challenged("wrong", "Bearer", reason=Reason.PASSWORD)
    (line,) = lines("GET", Noted(MANIFEST, error=error, claimed="user:alice"), 401)
    assert line["principal"] is None
    assert line["claimed"] == "user:alice"
    assert "method" not in line


def test_clients_that_ask_how_to_log_in_are_not_noted() -> None:
    base = Noted(Target(Route.BASE), visitor(ANONYMOUS), error=Challenged("log in", "Bearer"))
    assert lines("GET", base, 401, presented=False) == []
    (line,) = lines("GET", base, 401, presented=True)
    assert (line["action"], line["result"]) == ("login", "denied")
    assert "repository" not in line
    (line,) = lines("GET", base, 401, presented=False, reads=True)
    assert (line["principal"], line["method"]) == ("anonymous", "none")


def test_a_token_that_is_given_out_is_noted_with_its_id_and_scopes() -> None:
    scopes = (Scope("repository", "team/app", frozenset({Action.PULL, Action.PUSH})),)
    (line,) = lines("GET", Noted(issued=Issued(b"canary", ALICE, "id-1", scopes)), 200)
    assert line["action"] == "token"
    assert (line["token_id"], line["scopes"]) == ("id-1", ["repository:team/app:pull,push"])
    assert (line["principal"], line["method"], line["result"]) == ("user:alice", "password", "allowed")
    assert "canary" not in json.dumps(line)


def test_what_is_done_by_a_token_leads_to_the_line_of_its_giving_out() -> None:
    held = Visitor(ALICE, OPEN, Challenge("http://r/token", "r"), (), "id-1")
    (line,) = lines("PUT", Noted(MANIFEST, held, let_in=True), 201)
    assert line["token_id"] == "id-1"
    assert "scopes" not in line


def test_of_an_issuers_jobs_it_is_told_which() -> None:
    job = Principal("oidc", "github", {"sub": "repo:acme/app:ref:refs/heads/main", "actor": "eve"}, Method.ID_TOKEN)
    (line,) = lines("PUT", Noted(MANIFEST, visitor(job), let_in=True), 201)
    assert pick(line, "principal", "subject", "method") == (
        *("oidc:github", "repo:acme/app:ref:refs/heads/main", "id token"),
    )
    assert "eve" not in json.dumps(line)


def test_of_tokens_that_are_not_given_out_those_with_wrong_credentials_are_noted() -> None:
    refused = Noted(asks_token=True, error=CredentialsRefused("no", reason=Reason.PASSWORD), claimed="user:alice")
    (line,) = lines("POST", refused, 401)
    assert (line["action"], line["result"], line["reason"], line["principal"]) == ("token", "denied", "password", None)
    assert lines("GET", Noted(asks_token=True, error=ParameterInvalid("bad scope")), 400) == []
    assert lines("GET", Noted(), 404) == []


def test_of_metrics_that_not_everybody_may_read_it_is_noted_who_was_turned_away() -> None:
    refused = Noted(asks_metrics=True, visitor=visitor(), error=Denied("no"))
    (line,) = lines("GET", refused, 403)
    assert pick(line, "action", "result", "reason", "principal") == ("metrics", "denied", "DENIED", "user:alice")
    read = Noted(asks_metrics=True, visitor=visitor(), let_in=True)
    assert lines("GET", read, 200) == []
    (line,) = lines("GET", read, 200, reads=True)
    assert pick(line, "action", "result", "principal") == ("metrics", "allowed", "user:alice")


def test_without_rules_everybody_is_anonymous() -> None:
    (line,) = lines("PUT", Noted(MANIFEST, let_in=True), 201)
    assert line["principal"] == "anonymous"
    assert "method" not in line


@pytest.mark.parametrize(
    "reference", ["\ud800", "x y", "bktr_ci_" + "a" * 43 + "_123456", "sha256:nothing", "é", "-", "a" * 129]
)
def test_what_is_no_reference_or_may_be_a_secret_is_left_out(reference: str) -> None:
    (line,) = lines("PUT", let_in(Target(Route.MANIFEST, "a", reference)), 400)
    assert "reference" not in line


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class File:
    def __init__(self, path: Path | str) -> None:
        self.lost = 0
        self.clock = Clock()
        self.file = AuditFile(str(path), lost=self._count, monotonic=self.clock)

    def _count(self) -> None:
        self.lost += 1

    def write(self, line: bytes = LINE) -> None:
        self.file.write(line)


def test_lines_are_appended_and_the_file_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(b"before\n")
    for worker in (File(path), File(path)):
        worker.write()
        worker.file.close()
    assert path.read_bytes() == b"before\n" + 2 * LINE
    fresh = File(tmp_path / "new")
    fresh.write()
    fresh.file.close()
    assert (tmp_path / "new").stat().st_mode & 0o007 == 0
    assert fresh.lost == 0


def test_a_line_is_written_by_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    write = os.write

    def counted(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    file = File(tmp_path / "audit.log")
    long = b"x" * 300_000 + b"\n"
    file.write(long)
    file.file.close()
    assert calls == [len(long)]


@pytest.mark.parametrize("away", [Path.unlink, lambda path: path.rename(path.with_suffix(".1"))])
def test_a_file_that_was_moved_away_is_made_anew_within_a_second(
    away: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "audit.log"
    file = File(path)
    file.write()
    away(path)
    file.clock.now += LOOK_EVERY / 2
    file.write()
    assert not path.exists()
    file.clock.now += LOOK_EVERY / 2
    file.write()
    file.file.close()
    assert path.read_bytes() == LINE
    if path.with_suffix(".1").exists():
        assert path.with_suffix(".1").read_bytes() == 2 * LINE
    assert file.lost == 0


def test_a_file_that_was_cut_to_nothing_goes_on_at_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    file = File(path)
    file.write()
    os.truncate(path, 0)
    file.write()
    file.file.close()
    assert path.read_bytes() == LINE


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def error(self, event: str, **facts: Any) -> None:
            found.append((event, facts))

        warning = error

    monkeypatch.setattr(module, "_log", Log())
    return found


def test_a_full_disk_stops_nothing_and_is_counted_and_told_now_and_then(said: list[Any]) -> None:
    file = File("/dev/full")
    for _ in range(3):
        file.write()
    assert file.lost == 3
    assert said == [
        ("lines of the audit log are lost", {"file": "/dev/full", "error": os.strerror(errno.ENOSPC)}),
    ]
    file.clock.now += COMPLAIN_EVERY
    file.write()
    file.file.close()
    assert file.lost == 4
    assert len(said) == 2


def test_after_a_line_that_was_cut_the_next_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[Any]
) -> None:
    path = tmp_path / "audit.log"
    file = File(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:4]))
    file.write()
    monkeypatch.undo()
    file.write()
    file.write()
    file.file.close()
    assert path.read_bytes() == LINE[:4] + b"\n" + 2 * LINE
    assert file.lost == 1


def test_a_folder_that_is_gone_is_tried_again_and_lines_come_when_it_is_back(tmp_path: Path, said: list[Any]) -> None:
    path = tmp_path / "folder" / "audit.log"
    file = File(path)
    file.write()
    path.parent.mkdir()
    file.write()
    assert file.lost == 2  # Not tried again so soon.
    file.clock.now += LOOK_EVERY
    file.write()
    file.file.close()
    assert path.read_bytes().strip() == LINE.strip()
    assert [event for event, _ in said] == ["lines of the audit log are lost", "the audit log is written again"]
    assert said[1][1]["lost"] == 2


def test_a_dash_is_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    file = File("-")
    file.write()
    file.file.close()
    file.write()
    assert capfd.readouterr().err.encode() == 2 * LINE


def test_what_cannot_be_written_is_said_before_anything_is_served(tmp_path: Path) -> None:
    assert refusal("-") is None
    assert refusal(str(tmp_path / "audit.log")) is None
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path, "Is a directory"), (tmp_path / "none" / "a", "No such file")):
        said = refusal(str(path))
        assert said is not None
        assert "access.audit" in said
        assert words in said


def test_a_token_that_was_given_as_the_id_of_a_request_is_not_written() -> None:
    token = make_token("ci", bytes(32))
    (line,) = lines("PUT", let_in(), 201, request_id=token)
    assert line["request_id"] == "bktr_..."
