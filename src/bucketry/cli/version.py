"""``bucketry version``."""

from __future__ import annotations

import platform

from bucketry import __version__
from bucketry.cli.options import Common
from bucketry.cli.output import write


def version(*, common: Common = Common()) -> int:  # noqa: B008 (frozen)
    """Print the version, of Python and of the system too."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    write(f"bucketry {__version__} ({python}, {platform.system()} {platform.machine()})")
    return 0
