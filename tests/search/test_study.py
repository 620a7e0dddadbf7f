import csv
import math
import os
import re
from collections import Counter

import numpy as np
import optuna
import pytest
from helpers import drawn
from landscape import Landscape, latency_of, macs_of, metric_of
from optuna.trial import TrialState

from sparsevit_mm.evaluation.in_step import OutOfStep
from sparsevit_mm.search.candidates import (DUPLICATE, EVALUATED, FAILED, OUTSIDE, read_csv,
                                            write_csv)
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.propose.sampler import SAMPLERS, to_params
from sparsevit_mm.search.study import FAILURES, EvaluationError
from sparsevit_mm.sparsity import SparsityConfig

BAND = Limits(max_latency=8., min_latency=4., max_macs=.75e9)
NAN = float('nan')


@pytest.fixture(scope='module')
def finished():
    """A search of 81 configurations within a band, and its landscape."""
    landscape = Landscape()
    reports = []
    search = landscape.search(limits=BAND)
    search.run(30, reports.append)
    assert reports == search.candidates
    return search, landscape


def fits(config):
    return 4 <= latency_of(config) <= 8 and macs_of(config) <= .75e9


def test_no_configuration_is_evaluated_or_measured_twice(finished):
    search, landscape = finished
    assert len(landscape.evaluated) == len(set(landscape.evaluated)) == 30
    assert len(landscape.measured) == len(set(landscape.measured))


def test_a_configuration_that_is_proposed_again_is_a_duplicate():
    landscape = Landscape()
    search = landscape.search()
    search.run(5)
    search.study.enqueue_trial(to_params(landscape.space, landscape.evaluated[2]))
    search.run(12)  # the uniform ones are in the queue before it
    assert [c.state for c in search.candidates].count(DUPLICATE) == 1
    assert len(landscape.evaluated) == len(set(landscape.evaluated)) == 12


def test_only_candidates_within_the_limits_are_evaluated(finished):
    search, landscape = finished
    assert all(map(fits, landscape.evaluated))
    for c in search.candidates:
        if c.state == OUTSIDE:
            assert not fits(c.config) and c.metric is c.metrics is None
    # The cheaper check comes first: no latency is measured where the MACs exclude.
    assert all(macs_of(config) <= .75e9 for config in landscape.measured)
    assert {OUTSIDE, EVALUATED} <= {c.state for c in search.candidates}


def test_candidates_hold_what_they_were_measured_at(finished):
    for c in finished[0].candidates:
        if c.state == EVALUATED:
            assert (c.metric, c.latency, c.macs) == (
                metric_of(c.config), latency_of(c.config), macs_of(c.config))
            assert c.metrics == {'score': c.metric}


def test_every_uniform_configuration_is_met(finished):
    search, landscape = finished
    assert set(landscape.space.uniform()) <= {c.config for c in search.candidates}


def test_csv_has_a_line_per_candidate_and_no_metric_for_those_outside(finished, tmp_path):
    write_csv(tmp_path / 'candidates.csv', finished[0].candidates)
    with (tmp_path / 'candidates.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row['trial']) for row in rows] == list(range(len(finished[0].candidates)))
    for row, c in zip(rows, finished[0].candidates):
        assert (row['state'], row['sparsity']) == (c.state, str(c.config))
        assert (row['metric'] != '') == (row['score'] != '') == (c.state == EVALUATED)
        assert row['metric'] == ('' if c.metric is None else str(c.metric))
    assert os.listdir(tmp_path) == ['candidates.csv']


def test_the_csv_is_read_as_it_was_written(finished, tmp_path):
    write_csv(tmp_path / 'a.csv', finished[0].candidates)
    for read, c in zip(read_csv(tmp_path / 'a.csv'), finished[0].candidates):
        assert (read.trial, read.config, read.state, read.macs, read.metric) == (
            c.trial, c.config, c.state, c.macs, c.metric)
        assert read.latency == pytest.approx(c.latency, abs=.001)


@pytest.mark.parametrize('change, named', [
    (lambda text: text.replace('sparsity', 'spars'), 'has no column sparsity'),
    (lambda text: text[:-40], 'line is cut short'), (lambda text: '', 'has no column'),
    (lambda text: text.replace(',evaluated,', ',evaluted,', 1), "line .*'evaluted'"),
    (lambda text: text.replace('[[', '[{', 1), 'line '),
    (lambda text: text.replace('[[0, 0]', '[[1.8, 0]', 1), 'line .*1.8, outside')])
def test_a_broken_csv_is_named_with_the_line(finished, tmp_path, change, named):
    path = tmp_path / 'broken.csv'
    write_csv(path, finished[0].candidates)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=f'broken.csv.*({named})'):
        read_csv(path)


