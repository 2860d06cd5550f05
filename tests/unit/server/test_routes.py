"""Paths: which endpoint of the spec they name, and of which repository."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.oci.errors import NameInvalid, RouteUnknown
from bucketry.server.routes import Route, Target, resolve

PART = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?", fullmatch=True)
NAME = st.lists(PART, min_size=1, max_size=4).map("/".join)
WORD = st.sampled_from(["manifests", "blobs", "uploads", "tags", "list", "referrers", "v2", "a"])
TRICKY_NAME = st.lists(WORD, min_size=1, max_size=6).map("/".join)
REFERENCE = st.from_regex(r"[A-Za-z0-9_.:~%-]{1,40}", fullmatch=True)


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_base(path: str) -> None:
    assert resolve(path) == Target(Route.BASE)


def test_catalog() -> None:
    assert resolve("/v2/_catalog") == Target(Route.CATALOG)


@given(NAME | TRICKY_NAME, REFERENCE)
def test_every_endpoint_of_every_repository_is_found(name: str, reference: str) -> None:
    assert resolve(f"/v2/{name}/manifests/{reference}") == Target(Route.MANIFEST, name, reference)
    assert resolve(f"/v2/{name}/referrers/{reference}") == Target(Route.REFERRERS, name, reference)
    assert resolve(f"/v2/{name}/tags/list") == Target(Route.TAGS, name)
    assert resolve(f"/v2/{name}/blobs/uploads/") == Target(Route.UPLOADS, name)
    assert resolve(f"/v2/{name}/blobs/uploads") == Target(Route.UPLOADS, name)
    assert resolve(f"/v2/{name}/blobs/sha256:{reference}") == Target(Route.BLOB, name, f"sha256:{reference}")


@given(NAME, REFERENCE.filter(lambda text: text not in ("list",)))
def test_session_of_every_repository_is_found(name: str, session: str) -> None:
    assert resolve(f"/v2/{name}/blobs/uploads/{session}") == Target(Route.UPLOAD, name, session)


@pytest.mark.parametrize(
    "path",
    ["/v2/x", "/v2//", "/v2/_catalog/", "/v2/_other", "/v2/a/_bucketry/x/y", "/v2/manifests/v1", "/v2/blobs/uploads/",
     "/v2/tags/list", "/v2/a/tags", "/v2/a/tags/", "/v2/a/tags/list/", "/v2/a/manifests", "/v2/a/manifests/v1/x",
     "/v2/a/blobs/uploads/x/y", "/v2/a/b/c"],
)  # fmt: skip
def test_path_that_the_spec_does_not_have_is_unknown(path: str) -> None:
    with pytest.raises(RouteUnknown):
        resolve(path)


@pytest.mark.parametrize("name", ["A", "a//b", "/a", "..", "a/..", "~a", "a\n", "a\0", "é", "-a", "a" * 256, "a b"])
def test_name_that_is_none_is_refused_before_anything_else(name: str) -> None:
    for end in ("manifests/v1", "blobs/x", "blobs/uploads/", "blobs/uploads/x", "tags/list", "referrers/x"):
        with pytest.raises(NameInvalid):
            resolve(f"/v2/{name}/{end}")


@given(st.text(max_size=80))
def test_any_path_is_a_target_or_a_refusal(text: str) -> None:
    for path in (f"/v2/{text}", f"/v2{text}", f"/v2/{text}/blobs/uploads/{text}"):
        try:
            target = resolve(path)
        except (RouteUnknown, NameInvalid):
            continue
        assert "~" not in target.repository
        assert ".." not in target.repository
