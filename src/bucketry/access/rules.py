"""Rules, and what they decide.

Rules only allow: an action is allowed where one of them allows it, whatever their order. The first of them, by
number, is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from bucketry.access.actions import Action, in_order
from bucketry.access.patterns import TextGlob
from bucketry.access.principal import Principal
from bucketry.oci.errors import NameInvalid
from bucketry.oci.glob import RepositoryGlob
from bucketry.oci.reference import parse_repository
from bucketry.oci.text import quoted

AUTHENTICATED: Final = "authenticated"
EVERYBODY: Final = "anonymous"
"""A rule for ``anonymous`` is for everybody: who logs in never loses by it."""

_ONLY_EVERYBODY: Final = frozenset({EVERYBODY})
_LOGGED_IN: Final = frozenset({EVERYBODY, AUTHENTICATED})

ALL_REPOSITORIES: Final = "**"

ClaimGlobs: TypeAlias = Mapping[str, tuple[TextGlob, ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """``who`` may do each of ``allow`` on ``repositories``.

    ``number`` counts from 1; ``line`` of the file, where it is known. ``claims``: name to patterns, of which the
    token's claim (or one member of it, where it is a list) must match one; all names must be there.
    """

    number: int
    who: tuple[str, ...]
    repositories: tuple[RepositoryGlob, ...]
    allow: frozenset[Action]
    claims: ClaimGlobs = field(default_factory=dict)
    line: int | None = None

    @property
    def place(self) -> str:
        return place("rule", self.number, self.line)

    @property
    def text(self) -> str:
        """As one would write it, on one line."""
        parts = [f"who = {_listed(self.who)}"]
        if self.claims:
            pairs = (
                f"{_key(name)} = {_listed([glob.pattern for glob in globs], single=True)}"
                for name, globs in self.claims.items()
            )
            parts.append(f"claims = {{ {', '.join(pairs)} }}")
        parts.append(f"repositories = {_listed([glob.pattern for glob in self.repositories])}")
        parts.append(f"allow = {_listed([action.value for action in in_order(self.allow)])}")
        return ", ".join(parts)

    def accepts(self, principal: Principal) -> bool:
        """Whether the principal's claims are what the rule asks for; who it is, is not looked at."""
        return all(claim_matches(principal.claims.get(name), globs) for name, globs in self.claims.items())


@dataclass(frozen=True, slots=True)
class Immutable:
    """Tags that are written once, in these repositories."""

    number: int
    repositories: tuple[RepositoryGlob, ...]
    tags: tuple[TextGlob, ...]
    line: int | None = None

    @property
    def place(self) -> str:
        return place("immutable", self.number, self.line)

    @property
    def text(self) -> str:
        repositories = _listed([glob.pattern for glob in self.repositories])
        return f"repositories = {repositories}, tags = {_listed([glob.pattern for glob in self.tags])}"


@dataclass(frozen=True, slots=True)
class Decision:
    """``by``: what decided: a rule, the robot's own list, that there are no rules, a name that is none, or nothing.

    ``repository`` is None where it was about the whole registry.
    """

    allowed: bool
    principal: Principal
    action: Action
    repository: str | None
    rule: Rule | None = None
    by: Literal["rule", "grant", "open", "name", "nothing"] = "rule"

    @property
    def reason(self) -> str:
        """Which rule allowed it, or that none did: for those who may read the rules."""
        if self.rule is not None:
            return f"{self.rule.place} allows it: {self.rule.text}"
        match self.by:
            case "grant":
                return f"{self.principal} may do so by its own list: {_grant(self.principal)}"
            case "open":
                return "there are no rules at all, so everybody may do everything"
            case "name":
                return f"{quoted(self.repository or '')} is not the name of a repository, so no rule is about it"
        return f"no rule allows {self.principal} to {self._doing}"

    @property
    def missing(self) -> str:
        """What a person who was denied has to get, and nothing of what the rules say. Empty where it is allowed."""
        if self.allowed:
            return ""
        if self.by == "name":
            return f"{quoted(self.repository or '')} is not the name of a repository"
        thing = f"the right to {self.action} on {self.repository or 'the whole registry'}"
        if self.action.of_registry:
            thing = f"the right to {self.action}"
        if self.principal.is_anonymous:
            return f"to {self._doing} one has to log in, as somebody who has {thing}"
        return f"{self.principal} may not {self._doing}: ask whoever runs this registry for {thing}"

    @property
    def _doing(self) -> str:
        where = self.repository or "every repository"
        match self.action:
            case Action.PULL:
                return f"pull from {where}"
            case Action.PUSH:
                return f"push to {where}"
            case Action.OVERWRITE:
                return f"move tags in {where}"
            case Action.DELETE:
                return f"delete from {where}"
            case Action.CATALOG:
                return "list the repositories"
            case Action.METRICS:
                return "read the metrics"
            case Action.ADMIN:
                return f"administer {where}"


