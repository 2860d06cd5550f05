"""Lists of tags, repositories and referrers: their order, their pages, and the links from one to the next."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.spec.conftest import Running
from tests.support.api import ABSENT, EMPTY, Answer, Api, descriptor, image
from tests.support.images import OCI_INDEX, OCI_MANIFEST, digest_of

TAGS = ["0", "A", "Z", "_", "a", "a-b", "a.b", "a_b", "ab", "latest", "v1", "v1.0", "v10", "v2"]
"""In byte order."""


def next_link(answer: Answer) -> str | None:
    """Where the next page is; None where this is the last."""
    link = answer.headers["Link"]
    if link is None:
        return None
    found = re.fullmatch(r'<([^>]+)>; rel="next"', link)
    assert found is not None, link
    return found[1]


def pages(api: Api, path: str, field: str) -> list[list[str]]:
    """The names on each page, as far as the links lead."""
    found, link = [], path
    while True:
        answer = api.get(link)
        assert answer.status == 200, answer
        found.append(answer.json()[field])
        following = next_link(answer)
        if following is None:
            return found
        assert following != link
        link = following


@pytest.fixture(scope="module")
def tagged() -> str:
    return "tests/test-listing/tagged"


@pytest.fixture
def tags(api: Api, tagged: str) -> str:
    """The path of the list; the tags are pushed where they are not there yet."""
    path = f"/v2/{tagged}/tags/list"
    if api.get(path).status == 404:
        api.push_blob(tagged, EMPTY)
        query = "&".join(f"tag={tag}" for tag in reversed(TAGS))
        assert api.push_manifest(tagged, f"{digest_of(image())}?{query}", image()).status == 201
    return path


def test_tags_are_listed_in_byte_order_with_the_name(tags: str, tagged: str, api: Api) -> None:
    answer = api.get(tags)
    assert answer.json() == {"name": tagged, "tags": TAGS}
    assert answer.header("Content-Type") == "application/json"
    assert next_link(answer) is None


@pytest.mark.parametrize("n", [1, 2, 5, 7, 13, 14, 15])
def test_pages_of_tags_are_all_of_them_once(n: int, tags: str, api: Api) -> None:
    found = pages(api, f"{tags}?n={n}", "tags")
    assert found == [TAGS[at : at + n] for at in range(0, len(TAGS), n)]


@pytest.mark.parametrize("n", [10**6, 10**18])
def test_n_that_is_huge_is_clamped(n: int, tags: str, api: Api) -> None:
    """CVE-2023-2253: n must not be what memory is reserved for."""
    answer = api.get(f"{tags}?n={n}")
    assert answer.json()["tags"] == TAGS
    assert next_link(answer) is None


def test_n_of_zero_is_an_empty_page(tags: str, api: Api) -> None:
    answer = api.get(f"{tags}?n=0")
    assert answer.json()["tags"] == []
    assert next_link(answer) is None
    assert api.get("/v2/_catalog?n=0").json() == {"repositories": []}
    assert api.get("/v2/tests/test-listing/nowhere/tags/list?n=0").status == 404


@pytest.mark.parametrize(
    ("last", "first"), [("", "0"), ("a", "a-b"), ("b", "latest"), ("v1", "v1.0"), ("v1.00", "v10"), ("zzz", None)]
)
def test_last_need_not_be_there(last: str, first: str | None, tags: str, api: Api) -> None:
    found = api.get(f"{tags}?last={last}").json()["tags"]
    assert found == ([] if first is None else TAGS[TAGS.index(first) :])


def test_page_is_no_larger_than_the_configured_one(strict: Running) -> None:
    api = strict.api
    api.push_blob("pages", EMPTY)
    for number in range(7):
        assert api.push_manifest("pages", f"t{number}", image()).status == 201
    expected = [["t0", "t1", "t2"], ["t3", "t4", "t5"], ["t6"]]
    for query in ("", "?n=3", "?n=1000", "?n=9999999999"):
        assert pages(api, f"/v2/pages/tags/list{query}", "tags") == expected
    assert pages(api, "/v2/pages/tags/list?n=2", "tags")[0] == ["t0", "t1"]


def test_tag_that_was_deleted_is_not_listed(api: Api, repository: str) -> None:
    api.push_image(repository, "v1")
    api.push_image(repository, "v2")
    assert api.delete(f"/v2/{repository}/manifests/v1").status == 202
    assert api.get(f"/v2/{repository}/tags/list").json()["tags"] == ["v2"]
    assert api.delete(f"/v2/{repository}/manifests/v2").status == 202
    answer = api.get(f"/v2/{repository}/tags/list")
    assert (answer.status, answer.json()["tags"]) == (200, [])


def test_repositories_are_listed_in_byte_order_across_pages(api: Api) -> None:
    names = [f"tests/test-listing/order/{end}" for end in ("a", "a-b", "a.b", "a/b", "a/b/c", "a0", "a__b", "a_b", "b")]
    for name in reversed(names):
        api.push_image(name, "v1")
    expected = sorted(names)
    for n in (1, 2, 4, 1000):
        found: list[str] = []
        link: str | None = f"/v2/_catalog?n={n}&last=tests/test-listing/order"
        while link is not None and len(found) < len(expected):
            answer = api.get(link)
            page = answer.json()["repositories"]
            assert len(page) <= n
            found += page
            link = next_link(answer)
        assert found[: len(expected)] == expected
        assert found == sorted(found)


def test_every_page_of_the_catalog_together_is_the_catalog(api: Api) -> None:
    api.push_image("tests/test-listing/one", "v1")
    whole = [name for page in pages(api, "/v2/_catalog", "repositories") for name in page]
    assert "tests/test-listing/one" in whole
    assert whole == sorted(set(whole))
    assert [name for page in pages(api, "/v2/_catalog?n=7", "repositories") for name in page] == whole
    # An empty last, as some clients send for the first page.
    assert api.get("/v2/_catalog?n=7&last=").json()["repositories"] == whole[:7]


def test_repository_of_blobs_alone_is_in_no_list(api: Api, repository: str) -> None:
    api.push_blob(repository, b"alone")
    assert repository not in [name for page in pages(api, "/v2/_catalog", "repositories") for name in page]
    assert api.get(f"/v2/{repository}/tags/list").error() == (404, "NAME_UNKNOWN")


def push_referrers(api: Api, repository: str, subject: bytes, count: int) -> list[str]:
    """The digests of so many, sorted; the even ones are signatures."""
    api.push_blob(repository, EMPTY)
    found = []
    for number in range(count):
        kind = "application/vnd.x.sbom" if number % 2 else "application/vnd.x.signature"
        body = image(subject=descriptor(subject, OCI_MANIFEST), artifactType=kind, annotations={"n": str(number)})
        assert api.push_manifest(repository, digest_of(body), body).status == 201
        found.append(digest_of(body))
    return sorted(found)


def test_referrers_are_an_index_with_pages(api: Api, repository: str) -> None:
    subject = image(annotations={"is": "the subject"})
    expected = push_referrers(api, repository, subject, 7)
    path = f"/v2/{repository}/referrers/{digest_of(subject)}"
    answer = api.get(path)
    assert answer.header("Content-Type") == OCI_INDEX
    document = answer.json()
    assert (document["schemaVersion"], document["mediaType"]) == (2, OCI_INDEX)
    assert [entry["digest"] for entry in document["manifests"]] == expected
    assert all(entry["mediaType"] == OCI_MANIFEST and entry["annotations"]["n"] for entry in document["manifests"])
    for n in (1, 3, 7):
        found = [entry["digest"] for page in pages(api, f"{path}?n={n}", "manifests") for entry in page]  # type: ignore[index]
        assert found == expected


def test_referrers_of_one_type_are_filtered_on_every_page(api: Api, repository: str) -> None:
    subject = image(annotations={"is": "filtered"})
    push_referrers(api, repository, subject, 7)
    link: str | None = f"/v2/{repository}/referrers/{digest_of(subject)}?artifactType=application/vnd.x.signature&n=3"
    found = []
    while link is not None:
        answer = api.get(link)
        assert answer.header("OCI-Filters-Applied") == "artifactType"
        assert {entry["artifactType"] for entry in answer.json()["manifests"]} == {"application/vnd.x.signature"}
        found += [entry["digest"] for entry in answer.json()["manifests"]]
        link = next_link(answer)
        if link is not None:
            assert parse_qs(urlsplit(link).query)["artifactType"] == ["application/vnd.x.signature"]
    assert len(found) == len(set(found)) == 4


def test_referrers_of_nothing_are_an_empty_index(api: Api, repository: str) -> None:
    for query in ("", "?artifactType=a/b", "?n=0", "?n=5"):
        answer = api.get(f"/v2/{repository}/referrers/{ABSENT}{query}")
        assert answer.status == 200
        assert answer.json() == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def test_filter_comes_back_in_the_link_as_it_was_given(api: Api, repository: str) -> None:
    subject = image(annotations={"is": "plus"})
    kind = "application/vnd.x+json; v=1&n=9"
    api.push_blob(repository, EMPTY)
    for number in range(3):
        body = image(subject=descriptor(subject, OCI_MANIFEST), artifactType=kind, annotations={"n": str(number)})
        assert api.push_manifest(repository, digest_of(body), body).status == 201
    path = (
        f"/v2/{repository}/referrers/{digest_of(subject)}?n=1&artifactType=application/vnd.x%2Bjson%3B%20v%3D1%26n%3D9"
    )
    assert [len(page) for page in pages(api, path, "manifests")] == [1, 1, 1]