def test_winner_is_the_best_within_the_limits_and_beats_random_draws(finished):
    """Against as many random draws from the 3000 of 6561 configurations that are fast enough."""
    search, landscape = finished
    assert search.best.metric == max(map(metric_of, landscape.evaluated))

    limits, budget = Limits(max_latency=6.), 60
    hard = Landscape(depths=(2, 2, 2, 2))
    metrics = np.array([metric_of(c) for c in hard.all_configs() if latency_of(c) <= 6])
    rng = np.random.default_rng(0)
    random = [rng.choice(metrics, budget, replace=False).max() for _ in range(1000)]
    found = []
    for seed in (0, 1):
        search = hard.search(limits=limits, seed=seed, population_size=15)
        search.run(budget)
        found.append(search.best.metric)
    assert np.mean(found) > np.quantile(random, .9)
    assert np.mean(found) > metrics.max() - .3 * (metrics.max() - np.median(random))


def test_one_seed_one_search_and_another_seed_another():
    def seen(seed):
        search = Landscape().search(seed=seed)
        search.run(16)
        return [c.config for c in search.candidates]

    assert seen(0) == seen(0)
    assert seen(0) != seen(1)


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


def test_no_detection_at_all_counts_as_zero():
    search = Landscape(metric=lambda c: {} if c.mean > .3 else metric_of(c)).search()
    search.run(12)
    empty = [c for c in search.candidates if c.state == EVALUATED and not c.metrics]
    assert empty and all(c.metric == 0 and c.config.mean > .3 for c in empty)
    assert search.best.metric > 0


def test_among_equal_metrics_the_faster_wins():
    search = Landscape(metric=lambda c: round(metric_of(c))).search()
    search.run(20)
    best = [c for c in search.candidates if c.state == EVALUATED and c.metric == 1]
    assert len({c.latency for c in best}) > 1
    assert search.best.latency == min(c.latency for c in best)


@pytest.mark.parametrize('depths', [(1, ), (2, 2), (4, )])
def test_exhausted_space_ends_the_search(depths):
    landscape = Landscape(depths, choices=(0., .4, .8))
    search = landscape.search()
    search.run(1000)
    assert set(landscape.evaluated) == landscape.all_configs()
    assert search.num_evaluated == landscape.space.count()


def test_narrow_band_is_found_where_the_population_is_not():
    """No uniform configuration fits, so nothing breeds towards the band."""
    landscape = Landscape()
    low, high = 3.3, 3.9
    assert not any(low <= latency_of(c) <= high for c in landscape.space.uniform())
    search = landscape.search(limits=Limits(max_latency=high, min_latency=low))
    search.run(3)
    assert search.num_evaluated == 3 and all(low <= latency_of(c) <= high
                                             for c in landscape.evaluated)


def test_band_between_reachable_latencies_is_an_error_that_names_them():
    landscape = Landscape(choices=(0., .8))
    with pytest.raises(ValueError, match=r'none of 4 candidates.* 2\.0 to 10\.0 ms'):
        landscape.search(limits=Limits(max_latency=3., min_latency=2.5)).run(5)
    assert not landscape.evaluated


@pytest.mark.parametrize('limits, named', [
    (dict(max_latency=1.9), ['1.9', '2.0 ms', '10.0 ms']),
    (dict(max_latency=20., min_latency=10.1), ['10.1', '2.0 ms', '10.0 ms']),
    (dict(max_latency=20., max_macs=.1e9), ['0.1 G', '0.2 G'])])
def test_unreachable_limit_names_what_is_reachable(limits, named):
    with pytest.raises(ValueError) as error:
        Limits(**limits).check_reachable(sparsest=2., dense=10., fewest_macs=int(.2e9))
    assert all(text in str(error.value) for text in named)


def test_the_limit_that_an_unreachable_one_is_answered_with_fits():
    for key, value in ('max_latency', .5), ('min_latency', 20.):
        with pytest.raises(ValueError) as error:
            Limits(**{key: value}).check_reachable(2.04, 10.03, 0)
        fits = float(re.search(r'([\d.]+) ms would fit', str(error.value)).group(1))
        Limits(**{key: fits}).check_reachable(2.04, 10.03, 0)


@pytest.mark.parametrize('limits', [Limits(2.), Limits(99., 10.), Limits(99., 0., .2e9)])
def test_limit_that_something_just_reaches_is_taken(limits):
    limits.check_reachable(sparsest=2., dense=10., fewest_macs=int(.2e9))


@pytest.mark.parametrize('limits', [Limits(2.), Limits(99., 10.)])
def test_where_pruning_makes_it_slower_dense_is_the_fastest(limits):
    limits.check_reachable(sparsest=10., dense=2., fewest_macs=0)


def test_min_above_max_is_refused():
    with pytest.raises(ValueError, match='--min-latency 5 is above --max-latency 4'):
        Limits(max_latency=4., min_latency=5.)
    Limits(max_latency=4., min_latency=4.)


