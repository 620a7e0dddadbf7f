"""Configurations compared on the test split, with the evaluators of the toolkits."""
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import forget_experiments

from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.evaluation import bootstrap
from sparsevit_mm.evaluation.compare import Comparison
from sparsevit_mm.sparsity import SparsityConfig


class InOrder:
    """numpy, but that it draws every image once."""
    random = SimpleNamespace(default_rng=lambda seed: SimpleNamespace(
        integers=lambda number, size: np.arange(size)))

    def __getattr__(self, name):
        return getattr(np, name)


def compared(trained, work_dir):
    forget_experiments()  # this Runner's figures are not for the logs of the training
    cfg = load_config(str(trained.config))
    cfg.work_dir = str(work_dir)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    comparison = Comparison(cfg, str(trained.checkpoint), LatencySetting((64, 64)), 1)
    configs = {name: SparsityConfig(s, comparison.meter.backbone.depths)
               for name, s in (('dense', 0), ('sparse', .6))}
    return comparison.run(configs, 30)


@pytest.mark.parametrize('fixture, metric, rounding', [
    ('tiny', 'coco/bbox_mAP', 6e-4), ('tiny_seg', 'mIoU', 6e-3)])
def test_a_resample_of_each_image_once_is_the_evaluator_s_figure(
        fixture, metric, rounding, request, tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, 'np', InOrder())
    dense, sparse = compared(request.getfixturevalue(fixture), tmp_path)
    for row in (dense, sparse):
        assert np.ptp(row.resampled.bootstrap) == 0
        assert row.resampled.estimate == row.resampled.bootstrap[0]
        assert row.resampled.estimate == pytest.approx(row.metrics[metric], abs=rounding)
    assert dense.metrics != sparse.metrics and dense.macs > sparse.macs
    assert dense.difference(sparse).estimate == (
        dense.resampled.estimate - sparse.resampled.estimate)


def test_resamples_differ_and_are_of_the_same_images(tiny_seg, tmp_path):
    dense, sparse = compared(tiny_seg, tmp_path)
    assert dense.resampled.bootstrap.std() > 0
    # Of eight images there is no interval.
    for interval in (dense.interval, dense.difference(sparse)):
        assert not interval.known and interval.unit == '4 blocks of 2 consecutive frames'
