"""Counts what a store is asked for: an observer to open it with."""

from __future__ import annotations

from collections import Counter


class Requests:
    """A `bucketry.store.observe.StoreObserver`. ``sent``: body bytes of all requests, those of retries too."""

    def __init__(self) -> None:
        self.by_operation: Counter[str] = Counter()
        self.count = 0
        self.sent = 0

    def request(self, operation: str, *, seconds: float, sent: int, received: int, outcome: str) -> None:
        self.by_operation[operation] += 1
        self.count += 1
        self.sent += sent
