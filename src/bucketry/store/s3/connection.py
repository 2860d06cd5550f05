"""What exists between a store's start and its close."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bucketry.store.observe import StoreObserver
from bucketry.store.s3.client import Client
from bucketry.store.s3.config import S3Settings
from bucketry.store.s3.credentials import Credentials, Surroundings
from bucketry.store.s3.endpoint import Address, resolve_address
from bucketry.store.s3.errors import Judge
from bucketry.store.s3.signing import Signer
from bucketry.store.s3.transport import Transport


@dataclass(frozen=True, slots=True)
class Connection:
    """``endpoint`` is where the service is, ``public`` where presigned URLs point to; ``signer`` signs them."""

    endpoint: str
    client: Client
    transport: Transport
    credentials: Credentials
    public: Address
    signer: Signer


def connect(
    settings: S3Settings,
    around: Surroundings,
    context: ssl.SSLContext | None,
    *,
    observer: StoreObserver,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    sleep: Callable[[float], Awaitable[object]],
    random: Callable[[], float],
) -> Connection:
    """Puts the parts together; nothing is sent yet. Needs a running event loop. Raises `ValueError`."""
    address = resolve_address(around.endpoint, settings.bucket, around.region, settings.addressing)
    public = address
    if settings.public_endpoint is not None:
        public = resolve_address(settings.public_endpoint, settings.bucket, around.region, settings.addressing)
    transport = Transport(
        address.origin,
        connections=settings.max_connections,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        context=context,
    )
    client = Client(
        address=address,
        credentials=around.credentials,
        transport=transport,
        judge=Judge(
            url=settings.url,
            origin=address.origin,
            bucket=settings.bucket,
            region=around.region,
            source=lambda: around.credentials.source,
            clock=clock,
        ),
        observer=observer,
        sign_payload=settings.sign_payload,
        retries=settings.retries,
        deadline=settings.deadline,
        clock=clock,
        monotonic=monotonic,
        sleep=sleep,
        random=random,
    )
    endpoint = around.endpoint.rstrip("/").lower()
    return Connection(endpoint, client, transport, around.credentials, public, Signer(around.region))
