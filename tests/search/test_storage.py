import errno
import json
import multiprocessing
import os
import re
import resource
import threading
import time
import traceback
from unittest.mock import MagicMock

import optuna
import pytest
from fake_time import Time
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from postgres import PASSWORD
from sqlalchemy import event, exc
from sqlalchemy.engine import URL

from sparsevit_mm.search.store import journal, retrying
from sparsevit_mm.search.store.retrying import RetryingStorage, StorageError
from sparsevit_mm.search.store.storage import open_storage
from sparsevit_mm.search.store.urls import shown, sqlite_url

pytest_plugins = ['postgres']
fork = multiprocessing.get_context('fork')
METHODS = [name for name, value in vars(BaseStorage).items()
           if callable(value) and not name.startswith('_')]
LOST = exc.OperationalError('SELECT', {}, Exception('server closed the connection'))
FULL = OSError(errno.ENOSPC, 'No space left on device')


@pytest.fixture
def logged(monkeypatch):
    """The lines that the storage logs."""
    lines = []
    monkeypatch.setattr(retrying, 'print_log', lambda message, *_: lines.append(message))
    return lines


@pytest.fixture
def clock(monkeypatch):
    fake = Time()
    monkeypatch.setattr(retrying, 'time', fake)
    return fake


def study_of(storage, name='study'):
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)


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


# Torn lines of a journal.


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


