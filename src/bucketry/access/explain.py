"""Why something is denied, for those who may read the rules: which of them come near, and what each wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from bucketry.access.actions import Action, in_order
from bucketry.access.principal import Principal
from bucketry.access.rules import Policy, Rule, claim_matches
from bucketry.oci.text import quoted

MAX_NEAR: Final = 5


def near_misses(policy: Policy, principal: Principal, action: Action, repository: str | None) -> Sequence[str]:
    """Lines about rules of which one thing alone is missing, at most `MAX_NEAR`, in the order of the rules."""
    return list(islice(_near(policy, principal, action, repository), MAX_NEAR))


def _near(policy: Policy, principal: Principal, action: Action, repository: str | None) -> Iterator[str]:
    for rule in policy.rules:
        missing = list(_missing(policy, rule, principal, action, repository))
        if len(missing) == 1:
            yield f"{rule.place} {missing[0]}"


def _missing(policy: Policy, rule: Rule, principal: Principal, action: Action, repository: str | None) -> Iterator[str]:
    if not policy.is_for(rule, principal):
        yield f"allows it to {' and '.join(rule.who) or 'nobody'}, and {principal} is not among them"
    else:
        for name, globs in rule.claims.items():
            claim = principal.claims.get(name)
            if not claim_matches(claim, globs):
                wanted = " or ".join(quoted(glob.pattern) for glob in globs) or "something else"
                has = "there is none" if claim is None else f"it is {_shown(claim)}"
                yield f"allows it where the claim {name} is {wanted}, and {has}"
    if rule.allow.isdisjoint(action.included_in):
        yield f"allows {' and '.join(in_order(rule.allow)) or 'nothing'} there, and not {action}"
    if action.of_registry:
        return
    where = " and ".join(glob.pattern for glob in rule.repositories) or "no repository"
    if repository is None:
        if not any(glob.pattern == "**" for glob in rule.repositories):
            yield f"allows it in {where}, and not in every repository (**)"
    elif not any(glob.matches(repository) for glob in rule.repositories):
        yield f"allows it in {where}, and not in {repository}"


def _shown(claim: str | tuple[str, ...]) -> str:
    return quoted(claim) if isinstance(claim, str) else " and ".join(map(quoted, claim)) or "an empty list"
