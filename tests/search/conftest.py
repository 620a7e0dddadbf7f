"""What all tests of the search share."""
from unittest import mock

import pytest

from sparsevit_mm.search.store.workers import Workers


@pytest.fixture(scope='session', autouse=True)
def _started():
    """The workers of this process that beat by now."""
    workers, start = [], Workers.start
    with mock.patch.object(Workers, 'start', lambda self: workers.append(self) or start(self)):
        yield workers


@pytest.fixture(autouse=True)
def _no_heart_outlives_its_test(_started):
    """Many tests fork, and what another thread locks at that moment stays locked in the child."""
    yield
    while _started:
        _started.pop().stop()
