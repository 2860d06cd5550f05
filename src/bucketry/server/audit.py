"""The audit log: who changed what, who was turned away, and which tokens were given out (RFC 6, "Audit").

A line of JSON each, written whole by one call to a file that is opened to be appended to, so the lines of several
workers do not mix. Nothing that was presented as a secret is in any of them, nor any text of a stranger that is not
checked: what is no name, tag or digest is left out.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal, Protocol, TypeAlias

import msgspec
import structlog
from starlette.requests import Request

from bucketry.access import ANONYMOUS, Action, Principal, is_token
from bucketry.oci import Digest, parse_reference
from bucketry.oci.errors import Denied, NameUnknown, OCIError, TooManyRequests
from bucketry.server.auth.errors import Challenged, CredentialsRefused, IssuerUnavailable
from bucketry.server.auth.visitor import ACTIONS
from bucketry.server.body import ClientGone, ClientSilent, ServerStopping
from bucketry.server.call import Noted
from bucketry.server.log import without_secrets
from bucketry.server.routes import Route, Target
from bucketry.store.contract import StoreError

STDERR: Final = "-"
"""Instead of a file's path."""
MODE: Final = 0o640
"""Of a new file, less what the umask takes."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether the file was moved away, and between two tries to open it."""
COMPLAIN_EVERY: Final = 60.0
"""Seconds between two complaints that lines are lost."""

Result: TypeAlias = Literal["allowed", "denied", "failed"]

_log = structlog.get_logger("bucketry.audit")


class Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a line says. What is not known, or does not apply, is not in it; the first five always are."""

    time: str
    """RFC 3339, UTC."""
    principal: str | None
    """Null where credentials came that were not taken."""
    action: str
    status: int
    result: Result
    reason: str | None = None
    """Why it was denied or failed: a code of the specification, or in a word what was wrong with the credentials."""
    method: str | None = None
    subject: str | None = None
    """Which job it was, of those that an issuer vouches for: ``sub`` of its ID token."""
    claimed: str | None = None
    repository: str | None = None
    reference: str | None = None
    digest: str | None = None
    token_id: str | None = None
    scopes: list[str] | None = None
    request_id: str | None = None
    address: str | None = None


class Sink(Protocol):
    def write(self, line: bytes) -> None: ...


class AuditFile:
    """A file, or standard error, that whole lines are appended to. It never raises: a full disk must not stop serving.

    ``lost`` is called for each line that could not be written. A file that was moved away, or removed, is made anew
    within `LOOK_EVERY` seconds. Blocks as long as the system takes to copy a line.
    """

    def __init__(
        self, path: str, *, lost: Callable[[], object], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._lost = lost
        self._monotonic = monotonic
        self._descriptor: int | None = 2 if path == STDERR else None
        self._looked: float | None = None
        self._failing = 0
        """Lines that were lost since the last one that was written."""
        self._complained: float | None = None

    def write(self, line: bytes) -> None:
        """``line`` ends with a line feed."""
        try:
            self._append(line)
        except OSError as error:
            self._complain(error)
            return
        if self._failing:
            _log.warning("the audit log is written again", file=self._path, lost=self._failing)
            self._failing, self._complained = 0, None

    def close(self) -> None:
        if self._descriptor is not None and self._path != STDERR:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, line: bytes) -> None:
        descriptor = self._opened()
        # After a failure the last line of the file may have been cut, by this worker or another.
        data = b"\n" + line if self._failing else line
        written = os.write(descriptor, data)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _opened(self) -> int:
        now = self._monotonic()
        if self._path == STDERR:
            return 2
        due = self._looked is None or now - self._looked >= LOOK_EVERY
        if self._descriptor is not None and (not due or self._is_there(self._descriptor)):
            self._looked = now if due else self._looked
            return self._descriptor
        if not due:
            raise OSError(errno.ENOENT, "it could not be opened", self._path)
        self.close()
        self._looked = now
        self._descriptor = _open(self._path)
        return self._descriptor

    def _is_there(self, descriptor: int) -> bool:
        """Whether the path still leads to the file that is open."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        own = os.fstat(descriptor)
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    def _complain(self, error: OSError) -> None:
        self._failing += 1
        self._lost()
        now = self._monotonic()
        if self._complained is None or now - self._complained >= COMPLAIN_EVERY:
            self._complained = now
            _log.error("lines of the audit log are lost", file=self._path, error=error.strerror or str(error))


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)


