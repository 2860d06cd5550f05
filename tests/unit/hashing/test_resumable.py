from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.hashing.reference import Reference

from bucketry.hashing import libcrypto
from bucketry.hashing.resumable import (
    ALGORITHMS,
    MAX_LENGTH,
    Buffer,
    Hasher,
    NotResumable,
    from_chain,
    new,
    restore,
    resumable,
)
from bucketry.hashing.state import pack, unpack

# As an attribute of the package, that name is the function.
module = sys.modules["bucketry.hashing.resumable"]

REFERENCES = {algorithm: Reference(algorithm) for algorithm in ALGORITHMS}

each_algorithm = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
each_implementation = pytest.mark.parametrize("native_wanted", [True, False], ids=["native", "fallback"])
algorithms = st.sampled_from(sorted(ALGORITHMS))
# The fixture only asks whether libcrypto is there, which does not change between examples.
with_fixture = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def hashed(algorithm: str, data: Buffer, *, native: bool = True) -> Hasher:
    hasher = new(algorithm, native=native)
    hasher.update(data)
    return hasher


def exported(hasher: Hasher) -> bytes:
    state = hasher.state()
    assert state is not None
    return state


def chain_of(hasher: Hasher) -> bytes:
    chain = hasher.chain()
    assert chain is not None
    return chain


# FIPS 180-4's examples (https://csrc.nist.gov/projects/cryptographic-standards-and-guidelines/example-values).
TWO_BLOCKS_256 = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
TWO_BLOCKS_512 = (
    b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"
)
VECTORS = [
    ("sha256", b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("sha256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ("sha256", TWO_BLOCKS_256, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"),
    ("sha256", b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    (
        "sha512",
        b"",
        "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
        "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
    ),
    (
        "sha512",
        b"abc",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ),
    (
        "sha512",
        TWO_BLOCKS_512,
        "8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018"
        "501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909",
    ),
    (
        "sha512",
        b"a" * 1_000_000,
        "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb"
        "de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b",
    ),
]


@each_implementation
@pytest.mark.parametrize(("algorithm", "message", "digest"), VECTORS)
def test_nist_vectors(algorithm: str, message: bytes, digest: str, native_wanted: bool) -> None:
    assert hashed(algorithm, message, native=native_wanted).hexdigest() == digest
    assert REFERENCES[algorithm].digest(REFERENCES[algorithm].initial, 0, message[:200]) == (
        hashlib.new(algorithm, message[:200]).hexdigest()
    )


@with_fixture
@given(
    algorithm=algorithms,
    pieces=st.lists(
        st.tuples(
            st.one_of(st.binary(max_size=300), st.integers(0, 300).map(bytes)),
            st.sampled_from([bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))]),
            st.booleans(),
        ),
        max_size=12,
    ),
)
def test_any_split_resumed_anywhere_equals_hashlib(
    native: None, algorithm: str, pieces: list[tuple[bytes, type, bool]]
) -> None:
    hasher, expected, length = new(algorithm), hashlib.new(algorithm), 0
    for data, kind, move in pieces:
        hasher.update(kind(data))
        expected.update(data)
        length += len(data)
        assert hasher.hexdigest() == expected.hexdigest()
        assert hasher.length == length
        if move:
            state = exported(hasher)
            hasher = restore(algorithm, state)
            assert hasher.state() == state
    assert hasher.hexdigest() == expected.hexdigest()
    assert (hasher.length, hasher.algorithm) == (length, algorithm)


@each_algorithm
@pytest.mark.usefixtures("native")
def test_every_length_and_cut_around_the_block_boundaries(algorithm: str) -> None:
    block = ALGORITHMS[algorithm].block
    data = bytes(range(256)) * 2
    near = [n * block + off for n in range(3) for off in (-18, -17, -16, -9, -8, -1, 0, 1) if n * block + off >= 0]
    for length in near:
        for cut in [at for at in near if at <= length]:
            hasher = restore(algorithm, exported(hashed(algorithm, data[:cut])))
            hasher.update(data[cut:length])
            assert hasher.hexdigest() == hashlib.new(algorithm, data[:length]).hexdigest(), (length, cut)


