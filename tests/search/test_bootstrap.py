"""Resampled metrics against the evaluators' own."""
import numpy as np
import pytest
import torch

from sparsevit_mm.search.bootstrap import MeanIoUResampler


class Areas:
    """Stands for IoUMetric: results are (intersection, union, prediction, label) by class."""

    def compute_metrics(self, results):
        self.seen = len(results)
        return dict(mIoU=1.)


def areas(intersection, union):
    i, u = torch.tensor(intersection), torch.tensor(union)
    return i, u, u, u


def test_equal_images_give_their_own_figure_in_every_resample():
    metric = Areas()
    resample = MeanIoUResampler(metric)
    assert metric.compute_metrics([areas([2., 0., 3.], [4., 0., 3.])] * 5) == dict(mIoU=1.)
    assert metric.seen == 5
    np.testing.assert_allclose(resample(20), 75.)  # the absent class is left out


def test_resamples_depend_on_seed_and_images_alone():
    metrics = [Areas(), Areas()]
    resamplers = [MeanIoUResampler(m) for m in metrics]
    rng = np.random.default_rng(0)
    worse = rng.random((30, 2))
    for metric, gain in zip(metrics, (0., .5)):
        metric.compute_metrics([areas((10 * w + gain).tolist(), [20., 20.]) for w in worse])
    one, other = (r(200, seed=3) for r in resamplers)
    np.testing.assert_allclose(other - one, 2.5)  # the same images in each, so the gain is bare
    assert one.std() > .5
    assert not np.allclose(one, resamplers[0](200, seed=4))


@pytest.mark.parametrize('count', [5, 40])
def test_resamples_scatter_about_the_figure_of_all_images(count):
    metric = Areas()
    resample = MeanIoUResampler(metric)
    scores = np.random.default_rng(1).random(count)
    metric.compute_metrics([areas([float(s)], [1.]) for s in scores])
    values = resample(400)
    assert values.mean() == pytest.approx(100 * scores.mean(), abs=3)
    assert values.std() == pytest.approx(100 * scores.std() / count**.5, rel=.2)
