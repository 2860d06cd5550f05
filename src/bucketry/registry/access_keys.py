"""The keys that sign the registry's own tokens, kept in the store: every replica signs with them and takes all of them.

A key is named by the day it was made on. Replicas that find no key at the same moment all try to write that one name,
and the store lets one of them win; the others read what it wrote. Keys are listed again every `REFRESH` seconds while
they are used, so a key that its owner deletes ends everywhere, and one that was replaced is read anew.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bucketry.registry import layout
from bucketry.registry.access_folder import make_access_folder
from bucketry.registry.records import decode
from bucketry.registry.settings import Clock, Ids
from bucketry.store.contract import (
    IF_ABSENT,
    Corrupt,
    ListedObject,
    NotFound,
    PreconditionFailed,
    Store,
    StoreError,
)

DAY: Final = 24 * 3600.0
SIGNING: Final = 30 * DAY
"""Seconds that a key signs."""
MARGIN: Final = 3600.0
"""Seconds that a key is taken for beyond the life of the last token that it can have signed: clocks differ."""
REFRESH: Final = 60.0
"""Seconds after which the keys are listed again."""
LEAST_INTERVAL: Final = 1.0
"""Seconds between two listings that unknown key ids cause."""
MAX_KEYS: Final = 64
"""Keys that are read: two are usual."""
MAX_RECORD: Final = 4096
"""Bytes of a key's object."""

_KID: Final = re.compile(r"[0-9]{6}", re.ASCII)
_ALGORITHM: Final = "EdDSA"
_SEED: Final = 32

