"""Robots from their making to their end: made and revoked by the command line, known to servers that run meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.store.seaweed import Seaweed
from tests.support.access import basic as basic_value
from tests.support.api import Api
from tests.support.images import make_image
from tests.support.server import Server, assert_no_fault, bucketry
from tests.transfer.command import Person

RULES = """
[[rule]]
who = ["robot:ci"]
allow = ["catalog"]

[[rule]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]
"""
IMAGE = make_image(71, (300,))
RELOAD = 0.3


@dataclass(frozen=True)
class Place:
    """Where everything is kept, and the variables by which it is reached."""

    url: str
    env: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(str(tmp_path / "store"))
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    return Place(f"s3://{seaweed.bucket}/{tmp_path.name}", seaweed.environ())


@pytest.fixture
def server(place: Place, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "access.toml").write_text(RULES)
    options = ("--access", str(tmp_path / "access.toml"), "--set", f"access.reload={RELOAD}s", "--workers", "2")
    with bucketry(place.url, tmp_path / "server", options=options, env=place.env) as running:
        yield running
        assert_no_fault(running)
        assert "bktr_ci" not in running.log()


@pytest.fixture
def person(place: Place, tmp_path: Path) -> Person:
    person = Person.at(tmp_path / "person")
    return Person(person.folder, {**person.environ, **place.env})


def basic(password: str, name: str = "anything") -> dict[str, str]:
    return {"Authorization": basic_value(name, password)}


def made(person: Person, place: Place, *options: str) -> str:
    done = person.types("token", "create", "ci", *options, "--store", place.url, "-q")
    assert done.code == 0, done.err
    return done.out.removesuffix("\n")


def push(api: Api, headers: dict[str, str], repository: str) -> int:
    for blob in (IMAGE.config, *IMAGE.layers):
        answer = api.request("POST", f"/v2/{repository}/blobs/uploads/?digest={blob.digest}", blob.data, headers)
        if answer.status != 201:
            return answer.status
    types = {**headers, "Content-Type": IMAGE.manifest.media_type}
    return api.request("PUT", f"/v2/{repository}/manifests/v1", IMAGE.manifest.data, types).status


def test_a_robot_may_what_its_list_says_and_rules_add_to_it(server: Server, person: Person, place: Place) -> None:
    api = Api(server.port)
    token = made(person, place, "--repository", "team/*", "--allow", "pull,push", "--expires", "90d")
    assert push(api, basic(token), "team/app") == 201
    assert push(api, {"Authorization": f"Bearer {token}"}, "team/app") == 201
    assert push(api, basic(token), "other/app") == 403
    answer = api.request("DELETE", "/v2/team/app/manifests/v1", headers=basic(token))
    assert answer.error() == (403, "DENIED")
    assert "robot:ci may not delete from team/app" in answer.message
    answer = api.request("GET", "/v2/_catalog", headers=basic(token))
    assert json.loads(answer.body) == {"repositories": ["team/app"]}
    answer = api.request(
        "GET", "/token?service=bucketry&scope=repository:team/app:pull,push,delete", None, basic(token)
    )
    assert answer.json()["scope"] == "repository:team/app:pull,push"


def test_a_token_that_is_not_whole_is_told_from_one_that_is_wrong(server: Server, person: Person, place: Place) -> None:
    api = Api(server.port)
    token = made(person, place, "--repository", "team/*", "--allow", "pull")
    cut = api.request("GET", "/v2/", headers=basic(token[:-1]))
    assert cut.error() == (401, "UNAUTHORIZED")
    assert "cut off or mistyped" in cut.message
    assert token[:-1] not in cut.message
    assert person.types("token", "revoke", "ci", "--store", place.url).code == 0
    other = made(person, place, "--repository", "team/*", "--allow", "pull")
    time.sleep(RELOAD)
    wrong = api.request("GET", "/v2/", headers=basic(token))
    assert wrong.error() == (401, "UNAUTHORIZED")
    assert "no robot's of this registry" in wrong.message
    assert api.request("GET", "/v2/", headers=basic(other)).status == 200


def test_a_revoked_robot_is_refused_in_time_and_so_is_what_its_token_got(
    server: Server, person: Person, place: Place
) -> None:
    api = Api(server.port)
    token = made(person, place, "--repository", "team/*", "--allow", "pull,push")
    got = api.request("GET", "/token?service=bucketry&scope=repository:team/app:pull,push", None, basic(token)).json()
    bearer = {"Authorization": f"Bearer {got['token']}"}
    assert push(api, bearer, "team/app") == 201
    revoked = person.types("token", "revoke", "ci", "--store", place.url)
    assert revoked.code == 0
    time.sleep(RELOAD + 0.1)
    for headers in (basic(token), bearer):
        for _ in range(4):  # so that both workers answer
            answer = api.request("GET", "/v2/team/app/manifests/v1", headers=headers)
            assert answer.error() == (401, "UNAUTHORIZED")
    assert "revoked: ask for another" in api.request("GET", "/v2/", headers=basic(token)).message


def test_an_expired_robot_is_refused(server: Server, person: Person, place: Place) -> None:
    token = made(person, place, "--repository", "team/*", "--allow", "pull", "--expires", "1s")
    time.sleep(1.1)
    answer = Api(server.port).request("GET", "/v2/", headers=basic(token))
    assert answer.error() == (401, "UNAUTHORIZED")
    assert "expired: ask for another" in answer.message


def test_who_may_only_read_the_bucket_makes_no_robot(seaweed: Seaweed, tmp_path: Path) -> None:
    url = f"s3://{seaweed.bucket}/{tmp_path.name}"
    person = Person.at(tmp_path / "person")
    with bucketry(url, tmp_path / "server", env=seaweed.environ()):
        pass
    reader = {"AWS_ACCESS_KEY_ID": seaweed.reader_access_key, "AWS_SECRET_ACCESS_KEY": seaweed.reader_secret_key}
    env = {**seaweed.environ(), **reader}
    options = ("--repository", "team/*", "--allow", "pull", "--store", url)
    done = person.types("token", "create", "ci", *options, env=env)
    done.fails(1, url, secrets=[seaweed.reader_secret_key])
    assert done.out == ""
