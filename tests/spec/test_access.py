"""A registry with rules, as it is served: who gets in, what is let through, and what the others are told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.support.access import basic
from tests.support.api import Api
from tests.support.images import Image, make_image
from tests.support.server import Server, assert_no_fault, bucketry
from tests.transfer.command import Person

from bucketry.access import htpasswd_line

RULES = """
users = "htpasswd"

[[rule]]
who = ["user:alice"]
repositories = ["team/**"]
allow = ["pull", "push", "overwrite", "delete", "catalog"]

[[rule]]
who = ["user:bob"]
repositories = ["team/**"]
allow = ["pull", "push"]

[[rule]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]

[[rule]]
who = ["user:alice"]
repositories = ["public/**"]
allow = ["push"]

[[immutable]]
repositories = ["team/**"]
tags = ["v*"]
"""
PASSWORDS = {"alice": "canary-alice-5d1c", "bob": "canary-bob-90fe"}
IMAGE, OTHER = make_image(91, (300,)), make_image(92, (400,))
RELOAD = 0.2


def users(names: dict[str, str]) -> str:
    return "".join(f"{htpasswd_line(name, password, salt=bytes(16))}\n" for name, password in names.items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "access.toml").write_text(RULES)
    (tmp_path / "htpasswd").write_text(users(PASSWORDS))
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    options = ("--access", str(folder / "access.toml"), "--set", f"access.reload={RELOAD}s", "--workers", "2")
    with bucketry(str(folder / "store"), folder / "server", options=options) as running:
        yield running
        assert_no_fault(running)
        for password in PASSWORDS.values():
            assert password not in running.log()


def login(name: str) -> str:
    return basic(name, PASSWORDS[name])


def token(api: Api, name: str | None, *scopes: str, service: str = "bucketry") -> str:
    query = urlencode([("service", service), *(("scope", scope) for scope in scopes)])
    headers = {} if name is None else {"Authorization": login(name)}
    answer = api.request("GET", f"/token?{query}", headers=headers)
    assert answer.status == 200, answer.body
    document = json.loads(answer.body)
    assert document["token"] == document["access_token"]
    assert document["expires_in"] == 300
    return f"Bearer {document['token']}"


def push(api: Api, name: str, repository: str, tag: str, image: Image = IMAGE, *, path_tags: str = "") -> int:
    """Status of the manifest's PUT."""
    headers = {"Authorization": login(name)}
    for blob in (image.config, *image.layers):
        answer = api.request("POST", f"/v2/{repository}/blobs/uploads/?digest={blob.digest}", blob.data, headers)
        if answer.status != 201:
            return answer.status
    types = {**headers, "Content-Type": image.manifest.media_type}
    return api.request("PUT", f"/v2/{repository}/manifests/{tag}{path_tags}", image.manifest.data, types).status


def test_the_door_tells_clients_how_to_log_in(server: Server) -> None:
    api = Api(server.port)
    challenge = f'Bearer realm="http://{server.host}/token",service="bucketry"'
    for headers in ({}, {"Authorization": "Basic bm9ib2R5Om5vdGhpbmc="}, {"Authorization": "Bearer nothing"}):
        answer = api.request("GET", "/v2/", headers=headers)
        assert answer.error() == (401, "UNAUTHORIZED")
        assert answer.header("WWW-Authenticate").startswith(challenge)
    for credentials in (login("alice"), token(api, "alice"), token(api, None)):
        assert api.request("GET", "/v2/", headers={"Authorization": credentials}).status == 200


