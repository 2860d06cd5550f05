"""Paths of a site say what they are, and collide in a folder exactly where it is said."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.oci import Digest, parse_repository
from bucketry.oci.errors import OCIError
from bucketry.store.site import is_path
from bucketry.transfer.site import paths
from bucketry.transfer.site.refusals import find_collision

WORDS = ["a", "manifests", "blobs", "tags", "list", "referrers", "v1", "checkpoints"]
NAMES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map("/".join)
TAGS = st.one_of(
    st.sampled_from([*WORDS, "A", "1.0", "sha256-x.sig", "x.oci-index"]),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True),
)
DIGESTS = st.sampled_from([Digest.of(b"a"), Digest.of(b"b"), Digest.of(b"a", "sha512")])
TYPES = st.sampled_from(sorted(paths.KINDS))


def every(name: str, tag: str, digest: Digest, media_type: str) -> Iterator[tuple[str, str, bool]]:
    """All paths, as which kind they are counted, and whether they are named by a digest."""
    yield paths.manifest(name, tag), "tags", False
    yield paths.pointer(name, tag), "pointers", False
    yield paths.tags(name), "lists", False
    yield paths.manifest(name, digest), "manifests", True
    yield paths.twin(name, digest, media_type), "twins", True
    yield paths.blob(name, digest), "blobs", True
    yield paths.checkpoints(name, digest), "checkpoints", True
    yield paths.referrers(name, digest), "referrers", True


@settings(max_examples=200, deadline=None)
@given(NAMES, TAGS, DIGESTS, TYPES)
def test_a_path_says_whose_it_is(name: str, tag: str, digest: Digest, media_type: str) -> None:
    for path, kind, by_digest in every(name, tag, digest, media_type):
        assert is_path(path)
        found = paths.parse(path)
        assert found is not None, path
        assert (found.name, found.kind, found.by_digest) == (name, kind, by_digest), path
        assert paths.kind(path) == kind
        assert path.startswith(paths.repository(name))
    assert paths.tag_of(paths.manifest(name, tag)) == tag
    assert paths.tag_of(paths.pointer(name, tag)) == tag
    assert set(paths.of_tag(name, tag, twins=False)) == {paths.manifest(name, tag)}
    assert set(paths.of_tag(name, tag, twins=True)) == {paths.manifest(name, tag), paths.pointer(name, tag)}


@pytest.mark.parametrize(
    "path",
    [
        "index.html",
        "bucketry-site.json",
        "v2/_catalog",
        "v2/index.html",
        "v2/app",
        "v2/app/README",
        "v2/app/manifests",
        "v2/manifests/v1",
        "v2/app/tags/list/x",
        "v2/app/manifests/~",
        "v2/app/manifests/~/~",
        "v2/app/blobs/a b",
        "v2/app/../blobs/x",
        "other/app/blobs/x",
    ],
)
def test_what_is_not_of_a_repository_is_known(path: str) -> None:
    assert paths.parse(path) is None
    assert paths.kind(path) in ("pages", "state", "lists")


def collides(files: set[str]) -> bool:
    """Whether a file is also a folder of another, by looking at all of them."""
    return any(other.startswith(f"{file}/") for file in files for other in files)


def test_collisions_are_all_found_and_no_others() -> None:
    """Of all pairs of repositories of such names, with each tag."""
    digest = Digest.of(b"a")
    names = [
        "/".join(parts)
        for length in (1, 2, 3)
        for parts in product(["a", "manifests", "tags", "list", "v1"], repeat=length)
    ]
    names = [name for name in names if name.startswith("a")] + ["manifests", "tags/list"]
    found = 0
    for first, second in combinations(names, 2):
        for tag in ("v1", "manifests", "tags", "blobs", "referrers"):
            tags = {first: [tag], second: ["v1"]}
            files = {paths.CATALOG} | {
                path
                for name, each in tags.items()
                for media_type in paths.KINDS
                for path, _, _ in every(name, each[0], digest, media_type)
            }
            collision = find_collision(tags)
            assert (collision is not None) == collides(files), (first, second, tag)
            found += collision is not None
    assert found > 20


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, st.lists(TAGS, max_size=3), max_size=4))
def test_no_collision_is_missed(tags: dict[str, list[str]]) -> None:
    digest = Digest.of(b"a")
    files = {paths.CATALOG}
    for name, each in tags.items():
        for tag in each:
            for media_type in paths.KINDS:
                files.update(path for path, _, _ in every(name, tag, digest, media_type))
        files.update(
            path
            for path, kind, _ in every(name, "x", digest, sorted(paths.KINDS)[0])
            if kind not in ("tags", "pointers", "twins")
        )
        files.update(paths.twin(name, digest, media_type) for media_type in paths.KINDS)
    assert (find_collision(tags) is not None) == collides(files)


def test_no_repository_has_the_name_of_a_catalog_or_of_twins() -> None:
    for name in ("_catalog", "a/_bucketry", "~", "a/~"):
        with pytest.raises(OCIError):
            parse_repository(name)
