"""What an evaluator is given and does not hand on: each image's share in its metric.

Each class here watches one metric of a runner's evaluator and holds what its last evaluation
had.
"""
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch

from ..compat import replaced


class EvaluationRecord:
    """What is kept of a toolkit's evaluation that a metric runs for itself, while it runs.

    Args:
        metric: The metric.
        toolkit: Class of the evaluation, like pycocotools' COCOeval.
        method: Name of its method that the metric calls when all images are matched.
        keep: Evaluation -> what to keep of it; None of an evaluation that is not meant.

    Attributes:
        kept: Of the metric's last evaluation; None before the first, and after one that did not
            get so far, since nothing was detected.
    """

    def __init__(self, metric, toolkit: type, method: str, keep: Callable[[Any], Optional[Any]]):
        compute, self.kept = metric.compute_metrics, None

        def compute_and_keep(results):
            call, self.kept = getattr(toolkit, method), None  # another record may watch as well

            def read(evaluation, *args, **kwargs):
                kept = keep(evaluation)
                self.kept = self.kept if kept is None else kept
                return call(evaluation, *args, **kwargs)

            with replaced(toolkit, method, read):
                return compute(results)

        metric.compute_metrics = compute_and_keep


class DetectionRecord:
    """Detections of a CocoMetric.

    Args:
        metric: The metric.
        kinds: Of 'bbox' and 'segm', those the metric scores.

    Attributes:
        detections: By kind, as COCO's result files list them; empty before an evaluation, and
            after one that had none.
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
    """Areas of an IoUMetric.

    Args:
        metric: The metric.

    Attributes:
        areas: (4, images, classes) float64, in pixels: intersection, union, prediction and label.
    """

    def __init__(self, metric):
        compute = metric.compute_metrics

        def keep_areas(results):
            self.areas = np.stack([torch.stack(kind).double().numpy() for kind in zip(*results)])
            return compute(results)

        metric.compute_metrics = keep_areas


class HitRecord:
    """Hits of mmpretrain's Accuracy, of one threshold or none.

    Args:
        metric: The metric.
        k: Of the classes with the highest scores, among which the right one counts as a hit.

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
