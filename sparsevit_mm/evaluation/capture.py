"""Recorders of the per-image results that an evaluator does not return.

Each class records the last evaluation of one metric of a runner's evaluator.
"""
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch

from ..compat import replaced


class EvaluationRecord:
    """Recorder of the evaluation toolkit that a metric runs internally.

    Args:
        metric: The metric.
        toolkit: Class of the toolkit's evaluation, such as pycocotools' COCOeval.
        method: Name of its method that the metric calls once all images are matched.
        keep: Function that extracts the results from an evaluation object; None to ignore it.

    Attributes:
        kept: Results of the metric's last evaluation. None before the first one, and if the method
            was not called because nothing was detected.
    """

    def __init__(self, metric, toolkit: type, method: str, keep: Callable[[Any], Optional[Any]]):
        compute, self.kept = metric.compute_metrics, None

        def compute_and_keep(results):
            call, self.kept = getattr(toolkit, method), None  # perhaps another recorder's method

            def read(evaluation, *args, **kwargs):
                kept = keep(evaluation)
                self.kept = self.kept if kept is None else kept
                return call(evaluation, *args, **kwargs)

            with replaced(toolkit, method, read):
                return compute(results)

        metric.compute_metrics = compute_and_keep


class DetectionRecord:
    """Recorder of the detections of a CocoMetric.

    Args:
        metric: The metric.
        kinds: Those of 'bbox' and 'segm' that the metric scores.

    Attributes:
        detections: Detections of each kind in COCO's result format. Empty before the first
            evaluation, and if nothing was detected.
    """

    def __init__(self, metric, kinds: Sequence[str]):
        compute = metric.compute_metrics
        self.detections: Dict[str, List[Dict]] = {kind: [] for kind in kinds}

        def keep_detections(results):
            with TemporaryDirectory() as folder:
                metric.outfile_prefix = f'{folder}/detections'
                metrics = compute(results)
                for kind in kinds:
                    path = Path(f'{folder}/detections.{kind}.json')
                    self.detections[kind] = json.loads(path.read_text())
            return metrics

        metric.compute_metrics = keep_detections


class AreaRecord:
    """Recorder of the areas of an IoUMetric.

    Args:
        metric: The metric.

    Attributes:
        areas: (4, images, classes) float64, areas of intersection, union, prediction and label in
            pixels.
    """

    def __init__(self, metric):
        compute = metric.compute_metrics

        def keep_areas(results):
            self.areas = np.stack([torch.stack(kind).double().numpy() for kind in zip(*results)])
            return compute(results)

        metric.compute_metrics = keep_areas


class HitRecord:
    """Recorder of the top-k hits of mmpretrain's Accuracy with at most one threshold.

    Args:
        metric: The metric.
        k: Number of top-scoring classes that must include the correct one for a hit.

    Attributes:
        hits: (images,) bool.
    """

    def __init__(self, metric, k: int):
        compute, (threshold, ) = metric.compute_metrics, metric.thrs

        def keep_hits(results):
            truth = torch.cat([result['gt_label'] for result in results])[:, None]
            if 'pred_score' in results[0]:
                scores, labels = torch.stack([r['pred_score'] for r in results]).topk(k)
                right = labels == truth
                if threshold is not None:
                    right &= scores > threshold
            else:
                right = torch.cat([result['pred_label'] for result in results])[:, None] == truth
            self.hits = right.any(1).numpy()
            return compute(results)

        metric.compute_metrics = keep_hits