def wait_for(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(.02)


# No word of a password.


def all_words(error):
    return ''.join(traceback.format_exception(type(error), error, error.__traceback__)) + repr(
        error)


@pytest.mark.parametrize('wrong, message', [
    (dict(password='pa%7Bss%7Dword'), 'refuses: .*password authentication failed'),
    (dict(user='nobody'), 'refuses: .*password authentication failed'),
    (dict(database='none'), 'refuses: .*"none" does not exist'),
    (dict(port=1), 'cannot be reached: .*Connection refused')])
def test_a_server_that_turns_us_away_learns_no_one_the_password(
        postgres, logged, caplog, capfd, wrong, message):
    url = postgres.url_of(**wrong)
    with pytest.raises(StorageError, match=re.escape(shown(url)) + ' ' + message) as info:
        open_storage(url, patience=.3)
    words = all_words(info.value) + str(logged) + caplog.text + str(capfd.readouterr())
    assert 'ss%7D' not in words and '{ss}' not in words


def test_a_lost_or_changed_password_learns_no_one_the_password(postgres, logged, caplog, capfd):
    study = study_of(open_storage(postgres.new_database(), patience=.5))
    postgres.stop()
    try:
        with pytest.raises(StorageError) as lost:
            study.set_user_attr('key', 1)
    finally:
        postgres.start()
    study.set_user_attr('key', 2)
    postgres.execute("ALTER USER searcher PASSWORD 'other'")
    try:
        study._storage.backend._backend.engine.dispose()
        with pytest.raises(StorageError, match='refuses: .*authentication failed') as changed:
            study.set_user_attr('key', 3)
    finally:
        postgres.execute(f"ALTER USER searcher PASSWORD '{PASSWORD}'", password='other')
    study.set_user_attr('key', 4)
    assert study.user_attrs == {'key': 4} and len(logged) == 2
    words = (all_words(lost.value) + all_words(changed.value) + str(logged) + caplog.text +
             str(capfd.readouterr()))
    assert '{ss}' not in words and 'ss%7D' not in words and '***' in words


def test_a_cause_that_quotes_a_secret_is_not_quoted(logged):
    def refuse():
        raise exc.OperationalError('', {}, Exception('login of u with hun%40ter or hun@ter'))

    with pytest.raises(StorageError, match=r'login of u with \*\*\* or \*\*\*$'):
        RetryingStorage(refuse, 'db://x', ['hun%40ter', 'hun@ter'], patience=.1)
    assert 'ter' not in str(logged)


@pytest.mark.parametrize('url, expected', [
    ('postgresql://u:hunter@host:5/db', 'postgresql://u:***@host:5/db'),
    ('postgresql://u:hun?t/e:r@host/db', 'postgresql://u:***@host/db'),
    ('postgresql://host/db?user=u&password=hunter', 'postgresql://host/db?password=***&user=u'),
    ('mysql+pymysql://u:hunter@h/d?ssl_key_passphrase=hunter&a=b',
     'mysql+pymysql://u:***@h/d?a=b&ssl_key_passphrase=***'),
    ('mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dhunter', 'mssql+pyodbc:///?odbc_connect=***'),
    ('postgresql://u:hunter@h/d?access_token=hunter&client_SECRET=hunter',
     'postgresql://u:***@h/d?access_token=***&client_SECRET=***')])
def test_a_shown_url_holds_no_secret(url, expected):
    assert shown(url) == expected


@pytest.mark.parametrize('url', [
    'sqlite:////a b/c@d/e%41.db', 'journal:/a/user:b@c/d.log', 'postgresql://u@h/d?x=1'])
def test_a_url_without_secrets_is_shown_as_it_is(url):
    assert shown(url) == url


@pytest.mark.parametrize('url', [
    'postgresql//u:hunter@h/d', 'postgresql://u:h@unter@h/d', 'postgresql://u:hunter@h:5a/d',
    'postgresql://u:h@hunter/x@h/d', 'postgresql://u:h@x?hunter@h/d', 'hunter', ''])
@pytest.mark.parametrize('use', [shown, open_storage])
def test_a_malformed_url_is_refused_unseen(use, url):
    with pytest.raises(ValueError, match='malformed storage URL .*%40') as info:
        use(url)
    assert 'unter' not in ''.join(traceback.format_exception_only(type(info.value), info.value))
    assert info.value.__cause__ is None and info.value.__context__ is None


@pytest.mark.parametrize('url, message', [
    ('postgresql+pg8000://u:hunter@h/d', 'needs the module pg8000, .*pip install pg8000'),
    ('nosuch://u:hunter@h/d', "no database 'nosuch'"),
    ('sqlite:////no/such/dir/a.db', 'does not exist: /no/such/dir'),
    ('journal:/no/such/dir/a.log', 'does not exist: /no/such/dir'),
    ('journal:', "'' is no file"), ('sqlite:////tmp', "'/tmp' is no file")])
def test_a_url_that_can_not_work_says_why(url, message, logged):
    with pytest.raises(ValueError, match=message) as info:
        open_storage(url)
    assert 'hunter' not in all_words(info.value).split('raise', 1)[-1] and logged == []


def test_tables_of_another_program_are_refused(tmp_path, logged):
    (tmp_path / 'x.db').write_text('something else, and long enough to have a header' * 10)
    with pytest.raises(StorageError, match='x.db refuses: file is not a database'):
        open_storage(f'sqlite:///{tmp_path}/x.db')
    assert RDBStorage(f'sqlite:///{tmp_path}/y.db')  # while Optuna's own are taken
    assert open_storage(f'sqlite:///{tmp_path}/y.db')


@pytest.mark.parametrize('name', ['a?b', 'a%20b', 'a b', 'a#b', '{a}', 'a@b', 'a:b'])
def test_a_url_leads_to_its_file_whatever_is_in_the_name(tmp_path, name):
    (tmp_path / name).mkdir()
    optuna.create_study(storage=open_storage(sqlite_url(tmp_path / name / 's.db')))
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == [tmp_path / name / 's.db']


def test_a_url_that_would_lead_to_another_file_is_refused(tmp_path, monkeypatch):
    """SQLAlchemy 2.0 writes names into URLs as they are."""
    monkeypatch.setattr(URL, 'render_as_string', lambda self, **_: f'sqlite:///{self.database}')
    assert sqlite_url(tmp_path / 'a b.db').endswith('/a b.db')
    with pytest.raises(ValueError, match=re.escape(f"can't name the file {tmp_path}/a?b/s.db")):
        sqlite_url(tmp_path / 'a?b' / 's.db')
