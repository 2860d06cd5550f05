"""The repositories of a registry, where it tells them (``GET /v2/_catalog``, Docker's API; the spec has none)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import msgspec

from bucketry.oci import parse_repository
from bucketry.oci.errors import OCIError
from bucketry.transfer.errors import NotPermitted, Refused
from bucketry.transfer.remote.answer import clean
from bucketry.transfer.remote.auth import Purpose
from bucketry.transfer.remote.endpoint import Endpoint
from bucketry.transfer.remote.paging import pages, whole

MAX_PAGE: Final = 16 * 1024 * 1024
"""Bytes of a page; some registries give all names at once."""

_PAGE: Final = 1000
_PURPOSE: Final = Purpose("", ("registry:catalog:*",))
_NONE: Final = frozenset({400, 403, 404, 405, 501})


class _Catalog(msgspec.Struct):
    repositories: list[str] | None = None


async def repositories(endpoint: Endpoint) -> AsyncGenerator[str]:
    """In the registry's order. Old registries took names that no other takes, and strangers tell anything: what is no
    name is given too, fit to be shown, so that whoever would copy it can say that it is left behind.

    Raises `Refused` where the registry does not tell, and `NotPermitted` where it does not tell everyone.
    """
    doing = "listing its repositories"
    async with aclosing(pages(endpoint, f"/v2/_catalog?n={_PAGE}", _PURPOSE, doing)) as listing:
        async for answer in listing:
            if answer.status in _NONE:
                await answer.discard()
                raise _untold(endpoint, answer.status)
            if answer.status != 200:
                raise await endpoint.failure(answer, doing)
            body = await whole(endpoint, answer, MAX_PAGE, doing)
            try:
                page = msgspec.json.decode(body, type=_Catalog)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Refused(
                    f"{endpoint.host}: {doing}: an answer outside Docker's API ({clean(str(error))})"
                ) from None
            for name in dict.fromkeys(page.repositories or ()):
                yield name if _is_name(name) else clean(name)


def _untold(endpoint: Endpoint, status: int) -> Refused | NotPermitted:
    text = (
        f"{endpoint.host} does not tell which repositories it has (status {status}): name them, with one "
        "--repository NAME for each"
    )
    return NotPermitted(text) if status == 403 else Refused(text)


def _is_name(text: str) -> bool:
    try:
        parse_repository(text)
    except OCIError:
        return False
    return True
