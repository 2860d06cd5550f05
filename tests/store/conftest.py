"""What tests of several stores share."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest


@pytest.fixture
def ids() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{next(numbers):016x}"
