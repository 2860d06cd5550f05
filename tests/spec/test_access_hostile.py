"""What a stranger, a pusher or a cache in front of the registry might make of its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.support.access import basic, htpasswd
from tests.support.api import Api
from tests.support.images import OCI_MANIFEST, digest_of
from tests.support.ports import wait_until
from tests.support.server import Server, assert_no_fault, bucketry
from tests.support.tls import make_client, make_tls

from bucketry.registry.manifests import MOST_TAGGED

PASSWORDS = {"alice": "canary-alice-77ab"}
HEADER = "X-Client-Cert"
MAPPED = '\n[certificates]\n"CN={laptop}" = "user:alice"\n"CN=spare" = "user:alice"\n'
RULES = """
users = "htpasswd"

[[rule]]
who = ["user:alice"]
repositories = ["**"]
allow = ["admin"]

[[rule]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]
"""
ALICE = {"Authorization": basic("alice", PASSWORDS["alice"])}
CONFIG = b"{}"


def image(annotation: str = "") -> bytes:
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(CONFIG), "size": len(CONFIG)}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
    return json.dumps({**document, "annotations": {"text": annotation}}).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    (made / "access.toml").write_text(RULES + MAPPED.format(laptop="old"))
    (made / "htpasswd").write_text(htpasswd(PASSWORDS))
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    settings = (f"access.certificate_header={HEADER}", "server.trusted_proxies=127.0.0.1/32", "access.reload=200ms")
    options = [
        "--access",
        str(folder / "access.toml"),
        "--workers",
        "1",
        *(word for one in settings for word in ("--set", one)),
    ]
    with bucketry(str(folder / "store"), folder / "server", options=options) as running:
        yield running
        assert_no_fault(running)


@pytest.fixture(scope="module")
def api(server: Server) -> Api:
    made = Api(server.port)
    for repository in ("public/app", "private/app"):
        target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(CONFIG)}"
        assert made.request("POST", target, CONFIG, ALICE).status == 201
        kind = {**ALICE, "Content-Type": OCI_MANIFEST}
        assert made.request("PUT", f"/v2/{repository}/manifests/v1", image(), kind).status == 201
    return made


def certificate(tmp_path: Path, name: str) -> dict[str, str]:
    (tmp_path / "authority").mkdir()
    file, _ = make_client(make_tls(tmp_path / "authority"), tmp_path / name, f"/CN={name}")
    return {HEADER: quote(file.read_text())}


@pytest.mark.parametrize("what", [f"manifests/{digest_of(image())}", f"blobs/{digest_of(CONFIG)}"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_was_given_to_somebody_is_kept_by_no_cache_that_others_use(
    api: Api, tmp_path: Path, what: str, method: str
) -> None:
    """Some caches keep answers to requests with Authorization, and a certificate is no header of the client's."""
    for headers in (ALICE, {**ALICE, "If-None-Match": "*"}, certificate(tmp_path, "old")):
        answer = api.request(method, f"/v2/private/app/{what}", b"", headers)
        assert answer.status in (200, 304)
        assert answer.header("Cache-Control") == "private, max-age=31536000, immutable"
    answer = api.request(method, f"/v2/public/app/{what}")
    assert (answer.status, answer.header("Cache-Control")) == (200, "max-age=31536000, immutable")


def test_a_token_ends_with_the_name_of_a_certificate_that_it_was_given_out_for(
    api: Api, server: Server, folder: Path, tmp_path: Path
) -> None:
    """The user has another certificate by then, and so is known still."""
    shown = certificate(tmp_path, "old")
    answer = api.request("GET", "/token?scope=repository:private/app:pull", b"", shown)
    token = {"Authorization": f"Bearer {answer.json()['token']}"}
    target = "/v2/private/app/manifests/v1"
    assert [api.request("GET", target, b"", headers).status for headers in (shown, token)] == [200, 200]
    try:
        (folder / "access.toml").write_text(RULES + MAPPED.format(laptop="new"))
        wait_until(
            lambda: api.request("GET", target, b"", shown).status == 404,
            seconds=10,
            what=server.log,
            alive=server.alive,
        )
        answer = api.request("GET", target, b"", token)
        assert answer.error() == (401, "UNAUTHORIZED")
        assert "user:alice is not known here any more" in answer.message
    finally:
        (folder / "access.toml").write_text(RULES + MAPPED.format(laptop="old"))


def test_one_push_does_not_write_a_manifest_any_number_of_times(api: Api) -> None:
    """Each tag is the manifest again: a request of 4 MiB would write gigabytes."""
    body = image("x" * (1 << 20))
    most = MOST_TAGGED // len(body)
    target = f"/v2/private/many/manifests/{digest_of(body)}?"
    headers = {**ALICE, "Content-Type": OCI_MANIFEST}
    tags = [f"tag=t{number}" for number in range(most + 1)]
    target_blob = f"/v2/private/many/blobs/uploads/?digest={digest_of(CONFIG)}"
    assert api.request("POST", target_blob, CONFIG, ALICE).status == 201
    answer = api.request("PUT", target + "&".join(tags), body, headers)
    assert answer.error()[0] == 413
    assert f"at most {most} of them at a time" in answer.message
    assert api.request("GET", "/v2/private/many/tags/list", b"", ALICE).error() == (404, "NAME_UNKNOWN")
    assert api.request("PUT", target + "&".join(tags[:most]), body, headers).status == 201
    # A small one may have as many as fit into the head of a request.
    assert (
        api.request(
            "PUT", target.replace(digest_of(body), digest_of(image())) + "&".join(tags), image(), headers
        ).status
        == 201
    )
