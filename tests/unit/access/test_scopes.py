from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.access import (
    OPEN,
    Action,
    Policy,
    Principal,
    Rule,
    Scope,
    ScopeInvalid,
    covered,
    granted,
    parse_scopes,
    scopes_of_entries,
)
from bucketry.oci.glob import RepositoryGlob

ALICE = Principal("user", "alice")


def read(*texts: str) -> list[str]:
    return [str(scope) for scope in parse_scopes(texts)]


@pytest.mark.parametrize(
    ("client", "scope", "ours"),
    [
        ("docker pull", "repository:team/app:pull", "repository:team/app:pull"),
        ("docker push", "repository:team/app:pull,push", "repository:team/app:pull,push,overwrite"),
        ("crane push", "repository:team/app:push,pull", "repository:team/app:pull,push,overwrite"),
        ("crane delete", "repository:team/app:delete", "repository:team/app:delete"),
        ("oras", "repository:team/app:delete,pull,push", "repository:team/app:pull,push,overwrite,delete"),
        ("skopeo delete", "repository:team/app:*", "repository:team/app:pull,push,overwrite,delete"),
        ("docker plugin", "repository(plugin):team/app:pull", "repository:team/app:pull"),
        ("catalog", "registry:catalog:*", "registry:catalog:catalog"),
        ("ours", "repository:team/app:overwrite", "repository:team/app:overwrite"),
    ],
)
def test_what_clients_ask_for(client: str, scope: str, ours: str) -> None:
    assert read(scope) == [ours], client


def test_several_scopes_in_one_parameter_or_in_many() -> None:
    both = ["repository:a:pull", "repository:b:pull,push,overwrite"]

    assert read("repository:a:pull repository:b:pull,push") == both
    assert read("repository:a:pull", "repository:b:pull,push") == both
    assert read("  repository:a:pull  ", "", "repository:b:push repository:b:pull") == both
    assert read() == read("") == read(" ") == []


@pytest.mark.parametrize(
    "scope",
    [
        "repository:a:admin",
        "repository:a:catalog",
        "repository:a:",
        "repository:a:PULL",
        "repository:a:pull.*",
        "registry:catalog:pull",
        "registry:other:*",
        "registry:CATALOG:*",
        "project:a:pull",
        "plugin:a:pull",
        "repository-x:a:pull",
    ],
)
def test_what_is_not_known_gives_nothing(scope: str) -> None:
    assert read(scope) == []
    assert read(scope, "repository:b:pull") == ["repository:b:pull"]


@pytest.mark.parametrize(
    "scope",
    [
        "repository",
        "repository:",
        "repository:a",
        ":a:pull",
        "repository::pull",
        "Repository:a:pull",
        "REPOSITORY:a:pull",
        "repository:Team/app:pull",
        "repository:team/../app:pull",
        "repository:../app:pull",
        "repository:team//app:pull",
        "repository:/team:pull",
        "repository:team/:pull",
        "repository:team/*:pull",
        "repository:*:pull",
        "repository:**:*",
        "repository:team/app?:pull",
        "repository:localhost:5000/team/app:pull",
        "repository:registry.example:443/app:pull",
        "repository:a:pull:b:push",
        "repository:a:pull,repository:b:push",
        "repository:a:pull\nrepository:b:push",
        "repository:a:pull\trepository:b:push",
        "repository:a:pull%20repository:b:push",
        "repository:a:pull\u00a0repository:b:push",
        "repository:a:pull\u2003repository:b:push",
        "repository:a:pull;push",
        "repository:te\u0430m:pull",
        "repository:a\0:pull",
        "repository(plu gin):a:pull",
        "repository(:a:pull",
        "repository(PLUGIN):a:pull",
        "repository:" + "a" * 256 + ":pull",
        "repository:a@sha256:pull",
    ],
)
def test_what_tries_to_be_something_else_is_refused(scope: str) -> None:
    with pytest.raises(ScopeInvalid) as caught:
        parse_scopes(["repository:fine:pull", scope])

    assert caught.value.code == "UNSUPPORTED"
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


def test_the_host_in_a_name_is_told() -> None:
    with pytest.raises(ScopeInvalid, match=r"'repository:localhost:5000/app:pull': .* without the registry's host$"):
        parse_scopes(["repository:localhost:5000/app:pull"])


def test_two_scopes_in_one_parameter_are_judged_each() -> None:
    policy = Policy([Rule(1, ("user:alice",), (RepositoryGlob("a"),), frozenset({Action.PULL}))])
    scopes = granted(policy, ALICE, parse_scopes(["repository:a:pull,push repository:b:push,pull"]))

    assert [str(scope) for scope in scopes] == ["repository:a:pull"]
    assert [scope.entry() for scope in scopes] == [{"type": "repository", "name": "a", "actions": ["pull"]}]
    assert granted(policy, ALICE, parse_scopes(["registry:catalog:*", "repository:b:*"])) == ()


