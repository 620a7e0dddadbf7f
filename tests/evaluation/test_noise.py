"""What resamples say of the difference between candidates."""
import numpy as np
import pytest

from sparsevit_mm.evaluation.intervals import difference, interval
from sparsevit_mm.search.candidates import EVALUATED, Candidate, within_noise
from sparsevit_mm.sparsity import SparsityConfig


def resampled(gain=0., own=.0, seed=0, count=1000):
    """Of a model: what all share, being of the same images, its gain, and a scatter of its own."""
    shared = np.random.default_rng(99).normal(.4, .05, count)
    return shared + gain + np.random.default_rng(seed).normal(0, own, count)


def candidate(values):
    values = None if values is None else list(values)
    return Candidate(0, SparsityConfig(0., (2, 2)), EVALUATED, resampled=values)


def test_the_interval_is_that_of_a_normal_figure():
    values = resampled(count=20_000)
    assert interval(values) == pytest.approx((.4 - 1.96 * .05, .4 + 1.96 * .05), abs=.003)


def test_what_two_models_share_drops_out_of_their_difference():
    mean, low, high = difference(resampled(.01), resampled())
    assert (mean, low, high) == pytest.approx((.01, .01, .01))
    mean, low, high = difference(list(resampled(.01, own=.01, seed=1)), resampled())
    assert mean == pytest.approx(.01, abs=.002)
    assert high - low == pytest.approx(2 * 1.96 * .01, rel=.1)
    assert difference(resampled(), resampled(.01)) == pytest.approx((-.01, ) * 3)


def test_resamples_of_another_number_are_refused():
    with pytest.raises(ValueError, match='100 and 1 resamples'):
        difference(resampled(count=100), [.4])


def test_the_clearly_worse_are_told_from_the_best_and_the_others_are_not():
    best = candidate(resampled(.02, own=.01, seed=1))
    close = candidate(resampled(.01, own=.01, seed=2))
    worse = candidate(resampled(-.05, own=.01, seed=3))
    # Far inside the best's own interval, but worse on nearly every resample.
    always_worse = candidate(np.array(best.resampled) - .005)
    unknown = candidate(None)
    assert interval(best.resampled)[0] < np.mean(always_worse.resampled)
    assert within_noise([worse, close, unknown, best, always_worse], best) == [close, best]


def test_the_best_is_within_its_own_noise_and_without_resamples_nothing_is():
    best = candidate(resampled())
    assert within_noise([best], best) == [best]
    assert within_noise([best], candidate(None)) == []


def test_a_better_one_is_told_from_the_best_as_well():
    best, better = candidate(resampled()), candidate(resampled(.1, own=.01))
    assert within_noise([better, best], best) == [best]
