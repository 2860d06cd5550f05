"""Who sends a request, and what of it is let through: the rules of now, and, of a token, what it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bucketry.access import Action, Decision, Policy, Principal, Scope, covered
from bucketry.oci.errors import Denied, NameUnknown
from bucketry.registry.guards import TagGuard
from bucketry.server.auth.errors import Challenged
from bucketry.server.routes import Route, Target

_PULL: Final = {"GET": Action.PULL, "HEAD": Action.PULL}
_PUSH: Final = dict.fromkeys(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"), Action.PUSH)

ACTIONS: Final[Mapping[Route, Mapping[str, Action]]] = {
    Route.CATALOG: {"GET": Action.CATALOG},
    Route.TAGS: _PULL,
    Route.MANIFEST: {**_PULL, "PUT": Action.PUSH, "DELETE": Action.DELETE},
    Route.BLOB: {**_PULL, "DELETE": Action.DELETE},
    Route.REFERRERS: _PULL,
    Route.CHECKPOINTS: _PULL,
    Route.UPLOADS: _PUSH,
    Route.UPLOAD: _PUSH,
    Route.PARALLEL: _PUSH,
    Route.PARALLEL_UPLOAD: _PUSH,
    Route.PARALLEL_URLS: _PUSH,
    Route.PARALLEL_PART: _PUSH,
    Route.PARALLEL_COMPLETE: _PUSH,
}
"""What a request needs. The door itself and the list of extensions need none: they tell nothing of anybody's images."""

FREE: Final = frozenset({Route.BASE, Route.EXTENSIONS})


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a client is told to come back: ``WWW-Authenticate`` of Docker's token protocol (RFC 6750)."""

    realm: str
    service: str

    def header(self, scope: str | None = None, error: str | None = None) -> str:
        parts = [f'realm="{self.realm}"', f'service="{self.service}"']
        if scope is not None:
            parts.append(f'scope="{scope}"')
        if error is not None:
            parts.append(f'error="{error}"')
        return f"Bearer {','.join(parts)}"


@dataclass(frozen=True, slots=True)
class Visitor:
    """``scopes``: of a token, what it was given out for; None where credentials came themselves. ``token_id``: of one
    that the registry gave out, for the audit log."""

    principal: Principal
    policy: Policy
    challenge: Challenge
    scopes: Sequence[Scope] | None = None
    token_id: str | None = None

    @property
    def owner(self) -> str:
        """Whose its uploads are, and whose requests are counted: jobs of one issuer are told apart by their subject."""
        subject = self.principal.claims.get("sub")
        return f"{self.principal} {subject}" if isinstance(subject, str) else str(self.principal)

    def require(self, target: Target, method: str) -> None:
        """Raises `Challenged`, `Denied`, `NameUnknown` for a request that is not let through."""
        if target.route is Route.BASE:
            # Here clients learn how to log in, also where strangers may pull.
            if self.principal.is_anonymous and self.scopes is None:
                raise Challenged("log in first, or ask the token service for a token", self.challenge.header())
            return
        if target.route in FREE:
            return
        action = ACTIONS[target.route][method]
        self.require_action(action, target.repository or None)

    def require_action(self, action: Action, repository: str | None) -> None:
        decision = self.policy.decide(self.principal, action, repository)
        if decision.allowed:
            if self.scopes is None or covered(self.scopes, action, repository):
                return
            raise Challenged(
                f"the token was not asked for with the right to {action} on {repository or 'the whole registry'}",
                self.challenge.header(_scope(action, repository), "insufficient_scope"),
            )
        if self.principal.is_anonymous:
            error = None if self.scopes is None else "insufficient_scope"
            raise Challenged(decision.missing, self.challenge.header(_scope(action, repository), error))
        raise self._denied(decision)

    def may(self, action: Action, repository: str | None) -> bool:
        allowed = self.policy.decide(self.principal, action, repository).allowed
        return allowed and (self.scopes is None or covered(self.scopes, action, repository))

    def may_mount(self, source: str | None) -> bool:
        """Whether a blob may be mounted from ``source``; None: from wherever it is.

        A token is for the repositories that it was asked for, so with one no blob comes from wherever it is.
        """
        if source is None:
            return self.scopes is None and self.policy.may_pull_all(self.principal)
        return self.may(Action.PULL, source)

    def sees(self, repository: str) -> bool:
        """Whether the list of repositories names this one to the visitor."""
        return self.policy.visible(self.principal, repository)

    def guard(self, repository: str) -> TagGuard:
        """What keeps tags, and what they hold: that they are immutable; and that this visitor may move none."""
        move = self.policy.decide(self.principal, Action.OVERWRITE, repository)
        # Clients ask for the right to push, and mean that of moving tags.
        scoped = self.scopes is None or covered(self.scopes, Action.OVERWRITE, repository)

        def moves(tag: str) -> str | None:
            fixed = self._immutable(repository, tag)
            if fixed is not None:
                return f"{fixed}: push under another tag"
            if not move.allowed:
                return f"the tag {tag} is there and points to another manifest, and {move.missing}"
            return None if scoped else f"the token was not given out to move tags in {repository}"

        holds = any(glob.matches(repository) for one in self.policy.immutables for glob in one.repositories)
        return TagGuard(moves=moves, deletes=lambda tag: self._immutable(repository, tag), holds=holds)

    def _immutable(self, repository: str, tag: str) -> str | None:
        if self.policy.immutable(repository, tag) is None:
            return None
        return f"the tag {tag} of {repository} is immutable by the rules of this registry"

    def _denied(self, decision: Decision) -> Denied | NameUnknown:
        if decision.action is Action.PULL:
            # As what does not exist: neither answer nor time tells one from the other, as nothing was looked up.
            return NameUnknown(
                f"there is no repository {decision.repository} that {self.principal} may pull from; {decision.missing}",
                detail={"name": decision.repository},
            )
        return Denied(decision.missing, detail={"action": decision.action.value, "name": decision.repository})


def _scope(action: Action, repository: str | None) -> str:
    """What a client is to ask for."""
    if repository is None:
        return "registry:catalog:*"
    asked = {Action.PUSH: "pull,push", Action.OVERWRITE: "pull,push", Action.DELETE: "delete"}
    return f"repository:{repository}:{asked.get(action, 'pull')}"
