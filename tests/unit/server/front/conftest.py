"""Certificates and contexts for tests of fronts, made once."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from tests.support.tls import Tls, make_client, make_tls
from tests.unit.server.front.stage import Client, Stage

from bucketry.server.front.contexts import Keys, Terms, server_context


@dataclass(frozen=True)
class Contexts:
    tls: Tls
    client_files: tuple[str, str]

    def keys(self, *, authorities: bool = False) -> Keys:
        ca = self.tls.authority.read_bytes() if authorities else None
        return Keys(self.tls.certificate.read_bytes(), self.tls.key.read_bytes(), ca)

    def server(self, *, authorities: bool = False, required: bool = False, http2: bool = False) -> ssl.SSLContext:
        return server_context(self.keys(authorities=authorities), Terms("1.2", required, http2))

    def client(self, *, shows: bool = False, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.tls.authority))
        if shows:
            context.load_cert_chain(*self.client_files)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    folder = tmp_path_factory.mktemp("fronts")
    tls = make_tls(folder)
    certificate, key = make_client(tls, folder / "client")
    return Contexts(tls, (str(certificate), str(key)))


Set = Callable[..., tuple[Stage, Client]]


@pytest.fixture
def play(contexts: Contexts) -> Iterator[Set]:
    """A stage and a client that has agreed on TLS. ``alpn``: the protocols it offers; others as `Stage` has them."""
    stages: list[Stage] = []

    def make(*, alpn: tuple[str, ...] = (), agree: bool = True, **options: int) -> tuple[Stage, Client]:
        stage = Stage(contexts.server(http2="h2" in alpn), **options)  # type: ignore[arg-type]
        stages.append(stage)
        client = Client(stage, contexts.client(alpn=alpn))
        return stage, client.agree() if agree else client

    yield make
    for stage in stages:
        stage.close()
