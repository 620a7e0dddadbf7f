"""How far a metric would vary over other images: its value on resamples of those it was scored on.

The resamples depend on the seed and the number of images alone, so those of two models can be
subtracted.
"""
from functools import partial
from typing import Callable, Optional

import numpy as np

from .capture import AreaRecord, EvaluationRecord
from .coco_resampler import read_matches
from .nuscenes_resampler import read_frames


class Resampler:
    """An objective on bootstrap resamples of the images of the last evaluation.

    Args:
        matches: () -> what is known of each image, with `num_images`; None where nothing was
            detected.
        figure: Of that and (num_images,) int weights, how often each image was drawn -> the
            objective.
    """

    def __init__(self, matches: Callable, figure: Callable):
        self._matches, self._figure = matches, figure

    def __call__(self, resamples: int, seed: int = 0, block: int = 1) -> np.ndarray:
        """(resamples,) float64; zeros where nothing was detected. Draws blocks of so many
        consecutive images, the last perhaps of fewer: frames of a video resemble each other."""
        matches = self._matches()
        if matches is None:
            return np.zeros(resamples)
        rng, block_of = np.random.default_rng(seed), np.arange(matches.num_images) // block
        number = block_of[-1] + 1
        return np.array([
            self._figure(matches, np.bincount(rng.integers(number, size=number),
                                              minlength=number)[block_of])
            for _ in range(resamples)])


def make_resampler(metric, objective: str) -> Optional[Resampler]:
    """What gives resamples of exactly the objective after each evaluation; None if there is no
    such thing for this metric and objective.

    There is for box and mask AP of CocoMetric and for NDS and mAP of NuScenesMetric, in [0, 1],
    and for mIoU of IoUMetric, in [0, 100].

    Args:
        metric: The metric of a runner's evaluator; it is watched from now on. Where several
            processes evaluate, that of the main process alone has the images.
        objective: Key of a figure that the evaluator gives, like 'coco/bbox_mAP'.
    """
    name, prefix = type(metric).__name__, metric.prefix
    for (kind, key), make in _OBJECTIVES.items():
        if (kind, f'{prefix}/{key}' if prefix else key) == (name, objective):
            return make(metric)
    return None


def _average_precision(kind: str, metric) -> Resampler:
    from pycocotools.cocoeval import COCOeval
    record = EvaluationRecord(metric, COCOeval, 'accumulate', partial(read_matches, kind=kind))
    return Resampler(lambda: record.kept, lambda matches, weights:
                     matches.average_precision(weights))


def _nuscenes(figure: str, metric) -> Resampler:
    from nuscenes.eval.detection.evaluate import DetectionEval
    record = EvaluationRecord(metric, DetectionEval, 'evaluate', read_frames)
    return Resampler(lambda: record.kept, lambda matches, weights:
                     getattr(matches.metrics(weights), figure))


def _mean_iou(metric) -> Resampler:
    record = AreaRecord(metric)
    return Resampler(lambda: _Areas(record.areas[:2], metric.nan_to_num), _Areas.mean_iou)


class _Areas:
    """Intersection and union, (2, images, classes); the IoU of a class that has neither, None to
    leave it out."""

    def __init__(self, areas: np.ndarray, missing: Optional[float]):
        self.areas, self.missing, self.num_images = areas, missing, areas.shape[1]

    def mean_iou(self, weights: np.ndarray) -> float:
        intersection, union = weights @ self.areas
        there = union > 0
        ious = intersection[there] / union[there]
        if self.missing is not None:
            ious = np.append(ious, np.full(np.count_nonzero(~there), self.missing))
        return 100 * float(ious.mean()) if len(ious) else 0.


_OBJECTIVES = {
    ('CocoMetric', 'bbox_mAP'): partial(_average_precision, 'bbox'),
    ('CocoMetric', 'segm_mAP'): partial(_average_precision, 'segm'),
    ('IoUMetric', 'mIoU'): _mean_iou,
    ('NuScenesMetric', 'pred_instances_3d_NuScenes/NDS'): partial(_nuscenes, 'nd_score'),
    ('NuScenesMetric', 'pred_instances_3d_NuScenes/mAP'): partial(_nuscenes, 'mean_ap'),
}
