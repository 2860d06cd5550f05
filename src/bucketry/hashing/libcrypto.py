"""SHA-256 and SHA-512 by libcrypto's low-level functions, whose contexts can be read and written.

hashlib hides its state. ``SHA256_CTX`` and ``SHA512_CTX`` are public structures that have not changed since
OpenSSL 0.9.8, and the functions on them run the assembly that hashlib gets. ctypes calls them without the
GIL.

Nothing is assumed about the library that is found: `load` compares it with hashlib, states exported and
taken up half-way included, and takes none where anything differs.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import importlib.util
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from bucketry.hashing.state import ALGORITHMS, MAX_LENGTH, Buffer, between_blocks, pack, too_long, unpack

# Behind each context: room a library with a larger context would write to. The self-test wants it untouched.
_SLACK = 64


class _Context256(ctypes.Structure):
    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("nl", ctypes.c_uint32),
        ("nh", ctypes.c_uint32),
        ("data", ctypes.c_uint8 * 64),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
        ("slack", ctypes.c_uint8 * _SLACK),
    )


class _Context512(ctypes.Structure):
    _fields_ = (
        ("h", ctypes.c_uint64 * 8),
        ("nl", ctypes.c_uint64),
        ("nh", ctypes.c_uint64),
        ("data", ctypes.c_uint8 * 128),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
        ("slack", ctypes.c_uint8 * _SLACK),
    )


_Context: TypeAlias = _Context256 | _Context512


class _PyBuffer(ctypes.Structure):
    """CPython's ``Py_buffer``, part of its stable ABI since 3.11."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_PYBUF_SIMPLE = 0  # contiguous bytes, read-only ones too


class _Functions:
    """One algorithm's functions in one library. AttributeError where the library has them not."""

    def __init__(self, library: ctypes.CDLL, algorithm: str) -> None:
        self.algorithm = algorithm
        self.parameters = ALGORITHMS[algorithm]
        self.context: type[_Context]
        if algorithm == "sha256":
            self.context, self.word_bits, self.words = _Context256, 32, struct.Struct(">8I")
        else:
            self.context, self.word_bits, self.words = _Context512, 64, struct.Struct(">8Q")
        pointer = ctypes.c_void_p
        name = algorithm.upper()
        self.init = _function(library, f"{name}_Init", pointer)
        self.update = _function(library, f"{name}_Update", pointer, pointer, ctypes.c_size_t)
        self.final = _function(library, f"{name}_Final", pointer, pointer)
        # ctypes itself gives the address of writable buffers only. The C API gives that of others too,
        # and keeps the memory in place until its release (a bytearray cannot be resized). Function objects of
        # our own, because those of ctypes.pythonapi are shared with everyone in the process.
        self.get_buffer: Callable[..., int] = ctypes.PYFUNCTYPE(
            ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int
        )(("PyObject_GetBuffer", ctypes.pythonapi))
        self.release_buffer: Callable[..., None] = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(
            ("PyBuffer_Release", ctypes.pythonapi)
        )


def _function(library: ctypes.CDLL, name: str, *arguments: Any) -> Callable[..., int]:
    function = getattr(library, name)
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


class NativeHasher:
    """A `bucketry.hashing.resumable.Hasher` on a libcrypto context."""

    __slots__ = ("_context", "_functions", "_lock")

    def __init__(self, functions: _Functions, context: _Context) -> None:
        self._functions = functions
        self._context = context
        # Without the GIL, two updates at once would write to one context.
        self._lock = threading.Lock()

    @property
    def algorithm(self) -> str:
        return self._functions.algorithm

    @property
    def length(self) -> int:
        with self._lock:
            return self._length()

    def update(self, data: Buffer) -> None:
        if isinstance(data, bytes):
            with self._lock:
                self._update(data, len(data))
            return
        view = _PyBuffer()
        self._functions.get_buffer(data, ctypes.addressof(view), _PYBUF_SIMPLE)
        try:
            with self._lock:
                self._update(view.buf, view.len)
        finally:
            self._functions.release_buffer(ctypes.addressof(view))

    def hexdigest(self) -> str:
        functions = self._functions
        last = self._snapshot()  # Final ends a context, and this hash goes on
        digest = ctypes.create_string_buffer(functions.parameters.chain)
        if functions.final(ctypes.addressof(digest), ctypes.addressof(last)) != 1:
            raise RuntimeError(f"libcrypto's {functions.algorithm} failed in its last step")
        return digest.raw.hex()

    def state(self) -> bytes:
        with self._lock:
            length = self._length()
            pending = bytes(self._context.data)[: length % self._functions.parameters.block]
            return pack(self._functions.algorithm, self._chain(), length, pending)

    def chain(self) -> bytes:
        with self._lock:
            length = self._length()
            if length % self._functions.parameters.block:
                raise between_blocks(self._functions.algorithm, length)
            return self._chain()

    def copy(self) -> NativeHasher:
        return NativeHasher(self._functions, self._snapshot())

    def _update(self, data: bytes | int | None, size: int) -> None:
        length = self._length() + size
        if length > MAX_LENGTH:
            raise too_long(self._functions.algorithm, length)
        if self._functions.update(ctypes.addressof(self._context), data, size) != 1:
            raise RuntimeError(f"libcrypto's {self._functions.algorithm} failed on {size} bytes")

    def _length(self) -> int:
        # Kept in the context alone, so that no interrupt sets it apart from what was hashed. It counts bits.
        bits: int = self._context.nh << self._functions.word_bits | self._context.nl
        return bits >> 3

    def _chain(self) -> bytes:
        return self._functions.words.pack(*self._context.h)

    def _snapshot(self) -> _Context:
        with self._lock:
            return self._functions.context.from_buffer_copy(self._context)


