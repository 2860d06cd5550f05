"""Readers that stall do not keep a server from its store."""

from __future__ import annotations

import time
from pathlib import Path

from tests.store.seaweed import Seaweed
from tests.support.api import Api, Wire, noise
from tests.support.server import bucketry

CONFIG = """
[store]
max_connections = 4
deadline = 3
read_timeout = 3
"""


def test_downloads_that_stall_leave_connections_to_the_store_for_the_others(tmp_path: Path, seaweed: Seaweed) -> None:
    """Several ranges are proxied even where clients are redirected, and a proxied one goes as fast as its client."""
    store = f"s3://{seaweed.bucket}/stalled"
    with bucketry(store, tmp_path, config=CONFIG, options=["--workers", "1"], env=seaweed.environ()) as server:
        api = Api(server.port, timeout=10)
        digest = api.push_blob("a", noise("stalled", 40_000_000))
        manifest = api.push_image("a", "v1")
        stalled = [Wire(server.port) for _ in range(12)]
        try:
            for wire in stalled:
                wire.begin("GET", f"/v2/a/blobs/{digest}", {"Range": "bytes=0-20000000,20000002-39999999"})
                assert wire.socket.recv(100).startswith(b"HTTP/1.1 206")
            began = time.monotonic()
            assert api.get("/v2/a/manifests/v1").body == manifest
            assert api.get("/readyz").status == 200
            api.push_blob("a", b"small")
            assert time.monotonic() - began < 3
        finally:
            for wire in stalled:
                wire.close()
