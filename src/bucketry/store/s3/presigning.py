"""URLs that let whoever has them do one thing with one object, for a while."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bucketry.store import checks
from bucketry.store.contract import IF_ABSENT, OCTET_STREAM, PresignedPut, Unsupported
from bucketry.store.s3.checksums import HEADERS
from bucketry.store.s3.config import S3Settings
from bucketry.store.s3.connection import Connection
from bucketry.store.s3.headers import at_rest, conditions
from bucketry.store.s3.signing import MAX_EXPIRES
from bucketry.store.s3.uploads import upload_name

_RESPONSE_HEADERS = ("cache-control", "content-type")


def sums_parts(settings: S3Settings) -> bool:
    """Whether the store is to get a checksum with every part, which nobody knows of a part that is yet to come."""
    return settings.checksum not in ("auto", "none")


@dataclass(frozen=True, slots=True)
class Presigning:
    """Of keys below the settings' root, for the public endpoint. ``clock`` gives POSIX seconds."""

    settings: S3Settings
    connection: Connection
    clock: Callable[[], float]

    async def get(self, key: str, expires: float, response_headers: Mapping[str, str]) -> str:
        checks.check_key(key)
        query: list[tuple[str, str]] = []
        for name, value in response_headers.items():
            if name.lower() not in _RESPONSE_HEADERS:
                raise ValueError(f"a presigned URL cannot set {name}")
            query.append((f"response-{name.lower()}", value))
        return await self._url("GET", key, query, expires)

    async def part(self, key: str, upload_id: str, number: int, expires: float) -> str:
        checks.check_bulk_key(key)
        checks.check_part_number(number)
        settings = self.settings
        if sums_parts(settings):
            raise Unsupported(
                f"{settings.url} has checksum={settings.checksum}, which goes with every part, "
                "so parts cannot be sent straight to it: set checksum=auto"
            )
        query = (("partNumber", str(number)), ("uploadId", upload_name(settings.url, upload_id)))
        return await self._url("PUT", key, query, expires)

    async def put(self, key: str, size: int, sha256: bytes, expires: float) -> PresignedPut:
        checks.check_presigned_put(key, size, sha256)
        headers = {
            "content-length": str(size),
            "content-type": OCTET_STREAM,
            **conditions(IF_ABSENT),
            HEADERS["sha256"]: b64encode(sha256).decode(),
            **at_rest(self.settings, bulk=checks.is_bulk(key)),
        }
        return PresignedPut(await self._url("PUT", key, (), expires, headers), MappingProxyType(headers))

    async def _url(
        self,
        method: str,
        key: str,
        query: Iterable[tuple[str, str]],
        expires: float,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        if not 0 < expires <= MAX_EXPIRES:
            raise ValueError(f"a presigned URL cannot be valid for {expires} seconds: at most {MAX_EXPIRES}")
        connection = self.connection
        identity = await connection.credentials.lasting(expires)
        if identity is None:
            raise Unsupported(f"{self.settings.url} cannot presign: it is used without credentials")
        address = connection.public
        path = address.key_path(self.settings.root + key)
        signed = connection.signer.presign(
            identity,
            method,
            address.host,
            path,
            query,
            expires=math.ceil(expires),
            now=self.clock(),
            headers=headers,
        )
        return f"{address.origin}{path}?{signed}"
