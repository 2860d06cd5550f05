"""Tags that are not moved, and content that is not deleted, whatever way is tried."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.access import World, files, seeded
from tests.support.api import Api, image
from tests.support.images import OCI_MANIFEST, digest_of
from tests.support.server import assert_no_fault, bucketry


def test_cve_2026_41888_where_nothing_is_deleted_no_method_deletes(tmp_path: Path) -> None:
    """CVE-2026-41888: tags, manifests and blobs, by each method and by headers that stand for one."""
    options = ("--access", str(files(tmp_path)), "--workers", "1", "--set", "delete.enabled=false")
    with bucketry(str(tmp_path / "store"), tmp_path / "server", options=options) as server:
        world = World(Api(server.port), server, tmp_path)
        layer = seeded("not deleted")
        manifest = image(layers=[layer], annotations={"seed": "kept"})
        assert world.image("root", "a/kept", "edge", "kept", (layer,)).status == 201
        things = [f"manifests/{digest_of(manifest)}", "manifests/edge", f"blobs/{digest_of(layer)}"]
        for who in ("root", "alice", world.token("root", "repository:a/kept:*")):
            for thing in things:
                target = f"/v2/a/kept/{thing}"
                assert world(who, "DELETE", target).error() == (405, "UNSUPPORTED")
                assert world(who, "DELETE", f"{target}?force=true").status == 405
                for method in ("delete", "Delete", "PURGE", "OPTIONS", "POST", "PATCH"):
                    assert world(who, method, target).status in (400, 405), method
                for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
                    world(who, "GET", f"{target}?_method=DELETE", headers={name: "DELETE"})
                    world(who, "PUT", target, b"", {name: "DELETE", "Content-Type": OCI_MANIFEST})
                assert world(who, "GET", target).status == 200, thing
        assert world("bob", "DELETE", f"/v2/a/kept/{things[0]}").error() == (403, "DENIED")
        assert_no_fault(server)


@pytest.mark.parametrize("tag", ["latest", "edge", "v1"])
@pytest.mark.parametrize("way", ["basic", "token"])
def test_cve_2026_31801_who_may_create_and_not_overwrite_moves_no_tag(world: World, tag: str, way: str) -> None:
    """CVE-2026-31801: neither by name, nor by ?tag=, nor by deleting it first; latest is a tag as any."""
    repository = f"a/create/{tag}/{way}"
    carol = "carol" if way == "basic" else world.token("carol", f"repository:{repository}:*")
    assert world.image(carol, repository, tag, "first").status == 201
    first, second = (image(annotations={"seed": seed}) for seed in ("first", "second"))
    for _ in range(2):
        assert world.manifest(carol, repository, tag, first).status == 201, "the very same is no change"
        for reference in (
            tag,
            f"{digest_of(second)}?tag={tag}",
            f"{digest_of(second)}?tag=fresh-{tag}&tag={tag}",
            f"{digest_of(second)}?tag={tag}&tag={tag}",
        ):
            answer = world.manifest(carol, repository, reference, second)
            assert answer.error() == (403, "DENIED"), answer
            assert "move tags" in answer.message
        assert world.manifest(carol, repository, digest_of(second), second).status == 201
        assert world("alice", "HEAD", f"/v2/{repository}/manifests/{tag}").header("Docker-Content-Digest") == digest_of(
            first
        )
        assert world("alice", "GET", f"/v2/{repository}/manifests/fresh-{tag}").status == 404
    # Deleting and making anew is moving in two steps.
    assert world(carol, "DELETE", f"/v2/{repository}/manifests/{tag}").error() == (403, "DENIED")
    assert world(carol, "DELETE", f"/v2/{repository}/manifests/{digest_of(first)}").error() == (403, "DENIED")
    assert world.manifest("alice", repository, tag, second).status == 201


def test_cve_2026_31801_of_many_who_create_a_tag_at_once_one_has_it(world: World) -> None:
    """CVE-2026-31801, where it is a race."""
    bodies = [image(annotations={"seed": str(number)}) for number in range(12)]
    world.blob("carol", "a/race", b"{}")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: world.manifest("carol", "a/race", "latest", body).status, bodies))
    assert sorted(answers) == [201, *[403] * 11]
    held = world("alice", "HEAD", "/v2/a/race/manifests/latest").header("Docker-Content-Digest")
    assert held == digest_of(bodies[answers.index(201)])


def test_immutable_tag_is_neither_moved_nor_deleted_by_any_way_and_anybody(world: World) -> None:
    repository = "a/fixed/app"
    assert world.image("root", repository, "v1", "first").status == 201
    first, second = (image(annotations={"seed": seed}) for seed in ("first", "second"))
    assert world.manifest("alice", repository, "edge", first).status == 201
    for who in ("root", "alice", world.token("root", f"repository:{repository}:*")):
        for reference in ("v1", f"{digest_of(second)}?tag=v1", f"{digest_of(second)}?tag=x&tag=v1"):
            assert world.manifest(who, repository, reference, second).error() == (403, "DENIED")
        for reference in ("v1", digest_of(first)):
            answer = world(who, "DELETE", f"/v2/{repository}/manifests/{reference}")
            assert answer.error() == (403, "DENIED")
            assert "immutable" in answer.message
    for tag in ("v1", "edge"):
        found = world("alice", "HEAD", f"/v2/{repository}/manifests/{tag}").header("Docker-Content-Digest")
        assert found == digest_of(first)
    assert world("alice", "GET", f"/v2/{repository}/manifests/x").status == 404


def test_delete_by_digest_against_pushes_of_an_immutable_tag(world: World) -> None:
    """A push that was acknowledged stays, whichever was first; and the tag is never given to other bytes after."""
    world.blob("alice", "a/fixed/race", b"{}")
    for number in range(25):
        body, tag = image(annotations={"race": str(number)}), f"v{number}"
        digest = digest_of(body)
        assert world.manifest("alice", "a/fixed/race", f"edge-{number}", body).status == 201
        with ThreadPoolExecutor(2) as pool:
            deleted = pool.submit(world, "alice", "DELETE", f"/v2/a/fixed/race/manifests/{digest}")
            pushed = pool.submit(world.manifest, "alice", "a/fixed/race", tag, body)
        assert pushed.result().status == 201
        assert deleted.result().status in (202, 403, 404)
        for reference in (tag, digest):
            answer = world("alice", "GET", f"/v2/a/fixed/race/manifests/{reference}")
            assert (answer.status, answer.body) == (200, body), (number, deleted.result())
        other = image(annotations={"race": f"{number} other"})
        assert world.manifest("alice", "a/fixed/race", tag, other).error() == (403, "DENIED")
