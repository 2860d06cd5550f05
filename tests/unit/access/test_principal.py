from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.access import ANONYMOUS, Grant, Method, Principal, PrincipalInvalid, claims_of
from bucketry.access.principal import MAX_CLAIM, MAX_CLAIMS

GITHUB = {
    "iss": "https://token.actions.githubusercontent.com",
    "aud": ["registry.example.com"],
    "sub": "repo:acme/app:ref:refs/heads/main",
    "repository_owner": "acme",
    "run_number": "10",
    "exp": 1_800_000_000,
}
KUBERNETES = {
    "iss": "https://kubernetes.default.svc",
    "aud": ["registry.example.com"],
    "kubernetes.io": {
        "namespace": "build",
        "pod": {"name": "job-1", "uid": "1"},
        "serviceaccount": {"name": "ci", "uid": "2"},
    },
    "sub": "system:serviceaccount:build:ci",
}


@pytest.mark.parametrize(
    "text",
    [
        "anonymous",
        "user:alice",
        "user:Alice.Smith+x@example.com",
        r"user:DOMAIN\alice",
        "robot:ci",
        "robot:ci-main.2_x",
        "oidc:github",
        "cert:CN=builder",
        "cert:CN=My Builder, Inc.",
        "cert:DNS:host.example.com",
        "cert:URI:spiffe://example/ns/build",
        "cert:EMAIL:a@example.com",
    ],
)
def test_a_principal_is_written_as_it_is_read(text: str) -> None:
    principal = Principal.parse(text)

    assert str(principal) == text
    assert Principal.parse(str(principal)) == principal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "user",
        "user:",
        "User:alice",
        "user: alice",
        "user:alice ",
        "user:al:ice",
        "user:*",
        "user:al\nice",
        "user:al\0ice",
        "user:alice\n",
        "user:\u0430lice",  # Cyrillic а
        "user:ali\u0301ce",  # é in two parts
        "user:\u00e9",
        "user:alice\u200b",
        "user:\uff41lice",  # full width
        "user:" + "a" * 256,
        "robot:CI",
        "robot:",
        "robot:-ci",
        "robot:ci..x",
        "robot:../x",
        "robot:a/b",
        "robot:ci\n",
        "robot:" + "a" * 65,
        "oidc:git hub",
        "oidc:a/b",
        "cert:builder",
        "cert:CN=",
        "cert:CN= x",
        "cert:CN=x ",
        "cert:CN=*",
        "cert:CN=x\n",
        "cert:CN=a\u202eb",
        "cert:DNS:*.example.com",
        "cert:DNS:Host.example.com",
        "group:dev",
        "authenticated",
        "anonymous:x",
        "certificate:CN=x",
    ],
)
def test_what_is_no_name_is_refused_in_plain_words(text: str) -> None:
    with pytest.raises(PrincipalInvalid) as caught:
        Principal.parse(text)

    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    assert "is no " in message
    assert len(message) < 300


@given(st.text(max_size=30))
def test_any_text_is_a_name_of_printable_ascii_or_none(name: str) -> None:
    try:
        principal = Principal("user", name)
    except PrincipalInvalid:
        return
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set(" :*")
    assert Principal.parse(str(principal)).name == name


def test_only_the_kinds_that_have_them_have_names_claims_and_lists() -> None:
    with pytest.raises(PrincipalInvalid, match="has no name"):
        Principal("anonymous", "x")
    with pytest.raises(PrincipalInvalid, match="user:a has claims"):
        Principal("user", "a", {"x": "y"})
    with pytest.raises(PrincipalInvalid, match="anonymous has claims"):
        Principal("anonymous", claims={"x": "y"})
    with pytest.raises(PrincipalInvalid, match="oidc:a has a list"):
        Principal("oidc", "a", grant=Grant((), frozenset()))


def test_two_are_equal_where_rules_treat_them_alike() -> None:
    claims: dict[str, str | tuple[str, ...]] = {"a": "1", "b": ("2", "3")}
    one = Principal("oidc", "hub", claims, Method.ID_TOKEN)
    other = Principal("oidc", "hub", {"b": ("2", "3"), "a": "1"})
    claims["a"] = "changed"

    assert one == other
    assert hash(one) == hash(other)
    assert one.claims["a"] == "1"
    assert one != Principal("oidc", "hub", {"a": "1"})
    assert one != Principal("oidc", "lab", other.claims)
    assert ANONYMOUS.is_anonymous
    assert not one.is_anonymous


def test_claims_of_github_and_of_kubernetes() -> None:
    assert claims_of(GITHUB) == {
        "iss": "https://token.actions.githubusercontent.com",
        "aud": ("registry.example.com",),
        "sub": "repo:acme/app:ref:refs/heads/main",
        "repository_owner": "acme",
        "run_number": "10",
        "exp": "1800000000",
    }
    assert claims_of(KUBERNETES) == {
        "iss": "https://kubernetes.default.svc",
        "aud": ("registry.example.com",),
        "kubernetes.io.namespace": "build",
        "kubernetes.io.pod.name": "job-1",
        "kubernetes.io.pod.uid": "1",
        "kubernetes.io.serviceaccount.name": "ci",
        "kubernetes.io.serviceaccount.uid": "2",
        "sub": "system:serviceaccount:build:ci",
    }


@pytest.mark.parametrize(
    ("token", "claims"),
    [
        ({"a": True, "b": False, "c": None, "d": 1.5, "e": -3}, {"a": "true", "b": "false", "e": "-3"}),
        ({"a": ["x", 1, True, None, ["y"], {"z": 1}]}, {"a": ("x", "1", "true")}),
        ({"a.b": "mine", "a": {"b": "theirs"}}, {}),
        ({"a.b": None, "a": {"b": "theirs"}}, {}),
        ({"a": "x" * (MAX_CLAIM + 1), "b": "x" * MAX_CLAIM}, {"b": "x" * MAX_CLAIM}),
        ({"a": ["x"] * (MAX_CLAIMS + 1)}, {}),
        ({"a": {"b": {"c": {"d": "in", "e": {"f": "too deep"}}}}}, {"a.b.c.d": "in"}),
        ({"a" * 300: "x"}, {}),
        ({"n": 10**4000}, {}),
    ],
)
def test_what_could_be_taken_for_something_else_is_left_out(
    token: dict[str, object], claims: dict[str, object]
) -> None:
    assert claims_of(token) == claims


def test_the_number_of_claims_is_limited() -> None:
    assert len(claims_of({f"c{n}": "x" for n in range(10_000)})) == MAX_CLAIMS
