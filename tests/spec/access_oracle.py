"""What RFC 6 says of a request, written down a second time: from its text, and from nothing that the registry runs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

ACTIONS = ("pull", "push", "overwrite", "delete", "catalog", "metrics", "admin")
ASKED = {
    "pull": {"pull"},
    "push": {"push", "overwrite"},
    "delete": {"delete"},
    "*": {"pull", "push", "overwrite", "delete"},
}
"""What the actions of a scope stand for ("Tokens")."""


@dataclass(frozen=True)
class Rule:
    who: tuple[str, ...]
    repositories: tuple[str, ...]
    allow: tuple[str, ...]
    claims: Mapping[str, str] = field(default_factory=dict)

    def toml(self) -> str:
        lines = ["[[rule]]", f"who = {_list(self.who)}"]
        if self.claims:
            lines.append("claims = { " + ", ".join(f'{name} = "{glob}"' for name, glob in self.claims.items()) + " }")
        return "\n".join([*lines, f"repositories = {_list(self.repositories)}", f"allow = {_list(self.allow)}", ""])


@dataclass(frozen=True)
class Rules:
    """A file of rules. ``immutable``: pairs of a pattern for repositories and one for tags."""

    rules: tuple[Rule, ...]
    groups: Mapping[str, tuple[str, ...]]
    immutable: tuple[tuple[str, str], ...]

    def toml(self) -> str:
        groups = "".join(f"{name} = {_list(members)}\n" for name, members in self.groups.items())
        tags = "".join(
            f'[[immutable]]\nrepositories = ["{repository}"]\ntags = ["{tag}"]\n' for repository, tag in self.immutable
        )
        return f"[groups]\n{groups}\n" + "\n".join(rule.toml() for rule in self.rules) + tags


@dataclass(frozen=True)
class Who:
    """``name`` as rules write it; ``list``: a robot's own actions, and on what."""

    name: str
    claims: Mapping[str, str] = field(default_factory=dict)
    list: tuple[tuple[str, ...], tuple[str, ...]] | None = None


ANYBODY = Who("anonymous")


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"


def _matches(glob: str, name: str) -> bool:
    """By taking the pattern apart from the left, part by part; ``team/**`` is ``team``, too."""
    return _parts(glob.split("/"), name.split("/"))


def _parts(globs: Sequence[str], names: Sequence[str]) -> bool:
    if not globs:
        return not names
    if globs[0] == "**":
        return any(_parts(globs[1:], names[start:]) for start in range(len(names) + 1))
    return bool(names) and _text(globs[0], names[0]) and _parts(globs[1:], names[1:])


def _text(glob: str, text: str) -> bool:
    if not glob:
        return not text
    if glob[0] == "*":
        return any(_text(glob[1:], text[start:]) for start in range(len(text) + 1))
    return bool(text) and text[0] == glob[0] and _text(glob[1:], text[1:])


class Oracle:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def may(self, who: Who, action: str, repository: str | None) -> bool:
        """``repository`` None: every one there is and will be."""
        wanted = {action, "admin"}
        if who.list is not None:
            actions, repositories = who.list
            if wanted & set(actions) and (action in ("catalog", "metrics") or self._covers(repositories, repository)):
                return True
        for rule in self._rules.rules:
            if not self._called(who) & set(rule.who) or not wanted & set(rule.allow):
                continue
            if any(name not in who.claims or not _text(glob, who.claims[name]) for name, glob in rule.claims.items()):
                continue
            if action in ("catalog", "metrics") or self._covers(rule.repositories, repository):
                return True
        return False

    def immutable(self, repository: str, tag: str) -> bool:
        return any(_matches(where, repository) and _text(which, tag) for where, which in self._rules.immutable)

    def _covers(self, globs: Sequence[str], repository: str | None) -> bool:
        if repository is None:
            return "**" in globs
        return any(_matches(glob, repository) for glob in globs)

    def _called(self, who: Who) -> set[str]:
        if who.name == "anonymous":
            return {"anonymous"}
        groups = {f"group:{name}" for name, members in self._rules.groups.items() if who.name in members}
        return {"anonymous", "authenticated", who.name} | groups


@dataclass(frozen=True)
class Credentials:
    """What a request presents. ``scopes``: of a token of the registry, as they were asked for; None for all others.

    ``authenticated``: something was presented and is somebody's; a stranger's token is not.
    """

    label: str
    who: Who
    scopes: tuple[str, ...] | None = None

    @property
    def authenticated(self) -> bool:
        return self.who.name != "anonymous"

    def covers(self, action: str, repository: str) -> bool:
        if self.scopes is None:
            return True
        for scope in self.scopes:
            kind, name, actions = scope.split(":")
            if kind == "registry":
                if action == "catalog" and (name, actions) == ("catalog", "*"):
                    return True
            elif name == repository and any(action in ASKED[one] for one in actions.split(",")):
                return True
        return False


def rule_sets(seed: int, repositories: Sequence[str], people: Sequence[str]) -> Rules:
    """Rules that nobody would write, and that must hold all the same."""
    chance = random.Random(seed)
    globs = ["**", "team/**", "team/*", "public/*", "*/app", "**/vault", *repositories]
    who = [*people, "anonymous", "authenticated", "group:one", "group:two", "oidc:ci"]
    rules = []
    for _ in range(chance.randint(2, 9)):
        names = chance.sample(who, chance.randint(1, 2))
        rules.append(
            Rule(
                tuple(names),
                tuple(chance.sample(globs, chance.randint(1, 2))),
                tuple(chance.sample(ACTIONS, chance.choice((1, 1, 2, 3)))),
                chance.choice(({}, {"ref": "refs/heads/*"}, {"ref": "other"})) if names == ["oidc:ci"] else {},
            )
        )
    members = [name for name in people if chance.random() < 0.5] or [people[0]]
    groups = {"one": tuple(members), "two": (chance.choice(people),)}
    return Rules(tuple(rules), groups, tuple(product(("team/*", "public/**")[: chance.randint(0, 2)], ("v*",))))


def names_in(challenge: str) -> Iterator[tuple[str, str]]:
    """The parameters of a challenge."""
    yield from re.findall(r'([a-z]+)="([^"]*)"', challenge)
