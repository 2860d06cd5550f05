"""The application as an ASGI server calls it: routes, errors, headers, the log, the clients' addresses, its life."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from bucketry.oci import Digest
from bucketry.server.app import DISCARDED, App
from bucketry.server.config import Config, LimitsConfig, ServerConfig, StoreConfig
from bucketry.server.lifetime import Lifetime
from bucketry.server.metrics import Metrics
from bucketry.store.contract import Unavailable

MEMORY = StoreConfig(url="memory:")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        (error,) = json.loads(self.body)["errors"]
        assert isinstance(error, dict)
        return error


class Running:
    """An app with its lifespan, asked directly."""

    def __init__(self, config: Config) -> None:
        # Lines for people go through structlog, where tests see them; `test_log` has those in JSON.
        config = msgspec.structs.replace(config, log=msgspec.structs.replace(config.log, format="text"))
        self.metrics = Metrics()
        self.lifetime = Lifetime(config, 1, self.metrics)
        self.app = App(config, self.lifetime, self.metrics)
        self.asked = 0
        """Messages of bodies that the app has taken."""

    async def ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes | list[bytes] = b"",
        *,
        peer: str | None = "127.0.0.1",
        scheme: str = "http",
        takes: int | None = None,
    ) -> Answer:
        """``takes``: so many messages of the answer the client takes, and then no more."""
        path, _, query = target.partition("?")
        pieces = body if isinstance(body, list) else [body]
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if not isinstance(body, list) and method in ("PUT", "POST", "PATCH"):
            given.setdefault("content-length", str(len(body)))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": scheme,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": None if peer is None else (peer, 50000),
            "server": ("127.0.0.1", 5000),
        }
        messages: list[Message] = []
        script = iter(pieces)

        async def receive() -> Message:
            self.asked += 1
            piece = next(script, None)
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": isinstance(body, list)}

        async def send(message: Message) -> None:
            if takes is not None and len(messages) >= takes:
                await asyncio.Event().wait()
            messages.append(message)

        await self.app(scope, receive, send)
        start = messages[0]
        answered = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], answered, b"".join(each.get("body", b"") for each in messages[1:]))

    def counted(self, **labels: str) -> float:
        total = 0.0
        for line in self.metrics.render().decode().splitlines():
            name, _, rest = line.partition("{")
            if name == "bucketry_http_requests_total" and all(f'{k}="{v}"' in rest for k, v in labels.items()):
                total += float(rest.rpartition(" ")[2])
        return total


@asynccontextmanager
async def running(config: Config | None = None) -> AsyncIterator[Running]:
    found = Running(config or Config(store=MEMORY))
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    life = asyncio.create_task(found.app({"type": "lifespan"}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    yield found
    await to_app.put({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await life


@pytest.fixture
async def app() -> AsyncIterator[Running]:
    async with running() as found:
        yield found


async def push(app: Running, data: bytes, repository: str = "a/b") -> str:
    digest = str(Digest.of(data))
    answer = await app.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", body=data)
    assert answer.status == 201, answer
    return digest


# Answers


async def test_every_answer_has_the_headers_of_every_answer(app: Running) -> None:
    for method, target in (("GET", "/v2/"), ("GET", "/v2/A/tags/list"), ("GET", "/nowhere"), ("DELETE", "/healthz")):
        answer = await app.ask(method, target)
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-request-id"]


async def test_head_has_the_length_and_no_body(app: Running) -> None:
    digest = await push(app, b"hello")
    answer = await app.ask("HEAD", f"/v2/a/b/blobs/{digest}")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "5", b"")
    answer = await app.ask("HEAD", "/v2/a/b/manifests/none")
    assert (answer.status, answer.body) == (404, b"")


async def test_before_the_store_is_open_clients_are_asked_to_wait() -> None:
    app = Running(Config(store=MEMORY))
    answer = await app.ask("GET", "/v2/")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    ready = await app.ask("GET", "/readyz")
    assert (ready.status, json.loads(ready.body)["problems"]) == (503, {"server": "it is starting"})
    assert (await app.ask("GET", "/healthz")).status == 200


async def test_mistake_of_the_program_is_500_with_the_id_to_look_for(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(call: object) -> None:
        raise ZeroDivisionError("a secret of the program")

    assert app.lifetime.handlers is not None
    monkeypatch.setattr(
        app.lifetime.handlers, "table", {route: {"GET": broken} for route in app.lifetime.handlers.table}
    )
    with capture_logs() as logs:
        answer = await app.ask("GET", "/v2/", {"X-Request-Id": "find-me"})
    assert (answer.status, answer.error["code"]) == (500, "UNKNOWN")
    assert "find-me" in answer.error["message"]
    assert "secret" not in answer.error["message"]
    (unexpected,) = [line for line in logs if line["event"] == "unexpected error"]
    assert isinstance(unexpected["exc_info"], ZeroDivisionError)
    assert unexpected["request_id"] == "find-me"
    assert (await app.ask("GET", "/healthz")).status == 200


async def test_store_that_is_away_is_503_and_the_reason_is_in_the_log(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(call: object) -> None:
        raise Unavailable("s3://bucket: connection refused", retry_after=7)

    assert app.lifetime.handlers is not None
    monkeypatch.setattr(app.lifetime.handlers, "table", {route: {"GET": down} for route in app.lifetime.handlers.table})
    with capture_logs() as logs:
        answer = await app.ask("GET", "/v2/")
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")
    assert "bucket" not in answer.error["message"]
    assert logs[0]["error"] == "s3://bucket: connection refused"


async def test_head_that_is_too_large_is_refused() -> None:
    async with running(Config(store=MEMORY, limits=LimitsConfig(request_head=4096))) as app:
        for target, headers in (
            ("/v2/" + "a" * 5000, {}),
            ("/v2/?" + "a" * 5000, {}),
            ("/v2/", {"x-a": "a" * 5000}),
            ("/v2/", {f"x-{n}": "a" * 100 for n in range(45)}),
        ):
            assert (await app.ask("GET", target, headers)).status == 431
        assert (await app.ask("GET", "/v2/", {"x-a": "a" * 3000})).status == 200


async def test_body_of_a_refused_request_is_read_to_its_end(app: Running) -> None:
    answer = await app.ask("PATCH", "/v2/a/blobs/uploads/none", {"transfer-encoding": "chunked"}, [b"x"] * 50)
    assert answer.status == 404
    assert app.asked == 51


async def test_body_of_a_refused_request_is_read_no_further_than_a_limit(app: Running) -> None:
    pieces = [bytes(1024 * 1024)] * 40
    answer = await app.ask("PATCH", "/v2/a/blobs/uploads/none", {"transfer-encoding": "chunked"}, pieces)
    assert answer.status == 404
    assert app.asked == DISCARDED // (1024 * 1024) + 1


async def test_client_that_waits_for_a_go_ahead_is_answered_without_its_body(app: Running) -> None:
    headers = {"expect": "100-continue", "content-length": "3"}
    assert (await app.ask("PATCH", "/v2/a/blobs/uploads/none", headers, [b"abc"])).status == 404
    assert app.asked == 0


async def test_locations_and_links_are_absolute_where_the_owner_says_so() -> None:
    config = Config(store=MEMORY, server=ServerConfig(public_url="https://registry.example/"))
    async with running(config) as app:
        begun = await app.ask("POST", "/v2/a/b/blobs/uploads/")
        assert begun.headers["location"].startswith("https://registry.example/v2/a/b/blobs/uploads/")
        path = begun.headers["location"].removeprefix("https://registry.example")
        patched = await app.ask("PATCH", path, body=b"hello")
        assert patched.headers["location"].startswith("https://registry.example/v2/a/b/blobs/uploads/")
        digest = Digest.of(b"hello")
        path = patched.headers["location"].removeprefix("https://registry.example")
        created = await app.ask("PUT", f"{path}?digest={digest}")
        assert created.headers["location"] == f"https://registry.example/v2/a/b/blobs/{digest}"


# The log and the metrics


async def test_request_that_failed_is_logged_and_counted_under_its_route(app: Running) -> None:
    with capture_logs() as logs:
        await app.ask("GET", "/v2/a/b/manifests/none", {"User-Agent": "me/1"}, peer="192.0.2.7")
    (line,) = logs
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v2/a/b/manifests/none", 404)
    assert (line["client"], line["agent"], line["error"]) == ("192.0.2.7", "me/1", "a/b has no tag none")
    assert app.counted(route="manifest", method="GET", status="404") == 1


async def test_log_of_requests_can_be_left_out() -> None:
    config = Config(store=MEMORY)
    quiet = Config.from_json(config.to_json().replace(b'"access":true', b'"access":false'))
    async with running(quiet) as app:
        with capture_logs() as logs:
            assert (await app.ask("GET", "/v2/")).status == 200
        assert logs == []


async def test_methods_that_strangers_make_up_are_one_label(app: Running) -> None:
    for number in range(5):
        assert (await app.ask(f"X{number}", "/v2/")).status == 405
    assert app.counted(method="other") == 5


async def test_client_that_left_is_counted_as_gone(app: Running) -> None:
    begun = await app.ask("POST", "/v2/a/b/blobs/uploads/")
    with capture_logs() as logs:
        answer = await app.ask("PATCH", begun.headers["location"], {"content-length": "20"}, [b"0123456789"])
    assert answer.status == 400  # To whom it may concern: its chunks may be what was wrong.
    assert (logs[0]["status"], logs[0]["received"]) == (499, 10)
    assert app.counted(route="upload", status="499") == 1
    status = await app.ask("GET", begun.headers["location"])
    assert status.headers["range"] == "0-9"


async def test_client_that_takes_nothing_of_its_answer_is_cut_off() -> None:
    async with running(Config(store=MEMORY, limits=LimitsConfig(body_idle_timeout=0.1))) as app:
        digest = await push(app, b"x" * 400)
        with capture_logs() as logs:
            answer = await app.ask("GET", f"/v2/a/b/blobs/{digest}", {"range": "bytes=0-99,200-299"}, takes=2)
        assert (answer.status, int(answer.headers["content-length"]) > len(answer.body)) == (206, True)
        assert logs[0]["status"] == 499
        assert "took nothing of its answer" in logs[0]["error"]
        assert app.counted(route="blob", status="499") == 1


# Addresses


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "10.0.0.1", "192.0.2.1"),  # A stranger says what it likes.
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("127.0.0.1", "10.0.0.1, 192.0.2.5", "192.0.2.5"),
        ("127.0.0.1", "192.0.2.5, 172.16.0.9", "192.0.2.5"),
        ("127.0.0.1", "172.16.0.8, 172.16.0.9", "172.16.0.8"),
        ("127.0.0.1", "unknown, 172.16.0.9", "172.16.0.9"),
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("127.0.0.1", "::ffff:192.0.2.5", "192.0.2.5"),
        ("::ffff:127.0.0.1", "192.0.2.5", "192.0.2.5"),
        ("::ffff:192.0.2.1", "", "192.0.2.1"),
        (None, "10.0.0.1", None),
    ],
)
async def test_client_is_who_trusted_proxies_say(peer: str | None, forwarded: str, client: str | None) -> None:
    config = Config(store=MEMORY, server=ServerConfig(trusted_proxies=("127.0.0.0/8", "172.16.0.0/12")))
    async with running(config) as app:
        with capture_logs() as logs:
            await app.ask("GET", "/v2/", {"X-Forwarded-For": forwarded} if forwarded else {}, peer=peer)
        assert logs[0]["client"] == client


# Its life


async def test_store_that_cannot_be_used_stops_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no folder")
    app = Running(Config(store=StoreConfig(url=str(tmp_path / "file"))))
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        messages.append(message)

    with capture_logs() as logs:
        await app.app({"type": "lifespan"}, receive, send)
    assert messages[0]["type"] == "lifespan.startup.failed"
    assert str(tmp_path / "file") in messages[0]["message"]
    assert logs[0]["event"] == "the store cannot be used"


async def test_server_that_was_told_to_stop_is_not_ready_and_still_answers(app: Running) -> None:
    app.lifetime.drain.stopping = True
    ready = await app.ask("GET", "/readyz")
    assert (ready.status, json.loads(ready.body)["problems"]) == (503, {"server": "it was told to stop"})
    assert (await app.ask("GET", "/v2/")).status == 200


async def test_upload_that_is_cut_off_is_parked(app: Running) -> None:
    begun = await app.ask("POST", "/v2/a/b/blobs/uploads/")
    first = await app.ask("PATCH", begun.headers["location"], body=b"0123456789")
    app.lifetime.drain.cut_off()
    cut = await app.ask("PATCH", first.headers["location"], body=b"abc")
    assert (cut.status, cut.error["code"]) == (503, "UNAVAILABLE")
    assert int(cut.headers["retry-after"]) > 0
    assert "status of the upload" in cut.error["message"]
    assert (await app.ask("GET", first.headers["location"])).headers["range"] == "0-9"


async def test_manifest_that_is_cut_off_is_to_be_sent_again(app: Running) -> None:
    app.lifetime.drain.cut_off()
    cut = await app.ask("PUT", "/v2/a/b/manifests/v1", body=b"{}")
    assert cut.status == 503
    assert "send it again" in cut.error["message"]
