"""What tests of storages and workers share."""
import time

import optuna

from sparsevit_mm.search.store.storage import open_storage


def study_of(storage, name='study'):
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)


def join(url):
    """The study in the storage, for one process."""
    return study_of(open_storage(url))


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(.02)


class FakeStudy:
    """Attributes in memory. `step` is called before each access."""

    def __init__(self, step=lambda: None):
        self.attrs, self.step = {}, step

    @property
    def user_attrs(self):
        self.step()
        return dict(self.attrs)

    def set_user_attr(self, key, value):
        self.step()
        self.attrs[key] = value