class Policy:
    """Decides. Immutable; made once for a file, and then asked thousands of times a second."""

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        groups: Mapping[str, frozenset[str]] | None = None,
        immutables: Iterable[Immutable] = (),
        is_open: bool = False,
    ) -> None:
        """``groups``: name to members as principals are written. ``is_open``: there is no file of rules."""
        self.rules: Final = tuple(rules)
        self.groups: Final[Mapping[str, frozenset[str]]] = MappingProxyType(dict(groups or {}))
        self.immutables: Final = tuple(immutables)
        self.is_open: Final = is_open
        self._groups_of: Final = self._memberships()
        self._index: Final = self._indexed()

    def decide(self, principal: Principal, action: Action, repository: str | None) -> Decision:
        """Whether the principal may do that.

        ``repository`` None stands for the whole registry: it takes a rule for ``**`` (or any, where the action is
        `of_registry`: the list of repositories shows each principal only what it may pull).
        """
        if self.is_open:
            return Decision(True, principal, action, repository, by="open")
        if action.of_registry:
            repository = None
        elif repository is not None and not _is_name(repository):
            return Decision(False, principal, action, repository, by="name")
        if _granted(principal, action, repository):
            return Decision(True, principal, action, repository, by="grant")
        rule = self._rule(principal, action, repository)
        if rule is not None:
            return Decision(True, principal, action, repository, rule)
        return Decision(False, principal, action, repository, by="nothing")

    def visible(self, principal: Principal, repository: str) -> bool:
        """Whether the principal may pull from it, and so may know that it exists."""
        return self.decide(principal, Action.PULL, repository).allowed

    def may_pull_all(self, principal: Principal) -> bool:
        """Whether every repository may be pulled by the principal, those that are not there yet included."""
        return self.decide(principal, Action.PULL, None).allowed

    def immutable(self, repository: str, tag: str) -> Immutable | None:
        """What makes this tag immutable, if anything does."""
        for one in self.immutables:
            if any(glob.matches(repository) for glob in one.repositories) and any(
                glob.matches(tag) for glob in one.tags
            ):
                return one
        return None

    def members(self, who: str) -> frozenset[str]:
        """Whom an entry of ``who`` stands for: the members of a group, else itself."""
        if who.startswith("group:"):
            return self.groups.get(who.removeprefix("group:"), frozenset())
        return frozenset({who})

    def is_for(self, rule: Rule, principal: Principal) -> bool:
        """Whether the rule names the principal, in whatever way; claims are not looked at."""
        return not self._names(principal).isdisjoint(rule.who)

    def _rule(self, principal: Principal, action: Action, repository: str | None) -> Rule | None:
        first: Rule | None = None
        for who in self._names(principal):
            shelf = self._index.get((who, action))
            if shelf is None:
                continue
            for rule, glob in shelf.candidates(action, repository):
                if first is not None and rule.number >= first.number:
                    break
                if (glob is None or repository is None or glob.matches(repository)) and rule.accepts(principal):
                    first = rule
                    break
        return first

    def _names(self, principal: Principal) -> frozenset[str]:
        """What rules may call the principal."""
        if principal.is_anonymous:
            return _ONLY_EVERYBODY
        name = str(principal)
        return self._groups_of.get(name, _LOGGED_IN) | {name}

    def _memberships(self) -> Mapping[str, frozenset[str]]:
        """Of each member of a group: what rules may call it, besides its name."""
        found: dict[str, frozenset[str]] = {}
        for group, members in self.groups.items():
            for member in members:
                found[member] = found.get(member, _LOGGED_IN) | {f"group:{group}"}
        return found

    def _indexed(self) -> Mapping[tuple[str, Action], _Shelf]:
        index: dict[tuple[str, Action], _Shelf] = {}
        for rule in sorted(self.rules, key=lambda rule: rule.number):
            actions = [action for action in Action if not rule.allow.isdisjoint(action.included_in)]
            for who in frozenset(rule.who):
                for action in actions:
                    index.setdefault((who, action), _Shelf()).add(rule)
        for shelf in index.values():
            shelf.close()
        return index