def test_what_is_allowed_works_and_what_is_not_says_what_is_missing(server: Server) -> None:
    api = Api(server.port)
    assert push(api, "alice", "team/app", "edge") == 201
    assert push(api, "alice", "public/tool", "latest") == 201

    assert api.get("/v2/public/tool/manifests/latest").status == 200
    answer = api.get("/v2/team/app/manifests/edge")
    assert answer.error() == (401, "UNAUTHORIZED")
    assert 'scope="repository:team/app:pull"' in answer.header("WWW-Authenticate")

    bob = {"Authorization": login("bob")}
    assert api.request("GET", "/v2/team/app/manifests/edge", headers=bob).status == 200
    answer = api.request("DELETE", "/v2/team/app/manifests/edge", headers=bob)
    assert answer.error() == (403, "DENIED")
    assert "user:bob may not delete from team/app" in answer.message
    answer = api.request("GET", "/v2/_catalog", headers=bob)
    assert answer.error() == (403, "DENIED")
    assert json.loads(api.request("GET", "/v2/_catalog", headers={"Authorization": login("alice")}).body) == {
        "repositories": ["public/tool", "team/app"]
    }


def test_a_private_repository_looks_like_one_that_is_not_there(server: Server) -> None:
    api = Api(server.port)
    assert push(api, "alice", "team/app", "edge") == 201
    other = {"Authorization": token(api, None)}
    for headers in ({}, other):
        there = api.request("GET", "/v2/team/app/tags/list", headers=headers)
        missing = api.request("GET", "/v2/team/nil/tags/list", headers=headers)
        assert (there.status, there.body.replace(b"app", b"nil")) == (missing.status, missing.body)
    bob = {"Authorization": login("bob")}
    there = api.request("GET", "/v2/public/tool/tags/list", headers=bob)
    assert there.status == 404  # Nothing is there; strangers, and so bob, may look.
    denied = [api.request("GET", f"/v2/{name}/manifests/x", headers=bob) for name in ("secret/a", "secret/b")]
    assert [answer.error() for answer in denied] == [(404, "NAME_UNKNOWN")] * 2


def test_a_tag_is_made_and_not_moved_without_the_right_and_an_immutable_one_by_nobody(server: Server) -> None:
    api = Api(server.port)
    assert push(api, "bob", "team/app", "edge") == 201
    assert push(api, "bob", "team/app", "edge") == 201
    assert push(api, "bob", "team/app", "edge", OTHER) == 403
    assert push(api, "alice", "team/app", "edge", OTHER) == 201
    assert push(api, "alice", "team/app", "v1") == 201
    assert push(api, "alice", "team/app", "v1", OTHER) == 403
    assert push(api, "alice", "team/app", OTHER.digest, OTHER, path_tags="?tag=fresh&tag=v1") == 403
    alice = {"Authorization": login("alice")}
    assert api.request("GET", "/v2/team/app/manifests/fresh", headers=alice).status == 404
    for reference in ("v1", IMAGE.digest):
        answer = api.request("DELETE", f"/v2/team/app/manifests/{reference}", headers=alice)
        assert answer.error() == (403, "DENIED")
        assert "immutable" in answer.message
    assert api.request("DELETE", "/v2/team/app/manifests/edge", headers=alice).status == 202


def test_a_token_is_good_for_what_it_was_asked_for_and_for_no_more_than_the_rules_allow(server: Server) -> None:
    api = Api(server.port)
    assert push(api, "alice", "team/app", "edge") == 201
    pulls = {"Authorization": token(api, "alice", "repository:team/app:pull")}
    assert api.request("GET", "/v2/team/app/manifests/edge", headers=pulls).status == 200
    answer = api.request("POST", "/v2/team/app/blobs/uploads/", b"", pulls)
    assert answer.error() == (401, "UNAUTHORIZED")
    assert 'scope="repository:team/app:pull,push",error="insufficient_scope"' in answer.header("WWW-Authenticate")
    assert api.request("GET", "/v2/team/b/tags/list", headers=pulls).status == 401
    greedy = {"Authorization": token(api, "bob", "repository:team/app:pull,push,delete repository:secret/x:pull,push")}
    assert api.request("DELETE", "/v2/team/app/manifests/edge", headers=greedy).status == 403
    assert api.request("GET", "/v2/secret/x/tags/list", headers=greedy).error() == (404, "NAME_UNKNOWN")
    assert api.request("GET", "/token?service=other", headers={"Authorization": login("bob")}).status == 400


