"""Scores of a breakdown's rows: parts of CocoMetric's AP or IoUMetric's mIoU, and the share of
their area that ran."""
import io
import math
from contextlib import redirect_stdout
from typing import Dict, List, Optional, Tuple

import numpy as np
from mmengine.structures import BaseDataElement
from pycocotools.cocoeval import COCOeval, Params

from ..evaluation.capture import AreaRecord, DetectionRecord

Values = List[Optional[float]]
ALL, SIZE, CLASS = 'all', 'size', 'class'


class DetectionScore:
    """AP of CocoMetric by object size and class. Crowd regions do not count as objects."""
    unit = 'objects'

    def __init__(self, metric):
        names = dict(bbox='box AP', segm='mask AP')
        self.metrics = {names[kind]: kind for kind in metric.metrics if kind in names}
        if not self.metrics:
            raise ValueError(f'CocoMetric scores {", ".join(metric.metrics)}; a breakdown needs '
                             f'bbox or segm')
        self.metric = metric
        self.record = DetectionRecord(metric, list(self.metrics.values()))
        self.share: Dict[int, float] = {}  # by annotation id

    def rows(self) -> List[Tuple[str, str, int]]:
        """Return (group, name, count) of each row, after the first evaluation, which sets the
        images and classes of the metric."""
        metric, truth = self.metric, self.metric._coco_api
        objects = [a for a in truth.loadAnns(truth.getAnnIds(metric.img_ids, metric.cat_ids))
                   if not a.get('iscrowd')]
        self.members = [(ALL, 'all objects', [a['id'] for a in objects])]
        params = Params('bbox')
        for name, (low, high) in list(zip(params.areaRngLbl, params.areaRng))[1:]:
            self.members.append(
                (SIZE, name, [a['id'] for a in objects if low <= a['area'] <= high]))
        for category in metric.cat_ids:
            self.members.append((CLASS, truth.cats[category]['name'],
                                 [a['id'] for a in objects if a['category_id'] == category]))
        return [(group, name, len(ids)) for group, name, ids in self.members]

    def add(self, sample: BaseDataElement, share: np.ndarray) -> None:
        """Add the (H, W) shares of one image, at its original size."""
        for annotation in self.metric._coco_api.imgToAnns[sample.img_id]:
            if not annotation.get('iscrowd'):
                area = self._area(annotation, share.shape)
                self.share[annotation['id']] = float(share[area].mean())

    def _area(self, annotation: Dict, size: Tuple[int, int]):
        """Return the index of the mask if masks are scored, else of the box; never empty."""
        if 'segm' in self.metrics.values() and annotation.get('segmentation'):
            mask = self.metric._coco_api.annToMask(annotation).astype(bool)
            if mask.any():
                return mask
        x, y, width, height = annotation['bbox']
        return tuple(
            slice(start, max(start + 1, math.ceil(first + length)))
            for first, length, limit in ((y, height, size[0]), (x, width, size[1]))
            for start in [min(max(int(first), 0), limit - 1)])

    def shares(self) -> Values:
        shares = [[self.share[i] for i in ids if i in self.share] for _, _, ids in self.members]
        self.share = {}
        return [float(np.mean(values)) if values else None for values in shares]

    def figures(self) -> Dict[str, Values]:
        return {name: self._ap(kind) for name, kind in self.metrics.items()}

    def _ap(self, kind: str) -> Values:
        """Compute AP as CocoMetric does, but unrounded and per class for box and mask alike."""
        metric, truth = self.metric, self.metric._coco_api
        detections = self.record.detections[kind]
        if not detections:
            return [0. if ids else None for _, _, ids in self.members]
        if kind == 'segm':  # otherwise pycocotools takes the area from the box
            for detection in detections:
                del detection['bbox']
        with redirect_stdout(io.StringIO()):  # pycocotools prints
            evaluation = COCOeval(truth, truth.loadRes(detections), kind)
            evaluation.params.catIds, evaluation.params.imgIds = metric.cat_ids, metric.img_ids
            evaluation.params.maxDets = list(metric.proposal_nums)
            evaluation.params.iouThrs = metric.iou_thrs
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        of_classes = evaluation.eval['precision'][:, :, :, 0, -1]  # (iou, recall, class)
        ap = [*evaluation.stats[[0, 3, 4, 5]], *of_classes.mean((0, 1))]
        return [None if value == -1 else float(value) for value in ap]


class SegmentationScore:
    """IoU of IoUMetric by class."""
    unit = 'pixels'
    metrics = ['IoU (%)']

    def __init__(self, metric):
        self.metric, self.record = metric, AreaRecord(metric)
        self.classes = metric.dataset_meta['classes']
        self.ran, self.seen = np.zeros((2, len(self.classes)))

    def rows(self) -> List[Tuple[str, str, int]]:
        """Return (group, name, count) of each row. Call it after an evaluation."""
        pixels = self._totals()[3].astype(int).tolist()
        return [(ALL, 'all classes', sum(pixels)),
                *((CLASS, name, count) for name, count in zip(self.classes, pixels))]

    def add(self, sample: BaseDataElement, share: np.ndarray) -> None:
        """Add the (H, W) shares of one image, at its original size."""
        label = sample.gt_sem_seg.data.squeeze().cpu().numpy().astype(int)
        inside = (label != self.metric.ignore_index) & (label < len(self.classes))
        self.ran += np.bincount(label[inside], share[inside], len(self.classes))
        self.seen += np.bincount(label[inside], minlength=len(self.classes))

    def shares(self) -> Values:
        shares = [ran / seen if seen else None
                  for ran, seen in zip([self.ran.sum(), *self.ran], [self.seen.sum(), *self.seen])]
        self.ran, self.seen = np.zeros((2, len(self.classes)))
        return shares

    def figures(self) -> Dict[str, Values]:
        """Compute IoU. A class neither labelled nor predicted has none unless nan_to_num is set."""
        intersection, union = self._totals()[:2]
        missing = self.metric.nan_to_num
        iou = [100 * i / u if u else missing if missing is None else 100. * missing
               for i, u in zip(intersection, union)]
        there = [value for value in iou if value is not None]
        return {self.metrics[0]: [float(np.mean(there)) if there else None, *iou]}

    def _totals(self) -> np.ndarray:
        """Return (4, classes): intersection, union, prediction and label, in pixels."""
        return self.record.areas.sum(1)