_Entry: TypeAlias = tuple[Rule, RepositoryGlob | None]


class _Shelf:
    """The rules that give somebody an action, by what a repository's name begins with; each list is in order."""

    def __init__(self) -> None:
        self._rules: list[_Entry] = []
        self._everywhere: list[_Entry] = []
        self._names: dict[str, list[_Entry]] = {}
        self._tops: dict[str, list[_Entry]] = {}

    def add(self, rule: Rule) -> None:
        self._rules.append((rule, None))
        for glob in rule.repositories:
            if glob.pattern == ALL_REPOSITORIES:
                self._everywhere.append((rule, None))
            if glob.literal is not None:
                self._names.setdefault(glob.literal, []).append((rule, None))
            else:
                self._tops.setdefault(_top(glob.prefix), []).append((rule, glob))

    def close(self) -> None:
        """Puts patterns that begin with a wildcard, which are about every name, in their order among the others."""
        anywhere = self._tops.get("", [])
        for top, entries in self._tops.items():
            if top:
                entries += anywhere
                entries.sort(key=_number)
        for name, entries in self._names.items():
            entries += self._tops.get(_top(name), anywhere)
            entries.sort(key=_number)

    def candidates(self, action: Action, repository: str | None) -> Sequence[_Entry]:
        if action.of_registry:
            return self._rules
        if repository is None:
            return self._everywhere
        found = self._names.get(repository)
        if found is None:
            found = self._tops.get(_top(repository))
        return found if found is not None else self._tops.get("", ())


def _number(entry: _Entry) -> int:
    return entry[0].number


def _top(name: str) -> str:
    return name.partition("/")[0]


def _granted(principal: Principal, action: Action, repository: str | None) -> bool:
    grant = principal.grant
    if grant is None or grant.actions.isdisjoint(action.included_in):
        return False
    if action.of_registry:
        return True
    if repository is None:
        return any(glob.pattern == ALL_REPOSITORIES for glob in grant.repositories)
    return any(glob.matches(repository) for glob in grant.repositories)


def claim_matches(claim: str | tuple[str, ...] | None, globs: Iterable[TextGlob]) -> bool:
    """Whether the claim, or a member of it, matches one of these patterns. One that is not there matches none."""
    if claim is None:
        return False
    texts = (claim,) if isinstance(claim, str) else claim
    return any(glob.matches(text) for glob in globs for text in texts)


def place(what: str, number: int, line: int | None) -> str:
    """``rule 3 (line 41)``."""
    return f"{what} {number}" if line is None else f"{what} {number} (line {line})"


def _is_name(repository: str) -> bool:
    try:
        parse_repository(repository)
    except NameInvalid:
        return False
    return True


def _grant(principal: Principal) -> str:
    if principal.grant is None:
        return "nothing"
    repositories = ", ".join(glob.pattern for glob in principal.grant.repositories)
    return f"{', '.join(in_order(principal.grant.actions))} on {repositories}"


def _listed(texts: Sequence[str], *, single: bool = False) -> str:
    quoted_texts = [_string(text) for text in texts]
    return quoted_texts[0] if single and len(texts) == 1 else f"[{', '.join(quoted_texts)}]"


def _string(text: str) -> str:
    return '"' + "".join(_escaped(text)) + '"'


def _escaped(text: str) -> Iterator[str]:
    for character in text:
        if character in '"\\':
            yield f"\\{character}"
        elif " " <= character <= "~":
            yield character
        else:
            yield f"\\U{ord(character):08x}"


def _key(name: str) -> str:
    return name if name.replace("_", "a").replace("-", "a").isalnum() and name.isascii() else _string(name)


OPEN: Final = Policy(is_open=True)
"""Where there is no file: everybody may do everything, and no tag is immutable."""
