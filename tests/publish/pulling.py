"""Clients that pull while something else happens."""

from __future__ import annotations

import http.client
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.publish.conftest import Place
from tests.publish.layouts import assert_whole
from tests.support.clients import Client
from tests.support.images import digest_of
from tests.support.tools import tool


@dataclass
class Pulling:
    """Clients that pull in a loop, each in a thread of its own."""

    rounds: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def add(self, name: str, pull: Callable[[], object]) -> None:
        self.rounds[name] = 0
        thread = threading.Thread(target=self._loop, args=(name, pull), name=name)
        self._threads.append(thread)
        thread.start()

    def _loop(self, name: str, pull: Callable[[], object]) -> None:
        while not self._ended.is_set():
            try:
                pull()
            except (AssertionError, pytest.fail.Exception, OSError, ValueError, http.client.HTTPException):
                self.failures.append(f"{name}, round {self.rounds[name] + 1}:\n{traceback.format_exc()}")
                return
            self.rounds[name] += 1

    def check(self) -> None:
        assert not self.failures, "\n".join(self.failures)

    def wait_round(self) -> None:
        """Until each has begun and ended a round from now on."""
        begun = dict(self.rounds)
        deadline = time.monotonic() + 60
        while any(self.rounds[name] < count + 2 for name, count in begun.items()):
            self.check()
            assert time.monotonic() < deadline, self.rounds
            time.sleep(0.02)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join(60)
        self.check()


def pull_by_crane(
    env: dict[str, str], place: Place, name: str, folder: Path, digests: Collection[str]
) -> Callable[[], object]:
    """Pulls ``name``, which has one of the digests; ``folder`` takes it."""
    crane = Client(tool("crane"), env, [] if place.tls else ["--insecure"])
    count = iter(range(1_000_000))

    def pull() -> None:
        layout = folder / f"crane-{place.server}-{next(count)}"
        crane("pull", "--format=oci", f"{place.host}/{name}", layout)
        assert assert_whole(layout) in digests

    return pull


def pull_by_skopeo(
    env: dict[str, str], place: Place, name: str, folder: Path, digests: Collection[str]
) -> Callable[[], object]:
    """As `pull_by_crane`."""
    skopeo = Client(tool("skopeo"), env)
    count = iter(range(1_000_000))

    def pull() -> None:
        copy = folder / f"skopeo-{place.server}-{next(count)}"
        verify = f"--src-tls-verify={'true' if place.tls else 'false'}"
        skopeo("copy", "--all", "--preserve-digests", verify, f"docker://{place.host}/{name}", f"dir:{copy}")
        assert digest_of((copy / "manifest.json").read_bytes()) in digests

    return pull
