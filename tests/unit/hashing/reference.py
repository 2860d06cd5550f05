"""SHA-256 and SHA-512 as FIPS 180-4 writes them, slowly: the oracle where hashlib would have to read GiB."""

from __future__ import annotations

from math import isqrt


class Reference:
    """One algorithm. Chaining values and digests are big-endian bytes."""

    def __init__(self, algorithm: str) -> None:
        if algorithm == "sha256":
            self.bits, self.rounds = 32, 64
            self.big = ((2, 13, 22), (6, 11, 25))
            self.small = ((7, 18, 3), (17, 19, 10))
        else:
            self.bits, self.rounds = 64, 80
            self.big = ((28, 34, 39), (14, 18, 41))
            self.small = ((1, 8, 7), (19, 61, 6))
        self.mask = (1 << self.bits) - 1
        self.word = self.bits // 8
        self.block = 16 * self.word
        primes = [n for n in range(2, 410) if all(n % d for d in range(2, isqrt(n) + 1))][:80]
        # The first bits of fractional parts: cube roots make the constants, square roots the initial value.
        self.constants = [_cube_root(p << 3 * self.bits) & self.mask for p in primes[: self.rounds]]
        self.initial = b"".join(self._bytes(isqrt(p << 2 * self.bits) & self.mask) for p in primes[:8])

    def compress(self, chain: bytes, block: bytes) -> bytes:
        """The next chaining value (section 6.2.2, 6.4.2)."""
        w = self._words(block)
        for t in range(16, self.rounds):
            low, high = (self._small(k, w[t - back]) for k, back in ((0, 15), (1, 2)))
            w.append((high + w[t - 7] + low + w[t - 16]) & self.mask)
        before = self._words(chain)
        a, b, c, d, e, f, g, h = before
        for t in range(self.rounds):
            first = h + self._big(1, e) + ((e & f) ^ (~e & g)) + self.constants[t] + w[t]
            second = self._big(0, a) + ((a & b) ^ (a & c) ^ (b & c))
            a, b, c, d, e, f, g, h = (first + second) & self.mask, a, b, c, (d + first) & self.mask, e, f, g
        after = (a, b, c, d, e, f, g, h)
        return b"".join(self._bytes((x + y) & self.mask) for x, y in zip(before, after, strict=True))

    def chain(self, chain: bytes, data: bytes) -> bytes:
        """The chaining value after ``data``, full blocks."""
        assert len(data) % self.block == 0
        for at in range(0, len(data), self.block):
            chain = self.compress(chain, data[at : at + self.block])
        return chain

    def digest(self, chain: bytes, length: int, tail: bytes) -> str:
        """In hex, the digest of ``length`` bytes that left ``chain``, then ``tail`` (section 5.1)."""
        total = length + len(tail)
        zeros = -(total + 1 + 2 * self.word) % self.block
        padding = b"\x80" + bytes(zeros) + (8 * total).to_bytes(2 * self.word, "big")
        return self.chain(chain, tail + padding).hex()

    def _words(self, data: bytes) -> list[int]:
        return [int.from_bytes(data[at : at + self.word], "big") for at in range(0, len(data), self.word)]

    def _bytes(self, word: int) -> bytes:
        return word.to_bytes(self.word, "big")

    def _rotate(self, x: int, by: int) -> int:
        return (x >> by | x << self.bits - by) & self.mask

    def _big(self, k: int, x: int) -> int:
        one, two, three = self.big[k]
        return self._rotate(x, one) ^ self._rotate(x, two) ^ self._rotate(x, three)

    def _small(self, k: int, x: int) -> int:
        one, two, shift = self.small[k]
        return self._rotate(x, one) ^ self._rotate(x, two) ^ x >> shift


def _cube_root(n: int) -> int:
    """The integer part, by Newton's method from above."""
    x = 1 << -(-n.bit_length() // 3)
    while (y := (2 * x + n // (x * x)) // 3) < x:
        x = y
    return x