ELSEWHERE = """
import json, sys
from bucketry.hashing.resumable import restore
answers = {}
for algorithm, (state, rest) in json.load(sys.stdin).items():
    hasher = restore(algorithm, bytes.fromhex(state))
    hasher.update(bytes.fromhex(rest))
    answers[algorithm] = [hasher.hexdigest(), hasher.state().hex()]
json.dump(answers, sys.stdout)
"""


@pytest.mark.usefixtures("native")
def test_another_process_goes_on_and_hands_back() -> None:
    first, second, third = b"first" * 31, bytes(1000), b"third" * 77
    work = {name: (exported(hashed(name, first)).hex(), second.hex()) for name in ALGORITHMS}

    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    for name, (digest, state) in json.loads(done.stdout).items():
        assert digest == hashlib.new(name, first + second).hexdigest()
        back = restore(name, bytes.fromhex(state))
        back.update(third)
        assert back.hexdigest() == hashlib.new(name, first + second + third).hexdigest()


@pytest.mark.usefixtures("native")
def test_the_stored_form_does_not_change() -> None:
    # Buckets hold states of this form: another one needs a new version, and the old one stays held here.
    assert exported(hashed("sha256", b"abc")).hex() == (
        "b10100000000000000036a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19616263375cb5ae"
    )
    assert exported(hashed("sha512", bytes(128) + b"abc")).hex() == (
        "b1020000000000000083"
        "cf7881d5774acbe8533362e0fbc780700267639d87460eda3086cb40e85931b0"
        "717dc95288a023a396bab2c14ce0b5e06fc4fe04eae33e0b91f4d80cbd668bee"
        "616263"
        "e7e37546"
    )


# Where a carry in the length would show: SHA-256 counts bits in two 32-bit words, so at 2**29 bytes.
FAR = [2**29 - 128, 2**29, 2**32 - 128, 2**32, 2**32 + 2**29 - 128, 2**40 + 128, 2**60, 2**61 - 4096]


@each_algorithm
@pytest.mark.parametrize("start", FAR)
@pytest.mark.usefixtures("native")
def test_lengths_beyond_what_can_be_hashed_in_a_test(algorithm: str, start: int) -> None:
    reference = REFERENCES[algorithm]
    block = ALGORITHMS[algorithm].block
    chain = hashlib.new(algorithm, b"any chaining value").digest()
    data = bytes(range(1, 252)) * 2

    for sizes in ((len(data),), (block - 1, 1, 1, block, block + 1), (1,) * 2 + (block,) * 2, (block,), (0,)):
        hasher, at = from_chain(algorithm, chain, start), 0
        assert hasher.length == start
        assert hasher.chain() == chain
        for size in sizes:
            hasher.update(data[at : at + size])
            at += size
            assert hasher.length == start + at
            full = at - at % block
            assert unpack(algorithm, exported(hasher)) == (
                reference.chain(chain, data[:full]),
                start + at,
                data[full:at],
            )
            hasher = restore(algorithm, exported(hasher))
        assert hasher.hexdigest() == reference.digest(chain, start, data[:at])


@each_algorithm
@pytest.mark.usefixtures("native")
def test_the_longest_message_is_hashed_and_no_longer_one(algorithm: str) -> None:
    block = ALGORITHMS[algorithm].block
    chain = bytes(ALGORITHMS[algorithm].chain)
    start = MAX_LENGTH + 1 - block
    hasher = from_chain(algorithm, chain, start)
    buffer = bytearray(block)

    with pytest.raises(ValueError, match="at most"):
        hasher.update(bytes(block))
    with pytest.raises(ValueError, match="at most"):
        hasher.update(buffer)
    assert hasher.length == start
    buffer.append(0)  # the refused update holds it no more

    hasher.update(bytes(block - 1))
    assert hasher.length == MAX_LENGTH
    assert hasher.hexdigest() == REFERENCES[algorithm].digest(chain, start, bytes(block - 1))
    with pytest.raises(ValueError):
        hasher.update(b"x")


