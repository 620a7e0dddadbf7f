import fcntl
import itertools
import math
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from types import SimpleNamespace

import optuna
import pytest

from sparsevit_mm.search.store import journal, workers
from sparsevit_mm.search.store.storage import open_storage
from sparsevit_mm.search.store.workers import Workers

pytest_plugins = ['postgres']
fork = multiprocessing.get_context('fork')
optuna.logging.set_verbosity(optuna.logging.WARNING)
KEYS = 'abc'


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


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes a worker that takes itself for one of another machine."""

    def make(study, machine='elsewhere', **settings):
        with monkeypatch.context() as patch:
            patch.setattr(workers, '_identity', lambda: dict(machine=machine, pid=1, started=1))
            return Workers(study, **settings)

    return make


def join(url):
    """The study in the storage, for one process."""
    return optuna.create_study(storage=open_storage(url), study_name='study', load_if_exists=True)


@pytest.fixture
def run():
    """Runs a function in a process of its own, which does not outlive the test. Not while this
    process has threads: what they lock at a fork stays locked."""
    started = []

    def start(target, *arguments):
        started.append(fork.Process(target=target, args=arguments))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(.02)


def hammer(url, folder, barrier, times):
    """Claims random keys, until all workers together were given so many, and every key. Who holds
    one locks a file, which its death unlocks."""
    worker = Workers(join(url)).start()
    barrier.wait()
    random_ = random.Random(os.getpid())
    while len(held(folder)) < times or {key for key, _ in held(folder)} != set(KEYS):
        key = random_.choice(KEYS)
        if worker.claim(key):
            with open(folder / key, 'w') as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    (folder / 'violation').touch()
                time.sleep(random.uniform(0, .02))
                with open(folder / 'log', 'a') as log:
                    log.write(f'{key} {os.getpid()}\n')
            worker.release()
    worker.stop()


def held(folder):
    log = folder / 'log'
    return [tuple(line.split()) for line in log.read_text().splitlines()] if log.exists() else []


# Claims.


def test_no_two_workers_ever_hold_one_key(run, shared_url, tmp_path):
    barrier = fork.Barrier(4)
    join(shared_url)
    processes = [run(hammer, shared_url, tmp_path, barrier, 20) for _ in range(4)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert not (tmp_path / 'violation').exists()


def test_of_several_that_claim_at_once_exactly_one_gets_it(run, shared_url):
    rounds = 5

    def claim(barrier, granted):
        with Workers(join(shared_url)) as worker:
            for i in range(rounds):
                barrier.wait()
                if worker.claim('key'):
                    granted[i] += 1
                barrier.wait()
                worker.release()

    join(shared_url)
    barrier, granted = fork.Barrier(3), fork.Array('i', rounds)
    processes = [run(claim, barrier, granted) for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert list(granted) == [1] * rounds


def play(monkeypatch, num_workers, schedule):
    """Lets workers claim one key, with each access to the study and each pause in the order of the
    schedule (the index among those that are not done); then at random.

    Returns:
        Whether each got it.
    """
    turns = [threading.Semaphore(0) for _ in range(num_workers)]
    ready, local, results = threading.Semaphore(0), threading.local(), {}
    draw = random.Random(0)

    def step(*_):
        if hasattr(local, 'index'):
            ready.release()
            turns[local.index].acquire()

    def claim(index):
        local.index = index
        results[index] = players[index].claim('key')
        ready.release()

    study = FakeStudy(step)
    monkeypatch.setattr(workers, 'time', SimpleNamespace(monotonic=time.monotonic, sleep=step))
    players = [Workers(study) for _ in range(num_workers)]
    threads = [threading.Thread(target=claim, args=(i, ), daemon=True)
               for i in range(num_workers)]
    for thread in threads:
        thread.start()
    for _ in threads:
        ready.acquire()
    for choice in itertools.chain(schedule, (draw.randrange(6) for _ in range(500))):
        waiting = [i for i in range(num_workers) if i not in results]
        if not waiting:
            break
        turns[waiting[choice % len(waiting)]].release()
        assert ready.acquire(timeout=300)
    assert len(results) == num_workers, 'they wait for each other'
    return [results[i] for i in range(num_workers)]


def test_in_every_order_of_events_one_of_two_gets_the_key(monkeypatch):
    """All orders of the first nine of the accesses, of which a claim has one to five, until it
    tries again."""
    outcomes = Counter(tuple(play(monkeypatch, 2, schedule))
                       for schedule in itertools.product(range(2), repeat=9))
    assert set(outcomes) == {(True, False), (False, True)}


def test_in_any_order_of_events_one_of_three_gets_the_key(monkeypatch):
    draw = random.Random(0)
    for _ in range(200):
        assert sum(play(monkeypatch, 3, [draw.randrange(6) for _ in range(20)])) == 1


def test_a_claim_is_known_to_others_until_it_is_released():
    study = FakeStudy()
    with Workers(study) as one, Workers(study) as other:
        assert one.claim('key') and one.claimed() == {}
        assert other.claimed() == {one.id: 'key'} and other.others() == [one.id]
        assert not other.claim('key') and other.claim('another')
        one.release()
        assert other.claimed() == {}
        with pytest.raises(ValueError, match="'key' before it releases 'another'"):
            other.claim('key')
        other.release()
        assert other.claim('key')


def test_an_interrupted_claim_is_withdrawn(monkeypatch):
    study = FakeStudy()
    with Workers(study) as one, Workers(study) as other:

        def interrupt(*_):
            assert other.claimed() == {one.id: 'key'}
            raise KeyboardInterrupt

        looks = iter([lambda: {}, interrupt])  # ahead of the claim, and after it
        monkeypatch.setattr(one, 'claimed', lambda: next(looks)())
        with pytest.raises(KeyboardInterrupt):
            one.claim('key')
        assert other.claimed() == {}


def test_the_heartbeat_and_the_claims_of_a_worker_do_not_undo_each_other():
    study = FakeStudy()
    with Workers(study, interval=1e-4) as one, Workers(study, interval=60) as other:
        beats = claims = 0
        while claims < 200 or beats < 20:
            claims += 1
            assert one.claim(str(claims)) and other.claimed() == {one.id: str(claims)}
            one.release()
            assert other.claimed() == {}
            # One word was said at the start, and two for each claim.
            beats = study.attrs[f'worker:{one.id}']['beat'] - 1 - 2 * claims
            assert claims < 20_000


# Who is alive.


def test_a_killed_worker_is_dead_at_once_and_its_claim_is_free(run, shared_url):

    def claim_and_wait():
        Workers(join(shared_url), interval=900).start().claim('key')
        time.sleep(3600)

    process = run(claim_and_wait)
    with Workers(join(shared_url), interval=900) as worker:  # its beat would not tell for an hour
        wait_for(worker.claimed)
        other, = worker.others()
        assert worker.is_alive(other) and not worker.claim('key')
        process.kill()
        wait_for(lambda: not worker.is_alive(other))  # a zombie, not waited for yet
        assert worker.claim('key') and worker.others() == []


@pytest.mark.slow
def test_a_paused_worker_is_alive_on_its_own_machine_and_dead_to_others(
        run, tmp_path, monkeypatch):
    url = f'journal:{tmp_path}/study.log'

    def work(machine, seen, over):
        if machine:
            monkeypatch.setattr(workers, '_identity',
                                lambda: dict(machine=machine, pid=os.getpid(), started=1))
        worker = Workers(join(url), interval=.25).start()
        worker.claim(machine or 'here')
        seen.wait()
        with worker._lock:  # not in the midst of a beat: it would keep a file locked
            os.kill(os.getpid(), signal.SIGSTOP)
        over.wait()
        worker.stop()

    for machine, alive in ((None, ['here']), ('elsewhere', [])):
        seen, over = fork.Event(), fork.Event()
        process = run(work, machine, seen, over)
        with Workers(join(url), interval=.25) as worker:
            wait_for(lambda: list(worker.claimed().values()) == [machine or 'here'])
            seen.set()
            os.waitpid(process.pid, os.WUNTRACED)
            wait_for(lambda: list(worker.claimed().values()) == alive)
            time.sleep(1.25)
            assert list(worker.claimed().values()) == alive
            assert worker.claim(machine or 'here') == (not alive)
            worker.release()
            os.kill(process.pid, signal.SIGCONT)
            wait_for(worker.claimed)  # back again
            over.set()
            process.join()


@pytest.mark.parametrize('fact', ['machine', 'pid', 'started'])
def test_a_process_is_known_by_machine_id_and_start(fact):
    """On this machine, an id that belongs to another process by now is dead; elsewhere none of it
    tells anything."""
    study = FakeStudy()
    me, other = Workers(study), Workers(study)
    other._say()
    assert me.is_alive(other.id)
    other._said[fact] = dict(machine='other container', pid=2**22 + 1, started=1)[fact]
    other._say()
    assert me.is_alive(other.id) == (fact == 'machine')


def test_a_container_of_the_same_name_is_another_machine(monkeypatch):
    here = workers._identity()
    assert here == workers._identity() and here['machine'] is not None
    monkeypatch.setattr(os, 'readlink', lambda path: 'pid:[1]')
    assert workers._identity()['machine'] != here['machine']
    monkeypatch.setattr(os, 'readlink', lambda path: open('/no/proc'))
    assert workers._identity()['machine'] is None


@pytest.mark.parametrize('machine', ['elsewhere', None])
def test_a_worker_elsewhere_lives_by_its_beat_alone(elsewhere, machine):
    study = FakeStudy()
    me, other = Workers(study, 10., 4), elsewhere(study, machine)
    other._say()

    def later(beats, alive):
        for _ in range(beats):
            assert me.is_alive(other.id) == alive and me.others() == [other.id] * alive
            me._beat()

    later(4, True)
    other._say()
    later(4, True)
    later(4, False)
    other._say()
    later(1, True)


def test_nobody_dies_of_an_outage(elsewhere):
    study = FakeStudy()
    me, other = Workers(study, 10., 4), elsewhere(study)
    other._say()
    assert me.is_alive(other.id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, 'set_user_attr', lambda *_: 1 / 0)
        for _ in range(10):
            me._beat()
    assert me.is_alive(other.id)


def test_who_was_never_heard_of_is_dead_after_the_time_of_a_dead_worker():
    me = Workers(FakeStudy(), 10., 4)
    for _ in range(4):
        assert me.is_alive('never heard of') and me.is_alive(me.id)
        me._beat()
    assert not me.is_alive('never heard of')
    assert me.is_alive('another') and me.is_alive(me.id)


def test_who_says_goodbye_is_gone_at_once_and_so_are_its_claims(elsewhere):
    study = FakeStudy()
    me = Workers(study)
    with elsewhere(study) as other:
        assert other.claim('key') and me.claimed() == {other.id: 'key'}
    assert me.claimed() == {} and me.others() == [] and not me.is_alive(other.id)
    assert me.claim('key')


def test_a_heart_goes_on_after_a_failure():
    class Broken(FakeStudy):
        broken = False

        def set_user_attr(self, key, value):
            if self.broken:
                raise ValueError('out of reach')
            super().set_user_attr(key, value)

    study = Broken()
    with Workers(study, interval=.01) as worker:
        study.broken = True
        time.sleep(.1)
        study.broken, beat = False, study.attrs[f'worker:{worker.id}']['beat']
        wait_for(lambda: study.attrs[f'worker:{worker.id}']['beat'] > beat + 2)
    assert study.attrs[f'worker:{worker.id}']['gone']


def test_ids_are_short_and_differ():
    ids = {Workers(FakeStudy()).id for _ in range(100)}
    assert len(ids) == 100 and all(f'-{os.getpid()}-' in i and len(i) < 64 for i in ids)


@pytest.mark.parametrize('settings', [dict(interval=0), dict(patience=2)])
def test_too_little_patience_is_refused(settings):
    with pytest.raises(ValueError, match='patience'):
        Workers(FakeStudy(), **settings)


# Once.


def test_a_value_is_computed_once_and_the_same_to_all(run, shared_url, tmp_path):

    def work(barrier):
        def compute():
            with open(tmp_path / 'computed', 'a') as file:
                file.write('x')
            time.sleep(.3)
            return [os.getpid(), (1, None)]

        with Workers(join(shared_url)) as worker:
            barrier.wait()
            value = worker.once('key', compute)
            assert value == worker.once('key', lambda: 1 / 0) and value[1] == [1, None]

    join(shared_url)
    barrier = fork.Barrier(3)
    processes = [run(work, barrier) for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / 'computed').read_text() == 'x'
    assert join(shared_url).user_attrs['key'][0] in {p.pid for p in processes}


def test_who_dies_computing_is_replaced(run, tmp_path):
    url = f'journal:{tmp_path}/study.log'

    def work():
        Workers(join(url)).start().once('key', lambda: time.sleep(3600))

    process = run(work)
    with Workers(join(url)) as worker:
        wait_for(worker.claimed)
        waited = []

        def waiting(owner, key, seconds):
            waited.append((owner, key))
            assert 0 <= seconds < 60
            process.kill()

        worker.on_wait = waiting
        assert worker.once('key', lambda: 'mine') == 'mine'
        assert {*waited} == {(owner, 'key') for owner in worker._read()} and len({*waited}) == 1


def test_an_error_in_computing_is_raised_and_leaves_it_to_the_next():
    study = FakeStudy()
    with Workers(study) as one, Workers(study) as other:
        with pytest.raises(ZeroDivisionError):
            one.once('key', lambda: 1 / 0)
        assert other.claimed() == {}
        assert other.once('key', lambda: 2) == 2 == one.once('key', lambda: 3)


def test_who_was_taken_for_dead_leaves_the_value_of_its_successor():
    study = FakeStudy()
    with Workers(study) as worker:
        assert worker.once('key', lambda: study.set_user_attr('key', 1) or 2) == 1


# Kills.


@pytest.mark.slow
def test_kills_at_any_moment_break_no_claim(run, shared_url, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, 'GRACE', 3)  # seconds until a killed holder's lock is broken
    join(shared_url)
    none = SimpleNamespace(wait=lambda: None)
    draw = random.Random(0)
    processes = [run(hammer, shared_url, tmp_path, none, math.inf) for _ in range(3)]
    for i in range(20):
        time.sleep(draw.uniform(.2, .8))
        processes[i % 3].kill()
        processes[i % 3].join()
        processes[i % 3] = run(hammer, shared_url, tmp_path, none, math.inf)
    living = {(key, str(p.pid)) for key in KEYS for p in processes}
    wait_for(lambda: {key for key, pid in held(tmp_path) if (key, pid) in living} == set(KEYS))
    for process in processes:
        process.kill()
        process.join()
    assert not (tmp_path / 'violation').exists()
    with Workers(join(shared_url)) as worker:
        for key in KEYS:
            assert worker.claim(key)
            worker.release()
