"""What is another's: repositories, blobs and uploads of which a stranger gets nothing."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from tests.support.access import World, seeded
from tests.support.api import ABSENT, image
from tests.support.images import digest_of


def test_cve_2026_35172_what_was_deleted_in_a_and_is_read_in_b_stays_deleted_in_a(world: World) -> None:
    """CVE-2026-35172: what one repository has of a blob says nothing of another that has it no more."""
    data = seeded("deleted in a")
    for who, repository in (("alice", "a/gone"), ("bob", "b/kept")):
        digest = world.blob(who, repository, data)
    assert world("alice", "DELETE", f"/v2/a/gone/blobs/{digest}").status == 202
    for _ in range(4):  # Of either worker, before and after the other has it in whatever it remembers.
        for method in ("GET", "HEAD"):
            assert world("bob", method, f"/v2/b/kept/blobs/{digest}").status in (200, 307)
            assert world("alice", method, f"/v2/a/gone/blobs/{digest}").status == 404
    answer = world("bob", "POST", f"/v2/b/more/blobs/uploads/?mount={digest}&from=a/gone")
    assert answer.status == 202
    answer = world("alice", "POST", f"/v2/a/other/blobs/uploads/?mount={digest}&from=a/gone")
    assert answer.status == 202


@pytest.mark.parametrize("way", ["basic", "token"])
def test_cve_2024_39897_a_stranger_reads_and_mounts_nothing_of_a_private_repository(world: World, way: str) -> None:
    """CVE-2024-39897: who knows a digest has not got its bytes, by no way of mounting."""
    data = seeded("secret of alice", way)
    digest = world.blob("alice", "a/private", data)
    assert world.image("alice", "a/private", "edge", way, (data,)).status == 201
    scopes = ("repository:b/mine:pull,push,delete", "repository:a/private:pull,push", "repository:a/private:*")
    bob = "bob" if way == "basic" else world.token("bob", *scopes)
    uploads = "/v2/b/mine/blobs/uploads/"
    for target in (
        f"{uploads}?mount={digest}&from=a/private",
        f"{uploads}?mount={digest}",
        f"{uploads}?mount={digest}&from=a/private&from=b/mine",
        f"{uploads}?mount={digest}&from=b/mine&from=a/private",
        f"{uploads}?mount={digest}&from=b/mine",
        f"{uploads}?from=a/private&mount={quote(digest)}",
        f"{uploads}?mount={digest}&from=a%2Fprivate",
        f"{uploads}?mount={digest}&digest={digest}",
    ):
        answer = world(bob, "POST", target)
        assert answer.status == 202, (target, answer)
    for target in ("A/private", "a/private/", "../a/private", "b/mine/../../a/private", "%61/private%00", "*", "**"):
        assert world(bob, "POST", f"{uploads}?mount={digest}&from={target}").status in (202, 400), target
    begin = json.dumps({"digest": digest, "size": len(data)}).encode()
    answer = world(bob, "POST", "/v2/b/mine/_bucketry/uploads", begin)
    assert (answer.status, answer.json()["state"]) == (201, "open"), "its parts are wanted as of any other blob"
    session = answer.json()["session"]
    answer = world(bob, "POST", f"/v2/b/mine/_bucketry/uploads/{session}/complete", begin)
    assert answer.status == 400, "nothing was sent"
    answer = world(bob, "PUT", f"{world(bob, 'POST', uploads).header('Location')}?digest={digest}")
    assert answer.error() == (400, "DIGEST_INVALID"), "nothing was sent"
    answer = world.manifest(bob, "b/mine", "stolen", image(layers=[data]))
    assert answer.error() == (404, "MANIFEST_BLOB_UNKNOWN")
    for target in (f"blobs/{digest}", f"_bucketry/checkpoints/{digest}"):
        assert world(bob, "GET", f"/v2/b/mine/{target}").status == 404
        assert world(bob, "GET", f"/v2/a/private/{target}").error() == (404, "NAME_UNKNOWN")
        assert world(None, "GET", f"/v2/a/private/{target}").status == 401
    for target in ("manifests/edge", "tags/list", f"referrers/{digest}"):
        assert world(bob, "GET", f"/v2/a/private/{target}").error() == (404, "NAME_UNKNOWN")
    assert world("root", "POST", f"{uploads}?mount={digest}").status == 201, (
        "who may read all may have it from anywhere"
    )


def test_cve_2026_32589_an_upload_is_of_who_began_it_where_it_was_begun(world: World) -> None:
    """CVE-2026-32589: sessions of either protocol, by others and in other repositories."""
    data = seeded("upload of alice")
    digest = digest_of(data)
    begun = world("alice", "POST", "/v2/a/up/blobs/uploads/").header("Location")
    assert world("alice", "PATCH", begun, data[:100]).status == 202
    moved = world("alice", "GET", begun).header("Location")
    opened = world("alice", "POST", "/v2/a/up/_bucketry/uploads", json.dumps({"size": len(data)}).encode())
    parallel = f"/v2/a/up/_bucketry/uploads/{opened.json()['session']}"
    complete = json.dumps({"digest": digest, "size": len(data)}).encode()
    requests: list[tuple[str, str, bytes]] = [
        *((method, where, body) for where in (begun, moved) for method, body in (("GET", b""), ("DELETE", b""))),
        *(("PATCH", where, data[100:]) for where in (begun, moved)),
        *(("PUT", f"{where}?digest={digest}", data[100:]) for where in (begun, moved)),
        ("GET", parallel, b""),
        ("POST", f"{parallel}/urls", b'{"parts": [1]}'),
        ("PUT", f"{parallel}/parts/1", data),
        ("POST", f"{parallel}/complete", complete),
        ("DELETE", parallel, b""),
    ]
    others = ("carol", "root", world.token("carol", "repository:a/up:pull,push"))
    for method, target, body in requests:
        for who in others:  # They may push there.
            assert world(who, method, target, body).error() == (404, "BLOB_UPLOAD_UNKNOWN"), (who, method, target)
        assert world("bob", method, target, body).error() == (403, "DENIED")
        assert world(None, method, target, body).status == 401
        elsewhere = target.replace("/a/up/", "/a/elsewhere/")
        assert world("alice", method, elsewhere, body).error() == (404, "BLOB_UPLOAD_UNKNOWN"), (method, target)
    # Neither kind of session is one of the other kind.
    session = begun.rpartition("/")[2]
    assert world("alice", "GET", f"/v2/a/up/_bucketry/uploads/{session}").status == 404
    assert world("alice", "GET", begun.replace(session, opened.json()["session"])).status == 404
    answer = world(world.token("alice", "repository:a/up:push"), "PUT", f"{moved}?digest={digest}", data[100:])
    assert answer.status == 201, "her token is she as well"


def test_absent_digest_and_present_one_are_alike_to_who_may_not_pull(world: World) -> None:
    digest = world.blob("alice", "a/hidden", seeded("hidden"))
    answers = [world("bob", "HEAD", f"/v2/a/hidden/blobs/{each}") for each in (digest, ABSENT)]
    assert [answer.status for answer in answers] == [404, 404]
    lengths = {answer.header("Content-Length") for answer in answers}
    assert len(lengths) == 1
