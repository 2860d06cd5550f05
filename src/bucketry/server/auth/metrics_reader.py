"""The metrics, where their owner wants that not everybody reads them."""

from __future__ import annotations

from bucketry.access import Action
from bucketry.oci.errors import Denied
from bucketry.server.auth.errors import Challenged, Reason
from bucketry.server.auth.visitor import Visitor


def challenged(message: str, reason: Reason | None = None) -> Challenged:
    """No token service gives out what is asked for here, so clients are not sent to one."""
    return Challenged(message, 'Basic realm="bucketry"', reason=reason)


def require(visitor: Visitor) -> None:
    """Raises `Challenged` and `Denied`, unless a rule (or a robot's own list) allows it."""
    if visitor.scopes is not None:
        raise challenged(
            "a token of a token service is for repositories, and the metrics are of the whole registry: send a "
            "password, a robot's token or an ID token"
        )
    decision = visitor.policy.decide(visitor.principal, Action.METRICS, None)
    if not decision.allowed:
        if visitor.principal.is_anonymous:
            raise challenged(decision.missing)
        raise Denied(decision.missing, detail={"action": Action.METRICS.value})
