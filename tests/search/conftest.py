"""What all tests of the search share."""
import multiprocessing
from unittest import mock

import pytest

from sparsevit_mm.search.store import retrying
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


@pytest.fixture
def logged(monkeypatch):
    """The lines that a storage logs."""
    lines = []
    monkeypatch.setattr(retrying, 'print_log', lambda message, *_: lines.append(message))
    return lines


@pytest.fixture
def run():
    """Runs a function in a process of its own, which does not outlive the test. Not while this
    process has threads: what they lock at a fork stays locked."""
    started = []

    def start(target, *arguments):
        started.append(multiprocessing.get_context('fork').Process(
            target=target, args=arguments))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()
