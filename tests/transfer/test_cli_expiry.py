"""Presigned addresses that end before they are used: asked for anew, and where that cannot help, said so."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.store.seaweed import Seaweed
from tests.support.images import MIB, Image, assert_layout_holds, make_image, write_layout
from tests.support.server import bucketry
from tests.transfer.command import Person

ENDED = (
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Request has expired</Message>'
    b"<Expires>2020-01-01T00:00:00Z</Expires></Error>"
)


@dataclass
class Gate:
    """What stands before the bucket. ``ended``: whether it says of an address that it has ended.

    ``refused``: the method and what it was about (a part's number, or the key), each time that it said so.
    """

    port: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    ended: Callable[[str, str], bool] = lambda method, what: False
    date: float | None = None
    """Its clock, POSIX seconds; None for the right one."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def gate(seaweed: Seaweed) -> Iterator[Gate]:
    """A proxy before the bucket, by whose name addresses are signed."""
    state = Gate()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = parse_qs(urlsplit(self.path).query)
            what = query.get("partNumber", [urlsplit(self.path).path])[0]
            if "X-Amz-Signature" in query and state.ended(self.command, what):
                state.refused.append((self.command, what))
                self.reply(403, {"Content-Type": "application/xml"}, ENDED)
                return
            behind = http.client.HTTPConnection("127.0.0.1", seaweed.port, timeout=30)
            try:
                behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    behind.putheader(name, value)
                behind.endheaders(body)
                answer = behind.getresponse()
                headers = {
                    name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "date")
                }
                self.reply(answer.status, headers, answer.read())
            finally:
                behind.close()

        do_GET = do_PUT = pass_on  # noqa: N815 (as http.server has them)

        def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response_only(status)
            self.send_header("Date", formatdate(state.date, usegmt=True))
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            with suppress(ConnectionError):  # Who has heard enough leaves.
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Setting:
    gate: Gate
    host: str


@pytest.fixture(scope="module")
def running(seaweed: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """A registry whose clients reach the bucket through the gate."""
    folder = tmp_path_factory.mktemp("expiry")
    with gate(seaweed) as state:
        options = [f"--set=store.public_endpoint={state.url}", "--set=delivery.mode=redirect", "--workers=1"]
        with bucketry(f"s3://{seaweed.bucket}/expiry", folder, env=seaweed.environ(), options=options) as server:
            yield Setting(state, server.host)


@pytest.fixture(scope="module")
def content() -> Image:
    return make_image(seed=77, sizes=(40 * MIB,))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, content: Image) -> Path:
    return write_layout(tmp_path_factory.mktemp("content") / "layout", content, "v1")


def once(method: str) -> Callable[[str, str], bool]:
    """Every address of that method has ended when it is used for the first time."""
    seen: set[str] = set()
    lock = threading.Lock()

    def ended(asked: str, what: str) -> bool:
        with lock:
            known = what in seen
            seen.add(what)
        return asked == method and not known

    return ended


def test_addresses_that_end_in_the_middle_are_asked_for_anew(
    running: Setting, layout: Path, content: Image, tmp_path: Path
) -> None:
    person = Person.at(tmp_path)
    name = f"{running.host}/expiry/app:v1"

    running.gate.ended = once("PUT")
    pushed = person.types("push", f"oci:{layout}:v1", name)
    assert pushed.code == 0, pushed.err
    assert len([what for method, what in running.gate.refused if method == "PUT"]) == 6  # parts of 8 MiB

    running.gate.refused.clear()
    running.gate.ended = once("GET")
    pulled = person.types("pull", name, "oci:out:v1")
    assert pulled.code == 0, pulled.err
    assert running.gate.refused
    assert_layout_holds(person.work / "out", content)
    assert "X-Amz" not in pushed.out + pushed.err + pulled.out + pulled.err


def test_addresses_that_have_always_ended_are_told_with_the_clock_that_may_be_why(
    running: Setting, tmp_path: Path
) -> None:
    person = Person.at(tmp_path / "person")
    layout = write_layout(tmp_path / "layout", make_image(seed=78, sizes=(20 * MIB,)), "v1")
    running.gate.ended = lambda method, what: True
    running.gate.date = time.time() - 3600
    try:
        done = person.types("push", f"oci:{layout}:v1", f"{running.host}/expiry/never:v1", "--debug")
    finally:
        running.gate.date = None

    assert done.code == 1
    line = done.err.splitlines()[-1]
    for word in (running.host, "Request has expired", "this machine's clock is 60 minutes off (ahead)"):
        assert word in line
    assert running.gate.url.removeprefix("http://") in line
    assert "Traceback" in done.err
    assert "X-Amz" not in done.err
