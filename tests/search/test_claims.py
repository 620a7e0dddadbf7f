"""Claims: one worker holds a key, and one computes a value."""
import fcntl
import itertools
import math
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from types import SimpleNamespace

import optuna
import pytest
from studies import FakeStudy, join, wait_for

from sparsevit_mm.search.store import journal, workers
from sparsevit_mm.search.store.workers import Workers

pytest_plugins = ['postgres']
fork = multiprocessing.get_context('fork')
optuna.logging.set_verbosity(optuna.logging.WARNING)
KEYS = 'abc'


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
