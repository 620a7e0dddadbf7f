"""NDS on resamples against the devkit's DetectionEval on the resampled frames themselves."""
from types import SimpleNamespace

import numpy as np
import pytest
from nuscenes_tables import CLASSES, evaluate, nuscenes_config, write_nuscenes

from sparsevit_mm.evaluation import bootstrap
from sparsevit_mm.evaluation.bootstrap import make_resampler
from sparsevit_mm.evaluation.metrics import default_metric
from sparsevit_mm.evaluation.nuscenes_resampler import FrameMatches

pytest.importorskip('nuscenes')

ABSENT = 'trailer'  # predicted, but never there
ATTRIBUTES = {'car': 'vehicle.moving', 'bus': 'vehicle.parked', 'pedestrian': 'pedestrian.moving'}


def random_boxes(seed, frames=6, objects=12, predictions=40):
    """The devkit's EvalBoxes, of objects and of predictions near them. Scores are often equal, the
    velocity and attribute of some objects are not known, and bicycles are never found."""
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox
    rng = np.random.default_rng(seed)
    truth, found = EvalBoxes(), EvalBoxes()

    def box(token, where, name, **more):
        return DetectionBox(
            token, (*where, 0.), tuple(rng.uniform(1, 5, 3)),
            tuple(rng.normal(size=4)), tuple(rng.normal(0, .3, 2)), detection_name=name,
            attribute_name=str(rng.choice([ATTRIBUTES.get(name, ''), ''])), **more)

    for i in range(frames):
        token = f'frame {i}'
        truth.add_boxes(token, [box(token, rng.uniform(-9, 9, 2), str(rng.choice(CLASSES)))
                                for _ in range(objects) if i])  # the first shows nothing
        truth.boxes[token] = [b for b in truth[token] if b.detection_name != ABSENT]
        for b in truth[token]:
            b.velocity = b.velocity if rng.random() < .8 else (np.nan, np.nan)
        near = [(rng.normal(b.translation[:2], 1.), b.detection_name)
                for b in truth[token] for _ in range(2)]
        near += [(rng.uniform(-9, 9, 2), str(rng.choice(CLASSES)))
                 for _ in range(predictions if i != 2 else 0)]  # in that frame hardly anything
        found.add_boxes(token, [box(token, *near[k], detection_score=float(rng.integers(1, 9)) / 8)
                                for k in rng.permutation(len(near)) if near[k][1] != 'bicycle'])
    return truth, found


def devkit(truth, found, frames):
    """DetectionEval's metrics on a list of frames, the repeated ones under names of their own."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.evaluate import DetectionEval
    evaluation = object.__new__(DetectionEval)
    evaluation.verbose, evaluation.cfg = False, config_factory('detection_cvpr_2019')
    evaluation.gt_boxes, evaluation.pred_boxes = EvalBoxes(), EvalBoxes()
    for position, i in enumerate(frames):
        token = found.sample_tokens[i]
        for source, target in ((truth, evaluation.gt_boxes), (found, evaluation.pred_boxes)):
            copies = [type(b)(**{**b.serialize(), 'sample_token': f'{position}'})
                      for b in source[token]]
            target.add_boxes(f'{position}', copies)
    return evaluation.evaluate()[0]


def figures(metrics):
    content = metrics.serialize()
    return {**{f'{name} {at}': value for part in ('label_aps', 'label_tp_errors')
               for name, row in content[part].items() for at, value in row.items()},
            **content['tp_errors'], 'NDS': content['nd_score'], 'mAP': content['mean_ap']}


@pytest.mark.parametrize('seed', range(4))
def test_each_frame_once_gives_the_devkit_s_figures(seed):
    from nuscenes.eval.common.config import config_factory
    truth, found = random_boxes(seed)
    ours = figures(FrameMatches(truth, found, config_factory('detection_cvpr_2019')).metrics(
        np.ones(6, int)))
    theirs = figures(devkit(truth, found, range(6)))
    assert ours == pytest.approx(theirs, abs=1e-12, nan_ok=True)
    assert ours[f'{ABSENT} 2.0'] == 0 and ours['car 4.0'] > 0
    assert np.isnan(ours['traffic_cone orient_err']) and ours['barrier orient_err'] > 0
    assert .05 < ours['NDS'] < .9


@pytest.mark.parametrize('frames', [
    [3, 3, 3, 3, 3, 3], [5, 1, 4, 1, 5, 2], [0, 2, 0, 2, 0, 2], [0, 0], [4, 3, 2, 1, 0]])
def test_repeated_frames_count_as_often_as_they_are_there(frames):
    from nuscenes.eval.common.config import config_factory
    truth, found = random_boxes(7)
    for i, box in enumerate(found.all):  # of equal ones the devkit's order is that of the copies
        box.detection_score += 1e-6 * i
    matches = FrameMatches(truth, found, config_factory('detection_cvpr_2019'))
    assert figures(matches.metrics(np.bincount(frames, minlength=6))) == pytest.approx(
        figures(devkit(truth, found, frames)), abs=1e-12, nan_ok=True)


def test_equal_scores_are_taken_in_the_devkit_s_order():
    """With one score for all, the figures hang on the order alone."""
    from nuscenes.eval.common.config import config_factory
    truth, found = random_boxes(3)
    for box in found.all:
        box.detection_score = .5
    matches = FrameMatches(truth, found, config_factory('detection_cvpr_2019'))
    ours = figures(matches.metrics(np.ones(6, int)))
    assert ours == pytest.approx(figures(devkit(truth, found, range(6))), nan_ok=True)
    reverse = figures(devkit(truth, found, [5, 4, 3, 2, 1, 0]))
    assert ours['mAP'] != pytest.approx(reverse['mAP'], abs=1e-4)


@pytest.fixture(scope='module')
def cfg(tmp_path_factory):
    return nuscenes_config(write_nuscenes(tmp_path_factory.mktemp('nuscenes') / 'data'))


def build(cfg):
    from mmengine.registry import METRICS, init_default_scope
    init_default_scope('mmdet3d')
    metric = METRICS.build(cfg.val_evaluator)
    return metric, make_resampler(metric, default_metric(cfg))


class InOrder:
    """numpy, but that it draws every frame once."""
    random = SimpleNamespace(default_rng=lambda seed: SimpleNamespace(
        integers=lambda number, size: np.arange(size)))

    def __getattr__(self, name):
        return getattr(np, name)


def test_a_resample_of_each_frame_once_is_the_metric_s_figure(cfg, monkeypatch):
    pytest.importorskip('mmdet3d')
    metric, resample = build(cfg)
    _, metrics = evaluate(cfg, metric=metric)
    values = resample(20, seed=3).bootstrap
    assert values.std() > .001 and values.mean() == pytest.approx(
        metrics[default_metric(cfg)], abs=.1)
    np.testing.assert_array_equal(values, resample(20, seed=3).bootstrap)
    assert not np.allclose(values, resample(20, seed=4).bootstrap)
    of_map = make_resampler(metric, default_metric(cfg).replace('NDS', 'mAP'))
    monkeypatch.setattr(bootstrap, 'np', InOrder())
    _, metrics = evaluate(cfg, metric=metric)
    for resampler, key in ((resample, 'NDS'), (of_map, 'mAP')):
        np.testing.assert_allclose(
            resampler(2).bootstrap, metrics[default_metric(cfg).replace('NDS', key)], rtol=0,
            atol=1e-9)
