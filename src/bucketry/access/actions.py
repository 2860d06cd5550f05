"""What a principal may do."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
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
    """The list of repositories: it is about no repository in particular."""
    ADMIN = "admin"

    @property
    def included_in(self) -> tuple[Action, ...]:
        """The actions of which any one, in a rule, allows this one."""
        return (self,) if self is Action.ADMIN else (self, Action.ADMIN)


ALL_ACTIONS: Final = frozenset(Action)


def in_order(actions: Iterable[Action]) -> tuple[Action, ...]:
    """Without repetitions, in the order of the definition: pull first, admin last."""
    given = frozenset(actions)
    return tuple(action for action in Action if action in given)
