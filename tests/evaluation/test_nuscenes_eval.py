"""mmdet3d's NuScenesMetric where a model predicts what the devkit stops at."""
import io
import math
from contextlib import redirect_stdout
from unittest.mock import patch

import mmengine
import numpy as np
import pytest
import torch
from helpers import ToyDataset, ToyModel, toy_config
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from nuscenes_tables import CLASSES, evaluate, guess, nuscenes_config, write_nuscenes

from sparsevit_mm.evaluation.bootstrap import make_resampler
from sparsevit_mm.evaluation.evaluator import Evaluator
from sparsevit_mm.evaluation.metrics import default_metric
from sparsevit_mm.evaluation.nuscenes_eval import accept_any_predictions

pytest.importorskip('mmdet3d')
pytest.importorskip('nuscenes')


@pytest.fixture(scope='module')
def cfg(tmp_path_factory):
    return nuscenes_config(write_nuscenes(tmp_path_factory.mktemp('nuscenes') / 'data'))


def build(cfg):
    init_default_scope('mmdet3d')
    return METRICS.build(cfg.val_evaluator)


@pytest.fixture
def metric(cfg):
    metric = build(cfg)
    accept_any_predictions(metric)
    return metric


def nothing(token):
    return guess(token, 0)


def far_away(token):
    """No box is within the range that is scored."""
    boxes = guess(token, 2)
    boxes['bboxes_3d'].translate([500., 0., 0.])
    return boxes


def with_nan(column):
    def predict(token):
        boxes = guess(token, 4)
        boxes['bboxes_3d'].tensor[1, column] = math.nan
        return boxes

    return predict


@pytest.mark.parametrize('predict', [nothing, far_away])
def test_no_box_at_all_gives_no_metrics_and_a_bootstrap_of_zeros(cfg, metric, predict):
    with pytest.raises(Exception, match='Invalid box type'):
        evaluate(cfg, predict, build(cfg))
    resample = make_resampler(metric, default_metric(cfg))
    assert evaluate(cfg, predict, metric)[1] == {}
    np.testing.assert_array_equal(resample(3).bootstrap, np.zeros(3))
    usual = evaluate(cfg, metric=metric)[1]  # nothing is left behind for the next candidate
    assert usual == pytest.approx(evaluate(cfg)[1], abs=0, nan_ok=True)
    assert usual[default_metric(cfg)] > .1 and resample(3).bootstrap.all()


def test_frames_without_a_box_among_others_are_scored_as_ever(cfg, metric):
    def predict(token):
        return guess(token, 10 if '0103' in token else 0)

    assert evaluate(cfg, predict, metric)[1] == pytest.approx(
        evaluate(cfg, predict)[1], abs=0, nan_ok=True)


@pytest.mark.parametrize('column', [0, 3, 6])
def test_nan_in_a_box_gives_nan(cfg, metric, column):
    """Centre, size, yaw."""
    assert math.isnan(evaluate(cfg, with_nan(column), metric)[1][default_metric(cfg)])


def test_nan_in_a_velocity_is_left_to_the_devkit(cfg, metric):
    value = evaluate(cfg, with_nan(7), metric)[1][default_metric(cfg)]
    assert 0 < value < 1


def test_console_is_left_alone(cfg, metric, capfd):
    """mmengine's progress bar writes where the console was when it was imported."""
    bar = mmengine.track_iter_progress
    with redirect_stdout(io.StringIO()), patch.object(
            bar, '__defaults__', (bar.__defaults__[0], open(1, 'w', closefd=False))):
        evaluate(cfg, lambda token: guess(token, 1), metric)
    assert 'task/s' not in ''.join(capfd.readouterr())


def test_too_many_boxes_in_a_frame_are_an_error_that_says_so(cfg, metric):
    def predict(token):
        boxes = guess(token, 1)
        for key, value in boxes.items():
            boxes[key] = value[[0] * (501 if token == 'scene-0103 2' else 1)]
        return boxes

    with pytest.raises(ValueError, match='devkit .*<= 500 boxes'):
        evaluate(cfg, predict, metric)


def test_other_failures_stay_what_they_are(cfg, metric):
    metric.ann_file = '/nowhere.pkl'
    with pytest.raises(FileNotFoundError, match='nowhere.pkl'):
        evaluate(cfg, lambda token: guess(token, 1), metric)


@DATASETS.register_module()
class NumberedFrames(ToyDataset):
    metainfo = dict(classes=CLASSES, version='v1.0-mini')

    def __getitem__(self, idx):
        return dict(inputs=torch.full((3, 16, 16), float(idx)))


@MODELS.register_module()
class SeesWhenDense(ToyModel):
    tokens = None

    def forward(self, inputs, mode='tensor'):
        number = 0 if self.backbone.sparsity.mean else 15
        return [dict(sample_idx=int(i), pred_instances={},
                     pred_instances_3d=guess(self.tokens[int(i)], number))
                for i in inputs[:, 0, 0, 0]]


def test_the_search_s_evaluator_takes_a_model_that_sees_nothing(cfg, tmp_path, monkeypatch):
    toy = toy_config(tmp_path, val_evaluator=dict(cfg.val_evaluator, type='mmdet3d.NuScenesMetric'))
    toy.model.type, toy.val_dataloader.dataset.type = 'SeesWhenDense', 'NumberedFrames'
    torch.save(dict(state_dict=ToyModel(toy.model.backbone).state_dict()), tmp_path / 'toy.pth')
    tokens, expected = evaluate(cfg)
    monkeypatch.setattr(SeesWhenDense, 'tokens', tokens)
    evaluator = Evaluator(toy, str(tmp_path / 'toy.pth'))
    for _ in range(2):
        assert evaluator.evaluate(0.) == pytest.approx(expected, nan_ok=True)
        assert evaluator.evaluate(.5) == {}
