"""What storages of every kind keep, full disks, and servers that stop."""
import errno
import json
import multiprocessing
import os
import resource
import threading
import time
from unittest.mock import MagicMock

import pytest
from fake_time import Time
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy import event, exc
from studies import study_of, wait_for

from sparsevit_mm.search.store import retrying
from sparsevit_mm.search.store.retrying import RetryingStorage, StorageError
from sparsevit_mm.search.store.storage import open_storage

pytest_plugins = ['postgres']
fork = multiprocessing.get_context('fork')
METHODS = [name for name, value in vars(BaseStorage).items()
           if callable(value) and not name.startswith('_')]
LOST = exc.OperationalError('SELECT', {}, Exception('server closed the connection'))
FULL = OSError(errno.ENOSPC, 'No space left on device')


@pytest.fixture
def clock(monkeypatch):
    fake = Time()
    monkeypatch.setattr(retrying, 'time', fake)
    return fake


def retrying_over(*outcomes, method='get_trial', **patience):
    """A storage, and the mock behind it with these outcomes of one method."""
    backend = MagicMock(spec=BaseStorage)
    getattr(backend, method).side_effect = outcomes
    return RetryingStorage(lambda: backend, 'db://x', **patience), getattr(backend, method)


# What holds for every kind of storage.


def test_what_one_writes_the_next_to_open_it_reads(shared_url):
    study = study_of(open_storage(shared_url))
    study.set_user_attr('key', {'a': [1, None, 'é']})
    study.optimize(lambda trial: trial.suggest_float('x', 0, 1), n_trials=3)
    study.enqueue_trial({'x': .5})
    other = study_of(open_storage(shared_url))
    assert other.user_attrs == {'key': {'a': [1, None, 'é']}}
    assert other.get_trials() == study.get_trials() and len(other.get_trials()) == 4
    assert other.ask().suggest_float('x', 0, 1) == .5
    study.set_user_attr('key', 2)  # no cache hides it
    assert other.user_attrs == {'key': 2}


def test_finished_trials_come_from_the_cache(tmp_path):
    study = study_of(open_storage(f'sqlite:///{tmp_path}/study.db'))
    study.optimize(lambda trial: 1., n_trials=2)
    first, second = (study.get_trials(deepcopy=False) for _ in range(2))
    assert len(first) == 2 and all(a is b for a, b in zip(first, second))


def test_threads_share_a_database_in_memory():
    study = study_of(open_storage('sqlite:///:memory:'))
    thread = threading.Thread(target=study.set_user_attr, args=('key', 1))
    thread.start()
    thread.join()
    assert study.user_attrs == {'key': 1}