@with_fixture
@given(algorithm=algorithms, blocks=st.integers(0, 5), rest=st.binary(max_size=300))
def test_a_chaining_value_is_enough_at_a_block_boundary(native: None, algorithm: str, blocks: int, rest: bytes) -> None:
    block = ALGORITHMS[algorithm].block
    data = bytes(range(1, 129)) * blocks
    data = data[: len(data) - len(data) % block]
    chain = chain_of(hashed(algorithm, data))
    assert chain == REFERENCES[algorithm].chain(REFERENCES[algorithm].initial, data)

    hasher = from_chain(algorithm, chain, len(data))
    hasher.update(rest)

    assert hasher.hexdigest() == hashlib.new(algorithm, data + rest).hexdigest()


@each_algorithm
@each_implementation
def test_there_is_no_chaining_value_between_blocks(algorithm: str, native_wanted: bool) -> None:
    block = ALGORITHMS[algorithm].block
    hasher = new(algorithm, native=native_wanted)
    for length in range(1, block):
        hasher.update(b"x")
        with pytest.raises(ValueError, match=f"no {algorithm} chaining value after {length} bytes"):
            hasher.chain()
    hasher.update(b"x")
    hasher.chain()


@each_algorithm
@pytest.mark.usefixtures("native")
def test_impossible_chaining_values_are_refused(algorithm: str) -> None:
    block, size = ALGORITHMS[algorithm].block, ALGORITHMS[algorithm].chain
    for wrong_size in (0, size - 1, size + 1, 96 - size):
        with pytest.raises(ValueError, match=f"{size} bytes, not {wrong_size}"):
            from_chain(algorithm, bytes(wrong_size), block)
    for length in (-block, -1, 1, block - 1, block + 1, 2**61, 2**64 + block):
        with pytest.raises(ValueError):
            from_chain(algorithm, bytes(size), length)
    # Nothing hashed yet: a forged list of segment states may not begin where it likes.
    with pytest.raises(ValueError, match="initial value"):
        from_chain(algorithm, bytes(size), 0)
    with pytest.raises(ValueError, match="initial value"):
        restore(algorithm, pack(algorithm, bytes(size), block - 1, bytes(block - 1)))


@with_fixture
@given(
    algorithm=algorithms,
    length=st.integers(128, MAX_LENGTH - 500),
    seed=st.binary(),
    tail=st.binary(max_size=300),
)
def test_a_forged_state_gives_the_digest_it_describes_and_no_crash(
    native: None, algorithm: str, length: int, seed: bytes, tail: bytes
) -> None:
    block = ALGORITHMS[algorithm].block
    chain = hashlib.new(algorithm, seed).digest()
    pending = bytes(length % block)

    hasher = restore(algorithm, pack(algorithm, chain, length, pending))
    hasher.update(tail)

    expected = REFERENCES[algorithm].digest(chain, length - len(pending), pending + tail)
    assert hasher.hexdigest() == expected


@with_fixture
@given(algorithm=algorithms, data=st.binary(max_size=300), draw=st.data())
def test_a_damaged_state_is_refused(native: None, algorithm: str, data: bytes, draw: st.DataObject) -> None:
    state = bytearray(exported(hashed(algorithm, data)))
    state[draw.draw(st.integers(0, len(state) - 1))] ^= draw.draw(st.integers(1, 255))

    for native_wanted in (True, False):
        with pytest.raises(ValueError):
            restore(algorithm, bytes(state), native=native_wanted)


@pytest.mark.parametrize("algorithm", ["md5", "SHA256", "sha-256", "sha384", ""])
def test_other_algorithms_are_refused(algorithm: str) -> None:
    for native_wanted in (True, False):
        with pytest.raises(ValueError, match="no such hash here"):
            new(algorithm, native=native_wanted)
        with pytest.raises(ValueError, match="no such hash here"):
            restore(algorithm, b"", native=native_wanted)
        with pytest.raises(ValueError, match="no such hash here"):
            from_chain(algorithm, b"", 0, native=native_wanted)


