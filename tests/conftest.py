"""Fixtures that several test folders share."""

from __future__ import annotations

import pytest

# Modules that hold assertions and are no test files: without this their failures would show no values.
pytest.register_assert_rewrite("tests.store", "tests.support")

pytest_plugins = ("tests.store.seaweed", "tests.support.clients", "tests.support.daemons", "tests.support.fixtures")