@pytest.mark.slow
def test_many_may_open_and_use_a_new_storage_at_once(shared_url):
    def use(barrier):
        barrier.wait()
        study = study_of(open_storage(shared_url))
        for _ in range(5):
            study.tell(study.ask(), os.getpid())

    barrier = fork.Barrier(8)
    processes = [fork.Process(target=use, args=(barrier, )) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    trials = study_of(open_storage(shared_url)).get_trials()
    assert [t.number for t in trials] == list(range(40))
    assert sorted(t.value for t in trials) == sorted(p.pid for p in processes for _ in range(5))


def test_a_queued_trial_goes_to_one_worker(shared_url):
    """Optuna reads its state, then writes it: two may do so at once, unless a transaction begins
    with a lock."""
    study, queued = study_of(open_storage(shared_url)), 60
    for i in range(queued):
        study.enqueue_trial({'x': i})

    def ask(barrier, pipe):
        study = study_of(open_storage(shared_url))
        barrier.wait()
        pipe.send([study.ask().number for _ in range(queued // 3)])

    barrier, pipes = fork.Barrier(3), [fork.Pipe(duplex=False) for _ in range(3)]
    for _, pipe in pipes:
        fork.Process(target=ask, args=(barrier, pipe), daemon=True).start()
        pipe.close()  # so that it ends with its process
    numbers = sum((pipe.recv() for pipe, _ in pipes), [])
    assert sorted(numbers) == list(range(queued))


# Trying again.


@pytest.mark.parametrize('method', METHODS)
def test_every_method_tries_again(method, logged):
    storage, call = retrying_over(LOST, 'value', method=method)
    arguments = (0, TrialState.FAIL, None) if method == 'set_trial_state_values' else (0, )
    assert getattr(storage, method)(*arguments) == 'value'
    assert [c.args for c in call.mock_calls] == [arguments] * 2
    assert len(logged) == 2


@pytest.mark.parametrize('error', [
    DuplicatedStudyError(), KeyError('x'), UpdateFinishedTrialError(), TypeError(), ValueError('x'),
    exc.ProgrammingError('SELECT', {}, Exception('disk is full')),
    exc.IntegrityError('INSERT', {}, Exception()), StorageInternalError('no cause')])
def test_errors_that_are_no_outage_pass_at_once(error, logged):
    storage, call = retrying_over(error)
    with pytest.raises(type(error)) as info:
        storage.get_trial(0)
    assert info.value is error and call.call_count == 1 and logged == []


def caused(cause):
    error = StorageInternalError('An exception is raised during the commit.')
    error.__cause__ = cause
    return error


@pytest.mark.parametrize('error', [
    LOST, FULL, caused(LOST), OSError(errno.ESTALE, 'Stale file handle'), exc.TimeoutError(),
    caused(exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back")),
    exc.InterfaceError('', {}, Exception('connection already closed')),
    exc.DatabaseError('', {}, Exception('SSL SYSCALL error: EOF detected')),
    json.JSONDecodeError('torn', '', 0)])
def test_outages_are_waited_for(error, logged):
    assert retrying_over(error, error, 'value')[0].get_trial(0) == 'value'
    assert len(logged) == 2 and 'trying again' in logged[0] and 'answers again' in logged[1]


def test_a_lost_storage_is_given_up_after_a_while_and_then_no_one_waits_again(
        logged, clock):
    storage, call = retrying_over(*[LOST] * 100, patience=.5)
    with pytest.raises(StorageError, match='^db://x cannot be reached: server closed the conn'):
        storage.get_trial(0)
    assert clock.now == pytest.approx(.5) and call.call_count > 2
    calls = call.call_count
    with pytest.raises(StorageError):
        storage.get_trial(0)
    assert call.call_count == calls + 1 and len(logged) == 1
    assert clock.now == pytest.approx(.5)


def test_room_on_a_full_disk_is_waited_for_for_a_shorter_time(logged, clock):
    storage, _ = retrying_over(*[FULL] * 100, full_patience=.3)
    with pytest.raises(StorageError, match='db://x has a full disk: .*No space left'):
        storage.get_trial(0)
    assert clock.now == pytest.approx(.3)


# A full disk.


def test_a_full_database_says_so_and_goes_on_when_there_is_room(tmp_path, logged):
    storage = open_storage(f'sqlite:///{tmp_path}/study.db', full_patience=.3)
    study = study_of(storage)
    engine, pages = storage.backend._backend.engine, [1]
    engine.dispose()
    event.listen(engine, 'checkout', lambda connection, *_: connection.execute(
        f'PRAGMA max_page_count = {pages[0]}'))
    with pytest.raises(StorageError, match='full disk: database or disk is full'):
        study.set_user_attr('key', 'x' * 100_000)
    pages[0] = 10**6
    study.set_user_attr('key', 'x' * 100_000)
    assert len(study.user_attrs['key']) == 100_000 and len(logged) == 2


def test_a_full_journal_goes_on_when_there_is_room_and_stays_readable(tmp_path):
    path = tmp_path / 'study.log'

    def fill_the_disk():
        study = study_of(open_storage(f'journal:{path}', full_patience=.3))
        study.set_user_attr('before', 1)
        room = path.stat().st_size + 100
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        try:
            study.set_user_attr('key', 'x' * 20_000)
        except StorageError as error:
            assert 'full disk' in str(error)
        assert path.stat().st_size == room  # so a line is torn
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, ) * 2)
        study.set_user_attr('key', 'y' * 20_000)
        study.set_user_attr('after', 1)

    process = fork.Process(target=fill_the_disk)
    process.start()
    process.join()
    assert process.exitcode == 0
    # Optuna itself, as a dashboard would:
    attrs = study_of(JournalStorage(JournalFileBackend(str(path)))).user_attrs
    assert attrs == dict(before=1, key='y' * 20_000, after=1)


# A server that stops.


def test_a_search_goes_on_when_its_server_was_restarted(postgres, logged):
    study = study_of(open_storage(postgres.new_database()))
    told, enough = [], threading.Event()

    def work():
        while not enough.is_set():
            trial = study.ask()
            trial.set_user_attr('number', trial.number)
            try:
                study.tell(trial, trial.number)
            except (UpdateFinishedTrialError, ValueError):
                pass  # it was told, but the acknowledgement got lost
            told.append(trial.number)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(told) > 3)
        postgres.stop()
        time.sleep(.3)
        postgres.start()
        told_before = len(told)
        wait_for(lambda: len(told) > told_before + 3)
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    trials = study.get_trials()
    assert {t.number for t in trials if t.state == TrialState.COMPLETE} >= set(told)
    assert len(set(told)) == len(told)
    assert all(t.value == t.user_attrs['number'] == t.number for t in trials
               if t.state == TrialState.COMPLETE)
    # An acknowledgement may get lost, so a trial may be left over, for each thread.
    assert len(trials) <= len(told) + 2
    # A line for each thread when it is lost and one when it is back; none if the first attempt met
    # the new server.
    lost, back = (sum(words in line for line in logged) for words in ('trying', 'answers again'))
    assert lost == back and lost + back == len(logged)
