"""Passwords are hashed slowly, so: on threads of their own, each once at a time, and remembered for a while."""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bucketry.server.auth.errors import TooManyAttempts

MAX_PASSWORD: Final = 4096
"""Characters; longer ones are wrong without a look."""
MAX_NAME: Final = 255
THREADS: Final = 2
WAITING: Final = 64
"""Passwords that may be hashed or wait for it; others are turned away."""
REMEMBERED: Final = 10_000


class Passwords:
    """Answers whether passwords are right; remembers those that are, never those that are not.

    ``key``: 32 random bytes of this process: what is remembered is of no use without them. ``remember`` in seconds.
    """

    def __init__(
        self,
        *,
        key: bytes,
        monotonic: Callable[[], float],
        remember: float,
        threads: int = THREADS,
        waiting: int = WAITING,
        remembered: int = REMEMBERED,
    ) -> None:
        if len(key) < 32:
            raise ValueError("the key has fewer than 32 bytes")
        self._key = key
        self._monotonic = monotonic
        self._remember = remember
        self._waiting = waiting
        self._most = remembered
        self._right: OrderedDict[bytes, float] = OrderedDict()
        """When it was found right, by the keyed hash of the question."""
        self._asked: dict[bytes, asyncio.Future[bool]] = {}
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="passwords")

    async def check(self, name: str, password: str, *, stored: str, verify: Callable[[], bool]) -> bool:
        """Whether ``password`` is right for ``name``.

        ``stored`` is what it is compared with (the line of the file; empty for a name that is not there): another one
        is another question, so a password that was changed ends at once. ``verify`` compares them, slowly, on a thread;
        for a name that is not there it takes as long and says no. Raises `TooManyAttempts` where too many wait.
        """
        if len(password) > MAX_PASSWORD or len(name) > MAX_NAME:
            return False
        question = self._question(name, stored, password)
        found = self._right.get(question)
        if found is not None and self._monotonic() - found < self._remember:
            return True
        asked = self._asked.get(question)
        if asked is None:
            if len(self._asked) >= self._waiting:
                raise TooManyAttempts("too many passwords are being checked: try again in a moment", retry_after=1.0)
            asked = asyncio.get_running_loop().run_in_executor(self._threads, verify)
            self._asked[question] = asked
            asked.add_done_callback(lambda done: self._answered(question, done))
        # One that goes away must not take the answer from the others.
        return await asyncio.shield(asked)

    def is_no_guess(self, name: str, password: str, *, stored: str) -> bool:
        """Whether this very question was answered with yes a while ago, or is being answered: nothing is tried out.

        It is as good as the answer, so only for whom passwords may be looked at: `FailedLogins.attempt` is told it.
        """
        question = self._question(name, stored, password)
        found = self._right.get(question)
        return question in self._asked or (found is not None and self._monotonic() - found < self._remember)

    def close(self) -> None:
        """Waits for none of those that are being hashed."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _question(self, name: str, stored: str, password: str) -> bytes:
        digest = hmac.new(self._key, digestmod="sha256")
        for part in (name, stored, password):
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "big") + raw)
        return digest.digest()

    def _answered(self, question: bytes, done: asyncio.Future[bool]) -> None:
        self._asked.pop(question, None)
        if done.cancelled() or done.exception() is not None or not done.result():
            self._right.pop(question, None)
            return
        self._right[question] = self._monotonic()
        self._right.move_to_end(question)
        while len(self._right) > self._most:
            self._right.popitem(last=False)
