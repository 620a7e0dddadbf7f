"""A search that is killed, and goes on."""
import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter

import optuna
import pytest
import sqlalchemy
from landscape import Landscape, metric_of
from optuna.trial import TrialState

from sparsevit_mm.search.candidates import DUPLICATE, EVALUATED, OUTSIDE
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.propose.sampler import from_params, search_space
from sparsevit_mm.search.store.joining import STUDY_NAME

TRIALS = 14
fork = multiprocessing.get_context('fork')


@pytest.fixture
def url(tmp_path):
    return f'sqlite:///{tmp_path}/search.db'


def recorded(url):
    """Configuration -> metric of all that the storage holds."""
    study = optuna.load_study(study_name=STUDY_NAME, storage=url)
    found = [t.user_attrs['candidate'] for t in study.get_trials() if 'candidate' in t.user_attrs]
    return {json.dumps(c['sparsity']): c['metric'] for c in found if c['state'] == EVALUATED}


class Worker:
    """A process that searches, logs each evaluation to a file, and may be killed.

    Args:
        url: Of the storage.
        log: File of evaluations.
        num_trials: Evaluations in all.
    """

    def __init__(self, url, log, num_trials=TRIALS):
        self.url, self.log, self.num_trials = url, log, num_trials

    def start(self, commits=None, evaluations=None):
        """`commits`: kill yourself just before that many commits to the storage; `evaluations`:
        wait to be killed before the next after so many."""
        process = fork.Process(target=self._run, args=(commits, evaluations))
        process.start()
        return process

    def _run(self, commits, evaluations):
        self._left = itertools.count() if evaluations is None else iter(range(evaluations))
        if commits is not None:
            left = iter(range(commits))
            sqlalchemy.event.listen(
                sqlalchemy.engine.Engine, 'commit',
                lambda _: next(left, None) is None and os.kill(os.getpid(), signal.SIGKILL))
        landscape = Landscape((4, 2), choices=(0., .3, .6), metric=self.evaluate)
        landscape.search(self.url, resume=True, limits=Limits(9.)).run(self.num_trials)

    def evaluate(self, config):
        if next(self._left, None) is None:
            time.sleep(3600)
        with open(self.log, 'a') as file:
            file.write(json.dumps(config.to_list()) + '\n')
        time.sleep(.02)
        return metric_of(config)

    def evaluated(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


def check_killed_and_resumed(worker, lives, kill):
    """Runs and kills `lives` times, then to the end; nothing recorded is lost or done again.

    Returns:
        How many evaluations were recorded at each kill.
    """
    in_flight, known, history = Counter(), {}, []
    for life in range(lives):
        process = kill(life)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        before, known = known, recorded(worker.url) if has_study(worker.url) else {}
        assert before.items() <= known.items()
        in_flight.update(line for line in worker.evaluated()[-1:] if line not in known)
        history.append(len(known))
    process = worker.start()
    process.join()
    assert process.exitcode == 0
    final = recorded(worker.url)
    assert known.items() <= final.items()
    assert final == {line: metric_of_line(line) for line in worker.evaluated()}
    assert len(final) == worker.num_trials
    assert Counter(worker.evaluated()) - Counter(set(worker.evaluated())) <= in_flight
    return history


def metric_of_line(line):
    return metric_of(Landscape((4, 2)).space.decode([round(10 * r) for stage in json.loads(line)
                                                     for r in stage[::2]]))


def has_study(url):
    try:
        return STUDY_NAME in optuna.get_all_study_names(url)
    except Exception:  # killed while the tables were made
        return False


def test_killed_at_any_commit_it_goes_on_where_it_was(url, tmp_path):
    worker, rng = Worker(url, tmp_path / 'log'), random.Random(0)
    history = check_killed_and_resumed(worker, 7, lambda _: worker.start(rng.randint(0, 100)))
    assert len(set(history)) > 2


def test_killed_from_outside_it_goes_on_where_it_was(url, tmp_path):
    """In its third or fourth evaluation, or after it: never when the search has ended."""
    worker, rng = Worker(url, tmp_path / 'log'), random.Random(1)

    def kill(_):
        evaluated, process = len(worker.evaluated()), worker.start(evaluations=4)
        while process.is_alive() and len(worker.evaluated()) < evaluated + 3:
            time.sleep(.01)
        time.sleep(rng.uniform(0, .06))
        os.kill(process.pid, signal.SIGKILL)
        return process

    assert check_killed_and_resumed(worker, 3, kill)[-1] > 3


@pytest.mark.parametrize('commits', [16, 20, 25, 28, 31, 36, 44])
def test_uniform_configurations_are_met_and_told_however_early_the_kill(url, tmp_path, commits):
    """Killed while they are queued, or while the first of them are judged and told."""
    worker = Worker(url, tmp_path / 'log', num_trials=3)
    killed = worker.start(commits)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    worker.start().join()
    space = Landscape((4, 2), choices=(0., .3, .6)).space
    study = optuna.load_study(study_name=STUDY_NAME, storage=url)
    known = [t for t in study.trials if 'candidate' in t.user_attrs]
    met = [t.user_attrs['candidate']['sparsity'] for t in known]
    assert all(config.to_list() in met for config in space.uniform())
    told = {EVALUATED: TrialState.COMPLETE, OUTSIDE: TrialState.PRUNED,
            DUPLICATE: TrialState.PRUNED}
    assert all(t.state == told[t.user_attrs['candidate']['state']] for t in known)


def test_resume_goes_on_to_a_larger_number_and_does_nothing_for_the_same(url):
    first = Landscape()
    first.search(url).run(5)
    again = Landscape()
    again.search(url, resume=True).run(5)
    assert not again.evaluated
    more = Landscape()
    search = more.search(url, resume=True)
    search.run(12)
    assert search.num_evaluated == 12 and len(more.evaluated) == 7
    assert not set(first.evaluated) & set(more.evaluated)
    assert not set(first.measured) & set(more.measured)
    assert {c.config for c in search.candidates if c.state != DUPLICATE} == {
        *first.measured, *more.measured}
    assert search.best.metric == max(map(metric_of, first.evaluated + more.evaluated))


def test_resume_without_a_study_starts_one(url):
    search = Landscape().search(url, resume=True)
    search.run(2)
    assert search.num_evaluated == 2


def test_storage_that_holds_a_search_is_refused_without_resume(url):
    Landscape().search(url).run(2)
    before = recorded(url)
    with pytest.raises(ValueError, match=r'search\.db .*: sparsevit.*--resume'):
        Landscape().search(url)
    assert recorded(url) == before


def test_search_of_something_else_is_refused_with_the_differences(url):
    Landscape().search(url, checkpoint='abc', seed=1).run(2)
    with pytest.raises(ValueError) as error:
        Landscape().search(url, resume=True, checkpoint='xyz', extra=1, seed=1)
    for text in ('checkpoint: abc in the study, xyz now', 'extra: None in the study, 1 now'):
        assert text in str(error.value)
    assert 'data' not in str(error.value)


@pytest.mark.parametrize('alive', [True, False])
def test_trial_of_another_worker_is_taken_over_only_if_it_died(url, alive):
    """All that is queued is evaluated, and nothing is drawn: a draw may meet what another worker
    asked for and has not claimed yet."""
    asked = fork.Queue()

    def work():
        search = Landscape().search(url)
        trial = search.study.ask(search_space(search.problem.space))
        trial.set_user_attr('worker', search.workers.id)
        asked.put((trial.number, trial.params))
        time.sleep(3600)

    other = fork.Process(target=work, daemon=True)
    other.start()
    try:
        number, params = asked.get(timeout=300)
        if not alive:
            other.kill()
            other.join()
        search = Landscape().search(url, resume=True)
        assert (search.study.trials[number].state == TrialState.RUNNING) == alive
        space = search.problem.space
        its, queued = space.decode(from_params(params)), set(space.uniform())
        queued = queued - {its} if alive else queued | {its}
        search.run(len(queued))
        assert {c.config for c in search.candidates} == queued
        assert (search.study.trials[number].state == TrialState.RUNNING) == alive
    finally:
        other.kill()
        other.join()


def test_what_a_worker_taken_for_dead_brings_home_is_kept_once(url):
    """Its trial was told by another while it slept; then what it evaluated gets a trial of its
    own, unless that other one has evaluated it meanwhile."""
    landscape = Landscape()
    slept = landscape.search(url)
    taken = []

    def evaluate(config):
        if not taken:
            trial = next(t for t in slept.study.trials if t.state == TrialState.RUNNING)
            slept.study.tell(trial.number, state=TrialState.FAIL)
            taken.append(config)
        return metric_of(config)

    landscape.metric = evaluate
    slept.run(3)
    slept.sync()
    assert slept.num_evaluated == 3 == len(recorded(url))
    assert json.dumps(taken[0].to_list()) in recorded(url)


def test_a_result_counts_once_if_only_its_acknowledgement_was_lost(url, monkeypatch):
    landscape = Landscape()
    search = landscape.search(url)
    backend, lost = search.joined.storage.backend, []
    tell = backend.set_trial_state_values

    def tell_in_silence(trial_id, state, values=None):
        done = tell(trial_id, state=state, values=values)
        if values and trial_id not in lost:
            lost.append(trial_id)
            raise ConnectionResetError
        return done

    monkeypatch.setattr(backend, 'set_trial_state_values', tell_in_silence)
    search.run(3)
    assert len(lost) == 3 == search.num_evaluated == len(landscape.evaluated)
    assert len(recorded(url)) == 3


def test_a_trial_that_is_given_up_before_it_is_signed_ends_no_one(url):
    """As when asking takes longer than another worker waits."""
    search = Landscape().search(url)
    ask, given_up = search.study.ask, []

    def slow(space):
        trial = ask(space)
        if not given_up:
            given_up.append(trial.number)
            search.study.tell(trial.number, state=TrialState.FAIL)
        return trial

    search.study.ask = slow
    search.run(4)
    assert search.num_evaluated == 4 and given_up[0] not in {c.trial for c in search.candidates}


def test_who_joins_while_another_looks_for_the_dead_is_not_taken_for_one(url):
    first = Landscape().search(url)
    read, joined = first.study.get_trials, []

    def meanwhile(**options):
        """A second worker joins, and has asked for a trial when the first looks."""
        if options.get('states') and not joined:
            second = Landscape().search(url, resume=True)
            joined.append((second, second.study.ask(search_space(second.problem.space))))
        return read(**options)

    first.study.get_trials = meanwhile
    first._take_over()
    trial = joined[0][1]
    assert first.study._storage.get_trial(trial._trial_id).state == TrialState.RUNNING


def test_what_was_evaluated_again_meanwhile_is_recorded_once(url):
    """A worker is taken for dead at its first candidate, and another one evaluates that too before
    it is done."""
    landscape, awake = Landscape(), []
    slept = landscape.search(url)

    def evaluate(config):
        if not awake:
            awake.append(config)
            trial = next(t for t in slept.study.trials if t.state == TrialState.RUNNING)
            slept.study.tell(trial.number, state=TrialState.FAIL)
            slept.study.enqueue_trial(trial.params)
            slept.workers.release()
            other = Landscape().search(url, resume=True)
            other.run(9 + 1)  # all that is queued
        return metric_of(config)

    landscape.metric = evaluate
    slept.run(12)
    configs = [c.config for c in slept.candidates if c.state == EVALUATED]
    assert awake[0] in configs and len(configs) == len(set(configs)) == 12


def test_a_second_search_that_names_no_study_is_refused(url):
    first = Landscape().search(url, study='one')
    first.run(2)
    with pytest.raises(ValueError, match=r'study: one\..*--study NAME'):
        Landscape().search(url)
    Landscape().search(url, study='two').run(2)
    with pytest.raises(ValueError, match=r'study: one, two'):
        Landscape().search(url, resume=True)
    joined = Landscape().search(url, study='one')
    assert joined.num_evaluated == 2
    joined.run(4)
    assert joined.num_evaluated == 4


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
