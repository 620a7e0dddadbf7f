"""Which keys an evaluator gives, told before it has evaluated anything: a misspelt objective should
cost a second, not an evaluation."""
from typing import Callable, Dict, List, Optional, Sequence, Set

from mmengine.evaluator import BaseMetric

_IOU = {'mIoU': ('IoU', 'Acc'), 'mDice': ('Dice', 'Acc'),
        'mFscore': ('Fscore', 'Precision', 'Recall')}


def check_key(metrics: Sequence[BaseMetric], key: str,
              first_batch: Callable[[], Dict[str, float]]) -> None:
    """Makes sure that an evaluator gives a key.

    Args:
        metrics: Of the evaluator.
        key: Of the objective, with the prefix of its metric.
        first_batch: Gives what the evaluator says of one batch, for metrics that are not known;
            asked only then.

    Raises:
        ValueError: It does not; lists what it gives.
    """
    given: Set[str] = set()
    for metric in metrics:
        keys = known_keys(metric)
        if keys is None:
            break
        given |= {f'{metric.prefix}/{k}' if metric.prefix else k for k in keys}
    else:
        if key not in given:
            raise ValueError(f'the evaluator gives no {key!r}; it gives '
                             f'{", ".join(sorted(given))}')
        return
    seen = first_batch()
    if seen and key not in seen:  # a detector may find nothing on one batch
        raise ValueError(f'the evaluator gives no {key!r}; it gives {", ".join(seen)}')


def known_keys(metric: BaseMetric) -> Optional[List[str]]:
    """The keys of mmdet's CocoMetric, mmseg's IoUMetric and CityscapesMetric, and mmdet3d's
    NuScenesMetric, without prefix; None of other metrics, and where options add further keys."""
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


_KEYS: Dict[str, Callable[[BaseMetric], Optional[List[str]]]] = {
    'CocoMetric': _coco, 'IoUMetric': _iou, 'CityscapesMetric': _cityscapes,
    'NuScenesMetric': _nuscenes}