def test_ten_thousand_scopes_are_refused_at_once() -> None:
    with pytest.raises(ScopeInvalid, match="over 100 scopes: ask for fewer"):
        parse_scopes(f"repository:r{n}:pull" for n in range(10_000))
    with pytest.raises(ScopeInvalid, match="over 32768 characters: ask for fewer"):
        parse_scopes([" ".join(f"repository:r{n}:pull" for n in range(10_000))])
    with pytest.raises(ScopeInvalid, match="over 100 scopes"):
        parse_scopes(["repository:a:pull"] * 101)
    assert len(parse_scopes([f"repository:r{n}:pull" for n in range(100)])) == 100


@pytest.mark.parametrize(
    "text",
    [
        "a" * 10**7,
        ":" * 32_768,
        "a-" * 16_384,
        "repository:" + ":" * 32_000,
        "(" * 32_768,
        "repository:a:" + "p," * 16_000,
    ],
)
def test_huge_texts_take_no_time(text: str) -> None:
    began = time.perf_counter()
    message = ""
    try:
        parse_scopes([text])
    except ScopeInvalid as error:
        message = error.message
    assert len(message) < 400
    assert time.perf_counter() - began < 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="repositygal:,/.* ()-_A\n\u0430", max_size=60), max_size=5))
def test_any_texts_are_read_or_refused(texts: list[str]) -> None:
    try:
        scopes = parse_scopes(texts)
    except ScopeInvalid:
        return
    for scope in scopes:
        assert scope.actions
        assert Action.ADMIN not in scope.actions
        assert "*" not in scope.name


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b/c"]), st.lists(st.sampled_from(["pull", "push", "delete", "*", "x"]))),
        max_size=6,
    )
)
def test_everything_granted_was_asked_for(asked: list[tuple[str, list[str]]]) -> None:
    scopes = parse_scopes([f"repository:{name}:{','.join(actions)}" for name, actions in asked])
    tokens = granted(OPEN, ALICE, scopes)

    assert len({scope.name for scope in tokens}) == len(tokens)
    for name in ("a", "b/c"):
        words = {word for one, actions in asked if one == name for word in actions}
        for action, needs in {"pull": {"pull"}, "push": {"push"}, "overwrite": {"push"}, "delete": {"delete"}}.items():
            assert covered(tokens, Action(action), name) == bool(words & (needs | {"*"}))
        assert not covered(tokens, Action.ADMIN, name)
        assert not covered(tokens, Action.CATALOG, name)
    assert not covered(tokens, Action.PULL, "other")
    assert not covered(tokens, Action.PULL, None)
    assert scopes_of_entries([scope.entry() for scope in tokens]) == tokens


def test_the_catalog_takes_its_own_scope() -> None:
    tokens = granted(OPEN, ALICE, parse_scopes(["registry:catalog:*"]))

    assert covered(tokens, Action.CATALOG, None)
    assert not covered(tokens, Action.PULL, "catalog")
    assert scopes_of_entries([scope.entry() for scope in tokens]) == tokens


@pytest.mark.parametrize(
    "entries",
    [
        None,
        "x",
        {"type": "repository", "name": "a", "actions": ["pull"]},
        [None, 1, "repository:a:pull", []],
        [{"type": "repository", "name": "a"}],
        [{"type": "repository", "name": "a", "actions": "pull"}],
        [{"type": "repository", "name": ["a"], "actions": ["pull"]}],
        [{"type": "repository", "name": "a", "actions": [None, 3, ["pull"], "admin"]}],
        [{"type": "repository", "name": "a", "actions": ["PULL", " pull", "pull,push"]}],
        [{"type": "registry", "name": "other", "actions": ["*"]}],
        [{"type": "other", "name": "a", "actions": ["pull"]}],
        [{"type": "repository", "name": "a", "actions": ["pull"]}] * 101,
    ],
)
def test_access_that_is_not_understood_gives_nothing(entries: object) -> None:
    assert scopes_of_entries(entries) == ()


def test_access_of_another_token_service() -> None:
    entries = [
        {"type": "repository", "class": "", "name": "a", "actions": ["pull", "push", "future"]},
        {"type": "registry", "name": "catalog", "actions": ["*"]},
    ]

    assert scopes_of_entries(entries) == (
        Scope("repository", "a", frozenset({Action.PULL, Action.PUSH, Action.OVERWRITE})),
        Scope("registry", "catalog", frozenset({Action.CATALOG})),
    )
