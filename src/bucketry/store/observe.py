"""How store calls are observed: backends report every request they send, the server counts them."""

from __future__ import annotations

from typing import Protocol


class StoreObserver(Protocol):
    def request(self, operation: str, *, seconds: float, sent: int, received: int, outcome: str) -> None:
        """One request to the store ended: each retry is one of its own.

        ``operation``: get, head, read, put, delete, delete_many, list, create_multipart, put_part,
        list_parts, complete_multipart, abort_multipart, list_multiparts; of a site also copy, copy_part.
        ``sent``, ``received``: body bytes.
        ``outcome``: ok, or the name of the `StoreError` class in lower case.
        """
        ...


class NullObserver:
    """Observes nothing."""

    def request(self, operation: str, *, seconds: float, sent: int, received: int, outcome: str) -> None:
        pass


NULL_OBSERVER = NullObserver()
