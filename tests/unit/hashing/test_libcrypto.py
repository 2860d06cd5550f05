from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.hashing.reference import Reference

from bucketry.hashing import libcrypto
from bucketry.hashing.libcrypto import load, usable
from bucketry.hashing.state import ALGORITHMS

pytestmark = pytest.mark.usefixtures("native")

each_algorithm = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))

Function = Callable[..., int]


def real() -> ctypes.CDLL:
    for name in libcrypto._candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if usable(library) is not None:
            return library
    raise AssertionError("the fixture found one")


def broken(function: str, replacement: Callable[[Function], Function]) -> ctypes.CDLL:
    """The real library, but for one function, made of the real one."""
    library = real()
    original = getattr(real(), function)
    original.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t][: 3 if "Update" in function else 2]
    if "Init" in function:
        original.argtypes = [ctypes.c_void_p]
    setattr(library, function, replacement(original))
    return library


def poke(address: int, offset: int, value: int) -> None:
    ctypes.c_uint8.from_address(address + offset).value ^= value


def test_the_real_one_passes() -> None:
    assert usable(real()) is not None
    assert load() is not None


@each_algorithm
@pytest.mark.parametrize("step", ["Init", "Update", "Final"])
def test_a_step_that_reports_failure_is_found(algorithm: str, step: str) -> None:
    def failing(original: Function) -> Function:
        def call(*arguments: Any) -> int:
            original(*arguments)
            return 0

        return call

    assert usable(broken(f"{algorithm.upper()}_{step}", failing)) is None


@each_algorithm
@pytest.mark.parametrize("step", ["Init", "Update", "Final"])
def test_a_missing_function_is_found(algorithm: str, step: str) -> None:
    class Lacking(ctypes.CDLL):
        def __getattr__(self, name: str) -> Any:
            if name == f"{algorithm.upper()}_{step}":
                raise AttributeError(name)
            return super().__getattr__(name)

    assert usable(Lacking(real()._name)) is None


@each_algorithm
def test_a_wrong_digest_is_found(algorithm: str) -> None:
    def flipping(original: Function) -> Function:
        def final(digest: int, context: int) -> int:
            result = original(digest, context)
            poke(digest, ALGORITHMS[algorithm].chain - 1, 0x80)
            return result

        return final

    assert usable(broken(f"{algorithm.upper()}_Final", flipping)) is None


@each_algorithm
def test_a_dropped_byte_is_found(algorithm: str) -> None:
    def dropping(original: Function) -> Function:
        def update(context: int, data: Any, size: int) -> int:
            return original(context, data, size - (size == 65))

        return update

    assert usable(broken(f"{algorithm.upper()}_Update", dropping)) is None


@each_algorithm
def test_a_larger_context_is_found(algorithm: str) -> None:
    size = 8 * (ALGORITHMS[algorithm].chain // 8) + 2 * (ALGORITHMS[algorithm].block // 16)
    size += ALGORITHMS[algorithm].block + 8

    def spilling(original: Function) -> Function:
        def update(context: int, data: Any, length: int) -> int:
            poke(context, size, 1 if length else 0)
            return original(context, data, length)

        return update

    assert usable(broken(f"{algorithm.upper()}_Update", spilling)) is None


@each_algorithm
def test_a_length_kept_elsewhere_is_found(algorithm: str) -> None:
    nh = ALGORITHMS[algorithm].chain + ALGORITHMS[algorithm].block // 16

    def forgetting(original: Function) -> Function:
        def final(digest: int, context: int) -> int:
            # A library that has the length's upper word in another place does not see the one written here.
            ctypes.memset(context + nh, 0, ALGORITHMS[algorithm].block // 16)
            if algorithm == "sha512":  # 2**40 bytes are in the lower word
                ctypes.memset(context + nh - 4, 0, 4)
            return original(digest, context)

        return final

    assert usable(broken(f"{algorithm.upper()}_Final", forgetting)) is None


def test_openssl_1_in_fips_mode_is_left_alone() -> None:
    library = real()
    calls: list[str] = []
    setattr(library, "FIPS_mode", lambda: 1)  # noqa: B010
    setattr(library, "SHA256_Init", lambda *_: calls.append("init"))  # noqa: B010
    assert usable(library) is None
    assert calls == []

    library = real()
    setattr(library, "FIPS_mode", lambda: 0)  # noqa: B010
    assert usable(library) is not None


@each_algorithm
def test_the_far_digests_are_the_references(algorithm: str) -> None:
    reference = Reference(algorithm)
    assert libcrypto._FAR_DIGESTS[algorithm] == reference.digest(reference.initial, libcrypto._FAR, b"abc")


def test_a_library_that_cannot_be_used_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    good = real()._name
    other = ctypes.util.find_library("m")
    assert other is not None

    monkeypatch.setattr(libcrypto, "_candidates", lambda: iter(["libnowhere.so.0", other, good]))
    assert load() is not None
    monkeypatch.setattr(libcrypto, "_candidates", lambda: iter(["libnowhere.so.0", other]))
    assert load() is None


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_no_library_is_loaded_by_name_where_that_is_dangerous(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: pytest.fail(f"looked for {name}"))

    assert [name for name in libcrypto._candidates() if "_hashlib" not in name] == []


def test_the_compiler_is_asked_last() -> None:
    names = []
    for name in libcrypto._candidates():
        names.append(name)
        if name == "libcrypto.so.1.1":
            break
    assert names[-2:] == ["libcrypto.so.3", "libcrypto.so.1.1"]
