"""Publishing again while clients pull: a tag moves, images come and go, and nobody sees an error."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest
from tests.publish.commands import commands
from tests.publish.conftest import BUCKET, DOMAIN, Place, bucket_places
from tests.publish.pulling import Pulling, pull_by_crane, pull_by_skopeo
from tests.publish.walking import Walker, walk
from tests.store.seaweed import Seaweed, run_seaweed
from tests.support.images import KIB, Content, make_image, make_index, write_layout
from tests.support.moving import Event, Mover, mover
from tests.support.tls import Tls
from tests.support.web import caddy, nginx
from tests.transfer.test_site_servers import docker_image

MOVING, OTHER = "apps/moving:latest", "apps/other:latest"
KILLS, PRUNES = 8, 4
SECONDS, LEAST_MOVES, MOST_NEW = 5.0, 12, 50
"""For which a tag is moved, over and over."""


@pytest.fixture(scope="module")
def bucket(tls: Tls) -> Iterator[Seaweed]:
    """One that no other test publishes to: these prune."""
    with run_seaweed(bucket=BUCKET, public=True, domain=DOMAIN, tls=tls) as server:
        yield server


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory, bucket: Seaweed) -> Mover:
    return mover(tmp_path_factory.mktemp("publisher"), **bucket.environ())


@pytest.fixture(params=["folder", "bucket"])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, tls: Tls, bucket: Seaweed
) -> Iterator[tuple[str, Callable[[], list[Place]]]]:
    """What ``--to`` takes, and what gives it out once something is published."""
    with ExitStack() as stack:
        if request.param == "bucket":
            yield f"s3://{bucket.bucket}", lambda: [bucket_places(bucket, tls)["bucket"]]
        else:
            folder = tmp_path / "site"

            def serve() -> list[Place]:
                by_nginx = stack.enter_context(nginx(folder, tmp_path / "nginx", tls))
                by_caddy = stack.enter_context(caddy(folder, tmp_path / "caddy", tls))
                return [
                    Place("nginx", f"127.0.0.1:{by_nginx.http}", None),
                    Place("caddy", f"127.0.0.1:{by_caddy.https}", tls),
                ]

            yield str(folder), serve


def test_nobody_who_pulls_sees_that_something_is_published(
    site: tuple[str, Callable[[], list[Place]]], publisher: Mover, client_env: dict[str, str], tmp_path: Path
) -> None:
    """The tag is an image, an index, a Docker image by turns: its media type changes with its bytes."""
    to, serve = site
    image = make_image(seed=50, sizes=(100, 60 * KIB))
    platforms = [make_image(seed=51, sizes=(60 * KIB,)), make_image(seed=52, sizes=(9 * KIB,), architecture="arm64")]
    contents: list[Content] = [image, make_index(platforms), docker_image()]
    layouts = [f"oci:{write_layout(tmp_path / f'layout-{i}', each, 'x')}:x" for i, each in enumerate(contents)]
    digests = [each.digest for each in contents]
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    pulling = Pulling()
    with commands(tmp_path, publisher.env) as run, ExitStack() as stack:

        def publish(number: int, name: str, *options: str) -> None:
            run("publish", layouts[number], "--name", name, "--to", to, "--quiet", *options)

        publish(0, MOVING)
        places = serve()
        walkers = [stack.enter_context(closing(Walker(place))) for place in places]
        stack.enter_context(pulling.going_on())
        for place, walker in zip(places, walkers, strict=True):
            pulling.add(f"walker of {place.server}", walker.walk)
            pulling.add(f"crane of {place.server}", pull_by_crane(client_env, place, MOVING, pulled, digests))
        pulling.add("skopeo", pull_by_skopeo(client_env, places[0], MOVING, pulled, digests))

        moves = 0
        deadline = time.monotonic() + SECONDS
        with somebody_publishing(layouts, to, publisher.env, tmp_path / "other"):
            while time.monotonic() < deadline or moves < LEAST_MOVES:
                moves += 1
                publish(moves % 3, MOVING)
                if moves % 5 == 0 and moves <= MOST_NEW:
                    publish(moves % 2, f"apps/new-{moves}:v1")
                pulling.check()
        walked = walk(places[0])
        assert {MOVING, OTHER, "apps/new-5:v1", "apps/new-10:v1"} <= walked.tags.keys()
        assert walked.tags[MOVING] == digests[moves % 3]

        # All but one image goes: its tags at once, the rest when those who began before that are done.
        publish(1, MOVING, "--prune")
        pulling.wait_round()
        assert status(places[0], f"apps/moving/manifests/{digests[0]}") == 200
        publish(1, MOVING, "--prune", "--grace=0s")
        pulling.wait_round()
        for place in places:
            assert walk(place).tags == {MOVING: digests[1]}
            assert status(place, "apps/new-5/manifests/v1") == 404
            assert status(place, f"apps/moving/manifests/{digests[1]}") == 200
            assert status(place, f"apps/moving/manifests/{digests[0]}") == 404
            assert status(place, f"apps/moving/blobs/{image.config.digest}") == 404

        publish(0, MOVING)
        publish(2, "apps/new-5:v1")
        pulling.wait_round()
    for place in places:
        assert walk(place).tags == {MOVING: digests[0], "apps/new-5:v1": digests[2]}


@contextmanager
def somebody_publishing(layouts: Sequence[str], to: str, env: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Another process moves another tag of the same site, as fast as it can."""
    folder.mkdir()
    turns = cycle(layouts)
    publishing = Pulling()
    with commands(folder, env) as run, publishing.going_on():
        publishing.add("other", lambda: run("publish", next(turns), "--name", OTHER, "--to", to, "--quiet"))
        yield
    assert publishing.rounds["other"] > 0


