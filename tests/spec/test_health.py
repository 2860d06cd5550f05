"""What the owner of a server sees: health, readiness, metrics of all workers, the access log."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.spec.conftest import Running
from tests.store.seaweed import Seaweed
from tests.support.api import ABSENT, Api, Wire, noise
from tests.support.images import digest_of
from tests.support.server import bucketry, descendants


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers, and nobody else asks them."""
    folder = tmp_path_factory.mktemp("observed")
    with bucketry(str(folder / "store"), folder, options=["--workers", "2"]) as server:
        yield Running(Api(server.port), server, folder / "store")


def access_log(text: str) -> list[dict[str, Any]]:
    """The lines that are JSON objects; before them comes what a person reads."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def wait_for(holds: Callable[[], bool], *, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def becomes(value: float, api: Api, name: str, **labels: str) -> bool:
    """A request is counted when its answer has been sent, so that may be a moment after a client has it."""
    return wait_for(lambda: api.metric(name, **labels) == value)


def test_healthz_and_readyz_say_ok(api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        answer = api.get(path)
        assert (answer.status, answer.json()) == (200, {"status": "ok"})
        assert api.head(path).status == 200


def test_root_says_what_this_is(api: Api) -> None:
    assert b"container registry" in api.get("/").body


def test_base_says_that_this_is_a_registry(api: Api) -> None:
    answer = api.get("/v2/")
    assert answer.status == 200
    assert answer.header("Docker-Distribution-API-Version") == "registry/2.0"
    assert api.get("/v2").status == 200
    assert api.head("/v2/").status == 200


def test_metrics_count_the_requests_of_all_workers(observed: Running) -> None:
    api = observed.api
    assert len(descendants(observed.server.process.pid)) >= 2
    before = api.metric("bucketry_http_requests_total", route="base")
    for _ in range(40):
        assert api.get("/v2/").status == 200
    assert becomes(before + 40, api, "bucketry_http_requests_total", route="base")
    assert {api.metric("bucketry_http_requests_total", route="base") for _ in range(8)} == {before + 40}
    # With 40 connections both workers have had some: the answers above are sums.
    assert api.metric("bucketry_http_request_seconds_count", route="base", method="GET") == before + 40


def test_metrics_name_the_route_of_a_request_that_failed(observed: Running) -> None:
    api = observed.api
    for path, route in (
        ("/v2/a/manifests/none", "manifest"),
        (f"/v2/a/blobs/{ABSENT}", "blob"),
        ("/v2/a/tags/list", "tags"),
        ("/v2/a/blobs/uploads/x", "upload"),
    ):
        before = api.metric("bucketry_http_requests_total", route=route, status="404", method="GET")
        assert api.get(path).status == 404
        assert becomes(before + 1, api, "bucketry_http_requests_total", route=route, status="404", method="GET"), path


def test_metrics_do_not_grow_with_what_strangers_make_up(observed: Running) -> None:
    api = observed.api
    api.request("INVENTED0", "/v2/")
    before = len(api.get("/metrics").body.splitlines())
    for number in range(1, 20):
        assert api.request(f"INVENTED{number}", "/v2/").status == 405
        assert api.get(f"/v2/x{number}/manifests/y{number}").status == 404
    text = api.get("/metrics").body
    assert b"INVENTED" not in text
    assert len(text.splitlines()) <= before + 60  # The first 404 of manifests has a histogram of its own.
    for number in range(20, 40):
        api.request(f"INVENTED{number}", "/v2/")
    assert len(api.get("/metrics").body.splitlines()) == len(text.splitlines())


def test_metrics_count_store_calls_and_bytes(observed: Running) -> None:
    api = observed.api
    names = ("bucketry_store_requests_total", "bucketry_http_received_bytes_total", "bucketry_http_sent_bytes_total")
    received, sent = api.metric(names[1]), api.metric(names[2])
    puts = api.metric(names[0], operation="put", outcome="ok")
    data = noise("counted", 100_000)
    digest = api.push_blob("counted", data)
    assert api.metric(names[0], operation="put", outcome="ok") == puts + 3  # Its bytes, its record, its link.
    assert becomes(received + len(data), api, names[1])
    misses = api.metric(names[0], operation="get", outcome="notfound")
    assert api.head(f"/v2/counted/blobs/{ABSENT}").status == 404
    assert api.metric(names[0], operation="get", outcome="notfound") == misses + 1
    assert api.get(f"/v2/counted/blobs/{digest}", range="bytes=0-99999").body == data
    assert wait_for(lambda: api.metric(names[2]) >= sent + len(data))
    assert api.metric("bucketry_store_bytes_total", direction="sent") >= len(data)


def test_bytes_that_the_kernel_sends_are_counted_too(strict: Running) -> None:
    data = noise("whole", 200_000)
    digest = strict.api.push_blob("whole", data)
    before = strict.api.metric("bucketry_http_sent_bytes_total")
    assert strict.api.get(f"/v2/whole/blobs/{digest}", x_request_id="whole").body == data
    assert wait_for(lambda: '"whole"' in strict.server.log())
    (line,) = [line for line in access_log(strict.server.log()) if line.get("request_id") == "whole"]
    assert line["sent"] == len(data)
    assert strict.api.metric("bucketry_http_sent_bytes_total") >= before + len(data)
    head = strict.api.head(f"/v2/whole/blobs/{digest}", x_request_id="headed")
    assert head.header("Content-Length") == str(len(data))
    assert wait_for(lambda: "headed" in strict.server.log())
    (line,) = [line for line in access_log(strict.server.log()) if line.get("request_id") == "headed"]
    assert line["sent"] == 0


def test_uploads_in_flight_go_up_and_down(observed: Running) -> None:
    api = observed.api
    location = api.begin("flying")
    with api.wire() as wire:
        wire.begin("PATCH", location, {"Content-Length": "20"})
        wire.send(b"0123456789")
        assert wait_for(lambda: api.metric("bucketry_uploads_in_flight") == 1)
        assert api.metric("bucketry_upload_buffer_bytes") >= 0
        wire.send(b"0123456789")
        assert wire.answer("PATCH").status == 202
    assert wait_for(lambda: api.metric("bucketry_uploads_in_flight") == 0)


def test_worker_that_died_is_replaced_and_leaves_nothing_in_flight(observed: Running) -> None:
    api = observed.api
    location = api.begin("dying")
    before = set(descendants(observed.server.process.pid))
    with api.wire() as wire:
        wire.begin("PATCH", location, {"Content-Length": "20"})
        wire.send(b"0123456789")
        assert wait_for(lambda: api.metric("bucketry_uploads_in_flight") == 1)
        for pid in workers(before):
            if connections_of(pid) & {wire.socket.getsockname()[1]}:
                os.kill(pid, signal.SIGKILL)
        assert wire.rest() == b""
    assert wait_for(lambda: set(descendants(observed.server.process.pid)) - before != set())
    assert wait_for(lambda: answers_in_a_row(api, 10))
    assert api.metric("bucketry_uploads_in_flight") == 0
    assert api.metric("bucketry_http_requests_in_flight") == 1  # The one that asks.


def answers_in_a_row(api: Api, count: int) -> bool:
    try:
        return all(api.get("/readyz").status == 200 for _ in range(count))
    except OSError:
        return False


def workers(pids: set[int]) -> list[int]:
    return sorted(pids)


def connections_of(pid: int) -> set[int]:
    """Ports of the other side of a process's established connections on 127.0.0.1."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            continue
        if found:
            inodes.add(found[1])
    ports = set()
    with open("/proc/net/tcp") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                ports.add(int(fields[2].partition(":")[2], 16))
    return ports


