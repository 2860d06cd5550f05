"""A small world for property tests: people, names, patterns, and rules at random; and how a file says them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from hypothesis import strategies as st
from tests.unit.access.oracle import ACTIONS, Line, Person

from bucketry.access import ANONYMOUS, Principal

NAMES = ("a", "b", "a/a", "a/b", "b/a", "a/b/a", "a-b", "ab", "ab/a", "a-b/b", "a/b/a/b", "b/b/b")
PATTERNS = (*NAMES[:6], "**", "*", "a/*", "a/**", "**/a", "a*", "a*/**", "?", "*/b", "a/**/b", "a-?", "b/*/b", "a?/*")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "one": ("user:alice",),
    "two": ("user:alice", "robot:ci", "cert:CN=builder"),
    "none": (),
}
PEOPLE = (
    Person("anonymous"),
    Person("user:alice"),
    Person("user:bob"),
    Person("robot:ci"),
    Person("robot:alice"),
    Person("cert:CN=builder"),
    Person("oidc:hub"),
    Person("oidc:hub", {"owner": "acme", "ref": "refs/heads/main"}),
    Person("oidc:hub", {"owner": "acme", "ref": ("refs/tags/v1", "refs/heads/dev")}),
    Person("oidc:hub", {"owner": "acme-evil", "ref": "refs/heads/main"}),
    Person("oidc:lab", {"owner": "acme"}),
)
WHO = ("anonymous", "authenticated", "group:one", "group:two", "group:none", *(person.text for person in PEOPLE))
CLAIMS = {
    "owner": ("acme", "acme*", "*", "*evil", "a*e"),
    "ref": ("refs/heads/*", "refs/heads/main", "refs/tags/v*", "refs/*/*", "*"),
}


def lists(items: Iterable[str], most: int = 3) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(list(items)), min_size=1, max_size=most, unique=True).map(tuple)


plain_lines = st.builds(Line, who=lists(WHO), repositories=lists(PATTERNS), allow=lists(ACTIONS))
claim_lines = st.builds(
    Line,
    who=lists(["oidc:hub", "oidc:lab"]),
    repositories=lists(PATTERNS),
    allow=lists(ACTIONS),
    claims=st.fixed_dictionaries({}, optional={name: lists(values, 2) for name, values in CLAIMS.items()}),
)
rule_lines = st.lists(st.one_of(plain_lines, claim_lines), max_size=8)


def principal(person: Person) -> Principal:
    return ANONYMOUS if person.text == "anonymous" else Principal.parse(person.text, claims=person.claims)


def written(lines: Iterable[Line], groups: Mapping[str, Iterable[str]] = GROUPS) -> str:
    """The file that says so. JSON's strings and lists are TOML's too."""
    parts = ['users = "htpasswd"', "[groups]"]
    parts += [f"{name} = {json.dumps(list(members))}" for name, members in groups.items()]
    for name in ("hub", "lab"):
        parts += ["[[issuer]]", f'name = "{name}"', f'url = "https://{name}.example"', 'audience = "registry.example"']
    for line in lines:
        parts += [
            "[[rule]]",
            f"who = {json.dumps(line.who)}",
            f"repositories = {json.dumps(line.repositories)}",
            f"allow = {json.dumps(line.allow)}",
        ]
        if line.claims:
            parts.append("[rule.claims]")
            parts += [f"{name} = {json.dumps(values)}" for name, values in line.claims.items()]
    return "\n".join([*parts, ""])
