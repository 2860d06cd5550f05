"""The contract of `bucketry.store.contract` as tests, for every backend in `tests.store.backends`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.store.backends import BACKENDS, Backend
from tests.store.suite_conditions import Conditions
from tests.store.suite_foreign import Foreign
from tests.store.suite_lists import Lists
from tests.store.suite_multipart import Multipart
from tests.store.suite_objects import Objects
from tests.store.suite_parts import Parts


class StoreSuite(Objects, Conditions, Lists, Multipart, Parts, Foreign):
    """A subclass whose name begins with ``Test`` runs all of it."""

    @pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        backend: Backend = request.param
        return backend

    @pytest.fixture
    async def store(self, backend: Backend, request: pytest.FixtureRequest) -> AsyncIterator[object]:
        async with backend.open(request) as store:
            yield store
