"""Nobody swaps bytes under a digest, over HTTP, whichever of two servers on one store is asked.

What is hashed is what is committed: no replayed, concurrent or late request changes a blob.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import pytest
from tests.chaos.conftest import PART, Start
from tests.support.api import Answer, Api, Wire, noise
from tests.support.images import digest_of

Replicas: TypeAlias = tuple[Api, Api]

SIZES = {"small": 20_000, "parts": 2 * PART + 20_000}
"""One object; three parts of a multipart upload."""


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    return SIZES[request.param]


def assert_blob_is(replicas: Replicas, repository: str, data: bytes) -> None:
    for api in replicas:
        answer = api.blob(repository, digest_of(data))
        assert answer.status == 200, answer
        assert answer.body == data


def assert_no_blob(replicas: Replicas, repository: str, digest: str) -> None:
    for api in replicas:
        assert api.get(f"/v2/{repository}/blobs/{digest}").status == 404
        assert api.head(f"/v2/{repository}/blobs/{digest}").status == 404


def range_of(first: int, data: bytes) -> str:
    return f"{first}-{first + len(data) - 1}"


def begin_body(api: Api, method: str, target: str, data: bytes, headers: dict[str, str]) -> Wire:
    """A request that has brought all of its body but the last bytes."""
    wire = Wire(api.port, timeout=60)
    wire.begin(method, target, {"Content-Length": str(len(data)), **headers})
    wire.send(data[:-10])
    return wire


def finish(wire: Wire, data: bytes) -> Answer:
    try:
        wire.send(data[-10:])
        return wire.answer("PUT")
    finally:
        wire.close()


def test_replayed_patch_with_other_bytes_is_refused(replicas: Replicas, repository: str, size: int) -> None:
    one, two = replicas
    first, other, second = noise("first", size), noise("other", size), noise("second", size)
    location = one.begin(repository)
    after = one.patch(location, first, content_range=range_of(0, first)).header("Location")
    for api in (two, one):
        for target in (location, after):
            replayed = api.patch(target, other, content_range=range_of(0, other))
            assert replayed.error() == (416, "BLOB_UPLOAD_INVALID"), replayed
            assert replayed.header("Range") == f"0-{size - 1}"
        assert api.patch(location, other).status == 416
    end = two.patch(after, second, content_range=range_of(size, second)).header("Location")
    for api in (one, two):
        assert api.patch(after, other, content_range=range_of(size, other)).status == 416
    assert one.commit(end, digest_of(first + other)).error() == (400, "DIGEST_INVALID")
    assert one.commit(end, digest_of(other + second)).error() == (400, "DIGEST_INVALID")
    assert two.commit(end, digest_of(first + second)).status == 201
    assert_blob_is(replicas, repository, first + second)


@pytest.mark.parametrize("started", [False, True], ids=["first chunk", "later chunk"])
def test_of_two_patches_at_once_one_counts(replicas: Replicas, repository: str, size: int, started: bool) -> None:
    """Both have begun, and have brought all but their last bytes, before the first of them ends."""
    base = b"what was there before" if started else b""
    for winner in (0, 1):
        bodies = [noise(f"body {number}, {winner} wins", size) for number in range(2)]
        here = replicas[0].begin(repository)
        if started:
            here = replicas[0].patch(here, base).header("Location")
        wires = [
            begin_body(api, "PATCH", here, body, {"Content-Range": range_of(len(base), body)})
            for api, body in zip(replicas, bodies, strict=True)
        ]
        taken = finish(wires[winner], bodies[winner])
        late = finish(wires[1 - winner], bodies[1 - winner])
        assert taken.status + late.status == 202 + 416, (taken, late)
        kept = bodies[winner] if taken.status == 202 else bodies[1 - winner]
        lost = bodies[1 - winner] if kept is bodies[winner] else bodies[winner]
        end = (taken if taken.status == 202 else late).header("Location")
        assert replicas[1].get(end).header("Range") == f"0-{len(base) + size - 1}"
        assert replicas[1].commit(end, digest_of(base + lost)).error() == (400, "DIGEST_INVALID")
        assert replicas[0].commit(end, digest_of(base + kept)).status == 201
        assert_blob_is(replicas, repository, base + kept)
        assert_no_blob(replicas, repository, digest_of(base + lost))


def test_commit_with_a_body_and_a_patch_at_once_end_in_the_bytes_of_the_digest(
    replicas: Replicas, repository: str, size: int
) -> None:
    one, two = replicas
    base, last, other = b"base", noise("last", size), noise("other", size)
    for patch_first in (False, True):
        location = one.patch(one.begin(repository), base).header("Location")
        put = begin_body(
            one, "PUT", f"{location}?digest={digest_of(base + last)}", last, {"Content-Range": range_of(4, last)}
        )
        patch = begin_body(two, "PATCH", location, other, {"Content-Range": range_of(4, other)})
        if patch_first:
            patched, committed = finish(patch, other), finish(put, last)
        else:
            committed, patched = finish(put, last), finish(patch, other)
        assert committed.status in (201, 416), committed
        assert patched.status in (202, 400, 404, 416), patched
        if committed.status == 201:
            assert_blob_is(replicas, repository, base + last)
        else:
            assert patched.status == 202
            assert two.commit(patched.header("Location"), digest_of(base + last)).error() == (400, "DIGEST_INVALID")
            assert two.commit(patched.header("Location"), digest_of(base + other)).status == 201
            assert_blob_is(replicas, repository, base + other)
        assert_no_blob(replicas, repository, digest_of(base + last + other))


def test_commit_in_another_repository_is_unknown(replicas: Replicas, repository: str, size: int) -> None:
    data = noise("mine", size)
    location = replicas[0].patch(replicas[0].begin(repository), data).header("Location")
    foreign = location.replace(f"/v2/{repository}/", f"/v2/{repository}/other/")
    for api in replicas:
        for body in (None, data):
            assert api.commit(foreign, digest_of(data), body).error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert_no_blob(replicas, f"{repository}/other", digest_of(data))
    assert replicas[1].commit(location, digest_of(data)).status == 201
    for api in replicas:
        assert api.commit(foreign, digest_of(data)).error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert_no_blob(replicas, f"{repository}/other", digest_of(data))


def test_digest_of_someone_elses_bytes_is_refused(replicas: Replicas, repository: str, size: int) -> None:
    """Knowing a digest is no right to its bytes, and no way to put others in their place."""
    one, two = replicas
    theirs, mine = noise("theirs", size), noise("mine too", size)
    digest = one.push_blob(f"{repository}/theirs", theirs)
    ways: list[Callable[[Api], Answer]] = [
        lambda api: api.post(f"/v2/{repository}/blobs/uploads/?digest={digest}", mine),
        lambda api: api.commit(api.begin(repository), digest, mine),
        lambda api: api.commit(api.patch(api.begin(repository), mine).header("Location"), digest),
        lambda api: api.commit(api.begin(repository), digest),
        lambda api: api.commit(api.patch(api.begin(repository), mine[:-1]).header("Location"), digest, mine[-1:]),
    ]
    for way in ways:
        for api in replicas:
            assert way(api).error() == (400, "DIGEST_INVALID")
            assert_no_blob(replicas, repository, digest)
    assert_blob_is((two, one), f"{repository}/theirs", theirs)


def test_nothing_sent_after_the_commit_changes_the_blob(replicas: Replicas, repository: str, size: int) -> None:
    data, more = noise("committed", size), noise("more", 30_000)
    for chunked in (False, True):
        location = replicas[0].begin(repository)
        if chunked:
            location = replicas[0].patch(location, data[:1000], content_range="0-999").header("Location")
            location = replicas[0].patch(location, data[1000:]).header("Location")
        else:
            location = replicas[0].patch(location, data).header("Location")
        assert replicas[0].commit(location, digest_of(data)).status == 201
        for api in (replicas[0], replicas[1], replicas[0]):
            late = api.patch(location, more)
            # Another replica may not know yet that the session has ended; what it takes is nobody's blob.
            assert late.status in (202, 400, 404, 416), late
            assert api.patch(location, more, content_range=range_of(0, more)).status in (400, 404, 416)
            assert api.commit(location, digest_of(data + more), more).status in (201, 400, 404, 416)
            assert_blob_is(replicas, repository, data)
            assert api.delete(location).status in (204, 400, 404)
            assert_blob_is(replicas, repository, data)


@pytest.mark.parametrize("body", [False, True], ids=["after chunks", "with the last chunk"])
def test_commit_that_is_asked_again_is_answered_again_by_either(
    replicas: Replicas, repository: str, size: int, body: bool
) -> None:
    data = noise("again", size)
    for first in (0, 1):
        if body:
            location = replicas[first].patch(replicas[first].begin(repository), data[:5000]).header("Location")
            last: bytes | None = data[5000:]
        else:
            location = replicas[first].patch(replicas[first].begin(repository), data).header("Location")
            last = None
        for turn in (first, 1 - first, first, 1 - first):
            answer = replicas[turn].commit(location, digest_of(data), last)
            assert answer.status == 201, (turn, answer)
            assert answer.header("Docker-Content-Digest") == digest_of(data)
        for api in replicas:
            assert api.commit(location, digest_of(b"other"), last).status in (400, 404)
        assert_blob_is(replicas, repository, data)


def test_two_commits_at_once_are_one_blob(replicas: Replicas, repository: str, size: int) -> None:
    data = noise("at once", size)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            location = replicas[0].patch(replicas[0].begin(repository), data).header("Location")
            answers = [threads.submit(replicas[turn % 2].commit, location, digest_of(data)) for turn in range(8)]
            assert {answer.result().status for answer in answers} == {201}
            assert_blob_is(replicas, repository, data)


def test_commits_of_two_digests_at_once_end_in_the_right_one(replicas: Replicas, repository: str, size: int) -> None:
    data = noise("two digests", size)
    wrong = digest_of(b"wrong")
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            location = replicas[0].patch(replicas[0].begin(repository), data).header("Location")
            digests = [wrong, digest_of(data)] * 4
            answers = [threads.submit(replicas[turn % 2].commit, location, digests[turn]) for turn in range(8)]
            assert {answer.result().status for answer in answers[1::2]} == {201}
            assert {answer.result().status for answer in answers[::2]} <= {400, 404}
            assert_blob_is(replicas, repository, data)
            assert_no_blob(replicas, repository, wrong)


def test_same_blob_pushed_by_many_at_once_is_one_blob(replicas: Replicas, repository: str, size: int) -> None:
    data = noise("many", size)
    with ThreadPoolExecutor(8) as threads:
        pushed = [threads.submit(replicas[turn % 2].push_blob, repository, data) for turn in range(8)]
        assert {push.result() for push in pushed} == {digest_of(data)}
    assert_blob_is(replicas, repository, data)


def test_deleted_on_one_is_gone_on_the_other_at_once(replicas: Replicas, repository: str, size: int) -> None:
    data = noise("deleted", size)
    one, two = replicas
    digest = one.push_blob(repository, data)
    for deleting, reading in ((one, two), (two, one)):
        assert_blob_is(replicas, repository, data)
        assert deleting.delete(f"/v2/{repository}/blobs/{digest}").status == 202
        assert reading.get(f"/v2/{repository}/blobs/{digest}").status == 404
        assert reading.head(f"/v2/{repository}/blobs/{digest}").status == 404
        assert reading.push_blob(repository, data) == digest


def test_tag_that_moved_on_one_has_moved_on_the_other_at_once(replicas: Replicas, repository: str) -> None:
    for turn in range(6):
        body = replicas[turn % 2].push_image(repository, "latest", layers=[b"%d" % turn])
        assert replicas[(turn + 1) % 2].get(f"/v2/{repository}/manifests/latest").body == body


def test_commit_is_answered_again_after_the_server_that_took_it_has_ended(start: Start) -> None:
    """It removes the sessions that ended when it ends."""
    pushed = {noise("ended", size): "" for size in SIZES.values()}
    with start() as two:
        with start() as one:
            for data in pushed:
                pushed[data] = one.api.patch(one.api.begin("a/b"), data).header("Location")
                assert one.api.commit(pushed[data], digest_of(data)).status == 201
        for data, location in pushed.items():
            assert two.api.commit(location, digest_of(data)).status == 201
            assert two.api.commit(location, digest_of(b"other")).status in (400, 404)
            assert two.api.blob("a/b", digest_of(data)).body == data