def test_an_upload_is_its_beginners(server: Server) -> None:
    api = Api(server.port)
    begun = api.request("POST", "/v2/team/app/blobs/uploads/", b"", {"Authorization": login("alice")})
    where = begun.header("Location")
    for method, body in (("GET", b""), ("PATCH", b"x"), ("PUT", b"x"), ("DELETE", b"")):
        answer = api.request(method, where, body, {"Authorization": login("bob")})
        assert answer.status in (400, 404), method
        if method != "PUT":
            assert answer.error()[1] == "BLOB_UPLOAD_UNKNOWN"
    assert api.request("GET", where, headers={"Authorization": login("alice")}).status == 204


def test_a_blob_is_not_mounted_from_where_the_visitor_may_not_pull(server: Server) -> None:
    api = Api(server.port)
    assert push(api, "alice", "team/app", "edge") == 201
    layer = IMAGE.layers[0].digest
    mount = f"/v2/public/mine/blobs/uploads/?mount={layer}"
    alice, bob = ({"Authorization": login(name)} for name in ("alice", "bob"))
    assert api.request("POST", f"{mount}&from=team/app", b"", alice).status == 201
    assert api.request("POST", mount.replace("mine", "other"), b"", alice).status == 202
    assert api.request("POST", f"/v2/team/b/blobs/uploads/?mount={layer}&from=secret/x", b"", bob).status == 202


def test_rules_and_users_are_read_again_and_a_broken_file_changes_nothing(server: Server, folder: Path) -> None:
    api = Api(server.port)
    assert push(api, "alice", "team/app", "edge") == 201
    held = {"Authorization": token(api, "bob", "repository:team/app:pull")}
    wanted = "/v2/team/app/manifests/edge"
    assert api.request("GET", wanted, headers=held).status == 200

    (folder / "access.toml").write_text("[[rule]]\nwho = 'nobody'\n")
    time.sleep(4 * RELOAD)
    assert api.request("GET", wanted, headers=held).status == 200
    assert "the new rules are refused" in server.log()

    (folder / "access.toml").write_text(RULES.replace('who = ["user:bob"]', 'who = ["user:alice"]'))
    time.sleep(4 * RELOAD)
    assert {api.request("GET", wanted, headers=held).status for _ in range(6)} == {404}

    (folder / "access.toml").write_text(RULES)
    (folder / "htpasswd").write_text(users({"alice": PASSWORDS["alice"]}))
    time.sleep(4 * RELOAD)
    assert {api.request("GET", wanted, headers=held).status for _ in range(6)} == {401}
    assert api.request("GET", wanted, headers={"Authorization": login("bob")}).status == 401


def test_another_replica_takes_the_same_tokens(server: Server, folder: Path) -> None:
    held = {"Authorization": token(Api(server.port), "alice", "repository:team/app:push")}
    options = ("--access", str(folder / "access.toml"))
    with bucketry(str(folder / "store"), folder / "second", options=options) as second:
        answer = Api(second.port).request("POST", "/v2/team/app/blobs/uploads/", b"", held)
        assert answer.status == 202
        assert_no_fault(second)


def test_without_rules_only_this_machine_is_listened_to(tmp_path: Path) -> None:
    person = Person.at(tmp_path / "person")
    done = person.types("serve", "--listen", "0.0.0.0:0", "--store", tmp_path / "store")
    done.fails(1, "there are no rules", "--insecure-open", "secure-a-registry.md")
    (tmp_path / "access.toml").write_text("[[rule]]\nwho = 'nobody'\n")
    done = person.types(
        "serve", "--listen", "127.0.0.1:0", "--store", tmp_path / "store", "--access", tmp_path / "access.toml"
    )
    assert done.code == 1
    assert "access.toml" in done.err
