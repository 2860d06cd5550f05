"""What rules mean, written a second time and without any of the product's code for it.

Everything is enumerated: of a small world of people, claims and names, every triple that is allowed is put in a set.
Patterns are matched character by character.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

ACTIONS = ("pull", "push", "overwrite", "delete", "catalog", "admin")


@dataclass(frozen=True)
class Line:
    """A rule, in plain text as a file has it."""

    who: tuple[str, ...]
    repositories: tuple[str, ...]
    allow: tuple[str, ...]
    claims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Person:
    """``text``: as the principal is written."""

    text: str
    claims: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)


def matches(pattern: str, name: str) -> bool:
    """A pattern for repositories, by trying every way."""
    if not pattern:
        return not name
    suffixes = [name[start:] for start in range(len(name) + 1)]
    if pattern.startswith("/**"):
        rest = pattern[3:]
        return matches(rest, name) or (name[:1] == "/" and any(matches(rest, suffix) for suffix in suffixes[1:]))
    if pattern.startswith("**/"):
        rest = pattern[3:]
        return matches(rest, name) or any(matches(rest, suffix[1:]) for suffix in suffixes if suffix.startswith("/"))
    if pattern.startswith("**"):
        return any(matches(pattern[2:], suffix) for suffix in suffixes)
    if pattern[0] == "*":
        taken = name.partition("/")[0]
        return any(matches(pattern[1:], name[end:]) for end in range(len(taken) + 1))
    if not name:
        return False
    if pattern[0] == "?":
        return name[0] != "/" and matches(pattern[1:], name[1:])
    return name[0] == pattern[0] and matches(pattern[1:], name[1:])


def text_matches(pattern: str, text: str) -> bool:
    if "*" not in pattern:
        return pattern == text
    first, _, rest = pattern.partition("*")
    return text.startswith(first) and any(
        text_matches(rest, text[start:]) for start in range(len(first), len(text) + 1)
    )


def allowed(
    lines: Iterable[Line], groups: Mapping[str, Iterable[str]], people: Iterable[Person], names: Iterable[str]
) -> set[tuple[str, str, str]]:
    """Every (principal, action, repository) that some rule allows. People are told apart by their text and claims."""
    names = list(names)
    found = set()
    for line in lines:
        for person in people:
            if _meant(line, groups, person):
                for name in names:
                    for action in _actions(line, name):
                        found.add((key(person), action, name))
    return found


def key(person: Person) -> str:
    return f"{person.text} {sorted(person.claims.items())}"


def _actions(line: Line, name: str) -> Iterator[str]:
    """What the line gives on this repository."""
    for action in ACTIONS:
        if action in line.allow or "admin" in line.allow:
            here = any(matches(pattern, name) for pattern in line.repositories)
            if here or action == "catalog":
                yield action


def _meant(line: Line, groups: Mapping[str, Iterable[str]], person: Person) -> bool:
    named = False
    for who in line.who:
        if who == "anonymous":
            named = True
        elif who == "authenticated":
            named = named or person.text != "anonymous"
        elif who.startswith("group:"):
            named = named or person.text in set(groups[who[6:]])
        else:
            named = named or who == person.text
    for name, patterns in line.claims.items():
        has = person.claims.get(name, ())
        texts = [has] if isinstance(has, str) else list(has)
        if not [1 for text in texts for pattern in patterns if text_matches(pattern, text)]:
            return False
    return named