def test_shares_of_the_dense_latency_become_milliseconds():
    shares = Limits.parse('70%', '35%', 5e9)
    assert shares.resolve(40.) == Limits(28., 14., 5e9)
    assert Limits.parse('70%', '0', 5e9).resolve(40.) == Limits(28., 0., 5e9)
    assert Limits.parse('28', '14', 5e9).resolve(40.) == Limits(28., 14., 5e9)
    assert Limits.parse(None, '50%', 5e9).resolve(40.) == Limits(math.inf, 20., 5e9)
    assert Limits.parse(None, '0', 5e9).resolve(40.) == Limits(max_macs=5e9)


@pytest.mark.parametrize('max_latency, min_latency', [
    ('70%', '10'), ('70', '10%'), ('fast', '0'), ('30', 'slow'), ('%', '0'), ('30%', '40%')])
def test_limits_that_make_no_band_are_refused(max_latency, min_latency):
    with pytest.raises(ValueError, match='latency'):
        Limits.parse(max_latency, min_latency, 1e9)


def test_infinite_metrics_survive_the_storage():
    metric = lambda c: {'score': metric_of(c), 'odd': math.inf, 'none': NAN}  # noqa: E731
    search = Landscape(metric=metric).search()
    search.run(2)
    stored = [t.user_attrs['candidate'] for t in search.study.trials
              if t.state == TrialState.COMPLETE]
    assert [s['metrics'] for s in stored] == [
        {'score': s['metric'], 'odd': None, 'none': None} for s in stored]


def test_numpy_metrics_survive_the_storage():
    search = Landscape(metric=lambda c: np.float32(.25)).search()
    search.run(1)
    assert search.best.metric == .25


def test_a_pareto_search_ends_with_a_front_that_nothing_met_beats():
    landscape = Landscape()
    search = landscape.search(problem=dict(pareto=True))
    search.run(50)
    front = search.front
    assert len(front) >= 5 and front[0].latency < 4 and front[-1].config.mean < .2
    for c in search.candidates:
        if c.state == EVALUATED:
            assert any(f.metric >= c.metric and f.latency <= c.latency for f in front)
    for slower, faster in zip(front[1:], front):
        assert slower.latency > faster.latency and slower.metric > faster.metric


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_every_sampler_searches_within_the_limits_and_repeats_nothing(sampler):
    landscape = Landscape((2, 2, 2))
    search = landscape.search(limits=Limits(max_latency=6.), sampler=sampler)
    search.run(30)
    assert len(landscape.evaluated) == len(set(landscape.evaluated)) == 30
    assert all(latency_of(config) <= 6 for config in landscape.evaluated)


def test_configurations_of_one_latency_are_tried_once_as_the_canonical_one():
    """Choices 0 and 0.4 cost the same here, and 0 loses nothing."""
    space = Landscape(choices=(0., .4, .8)).space

    def canonical(config):
        return SparsityConfig([[0. if r == .4 else r for r in stage] for stage in config.ratios],
                              space.depths)

    landscape = Landscape(choices=(0., .4, .8))
    search = landscape.search(problem=dict(canonical=canonical))
    search.run(9)
    assert search.num_evaluated == 4 == len(set(landscape.evaluated))
    assert all(.4 not in stage for config in landscape.measured for stage in config.ratios)


def test_resamples_and_seconds_are_kept_with_the_candidate(url):
    resamples = iter(range(99))
    problem = dict(resample=lambda: drawn(np.zeros(3), float(next(resamples))))
    search = Landscape().search(url, problem=problem)
    search.run(4)
    again = Landscape().search(url, resume=True, problem=problem)
    kept = [c.resampled for c in again.candidates if c.state == EVALUATED]
    assert [k['bootstrap'] for k in kept] == [[float(i)] * 3 for i in range(4)]
    assert all(c.seconds > 0 for c in again.candidates if c.state != DUPLICATE)


@pytest.fixture
def url(tmp_path):
    return f'sqlite:///{tmp_path}/search.db'


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_an_empty_band_inside_the_reachable_range_ends_the_search(monkeypatch):
    monkeypatch.setattr('sparsevit_mm.search.study.GIVE_UP', 30)
    landscape = Landscape()
    with pytest.raises(ValueError) as error:
        landscape.search(limits=Limits(max_latency=5.0001, min_latency=5.00005)).run(5)
    assert not landscape.evaluated
    # The nearest on either side of the band: what would fit.
    latencies = sorted(map(latency_of, landscape.measured))
    assert f'none of {len(latencies)} candidates met the limits' in str(error.value)
    for near in (max(t for t in latencies if t < 5.00005), min(t for t in latencies if t > 5.0001)):
        assert f'{near:.2f} ms: [' in str(error.value)
