"""Candidates without a metric, and evaluations that raise."""
from collections import Counter

import pytest
from landscape import Landscape, metric_of
from optuna.trial import TrialState

from sparsevit_mm.evaluation.in_step import OutOfStep
from sparsevit_mm.search.candidates import FAILED
from sparsevit_mm.search.study import FAILURES, EvaluationError

NAN = float('nan')


def test_nan_counts_as_failed_and_the_search_goes_on():
    landscape = Landscape(metric=lambda c: NAN if c.mean > .3 else metric_of(c))
    search = landscape.search()
    search.run(12)
    failed = [c for c in search.candidates if c.state == FAILED]
    assert failed and all(c.config.mean > .3 and c.metric is None for c in failed)
    assert search.best.config.mean <= .3
    assert search.num_evaluated == len(landscape.evaluated) == 12
    states = {t.number: t.state for t in search.study.trials}
    assert all(states[c.trial] == TrialState.FAIL for c in failed)


def test_nothing_but_nan_is_an_error():
    with pytest.raises(ValueError, match='NaN'):
        Landscape(metric=lambda c: NAN).search().run(10)


class Odd(Exception):
    """Of a toolkit."""


def raising(times=99, above=.3):
    """A metric that raises for some configurations, so many times for each."""
    asked = Counter()

    def metric(config):
        asked[config] += 1
        if config.mean > above and asked[config] <= times:
            raise Odd('more than 500 boxes')
        return metric_of(config)

    return metric, asked


def test_a_candidate_that_raises_is_recorded_as_failed_and_the_search_goes_on():
    metric, asked = raising()
    search = Landscape(metric=metric).search()
    search.run(12)
    failed = [c for c in search.candidates if c.state == FAILED]
    assert failed and all(c.error == 'Odd: more than 500 boxes' for c in failed)
    assert all(asked[c.config] == 2 for c in failed)  # once more, in case it was the machine
    assert search.num_evaluated == 12 and search.best.config.mean <= .3
    states = {t.number: t.state for t in search.study.trials}
    assert all(states[c.trial] == TrialState.FAIL for c in failed)


def test_a_failed_candidate_is_not_met_again_by_a_later_worker(tmp_path):
    url = f'sqlite:///{tmp_path}/study.db'
    metric, asked = raising()
    with Landscape(metric=metric).search(url) as search:
        search.run(6)
    before = dict(asked)
    with Landscape(metric=metric).search(url, resume=True) as search:
        search.run(12)
    assert all(asked[config] == count for config, count in before.items())


def test_what_failed_once_by_chance_is_evaluated():
    metric, asked = raising(times=1)
    search = Landscape(metric=metric).search()
    search.run(8)
    assert all(c.state != FAILED for c in search.candidates) and max(asked.values()) == 2


def test_failures_in_a_row_stop_the_search_and_are_listed():
    metric, asked = raising(above=-1)
    search = Landscape(metric=metric).search()
    with pytest.raises(EvaluationError, match=f'last {FAILURES} candidates') as stopped:
        search.run(30)
    assert str(stopped.value).count('500 boxes') == FAILURES == len(asked)


def test_other_ranks_that_left_are_no_fault_of_the_next_candidate():
    def metric(config):
        if first.setdefault(0, config) == config and len(calls) == 0:
            calls.append(config)
            raise Odd('a rank failed')
        raise OutOfStep('none follows')

    first, calls = {}, []
    search = Landscape(metric=metric).search()
    with pytest.raises(Odd):
        search.run(8)
    search.sync()
    assert [c.error for c in search.candidates] == ['Odd: a rank failed']
