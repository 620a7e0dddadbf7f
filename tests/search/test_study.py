import csv
import math
import os

import numpy as np
import optuna
import pytest
from helpers import drawn
from landscape import Landscape, latency_of, macs_of, metric_of
from optuna.trial import TrialState

from sparsevit_mm.search.candidates import (DUPLICATE, EVALUATED, OUTSIDE, read_csv,
                                            write_csv)
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.propose.sampler import SAMPLERS, to_params
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
    (lambda text: text[:-40], 'truncated'), (lambda text: '', 'has no column'),
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
