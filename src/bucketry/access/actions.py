"""What a principal may do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Action(StrEnum):
    """Each is by itself: ``push`` does not include ``pull``. Only ``admin`` includes the others."""

    PULL = "pull"
    PUSH = "push"
    """Uploads, manifests by digest, and tags that are not there yet."""
    OVERWRITE = "overwrite"
    """Moving a tag that points to another manifest."""
    DELETE = "delete"
    CATALOG = "catalog"
    """The list of repositories."""
    METRICS = "metrics"
    """The server's metrics, where they are not for everybody."""
    ADMIN = "admin"

    @property
    def of_registry(self) -> bool:
        """Whether it is about no repository in particular, whatever the repositories of its rule are."""
        return self in (Action.CATALOG, Action.METRICS)

    @property
    def included_in(self) -> tuple[Action, ...]:
        """The actions of which any one, in a rule, allows this one."""
        return (self,) if self is Action.ADMIN else (self, Action.ADMIN)


ALL_ACTIONS: Final = frozenset(Action)

_ALIASES: Final[Mapping[str, Action]] = MappingProxyType(
    {
        "read": Action.PULL,
        "write": Action.PUSH,
        "create": Action.PUSH,
        "update": Action.OVERWRITE,
        "move": Action.OVERWRITE,
        "remove": Action.DELETE,
        "list": Action.CATALOG,
        "monitor": Action.METRICS,
        "all": Action.ADMIN,
        "*": Action.ADMIN,
    }
)


def nearest_action(text: str) -> Action | None:
    """The action that is meant, most likely, by what is none: by its spelling, or what others call it."""
    alike = difflib.get_close_matches(text.lower(), list(Action), n=1)
    return _ALIASES.get(text.lower()) or (Action(alike[0]) if alike else None)


def in_order(actions: Iterable[Action]) -> tuple[Action, ...]:
    """Without repetitions, in the order of the definition: pull first, admin last."""
    given = frozenset(actions)
    return tuple(action for action in Action if action in given)
