"""The metrics, where their owner wants that not everybody reads them."""

from __future__ import annotations

from typing import Final

from bucketry.access import Action
from bucketry.oci.errors import Denied
from bucketry.server.auth.door import Door
from bucketry.server.auth.errors import Challenged, TooManyAttempts
from bucketry.server.auth.visitor import Visitor
from bucketry.server.call import Noted

_BASIC: Final = 'Basic realm="bucketry"'
"""No token service gives out what is asked for here, so clients are not sent to one."""


async def admit(
    door: Door,
    authorization: str | None,
    noted: Noted,
    *,
    address: str,
    origin: str,
    certificate: str | bytes | None = None,
) -> Visitor:
    """Who asks for the metrics, where a rule (or a robot's own list) allows it.

    ``noted``: takes down who it was, or says that they are. Raises `Challenged`, `Denied`, and what `Door.enter` does.
    """
    noted.asks_metrics = True
    try:
        visitor = await door.enter(authorization, address=address, origin=origin, certificate=certificate)
    except Challenged as error:
        noted.claimed = door.claimed(authorization)
        raise Challenged(error.message, _BASIC, reason=error.reason) from error
    except TooManyAttempts:
        noted.claimed = door.claimed(authorization)
        raise
    noted.visitor = visitor
    if visitor.scopes is not None:
        raise Challenged(
            "a token of a token service is for repositories, and the metrics are of the whole registry: send a "
            "password, a robot's token or an ID token",
            _BASIC,
        )
    decision = visitor.policy.decide(visitor.principal, Action.METRICS, None)
    if not decision.allowed:
        if visitor.principal.is_anonymous:
            raise Challenged(decision.missing, _BASIC)
        raise Denied(decision.missing, detail={"action": Action.METRICS.value})
    noted.let_in = True
    return visitor
