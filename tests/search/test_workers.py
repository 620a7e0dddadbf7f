"""Which workers are alive."""
import multiprocessing
import os
import signal
import time

import optuna
import pytest
from studies import FakeStudy, join, wait_for

from sparsevit_mm.search.store import workers
from sparsevit_mm.search.store.workers import Workers

pytest_plugins = ['postgres']
fork = multiprocessing.get_context('fork')
optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes a worker that takes itself for one of another machine."""

    def make(study, machine='elsewhere', **settings):
        with monkeypatch.context() as patch:
            patch.setattr(workers, '_identity', lambda: dict(machine=machine, pid=1, started=1))
            return Workers(study, **settings)

    return make


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
