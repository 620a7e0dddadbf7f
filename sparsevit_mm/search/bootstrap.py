"""How far a metric would vary over other images: its value on resamples of those it was scored on.

The resamples depend on the seed and the number of images alone, so those of two models can be
subtracted.
"""
import io
from contextlib import redirect_stdout

import numpy as np
from pycocotools.cocoeval import COCOeval

from .nuscenes_resampler import NDSResampler
from .records import AreaRecord, DetectionRecord


class BoxAPResampler:
    """Box AP (COCO, 0.50:0.95) of a CocoMetric, in [0, 1].

    Args:
        metric: The metric of the runner's evaluator.
    """

    def __init__(self, metric):
        self.metric, self.record = metric, DetectionRecord(metric)

    def __call__(self, resamples: int, seed: int = 0) -> np.ndarray:
        """(resamples,) float64, of the last evaluation; zeros where nothing was detected."""
        detections = self.record.detections['bbox']
        if not detections:
            return np.zeros(resamples)
        truth = self.metric._coco_api
        with redirect_stdout(io.StringIO()):  # pycocotools talks
            evaluation = COCOeval(truth, truth.loadRes(detections), 'bbox')
            evaluation.params.imgIds = self.metric.img_ids
            evaluation.params.catIds = self.metric.cat_ids
            evaluation.params.areaRng = evaluation.params.areaRng[:1]  # all sizes
            evaluation.params.areaRngLbl = ['all']
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
            return _resample_coco(evaluation, resamples, np.random.default_rng(seed))


def _resample_coco(evaluation: COCOeval, resamples: int, rng: np.random.Generator) -> np.ndarray:
    num_images = len(evaluation.params.imgIds)
    per_image = np.array(evaluation.evalImgs, dtype=object).reshape(-1, num_images)
    # COCOeval looks images up by position: positions may stand for any images, repeated too.
    evaluation.params.imgIds = evaluation._paramsEval.imgIds = list(range(num_images))
    values = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(num_images, size=num_images)
        evaluation.evalImgs = per_image[:, drawn].reshape(-1).tolist()
        evaluation.accumulate()
        precision = evaluation.eval['precision']
        values[i] = precision[precision > -1].mean()
    return values


class MeanIoUResampler:
    """mIoU of an IoUMetric, in [0, 100].

    Args:
        metric: The metric of the runner's evaluator.
    """

    def __init__(self, metric):
        self.record = AreaRecord(metric)

    def __call__(self, resamples: int, seed: int = 0) -> np.ndarray:
        """(resamples,) float64, of the last evaluation; classes that no image of a resample shows
        or is given are left out of its mean."""
        areas = self.record.areas[:2]
        num_images, rng = areas.shape[1], np.random.default_rng(seed)
        values = np.empty(resamples)
        for i in range(resamples):
            drawn = rng.integers(num_images, size=num_images)
            intersection, union = areas[:, drawn].sum(1)
            values[i] = 100 * np.mean(intersection[union > 0] / union[union > 0])
        return values


RESAMPLERS = {'CocoMetric': BoxAPResampler, 'IoUMetric': MeanIoUResampler,
              'NuScenesMetric': NDSResampler}
