"""What a search maximises."""
import math
import re
from typing import Dict, Optional

from mmengine.config import Config

from ..config.reading import is_type

Metrics = Dict[str, Optional[float]]

# The figure a paper would report, by evaluator.
_METRICS = {
    'CocoMetric': 'coco/bbox_mAP',
    'IoUMetric': 'mIoU',
    'CityscapesMetric': 'averageScoreCategories',  # IoU by category: of classes it gives none
    'NuScenesMetric': 'NuScenes metric/pred_instances_3d_NuScenes/NDS',
}
_NEVER_NEGATIVE = re.compile(r'AP|AR@')


def objective(metrics: Metrics, metric: str) -> float:
    """The figure under a key. Evaluators of detection give none where nothing was detected, which
    counts as 0; NaN, or None in its place as JSON holds it, stays NaN."""
    value = metrics.get(metric, 0.)
    return math.nan if value is None else float(value)


def default_metric(cfg: Config) -> str:
    """The usual metric of the config's val evaluator. Raises ValueError if it has none here."""
    evaluators = cfg.val_evaluator
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    for evaluator in evaluators:
        for name, metric in _METRICS.items():
            if is_type(evaluator, name):
                return metric
    raise ValueError(f'--metric is needed: {[e.get("type") for e in evaluators]} has no default')


def check_metric(metrics: Metrics, metric: str) -> None:
    """Raises ValueError if the dense model's metrics lack the objective, listing what there is, or
    if it is undefined: NaN, or pycocotools' -1 (no object of a size, say)."""
    if not metrics:
        raise ValueError('the dense model detects nothing, so the evaluator gives no metric: '
                         'is this the right checkpoint?')
    if metric not in metrics:
        raise ValueError(f'the evaluator gives no {metric!r}; it gives {", ".join(metrics)}')
    if metrics[metric] != metrics[metric]:
        raise ValueError(f'{metric} of the dense model is NaN: nothing can be compared with it')
    if metrics[metric] < 0 and _NEVER_NEGATIVE.search(metric):
        raise ValueError(f'{metric} is {metrics[metric]:g}, undefined: the data hold no object '
                         f'that it counts')
