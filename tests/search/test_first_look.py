import numpy as np
import pytest
from landscape import Landscape, metric_of
from optuna.trial import TrialState

from sparsevit_mm.search.candidates import EVALUATED, SCREENED, Candidate
from sparsevit_mm.search.propose.sampler import _observations
from sparsevit_mm.search.propose.screening import (AGREEMENT, PAIRS, SHARE, FirstLook, agreement,
                                                   too_low)


def candidates(looks, metrics, latencies=None, sampled=True):
    latencies = latencies if latencies is not None else [1.] * len(looks)
    return [Candidate(i, None, EVALUATED, first_look=look, metric=metric, latency=latency,
                      sampled=sampled)
            for i, (look, metric, latency) in enumerate(zip(looks, metrics, latencies))]


def looked(value, latency=1.):
    return Candidate(99, None, SCREENED, first_look=value, latency=latency)


def test_agreement_is_the_rank_correlation_of_those_chance_let_through():
    looks, metrics = [1, 2, 3, 4, 5, 6, 7, 8, 10, 9], [.1, .2, .3, .4, .5, .6, .7, .8, .9, .99]
    known = candidates(looks, metrics)
    assert agreement(known) == pytest.approx(1 - 6 * 2 / (10 * 99))
    screened = candidates([99.] * 5, [None] * 5)
    selected = candidates(range(20), range(20, 0, -1), sampled=False)
    assert agreement(known + screened + selected) == agreement(known)
    assert agreement(known[:PAIRS - 1]) is None
    assert agreement(candidates([1] * 20, range(20))) is None


def test_what_both_figures_owe_to_the_latency_is_taken_out():
    rng = np.random.default_rng(0)
    latency = rng.permutation(200)
    noise = rng.normal(0, 1e-3, (2, 200))
    by_latency = candidates(latency + noise[0], latency + noise[1], latency)
    assert agreement(by_latency) == pytest.approx(1)
    own = candidates(latency + 50 * rng.random(200), latency + 50 * rng.random(200), latency)
    assert agreement(own) > .9 and abs(agreement(own, latency=True)) < .2


@pytest.mark.parametrize('true, share', [(.85, (0, .05)), (.2, (.6, 1))])
def test_a_first_look_that_agrees_is_seldom_called_too_small(true, share):
    """In a whole search: it is warned of once, if ever."""
    rng = np.random.default_rng(1)
    warned = 0
    for _ in range(60):
        cries, met = [], []
        first_look = FirstLook(np.random.default_rng(rng.integers(2**31)), cries.append)
        for _ in range(80):
            metric, noise = rng.normal(size=2)
            candidate = looked(true * metric + (1 - true**2)**.5 * noise)
            if first_look.promising(candidate, met):
                candidate.metric = metric
            met.append(candidate)
        warned += bool(cries)
    assert share[0] <= warned / 60 <= share[1]


def test_a_correlation_is_too_low_beyond_chance_only():
    assert not too_low(.5, 10) and too_low(.5, 100)
    assert not too_low(AGREEMENT, 10**6) and not too_low(1., 10)


def test_the_better_third_goes_on_and_some_by_chance():
    known = candidates(range(60), range(60))
    look = FirstLook(np.random.default_rng(0), lambda message: pytest.fail(message))
    assert all(look.promising(looked(value), known) for value in (54, 59, 99))  # of 40 to 59
    passed = [c for c in (looked(51) for _ in range(300)) if look.promising(c, known)]
    assert 15 < len(passed) < 50 and all(c.sampled for c in passed)


def test_all_go_on_before_the_agreement_is_known_and_where_there_is_none():
    warned = []
    look = FirstLook(np.random.default_rng(0), warned.append)
    assert all(look.promising(looked(-1), candidates(range(n), range(n))) for n in range(PAIRS))
    assert not warned
    contrary = candidates(range(30), range(30, 0, -1))
    assert all(look.promising(looked(-1), contrary) for _ in range(50))
    assert len(warned) == 1 and '-1.00' in warned[0] and str(AGREEMENT) in warned[0]


def test_with_two_objectives_a_candidate_is_compared_with_those_of_its_latency():
    """Fast ones are worse, and still wanted."""
    latencies = np.repeat(np.arange(1., 11), 20)
    quality = np.tile(np.arange(20) / 100, 10)
    known = candidates(latencies + quality, latencies + quality, latencies)
    look = FirstLook(np.random.default_rng(0), pytest.fail, pareto=True)
    assert look.promising(looked(1.18, 1.), known) and look.promising(looked(10.18, 10.), known)
    slow = [look.promising(looked(9.9, 10.), known) for _ in range(200)]
    assert sum(slow) < 50
    alone = FirstLook(np.random.default_rng(0), pytest.fail)
    assert sum(alone.promising(looked(1.18, 1.), known) for _ in range(200)) < 50


def test_a_good_first_look_saves_evaluations_and_keeps_the_best():
    landscape = Landscape((2, 2, 2))
    search = landscape.search(problem=dict(look=lambda c: {'score': metric_of(c) * 2}))
    search.run(30)
    screened = [c for c in search.candidates if c.state == SCREENED]
    assert len(screened) > 15 and all(c.metric is None for c in screened)
    assert search.best.metric >= max(metric_of(c.config) for c in screened)
    met = [c for c in search.candidates if c.first_look is not None]
    evaluated = sum(c.state == EVALUATED for c in met)
    assert evaluated == 30 and evaluated < (SHARE + .25) * len(met)


def test_the_search_learns_from_those_turned_away():
    search = Landscape((2, 2, 2)).search(problem=dict(look=lambda c: {'score': metric_of(c) * 2}))
    search.run(25)
    trials = search.study.get_trials()
    genes, values = _observations([t for t in trials if t.state == TrialState.COMPLETE],
                                  [t for t in trials if t.state == TrialState.PRUNED])
    screened = [c for c in search.candidates if c.state == SCREENED]
    assert len(genes) == len(values) == 25 + len(screened)
    assert values[25:, 0] == pytest.approx([metric_of(c.config) for c in screened], abs=1e-6)


def test_a_first_look_that_says_nothing_turns_few_away():
    rng = np.random.default_rng(1)
    search = Landscape((2, 2, 2)).search(problem=dict(look=lambda c: {'score': rng.random()}))
    search.run(40)
    assert sum(c.state == SCREENED for c in search.candidates) < 8