class Engine:
    """A libcrypto. AttributeError where the library lacks a function."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {algorithm: _Functions(library, algorithm) for algorithm in ALGORITHMS}

    def new(self, algorithm: str) -> NativeHasher:
        functions = self._functions[algorithm]
        return NativeHasher(functions, _initial(functions))

    def resume(self, algorithm: str, chain: bytes, length: int, pending: bytes) -> NativeHasher:
        """Go on from a chaining value of the right size and ``length % block`` pending bytes.

        ValueError where no full block was hashed and the chaining value is not the initial one.
        """
        functions = self._functions[algorithm]
        context = _initial(functions)
        words = functions.words.unpack(chain)
        if length < functions.parameters.block and words != tuple(context.h):
            raise ValueError(f"not a {algorithm} chaining value after {length} bytes: that is the initial value")
        context.h[:] = words
        context.nh, context.nl = divmod(length << 3, 1 << functions.word_bits)
        context.data[: len(pending)] = pending
        context.num = len(pending)
        return NativeHasher(functions, context)


def _initial(functions: _Functions) -> _Context:
    context = functions.context()
    if functions.init(ctypes.addressof(context)) != 1:
        raise RuntimeError(f"libcrypto's {functions.algorithm} failed in its first step")
    return context


def load() -> Engine | None:
    """The first libcrypto that passes the self-test, or None."""
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:  # not there, or not loadable
            continue
        engine = usable(library)
        if engine is not None:
            return engine
    return None


def usable(library: ctypes.CDLL) -> Engine | None:
    """An engine on this library; None where it lacks a function or differs from hashlib in anything."""
    # In FIPS mode the low-level functions of OpenSSL 1.x may end the process. 3.x has no FIPS_mode function.
    fips_mode = getattr(library, "FIPS_mode", None)
    if fips_mode is not None and fips_mode():
        return None
    try:
        engine = Engine(library)
        good = all(_agrees(engine, algorithm) for algorithm in ALGORITHMS)
    except (AttributeError, RuntimeError, ValueError):
        return None
    return engine if good else None


def _candidates() -> Iterator[str]:
    # A symbol looked up in Python's own _hashlib extension is found in the libcrypto the extension is linked
    # to, whatever its name and place: no second copy of it is loaded.
    own = importlib.util.find_spec("_hashlib")
    if own is not None and own.has_location and own.origin is not None:
        yield own.origin
    # Loading macOS's own libcrypto by its plain name ends the process, and Windows would search PATH.
    if sys.platform in ("darwin", "win32"):
        return
    yield "libcrypto.so.3"
    yield "libcrypto.so.1.1"
    # Last, for it may start ldconfig or a compiler to find out.
    found = ctypes.util.find_library("crypto")
    if found is not None:
        yield found


_LENGTHS = (0, 1, 3, 55, 56, 63, 64, 65, 111, 112, 119, 127, 128, 129, 191, 192, 256, 1000)

# The digest of "abc" after 2**40 bytes that left the initial chaining value: there the length's upper word
# counts, which short messages never touch. Computed by the reference implementation in the tests.
_FAR = 1 << 40
_FAR_DIGESTS = {
    "sha256": "5935c9a2b3006338da277aba0d1523eed3f011b0edb929286249370baece6c44",
    "sha512": (
        "5b099aa3805819757b96f1ea38ff535cc091529b127c728d2c1990a8a5465ff1"
        "aaf0421fe54a8468a7fcf6df7bfce17a4fc1850dae6f7e96904efb7c4aec5b46"
    ),
}


def _agrees(engine: Engine, algorithm: str) -> bool:
    """Whether digests, lengths and states of this engine are right, going on from each of several cuts."""
    pattern = bytes(range(251)) * 4
    block = ALGORITHMS[algorithm].block
    for size in _LENGTHS:
        data = pattern[:size]
        expected = hashlib.new(algorithm, data).hexdigest()
        for cut in {0, size // 2, size - size % block, size}:
            first = engine.new(algorithm)
            first.update(data[:cut])
            second = engine.resume(algorithm, *unpack(algorithm, first.state()))
            first.update(memoryview(data)[cut:])
            second.update(bytearray(data[cut:]))
            for hasher in (first, second, second.copy()):
                if hasher.length != size or hasher.hexdigest() != expected or any(hasher._context.slack):
                    return False
            if first.state() != second.state():
                return False
    far = engine.resume(algorithm, engine.new(algorithm).chain(), _FAR, b"")
    far.update(b"abc")
    return far.length == _FAR + 3 and far.hexdigest() == _FAR_DIGESTS[algorithm]
