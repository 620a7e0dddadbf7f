"""BCa intervals: scipy's, and how often they hold the truth; what they say of two candidates."""
import json

import numpy as np
import pytest
from helpers import drawn
from scipy import stats

from sparsevit_mm.evaluation.coco_resampler import CocoMatches
from sparsevit_mm.evaluation.intervals import Interval, Resampled, bca, difference, interval
from sparsevit_mm.search.candidates import EVALUATED, Candidate, within_noise
from sparsevit_mm.sparsity import SparsityConfig


def figure(gain=0., own=0., seed=0, count=1000):
    """Of a model: what all share, being of the same images, its gain, and a scatter of its own."""
    shared = np.random.default_rng(99).normal(0, .05, count)
    return drawn(shared + np.random.default_rng(seed).normal(0, own, count), .4 + gain)


def candidate(values):
    return Candidate(0, SparsityConfig(0., (2, 2)), EVALUATED,
                     resampled=None if values is None else values.to_json())


def test_the_interval_is_that_of_a_normal_figure():
    found = interval(figure(count=20_000))
    assert (found.low, found.high) == pytest.approx((.4 - 1.96 * .05, .4 + 1.96 * .05), abs=.003)


@pytest.mark.parametrize('seed', range(3))
def test_it_is_scipy_s_bca(seed):
    rng = np.random.default_rng(seed)
    data = rng.exponential(size=30)
    theirs = stats.bootstrap((data, ), np.std, n_resamples=999, method='BCa', rng=rng)
    jackknife = np.array([np.std(np.delete(data, i)) for i in range(30)])
    ours = bca(np.std(data), theirs.bootstrap_distribution, jackknife)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), rel=1e-9)


def test_resamples_on_one_side_of_the_estimate_give_their_outermost():
    values = np.linspace(.5, .6, 100)
    assert bca(.4, values, np.zeros(0))[0] == pytest.approx(.5, abs=1e-3)
    assert bca(.7, values, np.zeros(0))[1] == pytest.approx(.6, abs=1e-3)
    assert bca(.4, np.full(9, .4), np.full(5, .4)) == (.4, .4)


def test_the_difference_is_the_observed_one_and_what_is_shared_drops_out():
    less = difference(figure(.01), figure())
    assert (less.estimate, less.low, less.high) == pytest.approx((.01, .01, .01))
    biased = figure(.01, own=.01, seed=1)
    biased = drawn(biased.bootstrap - .41 + .004, .41)  # resamples lie above, as those of AP
    less = difference(biased, figure().to_json())
    assert less.estimate == pytest.approx(.01)
    assert less.high - less.low == pytest.approx(2 * 1.96 * .01, rel=.1)
    assert less.low + less.high == pytest.approx(2 * .01, abs=.004)  # about it, not above
    assert difference(figure(), figure(.01)).estimate == pytest.approx(-.01)


def test_the_resamples_that_both_have_are_paired():
    first = figure().bootstrap[:100]
    less = drawn(first - .4, .4) - figure(.01)
    assert less.bootstrap == pytest.approx(np.full(100, -.01))


def test_resamples_of_other_units_are_refused():
    scenes = Resampled(.4, figure().bootstrap, np.zeros(0), '12 scenes', 12)
    with pytest.raises(ValueError, match='200 images .* 12 scenes'):
        difference(figure(), scenes)
    with pytest.raises(ValueError, match='an earlier version.*evaluate again'):
        interval([.1, .2])


def test_a_figure_is_the_same_after_its_json():
    one = Resampled(.25, np.array([.2, .3, .125]), np.array([.25, .5]), '16 blocks', 16)
    again = Resampled.from_json(json.loads(json.dumps(one.to_json())))
    assert again.to_json() == one.to_json() and again.interval() == one.interval()


def test_few_units_give_no_interval():
    two = Resampled(.4, figure().bootstrap, np.zeros(2), '2 scenes', 2)
    assert two.interval() == Interval(.4, None, None, '2 scenes')
    assert two.interval().text('.2f') == '0.40 (none: 2 scenes)'
    assert two.interval().includes(9) and not two.interval().above_zero
    assert interval(figure()).text('.1f') == '0.4 (0.3 to 0.5)'


