"""Bootstrap of a metric over the images of an evaluation.

The resamples depend only on the seed and the units, so the values of two models can be subtracted.
"""
import time
from functools import partial
from typing import Callable, Optional, Sequence

import numpy as np

from .capture import AreaRecord, EvaluationRecord, HitRecord
from .coco_resampler import read_matches
from .intervals import Resampled
from .nuscenes_resampler import read_frames
from .units import find_units, frames_of_files

RESAMPLES = 1000
FEWEST_RESAMPLES = 100  # drawn regardless of the time limit
GROUPS = 50  # of the jackknife; their number changes the acceleration by less than .01


class Resampler:
    """Resampler of an objective over the images of the last evaluation.

    Args:
        matches: Function that returns the per-image results of the last evaluation, None if
            nothing was detected. They have `num_images`, `frames` (see :mod:`.units`; None if
            unknown) and `sequence`, the name of a sequence.
        figure: Function that computes the objective from these results and (num_images,) int
            weights, how often each image was drawn.
    """

    def __init__(self, matches: Callable, figure: Callable):
        self._matches, self._figure = matches, figure

    def __call__(self, resamples: int = RESAMPLES, seed: int = 0,
                 block: Optional[int] = None, seconds: Optional[float] = None) -> Resampled:
        """Draw resamples of scenes, blocks of frames or images.

        Args:
            resamples: Number of resamples; intervals need about 1000.
            seed: Seed of the draws.
            block: See :func:`~.units.find_units`.
            seconds: Time limit, after which drawing stops as soon as there are 100 resamples. These
                are the first of those that would be drawn without a limit.

        Returns:
            The objective; constantly 0 if nothing was detected.
        """
        matches = self._matches()
        if matches is None:
            return Resampled.constant(0., resamples)
        start = time.perf_counter()
        units = find_units(matches.num_images, matches.frames, block, matches.sequence)
        rng, number = np.random.default_rng(seed), units.number

        def figure(of_unit: np.ndarray) -> float:
            return self._figure(matches, of_unit[units.of_image])

        bootstrap = []
        while len(bootstrap) < resamples and not (
                seconds is not None and len(bootstrap) >= FEWEST_RESAMPLES
                and time.perf_counter() - start > seconds):
            drawn = np.bincount(rng.integers(number, size=number), minlength=number)
            bootstrap.append(figure(drawn))
        group = np.arange(number) % GROUPS
        jackknife = np.array([figure((group != g).astype(int))
                              for g in range(min(number, GROUPS))]) if number > 1 else np.zeros(0)
        return Resampled(figure(np.ones(number, int)), np.array(bootstrap), jackknife, units.text,
                         number)


def make_resampler(metric, objective: str,
                   paths: Optional[Callable[[], Sequence[str]]] = None) -> Optional[Resampler]:
    """Create a resampler that computes the objective exactly as the metric does.

    Supported are box and mask AP of CocoMetric and NDS and mAP of NuScenesMetric, in [0, 1], and
    mIoU of IoUMetric and top-1 and top-5 accuracy of mmpretrain's Accuracy (with one threshold),
    in [0, 100].

    Args:
        metric: Metric of a runner's evaluator. Its evaluations are recorded from now on; in a
            distributed run only the main process has the results.
        objective: Key in the evaluator's metrics, such as 'coco/bbox_mAP'.
        paths: Function that returns the paths of the images in evaluation order, see
            :attr:`~.evaluator.Evaluation.image_paths`. IoUMetric needs them to identify sequences;
            without them it draws single images, as Accuracy always does.

    Returns:
        The resampler; None if the metric or objective is not supported.
    """
    name, prefix = type(metric).__name__, metric.prefix
    for (kind, key), make in _OBJECTIVES.items():
        if (kind, f'{prefix}/{key}' if prefix else key) == (name, objective):
            return make(metric, paths)
    return None


def _average_precision(kind: str, metric, _) -> Resampler:
    from pycocotools.cocoeval import COCOeval
    record = EvaluationRecord(metric, COCOeval, 'accumulate', partial(read_matches, kind=kind))
    return Resampler(lambda: record.kept, lambda matches, weights:
                     matches.average_precision(weights))


def _nuscenes(figure: str, metric, _) -> Resampler:
    from nuscenes.eval.detection.evaluate import DetectionEval
    record = EvaluationRecord(metric, DetectionEval, 'evaluate', read_frames)
    return Resampler(lambda: record.kept, lambda matches, weights:
                     getattr(matches.metrics(weights), figure))


def _mean_iou(metric, paths) -> Resampler:
    record = AreaRecord(metric)
    return Resampler(lambda: Areas(record.areas[:2], metric.nan_to_num, paths), Areas.mean_iou)


def _top(k: int, metric, _) -> Optional[Resampler]:
    if len(metric.thrs) > 1:
        return None
    record = HitRecord(metric, k)
    return Resampler(lambda: _Hits(record.hits), lambda hits, weights:
                     100 * float(weights @ hits.hits) / float(weights.sum()))


class _Hits:
    """Hits, (images,) bool. The images belong to no sequences."""
    sequence, frames = 'sequence', None

    def __init__(self, hits: np.ndarray):
        self.hits, self.num_images = hits, len(hits)


class Areas:
    """Per-image areas of an IoUMetric.

    Args:
        areas: (2, images, classes), intersection and union.
        missing: IoU of a class with an empty union; None to leave it out of the mean.
        paths: Function that returns the paths of the images; None if unknown.
    """
    sequence = 'sequence'

    def __init__(self, areas: np.ndarray, missing: Optional[float], paths: Optional[Callable]):
        self.areas, self.missing, self.num_images = areas, missing, areas.shape[1]
        names = paths() if paths else ()
        self.frames = frames_of_files(names) if len(names) == self.num_images else None

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
    ('Accuracy', 'top1'): partial(_top, 1),
    ('Accuracy', 'top5'): partial(_top, 5),
    ('NuScenesMetric', 'pred_instances_3d_NuScenes/NDS'): partial(_nuscenes, 'nd_score'),
    ('NuScenesMetric', 'pred_instances_3d_NuScenes/mAP'): partial(_nuscenes, 'mean_ap'),
}
