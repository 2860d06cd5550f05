"""What clients ask a token for: the scopes of Docker's token protocol, ``repository:team/app:pull,push``.

What real clients ask for: docker, podman and helm ``pull`` or ``pull,push``, crane ``push,pull`` and ``delete``, oras
``pull,push,delete``, skopeo ``*`` to delete, and ``registry:catalog:*`` for the list of repositories.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from bucketry.access.actions import Action, in_order
from bucketry.access.principal import Principal
from bucketry.access.rules import Policy
from bucketry.oci.errors import NameInvalid, ParameterInvalid
from bucketry.oci.reference import parse_repository
from bucketry.oci.text import quoted

MAX_SCOPES: Final = 100
MAX_TEXT: Final = 32 * 1024
"""Characters in all the scopes of a request: `MAX_SCOPES` of the longest names, and some."""

_SCOPE: Final = re.compile(
    r"(?P<type>[a-z0-9]+(?:[._-][a-z0-9]+)*)(?:\([a-z0-9]{1,32}\))?:(?P<name>[^ ]*):(?P<actions>[A-Za-z0-9_.*,-]*)"
)
_ACTIONS: Final[Mapping[str, tuple[Action, ...]]] = MappingProxyType(
    {
        "pull": (Action.PULL,),
        # No client asks for more to move a tag: whether it may is looked at when it does.
        "push": (Action.PUSH, Action.OVERWRITE),
        "overwrite": (Action.OVERWRITE,),
        "delete": (Action.DELETE,),
        "*": (Action.PULL, Action.PUSH, Action.OVERWRITE, Action.DELETE),
    }
)
_CATALOG: Final = "catalog"


class ScopeInvalid(ParameterInvalid):
    """A scope that is written in no way the protocol knows, or too many of them."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Actions on one thing: a repository, or the registry's ``catalog``. What is in a token as an ``access`` entry."""

    type: Literal["repository", "registry"]
    name: str
    actions: frozenset[Action]

    @property
    def repository(self) -> str | None:
        return self.name if self.type == "repository" else None

    def entry(self) -> dict[str, object]:
        """The JSON form: ``{"type": …, "name": …, "actions": […]}``. Actions are ours by name."""
        return {"type": self.type, "name": self.name, "actions": [action.value for action in in_order(self.actions)]}

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(in_order(self.actions))}"


def parse_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes of a request, in order, one for each thing. Raises `ScopeInvalid`.

    ``texts``: each ``scope`` parameter; one may hold several scopes with spaces between them. What is well written and
    not known here (another type, another action) is left out: it gives nothing. The class of a type
    (``repository(plugin)``) is not looked at.
    """
    found: dict[tuple[Literal["repository", "registry"], str], frozenset[Action]] = {}
    length = count = 0
    for text in texts:
        length += len(text)
        if length > MAX_TEXT:
            raise ScopeInvalid(f"the scopes have over {MAX_TEXT} characters: ask for fewer at a time")
        for one in filter(None, text.split(" ")):
            count += 1
            if count > MAX_SCOPES:
                raise ScopeInvalid(f"there are over {MAX_SCOPES} scopes: ask for fewer at a time")
            scope = _parsed(one)
            if scope is not None:
                key = (scope.type, scope.name)
                found[key] = found.get(key, frozenset()) | scope.actions
    return tuple(Scope(kind, name, actions) for (kind, name), actions in found.items())


def _parsed(text: str) -> Scope | None:
    match = _SCOPE.fullmatch(text)
    if match is None:
        raise ScopeInvalid(f"{quoted(text)} is not a scope: write repository:NAME:pull,push")
    asked = match["actions"].split(",")
    if match["type"] == "registry":
        if match["name"] != _CATALOG or "*" not in asked:
            return None
        return Scope("registry", _CATALOG, frozenset({Action.CATALOG}))
    if match["type"] != "repository":
        return None
    try:
        name = parse_repository(match["name"])
    except NameInvalid as error:
        hint = ", without the registry's host" if ":" in match["name"].partition("/")[0] else ""
        raise ScopeInvalid(f"scope {quoted(text)}: {error.message}{hint}") from None
    actions = frozenset(action for one in asked for action in _ACTIONS.get(one, ()))
    return Scope("repository", name, actions) if actions else None


def granted(policy: Policy, principal: Principal, scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """Of each scope the actions that the rules allow; those without any are left out."""
    found = []
    for scope in scopes:
        actions = frozenset(
            action for action in scope.actions if policy.decide(principal, action, scope.repository).allowed
        )
        if actions:
            found.append(Scope(scope.type, scope.name, actions))
    return tuple(found)


def covered(scopes: Iterable[Scope], action: Action, repository: str | None) -> bool:
    """Whether a token with these scopes may be used for that; whether the rules allow it, is asked besides."""
    if action.of_registry:
        return any(scope.type == "registry" and action in scope.actions for scope in scopes)
    return any(scope.type == "repository" and scope.name == repository and action in scope.actions for scope in scopes)


def scopes_of_entries(entries: object) -> tuple[Scope, ...]:
    """The scopes in a token's ``access``, ours or of another token service. What is not understood gives nothing.

    Of another service's ``push`` and ``*`` it gives what `parse_scopes` does.
    """
    if not isinstance(entries, list) or len(entries) > MAX_SCOPES:
        return ()
    found = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            continue
        kind, name, actions = entry.get("type"), entry.get("name"), entry.get("actions")
        if not (isinstance(name, str) and isinstance(actions, list)):
            continue
        texts = [action for action in actions if isinstance(action, str)]
        if kind == "registry" and name == _CATALOG and not {"*", Action.CATALOG.value}.isdisjoint(texts):
            found.append(Scope("registry", name, frozenset({Action.CATALOG})))
        elif kind == "repository":
            ours = frozenset(action for text in texts for action in _ACTIONS.get(text, ()))
            if ours:
                found.append(Scope("repository", name, ours))
    return tuple(found)
