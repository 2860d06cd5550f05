"""How fast anybody may try passwords, and how many requests anybody may send.

A login is charged before its password is looked at, and given back what it was charged where the password is right. So
guesses that are sent all at once count like those that follow each other.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bucketry.server.auth.buckets import MAX_KEYS, Buckets, Rate
from bucketry.server.auth.errors import TooManyAttempts

BY_ADDRESS: Final = Rate(per_second=1 / 5, burst=40)
BY_NAME: Final = Rate(per_second=1 / 10, burst=20)
_V6_PREFIX: Final = 64
"""Bits: who has one IPv6 address has all of its /64."""


def network_of(address: str) -> str:
    """What stands for an address in limits: itself, the /64 of IPv6, the IPv4 address where one is mapped.

    What is no address (a Unix socket, a name) stands for itself, in bounded form.
    """
    try:
        # The zone of a link-local address is the sender's to choose.
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return _bounded(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _V6_PREFIX), strict=False))


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that was let try. ``known``: the name has logged in from there before."""

    address: str
    name: str
    known: bool
    charged: bool = True


class FailedLogins:
    """Throttles failed logins by address and by name.

    From an address that a name has logged in from, only what failed in that name from there keeps it waiting: else
    anybody could keep anybody out by failing in their name, or from behind the same address. All failures count for
    the address, and a success gives back no more than itself: else who has one good password could guess others
    without end.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        by_address: Rate = BY_ADDRESS,
        by_name: Rate = BY_NAME,
        most: int = MAX_KEYS,
    ) -> None:
        self._addresses = Buckets(by_address, monotonic=monotonic, most=most)
        self._names = Buckets(by_name, monotonic=monotonic, most=most)
        self._pairs = Buckets(by_name, monotonic=monotonic, most=most)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._most = most

    def attempt(self, address: str, name: str, *, guess: bool = True) -> Attempt:
        """Charges a login. Raises `TooManyAttempts`, before any password was looked at.

        ``guess`` is false for what is known to be right, or is being looked at already: it is not charged, but waits
        like any other. If it did not, whoever is to wait could tell a right password from wrong ones by being let in.
        """
        network = network_of(address)
        attempt = Attempt(network, name, _pair(network, name) in self._known, guess)
        bucket, key = self._bucket(attempt)
        wait = bucket.wait(key) if attempt.known else max(self._addresses.wait(network), bucket.wait(key))
        if wait > 0:
            raise TooManyAttempts(f"too many failed logins: wait {wait:.0f} seconds, then try again", retry_after=wait)
        if guess:
            self._addresses.take(network)
            bucket.take(key)
        return attempt

    def succeeded(self, attempt: Attempt) -> None:
        """The password was right."""
        pair = _pair(attempt.address, attempt.name)
        self._refund(attempt)
        self._pairs.fill(pair)
        self._known[pair] = None
        self._known.move_to_end(pair)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def undecided(self, attempt: Attempt) -> None:
        """Nobody looked at the password: something else went wrong."""
        self._refund(attempt)

    def _refund(self, attempt: Attempt) -> None:
        if not attempt.charged:
            return
        bucket, key = self._bucket(attempt)
        bucket.give(key)
        self._addresses.give(attempt.address)

    def _bucket(self, attempt: Attempt) -> tuple[Buckets, str]:
        if attempt.known:
            return self._pairs, _pair(attempt.address, attempt.name)
        return self._names, _bounded(attempt.name)


class RateLimits:
    """Requests by principal and by address; None for no limit."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        by_principal: Rate | None = None,
        by_address: Rate | None = None,
        most: int = MAX_KEYS,
    ) -> None:
        self._principals = None if by_principal is None else Buckets(by_principal, monotonic=monotonic, most=most)
        self._addresses = None if by_address is None else Buckets(by_address, monotonic=monotonic, most=most)

    def address(self, address: str, cost: float = 1.0) -> float:
        """Takes ``cost`` requests of an address: 0, or the seconds to wait, and then nothing was taken."""
        return _take(self._addresses, network_of(address), cost) if self._addresses is not None else 0.0

    def principal(self, principal: str, cost: float = 1.0) -> float:
        """The same of a principal, as it is written. Anonymous ones have their addresses only."""
        if self._principals is None or principal == "anonymous":
            return 0.0
        return _take(self._principals, _bounded(principal), cost)


def _take(buckets: Buckets, key: str, cost: float) -> float:
    wait = buckets.wait(key, cost)
    if wait == 0:
        buckets.take(key, cost)
    return wait


def _pair(network: str, name: str) -> str:
    return f"{network} {_bounded(name)}"


def _bounded(text: str) -> str:
    if len(text) <= 100:
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
