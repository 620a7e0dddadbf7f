"""A misspelt metric is told before anything is evaluated."""
import pytest
from helpers import ToyMetric
from mmdet.evaluation import CocoMetric
from mmseg.evaluation import CityscapesMetric, IoUMetric

from sparsevit_mm.evaluation.metrics import check_key, known_keys


def never():
    raise AssertionError('nothing needs to be evaluated')


def coco(**changes):
    return CocoMetric(**{**dict(metric=['bbox', 'segm']), **changes})


@pytest.mark.parametrize('metric, key', [
    (coco(), 'coco/segm_mAP_75'), (coco(prefix='val'), 'val/bbox_mAP'),
    (coco(metric_items=['mAP_50', 'AR@100']), 'coco/bbox_AR@100'),
    (IoUMetric(), 'mIoU'), (IoUMetric(iou_metrics=['mFscore']), 'mPrecision')])
def test_what_an_evaluator_gives_is_taken(metric, key):
    check_key([metric], key, never)


@pytest.mark.parametrize('metric, key, listed', [
    (coco(), 'coco/box_mAP', 'coco/bbox_mAP'), (coco(metric='bbox'), 'coco/segm_mAP', '_mAP_s'),
    (IoUMetric(), 'mDice', 'mIoU'), (IoUMetric(), 'miou', 'aAcc')])
def test_what_it_does_not_give_is_refused_with_what_it_gives(metric, key, listed):
    with pytest.raises(ValueError, match=f"'{key}', .*{listed}"):
        check_key([metric], key, never)


def test_of_several_metrics_each_counts():
    check_key([IoUMetric(), coco()], 'coco/bbox_mAP', never)
    check_key([IoUMetric(), coco()], 'mIoU', never)


def test_where_keys_are_not_known_one_batch_tells():
    assert known_keys(ToyMetric()) is None is known_keys(coco(classwise=True))
    check_key([ToyMetric()], 'toy/output', lambda: {'toy/output': 1.})
    check_key([coco(classwise=True)], 'coco/bbox_mAP', dict)  # nothing detected there
    with pytest.raises(ValueError, match="'toy/outptu', .*toy/output"):
        check_key([ToyMetric()], 'toy/outptu', lambda: {'toy/output': 1.})


def test_cityscapes_gives_what_its_class_returns(tmp_path):
    assert 'averageScoreCategories' in known_keys(CityscapesMetric(output_dir=str(tmp_path)))
