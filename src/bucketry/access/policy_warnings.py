"""What in a file of rules is allowed and yet surely not meant: rules that match nothing, or let in too many."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from bucketry.access.actions import ALL_ACTIONS, Action
from bucketry.access.languages import can_match, covers
from bucketry.access.rules import AUTHENTICATED, EVERYBODY, Policy, Rule
from bucketry.access.sources import Issuer
from bucketry.oci.glob import RepositoryGlob
from bucketry.oci.text import quoted

MAX_COMPARED: Final = 20_000
"""Pairs of rules that are looked at for one that covers the other: all pairs of 200 rules."""

_MAX_ALIKE: Final = 1_000
"""Of these, pairs whose patterns for repositories are compared."""


def warnings_of(policy: Policy, issuers: Sequence[Issuer], *, users: bool) -> Iterator[str]:
    """A line each, without the file's path. ``users``: there is a file of users, or somebody else who knows them."""
    if not policy.rules:
        yield "there are no rules, so nobody may do anything: write a [[rule]], or do not name the file"
    names = {issuer.name for issuer in issuers}
    dead: set[int] = set()
    for rule in policy.rules:
        reasons = list(_never(policy, rule, names))
        if reasons:
            dead.add(rule.number)
            yield f"{rule.place} can never match: {'; '.join(reasons)}"
        else:
            yield from (f"{rule.place}: {part}" for part in _idle_parts(policy, rule, names))
            yield from (f"{rule.place}: {part}" for part in _too_wide(rule, issuers))
    for one in policy.immutables:
        yield from (f"{one.place}: {part}" for part in _unmatched(one.repositories))
        if not one.tags or not one.repositories:
            yield f"{one.place} makes nothing immutable: it has no {'repositories' if one.tags else 'tags'}"
    if not users:
        yield from _nobody_knows(policy)
    yield from _covered(policy, [rule for rule in policy.rules if rule.number not in dead])


def _never(policy: Policy, rule: Rule, issuers: set[str]) -> Iterator[str]:
    """Why nobody can ever do anything by this rule."""
    if not rule.allow:
        yield "allow is empty"
    if not rule.who:
        yield "who is empty"
    elif all(_is_nobody(policy, who, issuers) for who in rule.who):
        yield "; ".join(_nobody(policy, who, issuers) for who in rule.who)
    if any(action.of_registry or action is Action.ADMIN for action in rule.allow):
        pass  # That is about no repository.
    elif not rule.repositories:
        yield "repositories is empty"
    elif not any(can_match(glob.pattern) for glob in rule.repositories):
        yield "; ".join(_unmatched(rule.repositories))
    empty = [name for name, globs in rule.claims.items() if not globs]
    if empty:
        yield f"the claim {empty[0]} has no values"


def _idle_parts(policy: Policy, rule: Rule, issuers: set[str]) -> Iterator[str]:
    for who in rule.who:
        if _is_nobody(policy, who, issuers):
            yield _nobody(policy, who, issuers)
    yield from _unmatched(rule.repositories)


def _is_nobody(policy: Policy, who: str, issuers: set[str]) -> bool:
    prefix, _, name = who.partition(":")
    return not policy.members(who) or (prefix == "oidc" and name not in issuers)


def _nobody(policy: Policy, who: str, issuers: set[str]) -> str:
    prefix, _, name = who.partition(":")
    if prefix == "group":
        return f"the group {name} has no members"
    near = difflib.get_close_matches(name, issuers, n=1)
    return f"there is no issuer {name}; " + (f"did you mean oidc:{near[0]}?" if near else "write an [[issuer]] for it")


def _unmatched(globs: Iterable[RepositoryGlob]) -> Iterator[str]:
    for glob in globs:
        if not can_match(glob.pattern):
            yield f"{quoted(glob.pattern)} matches no name that a repository can have"


def _too_wide(rule: Rule, issuers: Sequence[Issuer]) -> Iterator[str]:
    """Everybody may get a token of a public issuer, for whatever audience: claims alone tell one from another."""
    bound = any(globs and not any(glob.matches_everything for glob in globs) for globs in rule.claims.values())
    for who in rule.who:
        if who.startswith("oidc:") and not bound:
            yield f"every token of {who} will do, whoever got it: bind it by claims, such as repository_owner"
    if AUTHENTICATED in rule.who and EVERYBODY not in rule.who and issuers:
        names = ", ".join(f"oidc:{issuer.name}" for issuer in issuers)
        yield f"{AUTHENTICATED} is everybody with a token of {names} too, whoever got it: name groups instead"


def _nobody_knows(policy: Policy) -> Iterator[str]:
    for rule in policy.rules:
        for who in rule.who:
            if any(member.startswith("user:") for member in policy.members(who)):
                yield f'{rule.place} names users, and there is no file of them: write users = "/path/to/htpasswd"'
                return


def _covered(policy: Policy, rules: Sequence[Rule]) -> Iterator[str]:
    """Rules that add nothing to a single other one. Of two that say the same, the later one."""
    by: dict[int, Rule] = {}
    pairs = alike = 0
    for rule in reversed(rules):
        for other in rules:
            if other is rule or other.number in by:
                continue
            pairs += 1
            if pairs > MAX_COMPARED or alike > _MAX_ALIKE:
                break
            if not (_allows_as_much(other, rule) and _is_for_all(policy, other, rule) and _asks_no_more(other, rule)):
                continue
            alike += 1
            if _is_everywhere(other, rule):
                by[rule.number] = other
                break
    for rule in rules:
        if rule.number in by:
            yield f"{rule.place} adds nothing: {by[rule.number].place} allows all of it"


def _allows_as_much(other: Rule, rule: Rule) -> bool:
    return rule.allow <= (ALL_ACTIONS if Action.ADMIN in other.allow else other.allow)


def _is_for_all(policy: Policy, other: Rule, rule: Rule) -> bool:
    if EVERYBODY in other.who:
        return True
    if AUTHENTICATED in other.who:
        return EVERYBODY not in rule.who
    people = frozenset().union(*(policy.members(who) for who in other.who))
    return all(policy.members(who) <= people for who in rule.who)


def _asks_no_more(other: Rule, rule: Rule) -> bool:
    """Whether a token that has the claims of ``rule`` has those of ``other``."""
    return all(
        name in rule.claims and all(any(glob.covers(one) for glob in globs) for one in rule.claims[name])
        for name, globs in other.claims.items()
    )


def _is_everywhere(other: Rule, rule: Rule) -> bool:
    if rule.allow and all(action.of_registry for action in rule.allow):
        return True
    patterns = tuple(glob.pattern for glob in other.repositories)
    return all(covers(patterns, glob.pattern) for glob in rule.repositories)
