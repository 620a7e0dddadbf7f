"""What an evaluator is given and does not hand on: each image's share in its metric.

Each class here watches one metric of a runner's evaluator and holds what its last evaluation
had.
"""
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Dict, List, Sequence

import numpy as np
import torch


class DetectionRecord:
    """Detections of a CocoMetric.

    Args:
        metric: The metric.
        kinds: Of 'bbox' and 'segm', those the metric scores.

    Attributes:
        detections: By kind, as COCO's result files list them; empty before an evaluation, and
            after one that had none.
    """

    def __init__(self, metric, kinds: Sequence[str] = ('bbox', )):
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


class ResultFileRecord:
    """Result file of a NuScenesMetric, in the devkit's format.

    Args:
        metric: The metric. One that would put the file into a temporary folder of its own gets a
            folder that lasts as long as this record.

    Attributes:
        path: Of the file; not there before an evaluation.
    """

    def __init__(self, metric):
        if metric.jsonfile_prefix is None:
            self._folder = TemporaryDirectory()
            metric.jsonfile_prefix = self._folder.name
        self.path = f'{metric.jsonfile_prefix}/pred_instances_3d/results_nusc.json'
