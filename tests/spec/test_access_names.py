"""Scopes, repositories and users whose names look like those of others."""

from __future__ import annotations

import base64
from urllib.parse import quote

from tests.support.access import PASSWORDS, World, basic, parts


def granted(world: World, who: str, scope: str) -> list[str]:
    """What a token has that was asked for by this text; nothing where it was refused."""
    answer = world(who, "GET", f"/token?scope={scope}")
    if answer.status in (400, 431):
        return []
    assert answer.status == 200, answer
    _, payload = parts(answer.json()["token"])
    return [f"{entry['type']}:{entry['name']}:{','.join(entry['actions'])}" for entry in payload["access"]]


def test_scopes_that_smuggle_give_what_the_rules_give_and_no_more(world: World) -> None:
    mine = ["repository:b/x:pull,push,overwrite"]
    assert granted(world, "bob", "repository:b/x:pull,push") == mine
    nothing = [
        "repository:a/x:pull,push",
        "repository:a/x:*",
        "repository:*:pull",
        "repository:**:pull",
        "repository:b/*:pull",
        "repository:b/../a/x:pull",
        "repository:b/x/../../a/x:pull",
        "repository:..:pull",
        "repository:/a/x:pull",
        "repository:a//x:pull",
        "repository:b%252F..%252Fa:pull",
        "repository:B/x:pull",
        "repository:b/X:pull",
        "Repository:b/x:pull",
        "repository:b/x:PULL",
        "repository:b/x:admin",
        "repository:b/x:catalog",
        "repository:b/x%00:pull",
        "repository:b/x%0a:pull",
        "repository:%D0%B0/x:pull",  # Cyrillic a
        "repository:%EF%BD%82/x:pull",  # full width b
        "repository:b/x%E2%80%8B:pull",  # zero width
        "repository:b%E2%88%95x:pull",  # a slash that is none
        "repository:b/x",
        "repository::pull",
        "::",
        ":",
        "*",
        "admin",
        "registry:catalog:*",
        "registry:*:*",
        "registry::*",
        "registry:catalog:pull",
        "repository:registry.example:5000/a/x:pull",
        "repository:a/x:pull:b/x:pull",
        "user:root:*",
        "repository(plugin):a/x:pull",
        "repository:a/x:pull,repository:b/x:pull",
        '{"type":"repository","name":"a/x","actions":["pull"]}',
        '["repository:a/x:pull"]',
    ]
    for scope in nothing:
        assert granted(world, "bob", scope.replace(" ", "%20")) == [], scope
    for scope in (
        "repository:a/x:pull repository:b/x:pull,push",
        "repository:b/x:pull,push repository:a/x:pull,push",
        "repository:b/x:pull&scope=repository:b/x:push&scope=repository:a/x:*",
        "repository:b/x:push,pull,admin,root,overwrite,,",
        "repository(plugin):b/x:pull,push",
        "repository:b/x:pull,push registry:catalog:* repository:secret/x:pull",
    ):
        assert granted(world, "bob", scope.replace(" ", "%20")) == mine, scope
    for scope in ("repository:a/x:pull%09repository:b/x:pull", "repository:a/x:pull%0arepository:b/x:pull"):
        assert granted(world, "bob", scope) == []


def test_names_that_look_like_others_are_no_names(world: World) -> None:
    """Neither as they are written, nor by any encoding of a path."""
    assert world.image("alice", "a/real", "edge", "real").status == 201
    names = [
        "A/real",
        "a/Real",
        "a/../a/real",
        "b/../a/real",
        "./a/real",
        "a/./real",
        "a//real",
        "/a/real",
        "a%2freal/../../a/real",
        "%61/%72eal/",
        "\u0430/real",
        "\uff41/real",
        "a/rea\u217c",
        "a/re\u0301al",
        "a/real\u200b",
        "\u202ea/real",
        "a\u2215real",
        "a\\real",
        "a/real%00",
        "a/real%20",
        "a/real%0a",
        "a/real.",
        "a/real;x",
        "a/real%3fx",
        "a%252freal",
        "..%2fa/real",
        "b/x/%2e%2e/%2e%2e/a/real",
    ]
    for name in names:
        written = quote(name, safe="/%")
        for who in ("bob", None, world.token("bob", "repository:b/x:pull,push")):
            for what in ("manifests/edge", "tags/list"):
                answer = world(who, "GET", f"/v2/{written}/{what}")
                assert answer.status in (400, 401, 404), (name, who, answer)
                assert b"real" not in answer.body or b"errors" in answer.body
    # An encoded slash is a slash, to the rules as to the store.
    assert world("alice", "GET", "/v2/a%2Freal/manifests/edge").status == 200
    assert world("bob", "GET", "/v2/a%2Freal/manifests/edge").error() == (404, "NAME_UNKNOWN")
    assert world("bob", "GET", "/v2/%61/%72eal/manifests/edge").error() == (404, "NAME_UNKNOWN")


def test_users_who_look_like_others_are_not_they(world: World) -> None:
    word = PASSWORDS["alice"]
    for name in ("Alice", "ALICE", "alice ", " alice", "\u0430lice", "alic\u00e9", "alice\0", "ali\u200bce", "alice\n"):
        answer = world(basic(name, word), "GET", "/v2/")
        assert answer.status in (401, 429), name
    latin = "Basic " + base64.b64encode(b"alice\xe9:x").decode()
    assert world(latin, "GET", "/v2/").status in (401, 429)
    for credentials in (f"basic {basic('alice', word)[6:]}", f"BASIC {basic('alice', word)[6:]}"):
        assert world(credentials, "GET", "/v2/").status == 200, "a scheme has no case (RFC 9110, 11.1)"
