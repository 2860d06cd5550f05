from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.hashing.state import ALGORITHMS, MAX_LENGTH, pack, unpack


@st.composite
def parts(draw: st.DrawFn) -> tuple[str, bytes, int, bytes]:
    algorithm = draw(st.sampled_from(sorted(ALGORITHMS)))
    _, block, chain_size = ALGORITHMS[algorithm]
    length = draw(st.integers(0, MAX_LENGTH) | st.integers(0, 300))
    chain = draw(st.binary(min_size=chain_size, max_size=chain_size))
    pending = draw(st.binary(min_size=length % block, max_size=length % block))
    return algorithm, chain, length, pending


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


@given(parts())
def test_what_is_packed_is_unpacked(given_parts: tuple[str, bytes, int, bytes]) -> None:
    algorithm, chain, length, pending = given_parts

    state = pack(*given_parts)

    assert unpack(algorithm, state) == (chain, length, pending)
    assert len(state) <= 205


@settings(max_examples=200)
@given(parts(), st.data())
def test_any_damage_is_refused(given_parts: tuple[str, bytes, int, bytes], data: st.DataObject) -> None:
    state = pack(*given_parts)
    at = data.draw(st.integers(0, len(state) - 1))
    flip = data.draw(st.integers(1, 255))
    flipped = state[:at] + bytes([state[at] ^ flip]) + state[at + 1 :]
    extra = data.draw(st.binary(min_size=1, max_size=130))

    for damaged in (flipped, state[:at], state[at + 1 :], state + extra, extra + state):
        with pytest.raises(ValueError):
            unpack(given_parts[0], damaged)


@given(st.sampled_from(sorted(ALGORITHMS)), st.binary(max_size=220))
def test_noise_is_refused(algorithm: str, noise: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(algorithm, noise)


def test_the_refusal_says_what_is_wrong() -> None:
    good = pack("sha256", bytes(32), 70, b"sixsix")

    with pytest.raises(ValueError, match="a hash state of sha256, not of sha512"):
        unpack("sha512", good)
    with pytest.raises(ValueError, match="a hash state of algorithm 9, not of sha256"):
        unpack("sha256", sealed(good[:1] + b"\x09" + good[2:-4]))
    with pytest.raises(ValueError, match="first byte is 0xb2"):
        unpack("sha256", sealed(b"\xb2" + good[1:-4]))
    with pytest.raises(ValueError, match="at most 2305843009213693951"):
        unpack("sha256", sealed(good[:2] + (2**61).to_bytes(8, "big") + bytes(32)))
    with pytest.raises(ValueError, match="51 bytes, not 52"):
        unpack("sha256", sealed(good[:-5]))
    with pytest.raises(ValueError, match="damaged"):
        unpack("sha256", good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match="0 bytes are too few"):
        unpack("sha256", b"")
    with pytest.raises(ValueError, match="no such hash here: 'md5'; there are sha256, sha512"):
        unpack("md5", good)
