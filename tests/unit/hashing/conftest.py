from __future__ import annotations

import ctypes
import os

import pytest

from bucketry.hashing import libcrypto, resumable


@pytest.fixture
def native() -> None:
    """The test needs a libcrypto that can be used. One that is there but does not pass its test is a failure."""
    if resumable():
        return
    message = "no libcrypto (OpenSSL) with SHA256_Init was found"
    for name in libcrypto._candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(library, "SHA256_Init"):
            pytest.fail(f"{name} does not pass the self-test")
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
