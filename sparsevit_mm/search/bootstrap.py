"""How far a metric would vary over other images: its value on resamples of those it was scored on.

Each class here watches one evaluator and keeps what it learned of every image. The resamples depend
on the seed and the number of images alone, so those of two models can be subtracted.
"""
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval


class BoxAPResampler:
    """Box AP (COCO, 0.50:0.95) of a CocoMetric, in [0, 1].

    Args:
        metric: The metric of the runner's evaluator.
    """

    def __init__(self, metric):
        self.metric, compute = metric, metric.compute_metrics
        self.detections = []

        def keep_detections(results):
            with TemporaryDirectory() as folder:
                metric.outfile_prefix = f'{folder}/detections'
                metrics = compute(results)
                self.detections = json.loads(Path(f'{folder}/detections.bbox.json').read_text())
            return metrics

        metric.compute_metrics = keep_detections

    def __call__(self, resamples: int, seed: int = 0) -> np.ndarray:
        """(resamples,) float64, of the last evaluation; zeros where nothing was detected."""
        if not self.detections:
            return np.zeros(resamples)
        truth = self.metric._coco_api
        with redirect_stdout(io.StringIO()):  # pycocotools talks
            evaluation = COCOeval(truth, truth.loadRes(self.detections), 'bbox')
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
        compute = metric.compute_metrics

        def keep_areas(results):
            intersection, union = ([image[i] for image in results] for i in (0, 1))
            self.areas = torch.stack([torch.stack(intersection), torch.stack(union)]).double()
            return compute(results)

        metric.compute_metrics = keep_areas

    def __call__(self, resamples: int, seed: int = 0) -> np.ndarray:
        """(resamples,) float64, of the last evaluation; classes that no image of a resample shows
        or is given are left out of its mean."""
        areas = self.areas.numpy()
        num_images, rng = areas.shape[1], np.random.default_rng(seed)
        values = np.empty(resamples)
        for i in range(resamples):
            drawn = rng.integers(num_images, size=num_images)
            intersection, union = areas[:, drawn].sum(1)
            values[i] = 100 * np.mean(intersection[union > 0] / union[union > 0])
        return values


RESAMPLERS = {'CocoMetric': BoxAPResampler, 'IoUMetric': MeanIoUResampler}
