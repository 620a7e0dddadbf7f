"""COCO's AP on bootstrap resamples, in which an image may count several times or not at all.

COCOeval matches detections to objects image by image, so its matches hold in any resample.
Precision rises only at true positives, so a curve needs only these and the number of detections
before each.
"""
from typing import Dict, List, Optional, Sequence

import numpy as np

from .units import Frame, frames_of_coco

MAX_DETECTIONS = 100  # per image and class, as in COCO's AP


def read_matches(evaluation, kind: str) -> Optional['CocoMatches']:
    """Return the matches of a pycocotools COCOeval, or None if it does not score `kind`, 'bbox' or
    'segm'."""
    params = evaluation.params
    if params.iouType != kind or not params.useCats:  # proposals are scored without categories
        return None
    num_images, of_class = len(params.imgIds), len(params.areaRng) * len(params.imgIds)
    per_class = [evaluation.evalImgs[start:start + num_images]  # the first area range is 'all'
                 for start in range(0, len(evaluation.evalImgs), of_class)]
    images = [evaluation.cocoGt.imgs[i] for i in params.imgIds]
    return CocoMatches(per_class, len(params.iouThrs), params.recThrs, frames_of_coco(images))


class CocoMatches:
    """Matches between the detections and the objects of each image.

    Args:
        per_class: For each class, COCOeval's result for each image; None for an image without
            objects and detections of the class.
        num_thresholds: Number of IoU thresholds.
        recalls: (R,) float64, ascending recall thresholds at which precision is read.
        frames: Frame of each image; None if unknown.

    Attributes:
        num_images: Number of images.
    """
    sequence = 'sequence'

    def __init__(self, per_class: List[List[Optional[Dict]]], num_thresholds: int,
                 recalls: np.ndarray, frames: Optional[Sequence[Frame]] = None):
        self.frames = frames
        self.num_images, self._recalls = len(per_class[0]), recalls
        self._per_class = num_thresholds * len(recalls)
        self._objects = np.array([[0 if r is None else np.count_nonzero(r['gtIgnore'] == 0)
                                   for r in records] for records in per_class])
        # Detections are concatenated over classes, sorted by score within a class. Each class has
        # one precision-recall curve per threshold; hits and ignored detections are listed curve by
        # curve.
        images, starts = [np.zeros(0, int)], np.zeros(len(per_class), int)
        hits, ignored = [np.zeros((2, 0), int)], [np.zeros((2, 0), int)]  # (curve, detection)
        total = 0
        for k, records in enumerate(per_class):
            starts[k] = total
            if not self._objects[k].any():
                continue  # classes without objects are left out of the mean
            of_class, matched, left_out = _by_score(records, num_thresholds)
            images.append(of_class)
            for events, flags in ((hits, matched & ~left_out), (ignored, left_out)):
                events.append(np.stack(np.nonzero(flags)) + [[k * num_thresholds], [total]])
            total += len(of_class)
        self._images = np.concatenate(images)
        (self._curve, hit), (curve, out) = (np.concatenate(e, 1) for e in (hits, ignored))
        self._class = self._curve // num_thresholds
        self._hit_images, self._ignored_images = self._images[hit], self._images[out]
        # Detections that match at any threshold; most of them match at several
        once, self._once = np.unique(hit, return_inverse=True)
        class_of = np.zeros(total, int)
        class_of[hit] = self._class
        # Slices of the running sums from the start of a curve to a hit: of detections, for each
        # detection that matches; of hits and of ignored detections, for each hit
        self._found = starts[class_of[once]], once + 1
        self._hits = np.searchsorted(self._curve, self._curve), np.arange(len(hit)) + 1
        self._ignored = (np.searchsorted(curve, self._curve),
                         np.searchsorted(curve * total + out, self._curve * total + hit))
        self._starts = np.flatnonzero(np.diff(self._curve, prepend=-1))
        self._lift = 2. * (self._curve[-1:] - self._curve)  # 0 in the last curve

    def average_precision(self, weights: np.ndarray) -> float:
        """Return COCO's AP of a resample, in [0, 1]; 0 if it has no objects.

        It equals that of COCOeval on the drawn images, with detections of equal score in the order
        of the images.

        Args:
            weights: (num_images,) int, how often each image was drawn.
        """
        found = _sums(weights[self._images], self._found)[self._once]
        found -= _sums(weights[self._ignored_images], self._ignored)
        hits = _sums(weights[self._hit_images], self._hits)
        objects = self._objects @ weights
        precision = hits / (found + np.spacing(1))  # as in COCOeval
        recall = hits / np.maximum(objects, 1)[self._class]
        # The highest precision at each recall or above. Each curve is lifted by 2 over the next, so
        # that a single running maximum from the end restarts in each.
        highest = np.maximum.accumulate((precision + self._lift)[::-1])[::-1] - self._lift
        reached = np.searchsorted(self._recalls, recall, side='right')
        gained = np.diff(reached, prepend=0)  # recall thresholds that each hit is first to reach
        gained[self._starts] = reached[self._starts]
        curves = np.count_nonzero(objects) * self._per_class
        return float(highest @ gained / curves) if curves else 0.


def _by_score(records: List[Optional[Dict]], num_thresholds: int):
    """Return image (D,), matched (T, D) and ignored (T, D) of a class's detections, sorted by
    descending score."""
    records = [(i, r) for i, r in enumerate(records) if r is not None]
    scores = [r['dtScores'][:MAX_DETECTIONS] for _, r in records]
    order = np.argsort(-np.concatenate(scores), kind='stable')
    images = np.repeat([i for i, _ in records], [len(s) for s in scores])
    matched, ignored = (
        np.concatenate([r[key][:, :MAX_DETECTIONS] for _, r in records], 1)[:, order].astype(bool)
        for key in ('dtMatches', 'dtIgnore'))
    return images[order], matched, ignored


def _sums(values: np.ndarray, slices) -> np.ndarray:
    """Return the sum of values[start:end] for each of the starts and ends in `slices`."""
    running = np.concatenate([[0], np.cumsum(values)])
    start, end = slices
    return running[end] - running[start]
