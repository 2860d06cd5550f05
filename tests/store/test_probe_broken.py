"""The probe finds out stores that do not keep the contract: those that are refused, and those that can do less."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.store.breaking import (
    MUST,
    AcceptsStaleParts,
    CannotDeleteConditionally,
    CompletesOnce,
    DeletesAnyway,
    HidesUploads,
    ListsNoParts,
    ListsPartsForEver,
    ListsPartsWithoutSizes,
    NeverAborts,
    RunsAnHourAhead,
    RunsAnHourBehind,
)
from tests.store.probing import left, seen, statuses

from bucketry.store.memory import MemoryStore
from bucketry.store.probe import probe


@pytest.mark.parametrize(
    ("broken", "name", "words"), MUST, ids=[f"{broken.__name__}-{name}" for broken, name, _ in MUST]
)
async def test_a_store_that_breaks_the_contract_is_refused(
    broken: type[MemoryStore], name: str, words: str, ids: Callable[[], str]
) -> None:
    store = broken()
    report = await probe(store, ids=ids)
    assert statuses(report)[name] == "broken"
    assert words in seen(report, name)
    refusal = report.refusal()
    assert refusal is not None
    assert refusal.startswith("memory: cannot hold a registry (")
    assert "\n" not in refusal
    assert await left(store) == []


QUICK = [broken for broken, name, _ in MUST if name not in {"multipart in parallel", "delete many"}]


@pytest.mark.parametrize("broken", QUICK, ids=lambda broken: broken.__name__)
async def test_a_server_finds_it_out_quickly(broken: type[MemoryStore], ids: Callable[[], str]) -> None:
    store = broken()
    report = await probe(store, ids=ids, quick=True)
    assert report.refusal() is not None
    # It ends where it is decided.
    assert [check.refuses for check in report.checks] == [False] * (len(report.checks) - 1) + [True]
    assert await left(store) == []


@pytest.mark.parametrize(
    ("lesser", "name", "status", "words"),
    [
        (CompletesOnce, "complete twice", "broken", "no upload"),
        (DeletesAnyway, "delete if unchanged", "broken", "though it had changed"),
        (CannotDeleteConditionally, "delete if unchanged", "missing", "not used"),
        (NeverAborts, "abort", "broken", "after it was aborted"),
        (HidesUploads, "abort", "missing", "not listed"),
        (AcceptsStaleParts, "stale part", "missing", "is accepted"),
        (ListsNoParts, "list parts", "broken", "not implemented"),
        (ListsPartsWithoutSizes, "list parts", "broken", "other parts are listed"),
        (ListsPartsForEver, "list parts", "broken", "after it was aborted"),
        (RunsAnHourAhead, "clock", "broken", "3600 s ahead of"),
        (RunsAnHourBehind, "clock", "broken", "behind"),
    ],
)
async def test_a_store_that_can_do_less_is_told_of_and_taken(
    lesser: type[MemoryStore], name: str, status: str, words: str, ids: Callable[[], str]
) -> None:
    report = await probe(lesser(), ids=ids)
    assert statuses(report)[name] == status
    assert words in seen(report, name)
    assert report.refusal() is None
