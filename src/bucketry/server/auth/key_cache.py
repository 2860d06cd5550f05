"""The keys of an issuer, kept: a request that can be judged by what is known calls nobody."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from bucketry.registry import Clock
from bucketry.server.auth.errors import IssuerUnavailable, Reason, TokenRefused
from bucketry.server.auth.jose import VerifyKey
from bucketry.server.auth.keysets import KeySet, KeySource, KeysUnavailable

_log = structlog.get_logger("bucketry.server")


@dataclass(frozen=True, slots=True)
class KeyTimes:
    """Seconds."""

    fresh: float = 3600.0
    """That keys are taken for without another look. A key that its issuer withdrew ends then."""
    ahead: float = 300.0
    """Before that: when they are looked at again beside a request, which does not wait."""
    again: float = 60.0
    """Between two looks that an unknown key id, or a failure, causes."""
    first: float = 10.0
    """Between two looks while no keys are known that can be used."""
    stale: float = 24 * 3600.0
    """That keys are taken for while no newer ones can be had."""


FILE_TIMES: Final = KeyTimes(fresh=10.0, ahead=0.0, again=10.0, stale=float("inf"))
"""For keys in a file: it is read again after ten seconds; a broken new one is refused and the old keys stay."""


class KeyCache:
    """The keys of one source. ``name`` says whose, in messages."""

    def __init__(self, source: KeySource, *, name: str, clock: Clock, times: KeyTimes | None = None) -> None:
        self._source = source
        self._name = name
        self._clock = clock
        self._times = times or KeyTimes()
        self._keys: KeySet = {}
        self._loaded: float | None = None
        """When the load that gave the keys began."""
        self._tried: float | None = None
        """When the last load began."""
        self._failure: str | None = None
        """Of the last load."""
        self._loading: asyncio.Task[None] | None = None

    async def find(self, kid: str, algorithm: str) -> VerifyKey:
        """The key with this id and algorithm; without an id, the only one with the algorithm.

        Raises `TokenRefused` where there is none, `IssuerUnavailable` where that cannot be known.
        """
        await self._renew()
        key = self._match(kid, algorithm)
        if key is None and (self._loading is not None or self._may_try()):
            await self._load()
            key = self._match(kid, algorithm)
        if key is not None:
            return key
        if self._failure is not None:
            # Why is in the log: whoever sent the token need not know where the keys are.
            raise IssuerUnavailable(
                f"the keys of {self._name} cannot be had now: try again later", retry_after=self._wait()
            )
        raise TokenRefused(f"{self._name} has no such key", reason=Reason.KEY)

    @property
    def is_loading(self) -> bool:
        return self._loading is not None

    async def close(self) -> None:
        loading = self._loading
        if loading is not None:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)

    async def _renew(self) -> None:
        age = self._since(self._loaded)
        if age < self._times.fresh - self._times.ahead or not (self._loading is not None or self._may_try()):
            return
        # Keys whose hour is over are not used before the issuer was asked; but where it did not answer the last
        # time, nobody waits for it as long as there are keys.
        if age < self._times.fresh or (self._failure is not None and age < self._times.stale):
            self._begin()
        else:
            await self._load()

    def _match(self, kid: str, algorithm: str) -> VerifyKey | None:
        if self._since(self._loaded) >= self._times.stale:
            return None
        if kid:
            return self._keys.get((kid, algorithm))
        fitting = [key for key in self._keys.values() if key.algorithm == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def _since(self, moment: float | None) -> float:
        return float("inf") if moment is None else self._clock.monotonic() - moment

    def _interval(self) -> float:
        return self._times.again if self._since(self._loaded) < self._times.stale else self._times.first

    def _may_try(self) -> bool:
        return self._since(self._tried) >= self._interval()

    def _wait(self) -> float:
        return max(1.0, self._interval() - self._since(self._tried))

    def _begin(self) -> asyncio.Task[None]:
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._read())
            self._loading.add_done_callback(self._ended)
        return self._loading

    async def _load(self) -> None:
        # One that goes away must not take the answer from the others.
        await asyncio.shield(self._begin())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._loading = None

    async def _read(self) -> None:
        began = self._tried = self._clock.monotonic()
        try:
            self._keys = await self._source.load()
        except KeysUnavailable as error:
            self._failure = str(error)
            _log.warning("keys of tokens could not be had", of=self._name, error=self._failure)
        else:
            self._failure = None
            self._loaded = began
