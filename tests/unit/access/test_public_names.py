from __future__ import annotations

import subprocess
import sys

from bucketry import access


def test_the_public_names_are_all_there() -> None:
    assert all(hasattr(access, name) for name in access.__all__)
    assert access.__all__ == sorted(access.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))


def test_what_is_heavy_is_loaded_by_who_checks_a_password_only() -> None:
    code = "import sys, bucketry.access; sys.exit(bool({'bcrypt', 'argon2', 'cffi'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
