"""A site published to a folder and to a bucket, where no registry runs any more, and the servers that give it out."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.publish.content import Content, fill
from tests.store.seaweed import Seaweed, run_seaweed
from tests.support.clients import Client
from tests.support.moving import Mover, mover
from tests.support.ports import answers
from tests.support.server import assert_no_fault, bucketry
from tests.support.tls import Tls, make_tls
from tests.support.tools import search_path, tool
from tests.support.web import caddy, front, nginx

BUCKET, DOMAIN = "127", "0.0.1"
"""Together the address of this machine: a bucket that has a host of its own, with no name to resolve."""


@dataclass(frozen=True)
class Place:
    """Where a site is given out. ``host`` is ``127.0.0.1:port``."""

    server: str
    host: str
    tls: Tls | None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def tells_digests(self) -> bool:
        """Whether ``Docker-Content-Digest`` comes with a manifest, by tag as by digest."""
        return self.server in ("nginx", "caddy")

    @property
    def context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.tls.authority) if self.tls else None


@dataclass(frozen=True)
class Sites:
    """``access``: the log of nginx."""

    content: Content
    folder: Path
    bucket: Seaweed
    places: dict[str, Place]
    access: Path


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def bucket(tls: Tls) -> Iterator[Seaweed]:
    """A SeaweedFS whose one bucket anybody may read."""
    with run_seaweed(bucket=BUCKET, public=True, domain=DOMAIN, tls=tls) as server:
        yield server


@pytest.fixture(scope="session")
def publisher(tmp_path_factory: pytest.TempPathFactory, bucket: Seaweed) -> Mover:
    return mover(tmp_path_factory.mktemp("publisher"), **bucket.environ())


def bucket_places(bucket: Seaweed, tls: Tls) -> dict[str, Place]:
    return {
        "bucket": Place("bucket", f"127.0.0.1:{bucket.port}", None),
        "bucket tls": Place("bucket", f"127.0.0.1:{bucket.https_port}", tls),
    }


@pytest.fixture(scope="session")
def sites(
    tmp_path_factory: pytest.TempPathFactory, docker_host: str, publisher: Mover, bucket: Seaweed, tls: Tls
) -> Iterator[Sites]:
    """All that clients pushed to a registry, published twice; the registry has ended."""
    work = tmp_path_factory.mktemp("sites")
    folder = work / "site"
    home = work / "home"
    home.mkdir()
    env = {"PATH": search_path(), "HOME": str(home)}
    engine = Client(tool("docker"), {**env, "DOCKER_HOST": docker_host})
    with bucketry(str(work / "store"), work) as server:
        content = fill(server, engine, env, work)
        refs = [f"{server.host}/{item.name}" for item in content.items.values()]
        publisher("publish", *refs, "--to", folder)
        publisher("publish", *refs, "--to", f"s3://{bucket.bucket}")
        assert_no_fault(server)
    assert not answers(server.port, "/v2/")
    with ExitStack() as stack:
        by_nginx = stack.enter_context(nginx(folder, work / "nginx", tls))
        closed = stack.enter_context(front(bucket.port, work / "front"))
        by_caddy = stack.enter_context(caddy(folder, work / "caddy", tls))
        places = {
            "nginx": Place("nginx", f"127.0.0.1:{by_nginx.http}", None),
            "nginx tls": Place("nginx", f"127.0.0.1:{by_nginx.https}", tls),
            "caddy tls": Place("caddy", f"127.0.0.1:{by_caddy.https}", tls),
            **bucket_places(bucket, tls),
            "closed bucket": Place("bucket", f"127.0.0.1:{closed.http}", None),
        }
        yield Sites(content, folder, bucket, places, by_nginx.access)


@pytest.fixture
def content(sites: Sites) -> Content:
    return sites.content


@pytest.fixture
def place(sites: Sites, request: pytest.FixtureRequest) -> Place:
    return sites.places[request.param]


@pytest.fixture
def client_env(client_env: dict[str, str], tls: Tls) -> dict[str, str]:
    """Of clients that trust the tests' authority and nobody else."""
    return {**client_env, "SSL_CERT_FILE": str(tls.authority)}


@pytest.fixture
def crane(client_env: dict[str, str], place: Place) -> Client:
    return Client(tool("crane"), client_env, [] if place.tls else ["--insecure"])


@pytest.fixture
def regctl(client_env: dict[str, str], place: Place) -> Client:
    return Client(tool("regctl"), client_env, [] if place.tls else ["--host", f"reg={place.host},tls=disabled"])
