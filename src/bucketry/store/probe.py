"""What a store really does: the checks behind ``bucketry doctor``, and those ``bucketry serve`` refuses on.

Services that speak S3 differ where it matters most: some ignore the conditions of a write, so that two pushes
overwrite each other, and say nothing. So nothing is believed here: each check writes, races, and looks.
Everything is written under ``probe/`` and ``data/~probe/``, with a random id in its name, and removed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bucketry.store.contract import Store, StoreError, Unavailable
from bucketry.store.probe_checks import CHECKS
from bucketry.store.probe_presigned import PRESIGNED_PART, PRESIGNED_PUT
from bucketry.store.probe_scratch import CheckFunction, Found, Scratch, Status, Weight


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried.

    ``status``: ok; missing (the store cannot, and says so, or it is only a note); broken (it does something
    else than it answers). ``seen``: what happened. ``means``: what that is for the user. ``weight``: must (a
    store that fails is refused), feature (bucketry does without), note.
    """

    name: str
    status: Status
    seen: str
    means: str
    weight: Weight

    @property
    def refuses(self) -> bool:
        """Whether the store must not be used for this."""
        return self.weight == "must" and self.status != "ok"


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """``url``: the store, as a person names it."""

    url: str
    checks: tuple[Check, ...]

    def refusal(self) -> str | None:
        """One line that says why this store must not be used, or None where it may."""
        for check in self.checks:
            if check.refuses:
                return f"{self.url} cannot hold a registry ({check.name}): {check.seen}; {check.means}"
        return None

    @property
    def checked_put(self) -> bool:
        """Whether the store enforces what `Presigner.presign_put` signs: it is for `open_store`."""
        return self._passed(PRESIGNED_PUT)

    @property
    def presigned_parts(self) -> bool:
        """Whether parts that clients put by presigned URLs count, and can be listed."""
        return self._passed(PRESIGNED_PART)

    def _passed(self, name: str) -> bool:
        return any(check.name == name and check.status == "ok" for check in self.checks)


async def probe(
    store: Store,
    *,
    ids: Callable[[], str],
    quick: bool = False,
    clock: Callable[[], float] = time.time,
    progress: Callable[[str], None] = lambda name: None,
) -> ProbeReport:
    """Tries the store, which was started, and says what it does.

    ``ids`` gives random names of ``[a-z0-9]`` that never repeat. ``quick`` keeps to what a server must refuse
    on, a hundred or so small requests, and ends at the first such thing it finds. ``clock``: POSIX seconds of
    this machine. ``progress`` is told the name of each check as it begins. Raises `StoreError` where the store
    cannot be used at all: down, no such bucket, no right to write.
    """
    scratch = Scratch(store, ids(), quick=quick, clock=clock)
    checks: list[Check] = []
    # A store that is down would keep the cleaning waiting too, for nothing.
    patience = 3.0
    try:
        for name, weight, in_quick, check in CHECKS:
            if quick and not in_quick:
                continue
            progress(name)
            checks.append(await _run(check, scratch, name, weight, may_fail=bool(checks)))
            patience = 60.0
            if quick and checks[-1].refuses:
                break
    finally:
        left = await scratch.clean(patience)
    if left is not None:
        checks.append(Check("clean up", "broken", *left, "note"))
    return ProbeReport(store.url, tuple(checks))


async def _run(check: CheckFunction, scratch: Scratch, name: str, weight: Weight, *, may_fail: bool) -> Check:
    try:
        seen, means = await check(scratch)
    except Found as found:
        return Check(name, found.status, found.seen, found.means, weight)
    except StoreError as error:
        # The very first request tells whether there is a store to judge at all.
        if not may_fail:
            raise
        if isinstance(error, Unavailable):
            means = "the store may be busy or down; try again"
        else:
            means = "bucketry needs this to work" if weight == "must" else "bucketry does without"
        return Check(name, "broken", str(error), means, weight)
    return Check(name, "ok", seen, means, weight)
