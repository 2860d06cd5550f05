"""Every backend keeps every promise of the contract."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.store.suite_objects",
    "tests.store.suite_conditions",
    "tests.store.suite_lists",
    "tests.store.suite_multipart",
    "tests.store.suite_parts",
    "tests.store.suite_foreign",
)

from tests.store.suite import StoreSuite  # noqa: E402


class TestStore(StoreSuite):
    pass