def test_access_log_is_one_object_a_request_with_its_id(strict: Running) -> None:
    api = strict.api
    for number in range(3):
        assert api.get(f"/v2/logged/{number}/tags/list", x_request_id=f"mine-{number}").status == 404
    assert wait_for(lambda: "mine-2" in strict.server.log())
    lines = [line for line in access_log(strict.server.log()) if line.get("request_id", "").startswith("mine-")]
    assert [line["request_id"] for line in lines] == ["mine-0", "mine-1", "mine-2"]
    for number, line in enumerate(lines):
        assert line["event"] == "request"
        assert (line["method"], line["path"], line["status"]) == ("GET", f"/v2/logged/{number}/tags/list", 404)
        assert line["client"] == "127.0.0.1"
        assert line["error"] == f"there is no repository logged/{number}"
        assert 0 <= line["seconds"] < 10
        assert line["received"] == 0
        assert line["sent"] > 0


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a;b", '"', "é"])
def test_request_id_that_is_none_is_replaced(given: str, api: Api) -> None:
    answer = api.get("/v2/", **({"x_request_id": given} if given else {}))
    assert re.fullmatch("[0-9a-f]{16}", answer.header("X-Request-Id"))


def test_request_id_is_echoed_on_success_and_failure(api: Api) -> None:
    assert api.get("/v2/", x_request_id="abc-DEF_1.2").header("X-Request-Id") == "abc-DEF_1.2"
    assert api.get("/v2/x", x_request_id="abc-DEF_1.2").header("X-Request-Id") == "abc-DEF_1.2"


