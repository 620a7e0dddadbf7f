"""Objective of a search, and the metric keys that an evaluator reports."""
import math
import re
from typing import Callable, Dict, List, Optional, Sequence, Set

from mmengine.config import Config
from mmengine.evaluator import BaseMetric

from ..config.reading import is_type

Metrics = Dict[str, Optional[float]]

_IOU = {'mIoU': ('IoU', 'Acc'), 'mDice': ('Dice', 'Acc'),
        'mFscore': ('Fscore', 'Precision', 'Recall')}
# The metric usually reported in papers, for each evaluator.
_METRICS = {
    'CocoMetric': 'coco/bbox_mAP',
    'IoUMetric': 'mIoU',
    'CityscapesMetric': 'averageScoreCategories',  # mean IoU of categories; not given for classes
    'NuScenesMetric': 'NuScenes metric/pred_instances_3d_NuScenes/NDS',
    'Accuracy': 'accuracy/top1',
}
_NEVER_NEGATIVE = re.compile(r'AP|AR@')


def objective(metrics: Metrics, metric: str) -> float:
    """Return the value of a metric. A missing key counts as 0, since detection evaluators report
    no metrics if nothing was detected. NaN, or None as stored in JSON, gives NaN."""
    value = metrics.get(metric, 0.)
    return math.nan if value is None else float(value)


def default_metric(cfg: Config) -> str:
    """Return the default metric of the config's val evaluator.

    Raises:
        ValueError: If the evaluator has no default.
    """
    evaluators = cfg.val_evaluator
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    for evaluator in evaluators:
        for name, metric in _METRICS.items():
            if is_type(evaluator, name):
                return metric
    raise ValueError(f'--metric is required: there is no default for '
                     f'{[e.get("type") for e in evaluators]}')


def check_metric(metrics: Metrics, metric: str) -> None:
    """Check the objective in the dense model's metrics.

    Raises:
        ValueError: If it is missing (the message lists the available metrics) or undefined: NaN, or
            -1 from pycocotools, for example if there is no object of a size.
    """
    if not metrics:
        raise ValueError('the dense model detects nothing, so the evaluator reports no metrics: '
                         'is this the right checkpoint?')
    if metric not in metrics:
        raise ValueError(f'the evaluator reports no {metric!r}, only {", ".join(metrics)}')
    if metrics[metric] != metrics[metric]:
        raise ValueError(f'{metric} of the dense model is NaN, so it can not serve as a baseline')
    if metrics[metric] < 0 and _NEVER_NEGATIVE.search(metric):
        raise ValueError(f'{metric} is {metrics[metric]:g}, which means undefined: the data '
                         f'contain no object that it counts')


def check_key(metrics: Sequence[BaseMetric], key: str,
              first_batch: Callable[[], Dict[str, float]]) -> None:
    """Check that an evaluator reports a key before it evaluates anything, so that a misspelt
    objective fails early.

    Args:
        metrics: Metrics of the evaluator.
        key: Key of the objective, with the prefix of its metric.
        first_batch: Function that evaluates one batch and returns the metrics. Called only if the
            keys of a metric are unknown.

    Raises:
        ValueError: If it does not. The message lists the keys that it reports.
    """
    given: Set[str] = set()
    for metric in metrics:
        keys = known_keys(metric)
        if keys is None:
            break
        given |= {f'{metric.prefix}/{k}' if metric.prefix else k for k in keys}
    else:
        if key not in given:
            raise ValueError(f'the evaluator reports no {key!r}, only '
                             f'{", ".join(sorted(given))}')
        return
    seen = first_batch()
    if seen and key not in seen:  # a detector may find nothing on one batch
        raise ValueError(f'the evaluator reports no {key!r}, only {", ".join(seen)}')


def known_keys(metric: BaseMetric) -> Optional[List[str]]:
    """Return the keys of a metric without its prefix, or None if they are unknown.

    Known are mmdet's CocoMetric, mmseg's IoUMetric and CityscapesMetric, mmdet3d's NuScenesMetric
    and mmpretrain's Accuracy, except with options that add further keys.
    """
    make = _KEYS.get(type(metric).__name__)
    return make(metric) if make else None


def _coco(metric: BaseMetric) -> Optional[List[str]]:
    if metric.classwise or any(m not in ('bbox', 'segm') for m in metric.metrics):
        return None
    items = metric.metric_items or ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
    return [f'{kind}_{item}' for kind in metric.metrics for item in items]


def _iou(metric: BaseMetric) -> List[str]:
    return ['aAcc', *(f'm{name}' for kind in metric.metrics for name in _IOU[kind])]


def _cityscapes(metric: BaseMetric) -> List[str]:
    return ['averageScoreCategories', 'averageScoreInstCategories']


def _nuscenes(metric: BaseMetric) -> Optional[List[str]]:
    classes = (metric.dataset_meta or {}).get('classes')
    if not classes:
        return None
    errors = ['trans_err', 'scale_err', 'orient_err', 'vel_err', 'attr_err']
    of_class = [f'{name}_{figure}' for name in classes for figure in (
        *(f'AP_dist_{d}' for d in ('0.5', '1.0', '2.0', '4.0')), *errors)]
    means = ['NDS', 'mAP', 'mATE', 'mASE', 'mAOE', 'mAVE', 'mAAE']
    return [f'pred_instances_3d_NuScenes/{name}' for name in (*means, *of_class)]


def _accuracy(metric: BaseMetric) -> Optional[List[str]]:
    return [f'top{k}' for k in metric.topk] if len(metric.thrs) == 1 else None


_KEYS: Dict[str, Callable[[BaseMetric], Optional[List[str]]]] = {
    'CocoMetric': _coco, 'IoUMetric': _iou, 'CityscapesMetric': _cityscapes,
    'NuScenesMetric': _nuscenes, 'Accuracy': _accuracy}