@each_algorithm
@each_implementation
def test_a_copy_and_its_original_are_independent(algorithm: str, native_wanted: bool) -> None:
    original = hashed(algorithm, b"same", native=native_wanted)
    copy = original.copy()
    original.update(b" left")
    copy.update(b" right!")

    assert (original.length, copy.length) == (9, 11)
    assert original.hexdigest() == hashlib.new(algorithm, b"same left").hexdigest()
    assert copy.hexdigest() == hashlib.new(algorithm, b"same right!").hexdigest()


@each_algorithm
@each_implementation
def test_what_is_no_contiguous_buffer_is_refused_and_changes_nothing(algorithm: str, native_wanted: bool) -> None:
    hasher = hashed(algorithm, b"kept", native=native_wanted)

    with pytest.raises(BufferError):
        hasher.update(memoryview(b"every other byte")[::2])
    with pytest.raises(TypeError):
        hasher.update("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hasher.update(12)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hasher.update(None)  # type: ignore[arg-type]

    assert hasher.length == 4
    assert hasher.hexdigest() == hashlib.new(algorithm, b"kept").hexdigest()


@each_algorithm
@each_implementation
def test_every_kind_of_view_is_hashed_by_its_bytes(algorithm: str, native_wanted: bool) -> None:
    data = bytes(range(240))
    read_only = memoryview(data)
    assert read_only.readonly
    views: list[Buffer] = [
        read_only,
        read_only[16:80],
        read_only.cast("I"),
        read_only.cast("B", (12, 20)),
        memoryview(bytearray(data)),
        memoryview(bytearray(data)).toreadonly()[1:],
        bytearray(data),
        bytearray(),
        memoryview(b""),
        read_only[5:5],
    ]
    for view in views:
        hasher = hashed(algorithm, view, native=native_wanted)
        assert hasher.hexdigest() == hashlib.new(algorithm, bytes(view)).hexdigest()
        assert hasher.length == len(bytes(view))


@each_algorithm
@each_implementation
def test_nothing_is_copied_and_nothing_is_kept(algorithm: str, native_wanted: bool) -> None:
    size = 4 * 1024 * 1024
    plain, array = bytes(size), bytearray(size)
    buffers: list[Buffer] = [plain, array, memoryview(plain), memoryview(array).toreadonly()]
    hasher = hashed(algorithm, b"x", native=native_wanted)
    references = [sys.getrefcount(buffer) for buffer in buffers]

    tracemalloc.start()
    try:
        for at in range(len(buffers)):
            hasher.update(buffers[at])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 64 * 1024
    assert [sys.getrefcount(buffer) for buffer in buffers] == references
    buffers.clear()
    array.append(1)  # a buffer still exported could not be resized


@each_algorithm
@pytest.mark.usefixtures("native")
def test_other_threads_run_during_an_update(algorithm: str) -> None:
    data = bytes(24 * 1024 * 1024)
    span: list[float] = []

    def hash_it() -> None:
        hasher = new(algorithm)
        begin = time.perf_counter()
        hasher.update(data)
        span.extend((begin, time.perf_counter()))

    for _ in range(5):  # one in which the other core was busy proves nothing
        span.clear()
        thread = threading.Thread(target=hash_it)
        ticks: list[float] = []
        thread.start()
        while not span:
            ticks.append(time.perf_counter())
            time.sleep(0.0005)
        thread.join()
        begin, end = span
        quarter = (end - begin) / 4
        if any(begin + quarter < tick < end - quarter for tick in ticks):
            return
    pytest.fail("no other thread ran while a hash was updated: the GIL was held")


@each_algorithm
@each_implementation
def test_threads_hash_side_by_side(algorithm: str, native_wanted: bool) -> None:
    barrier = threading.Barrier(8)

    def hash_one(seed: int) -> tuple[str, str]:
        data = bytes([seed]) * (100_000 + seed)
        hasher = new(algorithm, native=native_wanted)
        barrier.wait(timeout=30)
        for at in range(0, len(data), 4099):
            hasher.update(memoryview(data)[at : at + 4099])
            state = hasher.state()
            if state is not None:
                hasher = restore(algorithm, state)
        return hasher.hexdigest(), hashlib.new(algorithm, data).hexdigest()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(hash_one, range(8)))

    assert [got for got, _ in results] == [expected for _, expected in results]


