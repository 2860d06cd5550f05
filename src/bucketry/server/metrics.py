"""What ``/metrics`` tells: requests, bytes, latencies, store calls by kind, uploads in flight."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""Where several workers keep their numbers, so that any of them answers for all; set before this is imported."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """It observes the store (`bucketry.store.observe.StoreObserver`); the app reports requests."""

    def __init__(self) -> None:
        if MULTIPROCESS_DIR in os.environ:
            # Else each count asks the system which process it is in. No worker is ever forked.
            own = os.getpid()
            values.ValueClass = values.MultiProcessValue(lambda: own)  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "bucketry_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "bucketry_http_request_seconds",
            "From the head of a request to the end of its answer.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._received = Counter("bucketry_http_received_bytes", "Bytes of request bodies.", registry=registry)
        self._sent = Counter("bucketry_http_sent_bytes", "Bytes of answers' bodies.", registry=registry)
        self._store_requests = Counter(
            "bucketry_store_requests",
            "Requests to the store, each retry one of its own.",
            ["operation", "outcome"],
            registry=registry,
        )
        self._store_seconds = Histogram(
            "bucketry_store_request_seconds",
            "Of one request to the store.",
            ["operation"],
            buckets=_SECONDS,
            registry=registry,
        )
        store_bytes = Counter(
            "bucketry_store_bytes", "Bytes of bodies to and from the store.", ["direction"], registry=registry
        )
        self._store_sent, self._store_received = store_bytes.labels("sent"), store_bytes.labels("received")
        self.requests_in_flight = Gauge(
            "bucketry_http_requests_in_flight",
            "Requests being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.uploads_in_flight = Gauge(
            "bucketry_uploads_in_flight",
            "Requests that are bringing bytes of a blob.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.buffered = Gauge(
            "bucketry_upload_buffer_bytes",
            "Bytes of the upload budget (upload.memory) in use.",
            registry=registry,
            multiprocess_mode="livesum",
        )

        self.audit_lost = Counter(
            "bucketry_audit_lost_lines", "Lines of the audit log that could not be written.", registry=registry
        )

        # Looking labels up takes longer than counting.
        self._answers = lru_cache(1024)(
            lambda method, route, status: (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
        )
        self._store_calls = lru_cache(1024)(
            lambda operation, outcome: (
                self._store_requests.labels(operation, outcome),
                self._store_seconds.labels(operation),
            )
        )

    def answered(self, method: str, route: str, status: int, *, seconds: float, received: int, sent: int) -> None:
        requests, times = self._answers(method, route, status)
        requests.inc()
        times.observe(seconds)
        if received:
            self._received.inc(received)
        if sent:
            self._sent.inc(sent)

    def request(self, operation: str, *, seconds: float, sent: int, received: int, outcome: str) -> None:
        requests, times = self._store_calls(operation, outcome)
        requests.inc()
        times.observe(seconds)
        if sent:
            self._store_sent.inc(sent)
        if received:
            self._store_received.inc(received)

    def render(self) -> bytes:
        """The text form of Prometheus, of all workers."""
        if MULTIPROCESS_DIR not in os.environ:
            return generate_latest(self._registry)
        _forget_the_dead(Path(os.environ[MULTIPROCESS_DIR]))
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)


def _forget_the_dead(folder: Path) -> None:
    """What a worker had in flight ended with it, and nobody counted it down if it was killed."""
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
