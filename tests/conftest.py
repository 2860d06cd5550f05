"""Fixtures that several test folders share."""

from __future__ import annotations

pytest_plugins = ("tests.store.seaweed", "tests.support.daemons", "tests.support.fixtures")
