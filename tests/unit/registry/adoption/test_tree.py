"""Names in the old tree: what is built is parsed again, and what a link holds is taken literally."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.oci import Digest
from bucketry.registry.adoption import tree
from bucketry.registry.adoption.tree import Kind, LinkBroken

PART = st.from_regex(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", fullmatch=True).filter(lambda part: len(part) < 20)
NAMES = st.lists(PART, min_size=1, max_size=4).map("/".join)
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)
DIGESTS = st.builds(Digest.of, st.binary(max_size=8), st.sampled_from(["sha256", "sha512"]))


@settings(max_examples=60)
@given(NAMES, DIGESTS)
def test_links_of_digests_are_parsed_as_they_were_built(name: str, digest: Digest) -> None:
    for build, kind in ((tree.layer_link, Kind.LAYER), (tree.revision_link, Kind.REVISION)):
        entry = tree.parse(build(name, digest), "etag")
        assert entry == tree.Entry(build(name, digest), name, kind, str(digest), "etag")


@settings(max_examples=60)
@given(NAMES, TAGS)
def test_links_of_tags_are_parsed_as_they_were_built(name: str, tag: str) -> None:
    key = tree.tag_link(name, tag)
    assert tree.parse(key) == tree.Entry(key, name, Kind.TAG, tag)


@pytest.mark.parametrize(
    "inner",
    [
        "_uploads/5b1e2c1e/data",
        "_uploads/5b1e2c1e/hashstates/sha256/0",
        "_manifests/tags/v1/index/sha256/ab/link",
        "_manifests/revisions/sha256/ab/signatures/sha256/cd/link",
        "_manifests/revisions/sha256/ab",
        "_manifests/tags/v1/current",
        "_layers/sha256/ab/link/more",
        "_other",
    ],
)
def test_what_else_is_in_a_repository_is_of_no_interest(inner: str) -> None:
    entry = tree.parse(f"{tree.REPOSITORIES}team/app/{inner}")
    assert entry is not None
    assert (entry.repository, entry.kind) == ("team/app", Kind.OTHER)


@pytest.mark.parametrize(
    "key",
    [
        f"{tree.ROOT}blobs/sha256/ab/abcd/data",
        f"{tree.REPOSITORIES}team/app/file",
        "repos/team/~manifests/sha256/ab",
        f"{tree.REPOSITORIES}link",
    ],
)
def test_what_is_in_no_repository_is_told_from_it(key: str) -> None:
    assert tree.parse(key) is None


@given(DIGESTS)
def test_a_link_holds_its_digest(digest: Digest) -> None:
    assert tree.parse_link(str(digest).encode()) == digest
    assert tree.link_target(str(digest).encode(), digest) == digest


def test_a_link_may_name_the_sha256_of_the_same_bytes() -> None:
    named, data = Digest.of(b"x", "sha512"), Digest.of(b"x")
    assert tree.link_target(str(data).encode(), named) == data


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "is empty"),
        (b"sha256:abc", "holds no digest"),
        (str(Digest.of(b"x")).encode() + b"\n", "holds no digest"),
        (b"\xff\xfe", "holds no digest"),
        (b"sha384:" + b"0" * 96, "holds no digest"),
        (str(Digest.of(b"other")).encode(), "names sha256:.* instead"),
    ],
)
def test_a_broken_link_says_what_is_wrong(body: bytes, why: str) -> None:
    with pytest.raises(LinkBroken, match=why):
        tree.link_target(body, Digest.of(b"x"))


@given(st.binary(max_size=100))
def test_whatever_a_link_holds_nothing_else_is_raised(body: bytes) -> None:
    try:
        assert str(tree.parse_link(body)).encode() == body
    except LinkBroken as error:
        assert str(error).isascii()  # noqa: PT017
