"""What the scripted registries of these tests hold, and one that gives tokens."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

from aiohttp import web
from tests.unit.transfer.remote.conftest import PASSWORD, USER
from tests.unit.transfer.remote.scripted import Asked, Scripted, challenge, error

from bucketry.oci import Descriptor, Digest, media_types

BODY = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST = "/v2/team/app/manifests/v1"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
LAYER = bytes(range(256)) * 4096
BLOB = Descriptor(media_type=media_types.OCI_LAYER, digest=str(Digest.of(LAYER)), size=len(LAYER))
BLOB_PATH = f"/v2/team/app/blobs/{BLOB.digest}"
UPLOADS = "/v2/team/app/blobs/uploads/"


async def pieces(data: bytes = LAYER, size: int = 100_000) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


def manifest() -> web.Response:
    return web.Response(body=BODY, content_type=TYPE)


class TokenRegistry:
    """A registry that takes the tokens it gave, as long as they are good."""

    def __init__(self, server: Scripted, *, expires: float = 300) -> None:
        self.server = server
        self.expires = expires
        self.good: set[str] = set()
        self.count = 0
        self.users: tuple[str | None, ...] = (BASIC,)
        server.on("GET", "/token", self.token)
        server.on("GET", MANIFEST, self.guarded)

    @property
    def challenge(self) -> str:
        return f'Bearer realm="{self.server.url}/token",service="the service",scope="repository:team/app:pull"'

    def token(self, asked: Asked) -> web.Response:
        if asked.authorization not in self.users:
            return error(401, "UNAUTHORIZED", "no such user")
        self.count += 1
        self.good.add(f"token-{self.count}")
        return web.json_response({"token": f"token-{self.count}", "expires_in": self.expires})

    def guarded(self, asked: Asked) -> web.Response:
        if (asked.authorization or "").removeprefix("Bearer ") in self.good:
            return manifest()
        return challenge(self.challenge)
