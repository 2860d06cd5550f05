from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketry.oci import Digest, parse_repository, parse_tag
from bucketry.oci.reference import MAX_NAME, MAX_TAG
from bucketry.registry import layout
from bucketry.store.checks import check_bulk_key, check_key, check_list

_PART = r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}"
names = st.from_regex(re.compile(rf"{_PART}(/{_PART}){{0,3}}"), fullmatch=True)
tags = st.from_regex(re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}"), fullmatch=True)
digests = st.builds(Digest.of, st.binary(max_size=4), st.sampled_from(["sha256", "sha512"]))


def keys_of(name: str, tag: str, digest: Digest, other: Digest) -> list[str]:
    return [
        layout.FORMAT_KEY,
        layout.record(digest),
        layout.checkpoints(digest),
        layout.data(digest.hex[:32]),
        layout.link(name, digest),
        layout.manifest(name, digest),
        layout.tag(name, tag),
        layout.tagged(name, digest) + tag,
        layout.referrer(name, digest, other),
        layout.upload("00000000-0000-4000-8000-000000000000"),
        layout.catalog(name),
        layout.access_key("020781"),
        layout.robot("ci-main"),
    ]


@given(names, tags, digests, digests)
def test_every_key_is_one_that_a_store_takes_and_none_is_another(
    name: str, tag: str, digest: Digest, other: Digest
) -> None:
    keys = keys_of(parse_repository(name), parse_tag(tag), digest, other)

    for key in keys:
        check_key(key)
    for prefix in (
        layout.CATALOG_PREFIX,
        layout.UPLOADS_PREFIX,
        layout.ACCESS_KEYS_PREFIX,
        layout.ROBOTS_PREFIX,
        layout.tags(name),
        layout.tagged(name, digest),
        layout.referrers(name, digest, other.algorithm),
    ):
        check_list(prefix, 1)
        assert sum(key.startswith(prefix) for key in keys) == 1
    assert len(set(keys)) == len(keys)
    check_bulk_key(layout.data(digest.hex[:32]))


@pytest.mark.parametrize("name", ["a" * MAX_NAME, "/".join(["a"] * (MAX_NAME // 2)), ".".join(["a"] * (MAX_NAME // 2))])
def test_the_longest_names_fit(name: str) -> None:
    digest = Digest.of(b"", "sha512")
    for key in keys_of(parse_repository(name), "t" * MAX_TAG, digest, digest):
        check_key(key)


@given(st.lists(names, max_size=8))
@example(["a-b", "a.b", "a/b", "a0b", "a_b", "ab", "a", "a--b", "a__b"])
@example(["a/b.c", "a.b/c", "a-b/c", "a/b-c", "a/b", "a"])
def test_escaped_names_are_in_the_order_of_the_names_and_flat(found: list[str]) -> None:
    assert sorted(found, key=layout.escape_name) == sorted(found)
    for name in found:
        assert "/" not in layout.escape_name(name)
        assert layout.unescape_name(layout.escape_name(name)) == name


@given(names, names)
def test_the_keys_of_one_repository_are_not_below_another(left: str, right: str) -> None:
    """``a`` and ``a/b`` are two repositories, and neither's tags are the other's."""
    if left != right:
        assert not layout.tag(right, "x").startswith(layout.tags(left))
        assert layout.catalog(left) != layout.catalog(right)
