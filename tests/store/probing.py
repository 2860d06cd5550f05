"""What the tests of the probe share: what a report says, and what is left of it."""

from __future__ import annotations

from bucketry.store.contract import Store
from bucketry.store.memory import MemoryStore
from bucketry.store.probe import ProbeReport

PRESIGNED = {"presigned GET", "presigned part", "presigned PUT"}


def statuses(report: ProbeReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def seen(report: ProbeReport, name: str) -> str:
    return next(check.seen for check in report.checks if check.name == name)


async def left(store: Store) -> list[str]:
    # A store that lies in its own list is asked for the truth.
    page = await (MemoryStore.list(store, "") if isinstance(store, MemoryStore) else store.list(""))
    objects = [found.key for found in page.objects]
    return objects + [upload.key for upload in await store.list_multiparts()]
