from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.oci.digest import Digest
from bucketry.oci.errors import DigestInvalid, NameInvalid, OCIError, TagInvalid
from bucketry.oci.reference import MAX_NAME, ImageReference, parse_reference, parse_repository, parse_tag

# The distribution spec's two expressions, as they are printed there.
SPEC_NAME = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
SPEC_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"

SHA = "sha256:" + "ab" * 32
LONGEST = "a/" * 127 + "a"

words = st.text(st.sampled_from("abz059"), min_size=1, max_size=4)
separators = st.sampled_from([".", "_", "__", "-", "---", "/"])
names = st.builds(
    lambda first, more: first + "".join(separator + word for separator, word in more),
    words,
    st.lists(st.tuples(separators, words), max_size=5),
)
tags = st.from_regex(SPEC_TAG, fullmatch=True, alphabet=st.characters(codec="ascii"))
near_names = st.text(st.sampled_from("ab0._-/A:\n\0 é"), max_size=12)
ports = st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f":{port}"))
dotted = st.sampled_from(["registry.example", "r.example.com", "127.0.0.1", "a-b.c", "localhost", "Example.COM"])
hosts = st.one_of(
    st.builds("{}{}".format, dotted, ports),
    st.builds("{}{}".format, st.sampled_from(["[::1]", "[2001:db8::5]", "[::ffff:10.0.0.1]"]), ports),
    st.integers(1, 65535).map(lambda port: f"registry:{port}"),
)


@given(names)
def test_a_name_of_the_spec_is_a_repository(name: str) -> None:
    assert re.fullmatch(SPEC_NAME, name)
    assert parse_repository(name) == name


@given(st.text() | near_names)
def test_what_the_spec_refuses_is_no_repository(name: str) -> None:
    if re.fullmatch(SPEC_NAME, name, re.ASCII) and len(name) <= MAX_NAME:
        assert parse_repository(name) == name
    else:
        with pytest.raises(NameInvalid):
            parse_repository(name)


@pytest.mark.parametrize("name", ["a", "0", "a/b", "a.b_c__d-e---f/0", "library/alpine", LONGEST])
def test_names_that_hold(name: str) -> None:
    assert parse_repository(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        ".a",
        "a.",
        "-a",
        "a-",
        "_a",
        "a..b",
        "a___b",
        "a._b",
        "A",
        "a/B",
        "a b",
        "a\n",
        "a\0b",
        "a~b",
        "a:b",
        "a@b",
        "a%2fb",
        "a\\b",
        "é",
        "٣",
        LONGEST + "a",
        "a" * 1_000_000,
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(NameInvalid) as refused:
        parse_repository(name)

    assert refused.value.code == "NAME_INVALID"
    assert refused.value.message.isascii()
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400


@given(st.text() | st.text(st.sampled_from("aZ0_.-/:\n\0 é"), max_size=6))
def test_what_the_spec_refuses_is_no_tag(tag: str) -> None:
    if re.fullmatch(SPEC_TAG, tag, re.ASCII):
        assert parse_tag(tag) == tag
    else:
        with pytest.raises(TagInvalid):
            parse_tag(tag)


@pytest.mark.parametrize("tag", ["latest", "_", "v1.0-rc_2", "A" * 128])
def test_tags_that_hold(tag: str) -> None:
    assert parse_tag(tag) == tag


@pytest.mark.parametrize(
    "tag", ["", ".", "..", "-a", ".a", "a" * 129, "a/b", "a\n", "a\0", "a b", "é", "٣", "a:b", "a+b", "a" * 1_000_000]
)
def test_tags_that_are_refused(tag: str) -> None:
    with pytest.raises(TagInvalid) as refused:
        parse_tag(tag)

    assert refused.value.code == "MANIFEST_INVALID"
    assert refused.value.message.isascii()
    assert len(refused.value.message) < 400


@given(tags)
def test_a_reference_without_a_colon_is_a_tag(tag: str) -> None:
    assert parse_reference(tag) == tag


def test_a_reference_with_a_colon_is_a_digest_and_never_a_tag() -> None:
    assert parse_reference(SHA) == Digest.parse(SHA)
    with pytest.raises(DigestInvalid):
        parse_reference("sha256:latest")
    with pytest.raises(DigestInvalid):
        parse_reference(":")


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("alpine", "docker.io", "library/alpine", None),
        ("alpine:3", "docker.io", "library/alpine", "3"),
        ("team/app", "docker.io", "team/app", None),
        ("docker.io/alpine", "docker.io", "library/alpine", None),
        ("docker.io/team/app:1", "docker.io", "team/app", "1"),
        ("index.docker.io/alpine:3", "docker.io", "library/alpine", "3"),
        ("localhost/app", "localhost", "app", None),
        ("localhost:5000/app:v1", "localhost:5000", "app", "v1"),
        ("localhost:5000", "docker.io", "library/localhost", "5000"),
        ("localhost", "docker.io", "library/localhost", None),
        ("registry/app", "docker.io", "registry/app", None),
        ("registry:80/app", "registry:80", "app", None),
        ("registry.example/a/b/c:t", "registry.example", "a/b/c", "t"),
        ("127.0.0.1/app", "127.0.0.1", "app", None),
        ("[::1]:5000/app:v1", "[::1]:5000", "app", "v1"),
        ("[2001:db8::1]/app", "[2001:db8::1]", "app", None),
        ("Registry/app", "Registry", "app", None),
        ("docker.io/" + "a" * 64, "docker.io", "library/" + "a" * 64, None),
    ],
)
def test_references_mean_what_clients_take_them_for(text: str, registry: str, repository: str, tag: str | None) -> None:
    assert ImageReference.parse(text) == ImageReference(registry, repository, tag)
    with_digest = ImageReference.parse(f"{text}@{SHA}")
    assert with_digest == ImageReference(registry, repository, tag, Digest.parse(SHA))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", NameInvalid),
        ("/", NameInvalid),
        ("/app", NameInvalid),
        ("app/", NameInvalid),
        ("localhost/", NameInvalid),
        ("App", NameInvalid),
        ("team/App", NameInvalid),
        ("https://registry.example/app", NameInvalid),
        ("docker://alpine", NameInvalid),
        ("a" * 64, NameInvalid),
        ("reg_istry.example/app", NameInvalid),
        ("-registry.example/app", NameInvalid),
        ("registry.example:/app", NameInvalid),
        ("registry.example:0/app", NameInvalid),
        ("registry.example:65536/app", NameInvalid),
        ("registry.example:٣/app", NameInvalid),
        ("user@registry.example/app", DigestInvalid),
        ("[::1/app", NameInvalid),
        ("[::1%25eth0]:5000/app", NameInvalid),
        ("[:::]/app", NameInvalid),
        ("::1/app", NameInvalid),
        ("registry.example..:80/app", NameInvalid),
        ("registry.example/app\n", NameInvalid),
        ("app:", TagInvalid),
        ("app:.t", TagInvalid),
        ("app:a:b", TagInvalid),
        ("app:t\n", TagInvalid),
        ("app@", DigestInvalid),
        ("app@latest", DigestInvalid),
        (f"app@{SHA}@{SHA}", DigestInvalid),
        (f"app@{SHA}:t", DigestInvalid),
        (f"app@{SHA}\n", DigestInvalid),
    ],
)
def test_references_that_are_refused(text: str, error: type[OCIError]) -> None:
    with pytest.raises(error) as refused:
        ImageReference.parse(text)

    assert refused.value.message.isascii()
    assert refused.value.message.isprintable()