def _at_least(count: int, events: tuple[Event, ...]) -> bool:
    return len(events) >= count


def status(place: Place, path: str) -> int:
    with closing(Walker(place)) as walker:
        return walker.request(f"/v2/{path}").status


def test_what_a_killed_publish_leaves_is_whole_and_the_next_one_completes_it(
    site: tuple[str, Callable[[], list[Place]]], publisher: Mover, tmp_path: Path
) -> None:
    """Each round publishes another image, to a tag that moves or to a new one, and is killed at some moment."""
    to, serve = site
    moments = random.Random(f"killed {to.partition(':')[0]}")
    images = [
        make_index(
            [
                make_image(seed=1000 * number + each, sizes=(20 * KIB,) * 8, architecture=architecture)
                for each, architecture in enumerate(("amd64", "arm64"))
            ]
        )
        for number in range(KILLS + PRUNES + 1)
    ]
    layouts = [write_layout(tmp_path / f"layout-{number}", image, "x") for number, image in enumerate(images)]

    def command(number: int, *options: str) -> list[str]:
        tag = "latest" if number % 2 == 0 or number > KILLS else f"v{number}"
        return ["publish", f"oci:{layouts[number]}:x", "--name", f"killed/app:{tag}", "--to", to, *options]

    def kill(number: int, *options: str) -> bool:
        """By turns among the blobs and manifests, and at any moment, which may be among tags and lists."""
        least = moments.randrange(1, len(first.events) - 1) if number % 2 else 1
        with publisher.start(*command(number, *options)) as running:
            running.wait_for(partial(_at_least, least))
            time.sleep(0 if number % 2 else moments.uniform(0, took / 2))
            if running.process.poll() is None:
                running.process.kill()
            return running.end().status != 0

    with publisher.start(*command(0)) as running:
        running.wait_for(lambda events: len(events) > 0)
        began = time.monotonic()
        first = running.end()
        took = time.monotonic() - began
    assert first.status == 0, first.said
    places = serve()
    killed = 0
    for number in range(1, KILLS + 1):
        killed += kill(number)
        for place in places:
            assert "killed/app:latest" in walk(place).tags
    assert killed > KILLS // 3, f"{killed} of {KILLS} were killed before they ended"

    for number in range(1, KILLS + 1):
        publisher(*command(number))
    tags = {"killed/app:latest": images[KILLS].digest}
    tags |= {f"killed/app:v{number}": images[number].digest for number in range(1, KILLS + 1, 2)}
    for place in places:
        found = walk(place).tags
        assert {name: digest for name, digest in found.items() if name.startswith("killed/")} == tags

    # Now each keeps nothing but its own image. None of them was there before, and all have one tag: a publish waits
    # some minutes for what a killed one said that it will delete, or tag.
    for number in range(KILLS + 1, KILLS + PRUNES + 1):
        kill(number, "--prune", "--grace=0s")
        for place in places:
            walk(place)
    last = KILLS + PRUNES
    publisher(*command(last, "--prune", "--grace=0s"))
    for place in places:
        assert walk(place).tags == {"killed/app:latest": images[last].digest}
        for image in images[:last]:
            assert status(place, f"killed/app/manifests/{image.digest}") == 404