def refusal(path: str) -> str | None:
    """Why the audit log cannot be written, or None. It makes the file where there is none."""
    if path == STDERR:
        return None
    try:
        os.close(_open(path))
    except OSError as error:
        return f"the audit log {path} (access.audit) cannot be written: {error.strerror}"
    return None


class Audit:
    """Decides which requests are noted, and what of them. ``reads``: those that only read, too."""

    def __init__(self, sink: Sink, *, reads: bool, now: Callable[[], float] = time.time) -> None:
        self._sink = sink
        self._reads = reads
        self._now = now
        self._encode = msgspec.json.Encoder().encode

    def request(
        self,
        request: Request,
        noted: Noted,
        *,
        status: int,
        digest: str | None,
        request_id: str,
        address: str | None,
    ) -> None:
        """Notes a request before it is answered. ``digest``: what the answer calls the content."""
        http_method, target = request.method, noted.target
        result = _result(noted, status)
        if target is None:
            if noted.issued is None and not self._is_told(noted, result):
                return
        elif not self._reads:
            if http_method in ("GET", "HEAD") and result != "denied":
                return
            if target.route is Route.BASE and "authorization" not in request.headers:
                return  # So clients ask how to log in, before each push and pull.
        who = _who(noted)
        line = Line(
            time=_written(self._now()),
            # Without rules it is anybody.
            principal=str(who or ANONYMOUS) if noted.let_in or who is not None else None,
            action="metrics" if noted.asks_metrics else _action(http_method, target),
            status=status,
            result=result,
            reason=None if result == "allowed" else _reason(noted.error, status),
            claimed=noted.claimed if result == "denied" else None,
            # The client's to choose, and a robot's token has the form of one.
            request_id=without_secrets(request_id),
            address=address,
        )
        if target is not None:
            line.repository = target.repository or None
            line.reference = _reference(target)
            line.digest = _digest(line.reference, digest, http_method) if result == "allowed" else None
        if who is not None:
            subject = who.claims.get("sub")
            line.method = who.method.value
            line.subject = subject if isinstance(subject, str) else None
        if noted.issued is not None:
            line.token_id = noted.issued.token_id
            line.scopes = [str(scope) for scope in noted.issued.scopes]
        elif noted.visitor is not None:
            line.token_id = noted.visitor.token_id
        self._sink.write(self._encode(line) + b"\n")

    def _is_told(self, noted: Noted, result: Result) -> bool:
        """Of what is no part of the API, and gave no token."""
        if result == "denied":
            return noted.asks_token or noted.asks_metrics
        return noted.asks_metrics and self._reads


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _result(noted: Noted, status: int) -> Result:
    if status < 400:
        return "allowed"
    error = noted.error
    if isinstance(error, Challenged | CredentialsRefused | Denied):
        return "denied"
    if isinstance(error, TooManyRequests):
        # Too many failed logins. Whoever is known and sends too much may do it a little later.
        return "denied" if noted.visitor is None else "failed"
    return "denied" if isinstance(error, NameUnknown) and not noted.let_in else "failed"


def _reason(error: Exception | None, status: int) -> str | None:
    match error:
        case Challenged(reason=reason) | CredentialsRefused(reason=reason) if reason is not None:
            return reason.value
        case OCIError():
            return error.code
        case StoreError() | IssuerUnavailable() | ServerStopping() | ClientSilent():
            return "UNAVAILABLE"
        case ClientGone():
            return "client gone"
        case None:
            return None
    return "UNKNOWN" if status >= 500 else None


def _who(noted: Noted) -> Principal | None:
    if noted.issued is not None:
        return noted.issued.principal
    return None if noted.visitor is None else noted.visitor.principal


def _action(http_method: str, target: Target | None) -> str:
    """A token that is asked for is no action of rules; nor is a login, by which clients try credentials."""
    if target is None:
        return "token"
    action = ACTIONS.get(target.route, {}).get(http_method)
    if action is not None:
        return action.value
    return "login" if target.route is Route.BASE else Action.PULL.value


def _reference(target: Target) -> str | None:
    """A tag or a digest; not the id of an upload, which is its owner's business."""
    if target.route not in (Route.MANIFEST, Route.BLOB, Route.REFERRERS, Route.CHECKPOINTS):
        return None
    try:
        reference = parse_reference(target.reference)
    except OCIError:
        return None
    # A robot's token has the form of a tag: who pastes one into the wrong place has it in no log.
    return None if is_token(str(reference)) else str(reference)


def _digest(reference: str | None, answered: str | None, http_method: str) -> str | None:
    if answered is not None or http_method != "DELETE" or reference is None or ":" not in reference:
        return answered
    return str(Digest.parse(reference))