_log = structlog.get_logger("bucketry.registry")


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``access/keys/<kid>``. ``created`` in POSIX seconds; ``seed``: 32 bytes in base64url without padding."""

    algorithm: str
    seed: str
    created: float

    def __repr__(self) -> str:
        return f"KeyRecord(created={self.created})"


@dataclass(frozen=True, slots=True, eq=False)
class AccessKey:
    """A key as it is used. Its private half is in no ``repr``. ``born`` in POSIX seconds."""

    kid: str
    born: float
    private: Ed25519PrivateKey = field(repr=False)
    public: Ed25519PublicKey = field(repr=False)


def is_kid(text: str) -> bool:
    """Whether it can be the id of a key: six digits, so it is no path and nothing else in the store."""
    return _KID.fullmatch(text) is not None


class AccessKeys:
    """The keys of one store. ``token_life``: seconds that the longest-lived token lives. ``sleep`` waits for seconds.

    Every method that needs the store raises its `StoreError`, but where the keys that are known are enough.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        ids: Ids,
        token_life: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._sleep = sleep
        self._lasting = SIGNING + token_life + MARGIN
        self._keys: dict[str, _Held] = {}
        self._listed: float | None = None
        """When the last listing began, by the monotonic clock, whether or not it succeeded."""
        self._known: float | None = None
        """When the last listing that succeeded began."""
        self._refreshing: asyncio.Task[None] | None = None

    async def signing(self) -> AccessKey:
        """The key to sign with now; made where there is none. Raises `Corrupt` where there is one of no use."""
        await self._freshen()
        return self._newest() or await self._make()

    async def verifying(self, kid: str) -> AccessKey | None:
        """The key with this id, or None where there is none (any more)."""
        if not self._plausible(kid):
            return None
        asked = self._clock.monotonic()
        await self._freshen()
        key = self.current(kid)
        if key is None:
            await self._look_again(asked)
            key = self.current(kid)
        return key

    async def replaced(self, key: AccessKey) -> AccessKey | None:
        """What has the id of ``key`` now, where that is another: its owner deleted it, and a replica made a new one."""
        await self._look_again(self._clock.monotonic())
        found = self.current(key.kid)
        return None if found is key else found

    def current(self, kid: str) -> AccessKey | None:
        """The key with this id where it is known and its time is not over. Asks nobody."""
        held = self._keys.get(kid)
        return held.key if held is not None and self._age(held.key) <= self._lasting else None

    async def close(self) -> None:
        refreshing = self._refreshing
        if refreshing is not None:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)

    def _plausible(self, kid: str) -> bool:
        # Ids that no key can have cost no listing.
        return is_kid(kid) and -2 <= self._clock.now() / DAY - int(kid) <= self._lasting / DAY + 2

    def _age(self, key: AccessKey) -> float:
        return self._clock.now() - key.born

    def _newest(self) -> AccessKey | None:
        usable = [held.key for held in self._keys.values() if -MARGIN <= self._age(held.key) <= SIGNING]
        return max(usable, key=lambda key: (key.born, key.kid), default=None)

    def _since(self, moment: float | None) -> float:
        return float("inf") if moment is None else self._clock.monotonic() - moment

    async def _freshen(self) -> None:
        if self._since(self._known) < REFRESH:
            return
        if self._keys and self._refreshing is None and self._since(self._listed) < LEAST_INTERVAL:
            return  # It failed a moment ago.
        try:
            await self._refresh()
        except StoreError as error:
            if not self._keys:
                raise
            _log.warning("the keys of tokens could not be listed again", error=str(error))

    async def _look_again(self, asked: float) -> None:
        """Sees to it that a listing that succeeded began after ``asked``, but none within a second of another."""
        if self._known is not None and self._known >= asked:
            return
        wait = LEAST_INTERVAL - self._since(self._listed)
        if wait > 0:
            await self._sleep(wait)
        # Somebody else who waited may have done it meanwhile.
        if self._refreshing is not None or self._known is None or self._known < asked:
            await self._refresh()

    async def _refresh(self) -> None:
        """Reads what changed; all who ask meanwhile share it."""
        if self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().create_task(self._read_all())
            self._refreshing.add_done_callback(self._refreshed)
        await asyncio.shield(self._refreshing)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # All who waited may be gone.

    async def _read_all(self) -> None:
        began = self._listed = self._clock.monotonic()
        page = await self._store.list(layout.ACCESS_KEYS_PREFIX)
        found: dict[str, _Held] = {}
        # Days sort as they follow each other: the last ones are the newest.
        for entry in [entry for entry in page.objects if is_kid(_kid(entry))][-MAX_KEYS:]:
            held = self._keys.get(_kid(entry))
            if held is None or held.etag != entry.etag:
                held = await self._read(entry)
            if held is not None:
                found[held.key.kid] = held
        over = [held.key for held in found.values() if self._age(held.key) > self._lasting]
        for key in over:
            del found[key.kid]
        self._keys = found
        self._known = began
        if over and found:  # Without a newer one it may be this machine's clock that is wrong.
            await self._remove(over)

    async def _read(self, entry: ListedObject) -> _Held | None:
        try:
            stored = await self._store.get(entry.key, limit=MAX_RECORD)
            key = parse_key(_kid(entry), stored.body, modified=entry.modified)
        except NotFound:
            return None
        except Corrupt as error:
            # One bad object must not lock everybody out: it is as good as absent.
            _log.error("a key of tokens is not used", error=str(error))
            return None
        return _Held(key, stored.info.etag)

    async def _remove(self, keys: list[AccessKey]) -> None:
        try:
            await self._store.delete_many([layout.access_key(key.kid) for key in keys])
        except StoreError as error:
            _log.warning("keys of tokens whose time is over could not be deleted", error=str(error))

    async def _make(self) -> AccessKey:
        now = self._clock.now()
        name = layout.access_key(f"{int(now // DAY):06d}")
        seed = bytes.fromhex(self._ids.token() + self._ids.token())
        encoded = base64.urlsafe_b64encode(seed).rstrip(b"=").decode()
        record = KeyRecord(algorithm=_ALGORITHM, seed=encoded, created=now)
        await asyncio.to_thread(make_access_folder, self._store)
        try:
            await self._store.put(name, msgspec.json.encode(record), condition=IF_ABSENT)
        except PreconditionFailed:
            pass  # Another replica was first: its key is the one.
        if self._refreshing is not None:
            # That one may have listed them before the key was there.
            await asyncio.gather(asyncio.shield(self._refreshing), return_exceptions=True)
        await self._refresh()
        key = self._newest()
        if key is None:
            raise Corrupt(f"{name} is in the way of a new signing key and cannot be used: delete it")
        return key


@dataclass(frozen=True, slots=True)
class _Held:
    key: AccessKey
    etag: str


def _kid(entry: ListedObject) -> str:
    return entry.key.removeprefix(layout.ACCESS_KEYS_PREFIX)


def parse_key(kid: str, body: bytes, *, modified: float) -> AccessKey:
    """The key in ``body``, no younger than its object (``modified``). Raises `Corrupt`, without what is in it."""
    where = layout.access_key(kid)
    try:
        record = decode(body, KeyRecord, where)
    except Corrupt:
        raise Corrupt(f"{where} is not a signing key: delete it, and a new one is made") from None
    try:
        seed = base64.b64decode(record.seed + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        seed = b""
    if record.algorithm != _ALGORITHM or len(seed) != _SEED:
        raise Corrupt(f"{where} is not a signing key: delete it, and a new one is made")
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return AccessKey(kid, min(record.created, modified), private, private.public_key())