def test_no_secret_reaches_the_log(proxying: Running, seaweed: Seaweed) -> None:
    """CVE-2025-48374, and what S3 adds: presigned URLs are as good as passwords."""
    api = proxying.api
    digest = api.push_blob("secret", noise("secret", 300_000))
    redirect = api.get(f"/v2/secret/blobs/{digest}", x_forwarded_for="10.1.1.1", authorization="Basic c2VjcmV0OnB3")
    assert redirect.status == 307
    signature = re.search("X-Amz-Signature=([0-9a-f]+)", redirect.header("Location"))
    assert signature is not None
    api.get("/v2/secret/tags/list?token=hidden", authorization="Bearer eyJhbGciOi", cookie="session=hidden")
    api.get("/v2/", x_request_id="the-last")
    assert wait_for(lambda: "the-last" in proxying.server.log())
    log = proxying.server.log()
    for secret in (seaweed.secret_key, signature[1], "c2VjcmV0OnB3", "eyJhbGciOi", "hidden"):
        assert secret not in log


def test_what_a_stranger_sends_stays_on_one_line_of_the_log(strict: Running) -> None:
    api = strict.api
    api.get("/v2/%0a%7b%22event%22:%22forged%22%7d/tags/list", x_request_id="forger")
    api.get("/v2/%1b%5b31m%00%e2%80%ae/tags/list", user_agent="a\tb", x_request_id="painter")
    assert wait_for(lambda: "painter" in strict.server.log())
    log = strict.server.log()
    assert not [line for line in access_log(log) if line["event"] == "forged"]
    (line,) = [line for line in access_log(log) if line.get("request_id") == "forger"]
    assert line["path"] == '/v2/\n{"event":"forged"}/tags/list'
    assert "\x1b" not in log


def test_log_for_people_has_no_control_characters_of_strangers(tmp_path: Path) -> None:
    config = '[log]\nformat = "text"\n'
    with bucketry(str(tmp_path / "store"), tmp_path, config=config, options=["--workers", "1"]) as server:
        Api(server.port).get("/v2/%0aforged%1b%5b31m%e2%80%ae%c2%9b/tags/list")
        assert wait_for(lambda: "forged" in server.log())
        (line,) = [line for line in server.log().splitlines() if "forged" in line]
        assert r"GET /v2/\nforged\x1b[31m\u202e\x9b/tags/list 400" in line
        assert server.log().replace("\n", "").isprintable()


def test_client_that_leaves_is_499_in_log_and_metrics(strict: Running) -> None:
    api = strict.api
    before = api.metric("bucketry_http_requests_total", route="upload", status="499")
    wire = Wire(strict.server.port)
    wire.begin("PATCH", api.begin("leaving"), {"Content-Length": "20", "X-Request-Id": "leaver"})
    wire.send(b"0123456789")
    time.sleep(0.2)
    wire.close()
    assert wait_for(lambda: api.metric("bucketry_http_requests_total", route="upload", status="499") == before + 1)
    (line,) = [line for line in access_log(strict.server.log()) if line.get("request_id") == "leaver"]
    assert (line["status"], line["received"]) == (499, 10)


def test_every_digest_in_the_log_is_of_the_path(observed: Running) -> None:
    """Queries are not logged: they may carry what is nobody's business."""
    digest = digest_of(b"of the query")
    observed.api.post(f"/v2/a/blobs/uploads/?digest={digest}", b"of the query")
    assert digest not in observed.server.log()