@given(hosts, names, st.none() | tags, st.sampled_from([None, SHA, "sha512:" + "0f" * 64]))
def test_a_full_reference_comes_back_as_it_was(host: str, name: str, tag: str | None, digest: str | None) -> None:
    text = f"{host}/{name}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")

    reference = ImageReference.parse(text)

    assert str(reference) == text
    assert (reference.registry, reference.repository, reference.tag) == (host, name, tag)


short = st.text(st.sampled_from("aA0.:-_[]"), max_size=6)


@given(
    st.one_of(names, short, hosts), st.sampled_from(["", "/"]), st.one_of(names, short), st.one_of(st.just(""), short)
)
def test_what_is_accepted_survives_being_written_out(first: str, slash: str, rest: str, end: str) -> None:
    try:
        reference = ImageReference.parse(first + slash + rest + end)
    except (NameInvalid, TagInvalid, DigestInvalid):
        return
    assert ImageReference.parse(str(reference)) == reference


@given(st.text())
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        parsed: object = ImageReference.parse(text)
    except (NameInvalid, TagInvalid, DigestInvalid):
        return
    assert isinstance(parsed, ImageReference)


def test_the_digest_goes_before_the_tag_and_latest_is_last() -> None:
    assert ImageReference.parse(f"app:v1@{SHA}").reference == Digest.parse(SHA)
    assert ImageReference.parse("app:v1").reference == "v1"
    assert ImageReference.parse("app").reference == "latest"


@pytest.mark.parametrize(
    ("registry", "repository", "tag"),
    [
        ("registry", "app", None),  # would be read as docker.io/registry/app
        ("docker.io", "alpine", None),  # would be read as docker.io/library/alpine
        ("index.docker.io", "library/alpine", None),  # is docker.io
        ("registry.example/team", "app", None),
        ("registry.example", "App", None),
        ("registry.example", "app", ""),
    ],
)
def test_what_no_text_stands_for_cannot_be_constructed(registry: str, repository: str, tag: str | None) -> None:
    with pytest.raises((NameInvalid, TagInvalid)):
        ImageReference(registry, repository, tag)
