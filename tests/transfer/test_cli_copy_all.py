"""``bucketry copy --all``: from another registry, by its API, into a bucket's format, and out again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fixtures import Registry
from tests.support.images import MIB, Content, Image, assert_layout_holds, make_image, make_index, write_layout
from tests.support.moving import Mover, moved, mover
from tests.transfer.peers import PASSWORD, USER, peer

LARGE = 24 * MIB


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Mover:
    return mover(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def images() -> tuple[Image, Image, Image]:
    return make_image(11), make_image(12, architecture="arm64"), make_image(13, sizes=(LARGE, LARGE, 1000))


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, client: Mover, images: tuple[Image, Image, Image]
) -> Iterator[Registry]:
    """Docker's registry with three repositories, open to everyone."""
    folder = tmp_path_factory.mktemp("filled")
    one, other, large = images
    with peer(folder) as registry:
        contents: list[tuple[Content, tuple[str, ...]]] = [
            (one, ("team/app:v1", "team/app:stable", "team/sub/x:v1")),
            (make_index([one, other]), ("team/app:latest",)),
            (large, ("web:v1",)),
        ]
        for number, (content, names) in enumerate(contents):
            layout = write_layout(folder / f"layout-{number}", content, "v1")
            for name in names:
                client("copy", f"oci:{layout}:v1", f"{registry.host}/{name}")
        yield registry


def test_a_registry_comes_into_a_folder_and_goes_out_again(
    tmp_path: Path, client: Mover, filled: Registry, images: tuple[Image, Image, Image]
) -> None:
    one, other, large = images
    came = client("copy", "--all", filled.host, f"file:{tmp_path}/store")
    assert {event["item"] for event in came.of("done")} == {"team/app", "team/sub/x", "web"}

    (tmp_path / "out").mkdir()
    with peer(tmp_path / "out") as out:
        client("copy", "--all", f"file:{tmp_path}/store", f"{out.host}/old")
        for name, content in (
            ("old/team/app:stable", one),
            ("old/team/app:latest", make_index([one, other])),
            ("old/team/sub/x:v1", one),
            ("old/web:v1", large),
        ):
            layout = tmp_path / name.replace("/", "_").replace(":", "_")
            client("pull", "--all-platforms", f"{out.host}/{name}", f"oci:{layout}:v1")
            assert_layout_holds(layout, content)

    again = client("copy", "--all", filled.host, f"file:{tmp_path}/store")
    assert moved(again.events) == 0
    assert {event["why"] for event in again.of("skipped")} == {"already there"}


def test_one_that_was_killed_goes_on(tmp_path: Path, client: Mover, filled: Registry) -> None:
    with client.start("copy", "--all", filled.host, f"file:{tmp_path}/store", "--parallel", "1") as running:
        running.wait_moved(LARGE)
        first = moved(running.kill().events)
    second = moved(client("copy", "--all", filled.host, f"file:{tmp_path}/store").events)
    assert first >= LARGE
    third = moved(client("copy", "--all", filled.host, f"file:{tmp_path}/fresh").events)
    assert second < third - 0.9 * first
    assert moved(client("copy", "--all", filled.host, f"file:{tmp_path}/store").events) == 0


def test_only_what_a_glob_matches(tmp_path: Path, client: Mover, filled: Registry) -> None:
    came = client("copy", "--all", f"{filled.host}/team", f"file:{tmp_path}/store//mine", "--repository", "**/x")
    assert {event["item"] for event in came.of("done")} == {"sub/x"}
    assert (tmp_path / "store/repos/mine/sub/x/~tags/v1").is_file()


def test_one_repository_that_is_not_there_is_told_and_the_rest_is_copied(
    tmp_path: Path, client: Mover, filled: Registry
) -> None:
    command = (
        "copy",
        "--all",
        filled.host,
        f"file:{tmp_path}/store",
        "--repository",
        "nope",
        "--repository",
        "team/app",
    )
    outcome = client.fails(*command)
    assert outcome.status == 1
    last = outcome.said.splitlines()[-1]
    assert last.startswith("bucketry: not, or not wholly, copied: nope (")
    assert "The same command goes on" in last
    assert (tmp_path / "store/repos/team/app/~tags/stable").is_file()


def test_the_catalog_of_a_registry_with_users_is_read_with_their_credentials(tmp_path: Path) -> None:
    (tmp_path / "peer").mkdir()
    with peer(tmp_path / "peer", users=True) as registry:
        stranger = mover(tmp_path / "stranger")
        refused = stranger.fails("copy", "--all", registry.host, f"file:{tmp_path}/store")
        assert "bucketry login" in refused.said
        known = mover(tmp_path / "known")
        config = Path(known.env["HOME"], ".docker")
        config.mkdir()
        (config / "config.json").write_text(
            f'{{"auths": {{"{registry.host}": {{"username": "{USER}", "password": "{PASSWORD}"}}}}}}'
        )
        layout = write_layout(tmp_path / "layout", make_image(14, sizes=(1000,)), "v1")
        known("copy", f"oci:{layout}:v1", f"{registry.host}/app:v1")
        known("copy", "--all", registry.host, f"file:{tmp_path}/store")
    assert (tmp_path / "store/repos/app/~tags/v1").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("reg.example.com/app:v1", "file:/x", "--all"), "is one image"),
        (("reg.example.com", "file:/x", "--all", "--all-tags"), "leave out --all-tags"),
        (("reg.example.com/app", "file:/x/app", "--repository", "a"), "goes with --all"),
        (("reg.example.com", "file:/x", "--all", "--repository", "A"), "matches no repository"),
        (("reg.example.com", "reg.example.com/mirror", "--all"), "copied into itself"),
    ],
)
def test_what_cannot_be_meant_is_said(client: Mover, options: tuple[str, ...], words: str) -> None:
    assert words in client.fails("copy", *options).said
