"""An immutable tag holds all that it means: over HTTP, nobody breaks its image by any request, whatever they may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.spec.test_access import users
from tests.store.seaweed import Seaweed
from tests.support.access import basic
from tests.support.api import Answer, Api
from tests.support.images import OCI_INDEX, OCI_MANIFEST, digest_of
from tests.support.server import Server, assert_no_fault, bucketry

RULES = """
users = "htpasswd"

[[rule]]
who = ["user:alice"]
repositories = ["**"]
allow = ["admin"]

[[rule]]
who = ["user:bob"]
repositories = ["team/**"]
allow = ["pull", "push", "overwrite", "delete"]

[[immutable]]
repositories = ["team/**"]
tags = ["v*"]
"""
PASSWORDS = {"alice": "canary-alice-5d1c", "bob": "canary-bob-90fe"}
VENDOR = "application/vnd.example.thing+json"


def described(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def image(*layers: bytes, typed: bool = True) -> bytes:
    document = {
        "schemaVersion": 2,
        "config": described(CONFIG, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers],
    }
    return json.dumps({**document, "mediaType": OCI_MANIFEST} if typed else document).encode()


def index(*children: tuple[bytes, str]) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [described(*child) for child in children]}
    return json.dumps(document).encode()


CONFIG, ONE, SHARED, DEEP = b"{}", b"one" * 40, b"shared" * 40, b"deep" * 40
CHILD, GRANDCHILD, UNTYPED = image(ONE, SHARED), image(DEEP), image(ONE, typed=False)
INNER = index((GRANDCHILD, OCI_MANIFEST))
TOP = index((CHILD, OCI_MANIFEST), (INNER, OCI_INDEX), (UNTYPED, OCI_MANIFEST))
MUTABLE = image(SHARED)
BLOBS = {"config": CONFIG, "layer of a child": ONE, "layer of a mutable tag too": SHARED, "layer deep below": DEEP}
MANIFESTS = {"child": CHILD, "inner index": INNER, "grandchild": GRANDCHILD, "the index": TOP}


class Team:
    """Requests by one of the users."""

    def __init__(self, server: Server, who: str) -> None:
        self._api, self._headers = Api(server.port), {"Authorization": basic(who, PASSWORDS[who])}

    def ask(self, method: str, target: str, body: bytes = b"", kind: str | None = None) -> Answer:
        headers = self._headers if kind is None else {**self._headers, "Content-Type": kind}
        return self._api.request(method, f"/v2/{target}", body, headers)

    def blob(self, repository: str, data: bytes) -> None:
        assert self.ask("POST", f"{repository}/blobs/uploads/?digest={digest_of(data)}", data).status == 201

    def manifest(self, repository: str, reference: str, body: bytes, kind: str = OCI_MANIFEST) -> Answer:
        return self.ask("PUT", f"{repository}/manifests/{reference}", body, kind)

    def fill(self, repository: str, tag: str) -> None:
        for data in BLOBS.values():
            self.blob(repository, data)
        for body in (CHILD, GRANDCHILD, UNTYPED):
            assert self.manifest(repository, digest_of(body), body).status == 201
        assert self.manifest(repository, digest_of(INNER), INNER, OCI_INDEX).status == 201
        assert self.manifest(repository, tag, TOP, OCI_INDEX).status == 201
        assert self.manifest(repository, "edge", MUTABLE).status == 201

    def assert_whole(self, repository: str, tag: str = "v1") -> None:
        answer = self.ask("GET", f"{repository}/manifests/{tag}")
        assert (answer.status, answer.body) == (200, TOP)
        kinds = {TOP: OCI_INDEX, INNER: OCI_INDEX, CHILD: OCI_MANIFEST, GRANDCHILD: OCI_MANIFEST, UNTYPED: OCI_MANIFEST}
        for body, kind in kinds.items():
            answer = self.ask("GET", f"{repository}/manifests/{digest_of(body)}")
            assert (answer.status, answer.body, answer.header("Content-Type")) == (200, body, kind)
        for data in BLOBS.values():
            answer = self.ask("GET", f"{repository}/blobs/{digest_of(data)}")
            assert (answer.status, answer.body) == (200, data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("immutable")
    (made / "access.toml").write_text(RULES)
    (made / "htpasswd").write_text(users(PASSWORDS))
    return made


@pytest.fixture(scope="module", params=["folder", "s3"])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[Server]:
    options = ("--access", str(folder / "access.toml"), "--workers", "2", "--set", "delivery.mode=proxy")
    store, env = str(folder / "store"), None
    if request.param == "s3":
        seaweed: Seaweed = request.getfixturevalue("seaweed")
        store, env = f"s3://{seaweed.bucket}/immutable", seaweed.environ()
    with bucketry(store, folder / f"server-{request.param}", options=options, env=env) as running:
        yield running
        assert_no_fault(running)


@pytest.fixture(params=["alice", "bob"])
def team(request: pytest.FixtureRequest, server: Server) -> Team:
    """Who may do everything, and who may delete."""
    return Team(server, request.param)


def targets(repository: str) -> dict[str, str]:
    return {
        **{what: f"{repository}/blobs/{digest_of(data)}" for what, data in BLOBS.items()},
        **{what: f"{repository}/manifests/{digest_of(body)}" for what, body in MANIFESTS.items()},
        "the tag": f"{repository}/manifests/v1",
    }


def test_nothing_below_an_immutable_tag_is_deleted_by_anybody(team: Team) -> None:
    repository = "team/held"
    team.fill(repository, "v1")
    for what, target in targets(repository).items():
        answer = team.ask("DELETE", target)
        assert answer.error() == (403, "DENIED"), what
        assert f"the tag v1 of {repository} is immutable by the rules" in answer.message
        assert answer.json()["errors"][0]["detail"]["tag"] == "v1"
        team.assert_whole(repository)
    assert team.ask("DELETE", f"{repository}/manifests/edge").status == 202
    assert team.ask("DELETE", f"{repository}/manifests/{digest_of(MUTABLE)}").status == 202


@pytest.mark.parametrize(("repository", "tag"), [("team/free", "edge2"), ("other/free", "v1")])
def test_what_is_below_other_tags_is_deleted(server: Server, repository: str, tag: str) -> None:
    """Also the very same blobs that an immutable tag of another repository holds."""
    alice = Team(server, "alice")
    alice.fill("team/beside", "v1")
    alice.fill(repository, tag)
    for what, target in targets(repository).items():
        assert alice.ask("DELETE", target).status == (404 if what == "the tag" else 202), what
    alice.assert_whole("team/beside")


def test_no_push_breaks_an_immutable_tag(team: Team) -> None:
    repository = "team/pushed"
    team.fill(repository, "v1")
    for reference in ("v1", f"{digest_of(MUTABLE)}?tag=v1", f"{digest_of(MUTABLE)}?tag=x&tag=v1"):
        assert team.manifest(repository, reference, MUTABLE).error() == (403, "DENIED")
    for reference in (digest_of(UNTYPED), "fresh", f"{digest_of(UNTYPED)}?tag=v2"):
        answer = team.manifest(repository, reference, UNTYPED, VENDOR)
        assert answer.error() == (403, "DENIED")
        assert f"push it with the Content-Type {OCI_MANIFEST}" in answer.message
    assert team.manifest(repository, "fresh", UNTYPED).status == 201
    assert team.ask("POST", f"{repository}/blobs/uploads/?mount={digest_of(ONE)}&from=team/held").status in (201, 202)
    team.assert_whole(repository)


def test_the_parallel_extension_and_uploads_that_are_cancelled_break_none(team: Team) -> None:
    repository = "team/parallel"
    team.fill(repository, "v1")
    for document in ({"size": len(ONE), "digest": digest_of(ONE)}, {"size": len(ONE)}):
        begun = team.ask("POST", f"{repository}/_bucketry/uploads", json.dumps(document).encode())
        assert begun.status in (200, 201), begun
        session = begun.json().get("session")
        if session is not None:
            assert team.ask("PUT", f"{repository}/_bucketry/uploads/{session}/parts/1", b"x" * len(ONE)).status < 300
            complete = json.dumps({"digest": digest_of(ONE), "size": len(ONE)}).encode()
            answer = team.ask("POST", f"{repository}/_bucketry/uploads/{session}/complete", complete)
            assert answer.error() == (400, "DIGEST_INVALID")
            assert team.ask("DELETE", f"{repository}/_bucketry/uploads/{session}").status < 500
    for target in (f"{repository}/_bucketry/checkpoints/{digest_of(ONE)}", f"{repository}/referrers/{digest_of(TOP)}"):
        assert team.ask("DELETE", target).status in (404, 405), target
    begun = team.ask("POST", f"{repository}/blobs/uploads/")
    where = begun.header("Location").partition("/v2/")[2]
    assert team.ask("PUT", f"{where}?digest={digest_of(ONE)}", b"x").error() == (400, "DIGEST_INVALID")
    team.ask("DELETE", where)
    team.assert_whole(repository)


def test_pushes_of_immutable_tags_against_deletes_of_what_they_name(server: Server) -> None:
    """A push that was acknowledged is whole, whichever was first."""
    alice, bob = Team(server, "alice"), Team(server, "bob")
    ends: set[tuple[int, int]] = set()
    for number in range(30):
        repository, layer = "team/race", f"layer {number} ".encode() * 20
        body = image(layer)
        for data in (CONFIG, layer):
            alice.blob(repository, data)
        with ThreadPoolExecutor(2) as pool:
            pushed = pool.submit(alice.manifest, repository, f"v{number}", body)
            deleted = pool.submit(bob.ask, "DELETE", f"{repository}/blobs/{digest_of(layer)}")
        ends.add((pushed.result().status, deleted.result().status))
        if pushed.result().status == 201:
            answer = alice.ask("GET", f"{repository}/blobs/{digest_of(layer)}")
            assert (answer.status, answer.body) == (200, layer), number
        else:
            assert alice.ask("GET", f"{repository}/manifests/v{number}").status == 404
    assert ends <= {(201, 403), (404, 202), (404, 403)}, ends