@each_algorithm
@each_implementation
def test_threads_may_share_a_hash(algorithm: str, native_wanted: bool) -> None:
    hasher = new(algorithm, native=native_wanted)
    chunk = bytes(range(1, 202)) * 50  # equal chunks, so that their order does not matter
    barrier = threading.Barrier(4)

    def feed(_: int) -> None:
        barrier.wait(timeout=30)
        for _ in range(50):
            hasher.update(chunk)
            assert hasher.length % len(chunk) == 0
            assert hasher.copy().length % len(chunk) == 0
            hasher.hexdigest()
            hasher.state()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(feed, range(4)))

    assert hasher.length == 200 * len(chunk)
    assert hasher.hexdigest() == hashlib.new(algorithm, chunk * 200).hexdigest()


@with_fixture
@given(algorithm=algorithms, pieces=st.lists(st.binary(max_size=200), max_size=6))
def test_the_fallback_gives_the_same_digests_and_no_state(native: None, algorithm: str, pieces: list[bytes]) -> None:
    fallback, other = new(algorithm, native=False), new(algorithm)
    for piece in pieces:
        fallback.update(piece)
        other.update(piece)
    for hasher in (fallback, fallback.copy()):
        assert hasher.hexdigest() == other.hexdigest()
        assert (hasher.length, hasher.algorithm) == (other.length, other.algorithm)
        assert hasher.state() is None


@each_algorithm
def test_the_fallback_has_no_chaining_value(algorithm: str) -> None:
    assert new(algorithm, native=False).chain() is None
    assert hashed(algorithm, bytes(ALGORITHMS[algorithm].block), native=False).chain() is None


@each_algorithm
@pytest.mark.usefixtures("native")
def test_the_fallback_takes_nothing_up(algorithm: str) -> None:
    hasher = hashed(algorithm, bytes(ALGORITHMS[algorithm].block))
    with pytest.raises(NotResumable, match="hash it from the start"):
        restore(algorithm, exported(hasher), native=False)
    with pytest.raises(NotResumable, match="hash it from the start"):
        from_chain(algorithm, chain_of(hasher), hasher.length, native=False)


@pytest.fixture
def unloaded() -> Iterator[None]:
    module._load.cache_clear()
    yield
    module._load.cache_clear()


@pytest.mark.usefixtures("unloaded")
def test_without_a_usable_libcrypto_everything_but_resuming_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libcrypto, "load", lambda: None)

    assert not resumable()
    hasher = hashed("sha256", b"abc")
    assert hasher.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    assert hasher.state() is None
    with pytest.raises(NotResumable):
        restore("sha256", pack("sha256", bytes(32), 64, b""))
    with pytest.raises(ValueError, match="too few"):
        restore("sha256", b"")


@pytest.mark.usefixtures("unloaded")
def test_a_python_without_ctypes_hashes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("bucketry.hashing.libcrypto")
    monkeypatch.setitem(sys.modules, "bucketry.hashing.libcrypto", None)

    assert not resumable()
    assert hashed("sha512", b"abc").hexdigest() == hashlib.sha512(b"abc").hexdigest()


@pytest.mark.usefixtures("unloaded")
def test_libcrypto_is_loaded_once_whatever_the_threads_do(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    barrier = threading.Barrier(8)

    def slow_load() -> None:
        loads.append(1)
        time.sleep(0.02)

    def ask(_: int) -> bool:
        barrier.wait(timeout=30)
        return resumable()

    monkeypatch.setattr(libcrypto, "load", slow_load)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [False] * 8
    assert len(loads) == 1


def test_importing_loads_nothing() -> None:
    code = (
        "import sys, bucketry.hashing.resumable;"
        "sys.exit('bucketry.hashing.libcrypto' in sys.modules or 'ctypes' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
