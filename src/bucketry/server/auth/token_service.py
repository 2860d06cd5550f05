"""The token service over HTTP: ``GET /token`` of Docker's protocol, and ``POST /token`` of OAuth2 clients."""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bucketry.oci.errors import ParameterInvalid
from bucketry.server.auth.door import MAX_FORM, Door, grant
from bucketry.server.auth.errors import Challenged, CredentialsRefused, TooManyAttempts
from bucketry.server.body import RequestBody
from bucketry.server.call import Noted, credentials

NOT_KEPT = {"cache-control": "no-store", "pragma": "no-cache"}
"""Of answers that hold a token (RFC 6749, 5.1)."""


async def answer(
    door: Door,
    request: Request,
    body: RequestBody,
    noted: Noted,
    *,
    address: str,
    certificate: str | bytes | None = None,
) -> Response:
    """``noted``: takes down what was given out, or why nothing was. ``certificate``: see `Door.enter`.

    Raises `Challenged` for credentials that are not taken, `ParameterInvalid`."""
    noted.asks_token = True
    authorization = credentials(request)
    parameters = request.query_params.multi_items()
    if request.method == "POST":
        form = await _form(request, body)
        authorization = authorization or grant(dict(form))
        parameters = [pair for pair in form if pair[0] in ("service", "scope")]
    try:
        noted.issued = issued = await door.issue(authorization, parameters, address=address, certificate=certificate)
    except TooManyAttempts:
        noted.claimed = door.claimed(authorization)
        raise
    except CredentialsRefused as error:
        noted.error, noted.claimed = error, door.claimed(authorization)
        if request.method == "POST":
            document = {"error": "invalid_grant", "error_description": error.message}
            return Response(
                msgspec.json.encode(document), 401, {**NOT_KEPT, "www-authenticate": _BASIC}, "application/json"
            )
        raise Challenged(error.message, _BASIC, reason=error.reason) from error
    return Response(issued.body, 200, NOT_KEPT, "application/json")


_BASIC = 'Basic realm="bucketry"'


async def _form(request: Request, body: RequestBody) -> list[tuple[str, str]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise ParameterInvalid("a token is asked for by a form: application/x-www-form-urlencoded")
    data = await body.whole(MAX_FORM)
    if data is None:
        raise ParameterInvalid(f"the form has more than {MAX_FORM} bytes")
    try:
        return parse_qsl(data.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=200)
    except ValueError:
        raise ParameterInvalid("the form is not well formed") from None
