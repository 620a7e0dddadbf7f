"""Torn lines of a journal, and its lock."""
import multiprocessing
import os
import threading

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from studies import study_of

from sparsevit_mm.search.store import journal, retrying
from sparsevit_mm.search.store.retrying import StorageError
from sparsevit_mm.search.store.storage import open_storage

fork = multiprocessing.get_context('fork')


@pytest.mark.parametrize('cut', range(1, 120, 7))
def test_a_torn_line_is_lost_and_no_other(tmp_path, cut):
    """Whatever of its last line a journal lost, and for readers old and new."""
    path = tmp_path / 'study.log'
    reader = study_of(open_storage(f'journal:{path}'))
    reader.set_user_attr('kept', 1)
    size = path.stat().st_size
    study_of(open_storage(f'journal:{path}')).set_user_attr('torn', 'x' * 200_000)
    os.truncate(path, path.stat().st_size - cut if cut % 2 else size + cut)
    assert reader.user_attrs == dict(kept=1)
    writer = study_of(open_storage(f'journal:{path}'))
    assert writer.user_attrs == dict(kept=1)
    writer.set_user_attr('next', 2)
    writer.set_user_attr('last', 3)
    fresh = study_of(JournalStorage(JournalFileBackend(str(path))))
    assert reader.user_attrs == writer.user_attrs == fresh.user_attrs == dict(
        kept=1, next=2, last=3)


def test_mending_late_harms_nothing(tmp_path, monkeypatch):
    """One is paused in the midst of mending, for so long that another takes its lock."""
    path = tmp_path / 'study.log'
    slow, fast = (study_of(open_storage(f'journal:{path}')) for _ in range(2))
    with path.open('a') as file:
        file.write('{"op_code":2,"worker_id"')

    class Paused:

        def __init__(self, *args):
            monkeypatch.delattr(journal, 'open')
            self.file = open(*args)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            os.unlink(f'{path}.lock')
            fast.set_user_attr('fast', 'x' * 100)
            fast.set_user_attr('faster', 1)
            self.file.write(data)

    monkeypatch.setattr(journal, 'open', Paused, raising=False)
    slow.set_user_attr('slow', 1)
    for study in (slow, fast, study_of(open_storage(f'journal:{path}'))):
        assert study.user_attrs == dict(fast='x' * 100, faster=1, slow=1)


def test_a_lock_that_was_broken_is_not_taken_from_its_next_holder(tmp_path):
    path = tmp_path / 'study.log'
    path.touch()
    paused, next_holder = (journal.MendingLock(str(path)) for _ in range(2))
    paused.acquire()
    os.unlink(f'{path}.lock')
    next_holder.acquire()
    paused.release()
    assert os.path.exists(f'{path}.lock')
    next_holder.release()
    assert not os.path.exists(f'{path}.lock')
    next_holder.release()  # as one whose lock was broken, and nobody took it


def test_the_lock_of_one_who_was_killed_is_broken_by_one_who_held_it_before(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, 'GRACE', 1)
    path = tmp_path / 'study.log'
    path.touch()
    lock, killed = (journal.MendingLock(str(path)) for _ in range(2))
    lock.acquire()
    lock.release()
    killed.acquire()
    thread = threading.Thread(target=lock.acquire, daemon=True)
    thread.start()
    thread.join(300)
    assert not thread.is_alive()
    killed.release()  # it was only asleep
    assert os.path.exists(f'{path}.lock')
    lock.release()
    assert not os.path.exists(f'{path}.lock')


def test_a_damaged_journal_says_so(tmp_path, monkeypatch, logged):
    path = tmp_path / 'study.log'
    study = study_of(open_storage(f'journal:{path}'))
    study._storage._patience[retrying.DAMAGED] = .2
    path.write_text(path.read_text() + 'no JSON\n{"op_code":2}\n')
    with pytest.raises(StorageError, match='journal:.*is damaged: Expecting value'):
        study.user_attrs