def coverage(statistic, draw, truth, trials=500, units=60, groups=20):
    """How often the interval of a statistic of weighted units holds the truth."""
    held, group = 0, np.arange(units) % groups
    rng = np.random.default_rng(5)
    for _ in range(trials):
        data = draw(rng, units)
        weights = rng.multinomial(units, np.full(units, 1 / units), size=500)
        left = np.stack([group != g for g in range(groups)]).astype(int)
        found = Resampled(statistic(data, np.ones((1, units)))[0], statistic(data, weights),
                          statistic(data, left), f'{units} images', units).interval()
        held += found.low <= truth <= found.high
    return held / trials


def ratio(data, weights):
    """A ratio of sums, as IoU is, of skewed areas."""
    return weights @ data[0] / (weights @ data[1])


def test_intervals_of_a_ratio_of_sums_hold_the_truth_as_often_as_they_say():
    def draw(rng, units):
        union = rng.exponential(size=units)
        return union * rng.beta(2, 1, units), union

    assert .9 <= coverage(ratio, draw, 2 / 3) <= .98


def average_precisions(rng, images=40, classes=3, thresholds=2):
    """Of simulated images that differ in difficulty."""
    per_class = [[None] * images for _ in range(classes)]
    for i in range(images):
        ease = rng.normal()
        for records in per_class:
            hit = np.repeat([True, False], [objects := rng.poisson(.4), rng.poisson(1.5)])
            if not len(hit):
                continue
            scores = rng.normal(size=len(hit)) + 1.2 * hit + .4 * ease
            order = np.argsort(-scores)
            matched = np.array([hit & (rng.random(len(hit)) > .3 * t) for t in range(thresholds)])
            records[i] = dict(
                dtScores=scores[order], dtMatches=matched[:, order], gtIgnore=np.zeros(objects),
                dtIgnore=np.zeros(matched.shape))
    return CocoMatches(per_class, thresholds, np.linspace(0, 1, 101))


def test_the_interval_of_ap_holds_its_mean_over_other_images():
    """Resamples of AP lie above it by most of a standard error."""
    rng, images, count = np.random.default_rng(3), 40, 200
    figures = []
    for _ in range(120):
        figure_on = average_precisions(rng).average_precision
        draws = rng.multinomial(images, np.full(images, 1 / images), size=count)
        groups = [(np.arange(images) % 20 != g).astype(int) for g in range(20)]
        figures.append(Resampled(figure_on(np.ones(images, int)),
                                 np.array([figure_on(w) for w in draws]),
                                 np.array([figure_on(w) for w in groups]), '40 images', 40))
    mean = np.mean([figure.estimate for figure in figures])

    def held(ends):
        return np.mean([low <= mean <= high for low, high in map(ends, figures)])

    ours = held(lambda f: (f.interval().low, f.interval().high))
    assert .9 <= ours <= .99
    assert ours > held(lambda f: bca(f.estimate, f.bootstrap, f.jackknife)) + .04
    assert all(f.interval().low < f.estimate < f.interval().high for f in figures)


def test_the_clearly_worse_are_told_from_the_best_and_the_others_are_not():
    best = candidate(figure(.02, own=.01, seed=1))
    close = candidate(figure(.01, own=.01, seed=2))
    worse = candidate(figure(-.05, own=.01, seed=3))
    # Far inside the best's own interval, but worse on nearly every resample.
    held = figure(.02, own=.01, seed=1)
    always_worse = candidate(drawn(held.bootstrap - held.estimate, held.estimate - .005))
    unknown = candidate(None)
    assert interval(best.resampled).low < always_worse.resampled['estimate']
    assert within_noise([worse, close, unknown, best, always_worse], best) == [close, best]


def test_the_best_is_within_its_own_noise_and_without_resamples_nothing_is():
    best = candidate(figure())
    assert within_noise([best], best) == [best]
    assert within_noise([best], candidate(None)) == []


def test_a_better_one_is_told_from_the_best_as_well():
    best, better = candidate(figure()), candidate(figure(.1, own=.01))
    assert within_noise([better, best], best) == [best]
