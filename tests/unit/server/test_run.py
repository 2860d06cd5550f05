"""What is said before a server starts."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from bucketry.server.config import load
from bucketry.server.run import _warnings

RULES = {"--access": "access.toml"}
HTTPS = {"server.public_url": "https://registry.example"}


@pytest.mark.parametrize(
    ("flags", "address", "warned"),
    [
        (RULES, "192.0.2.1", True),
        (RULES, "0.0.0.0", True),
        (RULES, "::", True),
        (RULES, "127.0.0.1", False),
        (RULES, "::1", False),
        ({"--insecure-open": "true"}, "0.0.0.0", False),
        ({**RULES, "access.metrics": "everybody"}, "0.0.0.0", False),
        ({**RULES, "access.metrics": "rules"}, "0.0.0.0", False),
    ],
)
def test_who_keeps_strangers_out_is_told_once_that_they_can_read_the_metrics(
    flags: Mapping[str, str], address: str, warned: bool
) -> None:
    found = list(_warnings(load(None, {}, {**flags, **HTTPS}).config, address))
    assert len(found) == int(warned)
    assert all("/metrics" in warning and "access.metrics" in warning for warning in found)
