"""COCO's AP where images count more than once, or not at all.

COCOeval matches detections to objects image by image, so what it found holds in any list of
images. Precision rises at true positives alone, so these and the number of detections before each
are all that a curve needs.
"""
from typing import Dict, List, Optional, Sequence

import numpy as np

from .units import Frame, frames_of_coco

MAX_DETECTIONS = 100  # of an image and class, as in COCO's own AP


def read_matches(evaluation, kind: str) -> Optional['CocoMatches']:
    """The matches of a pycocotools COCOeval; None if it scores something else than `kind`, 'bbox'
    or 'segm'."""
    params = evaluation.params
    if params.iouType != kind or not params.useCats:  # without categories: proposals
        return None
    num_images, of_class = len(params.imgIds), len(params.areaRng) * len(params.imgIds)
    per_class = [evaluation.evalImgs[start:start + num_images]  # the first area range is 'all'
                 for start in range(0, len(evaluation.evalImgs), of_class)]
    images = [evaluation.cocoGt.imgs[i] for i in params.imgIds]
    return CocoMatches(per_class, len(params.iouThrs), params.recThrs, frames_of_coco(images))


class CocoMatches:
    """What each image's detections were matched to.

    Args:
        per_class: By class, COCOeval's record of each image; None for an image with neither
            objects nor detections of the class.
        num_thresholds: Of IoU.
        recalls: (R,) float64, ascending; where precision is read.
        frames: What each image is a frame of; None where that is not known.

    Attributes:
        num_images: Images, in COCOeval's order.
    """
    sequence = 'sequence'

    def __init__(self, per_class: List[List[Optional[Dict]]], num_thresholds: int,
                 recalls: np.ndarray, frames: Optional[Sequence[Frame]] = None):
        self.frames = frames
        self.num_images, self._recalls = len(per_class[0]), recalls
        self._per_class = num_thresholds * len(recalls)
        self._objects = np.array([[0 if r is None else np.count_nonzero(r['gtIgnore'] == 0)
                                   for r in records] for records in per_class])
        # Detections of class after class, each class by score; what happens to them in curve
        # after curve, of which a class has one for each threshold.
        images, starts = [np.zeros(0, int)], np.zeros(len(per_class), int)
        hits, ignored = [np.zeros((2, 0), int)], [np.zeros((2, 0), int)]  # curve, detection
        total = 0
        for k, records in enumerate(per_class):
            starts[k] = total
            if not self._objects[k].any():
                continue  # such a class is left out of the mean
            of_class, matched, left_out = _by_score(records, num_thresholds)
            images.append(of_class)
            for events, flags in ((hits, matched & ~left_out), (ignored, left_out)):
                events.append(np.stack(np.nonzero(flags)) + [[k * num_thresholds], [total]])
            total += len(of_class)
        self._images = np.concatenate(images)
        (self._curve, hit), (curve, out) = (np.concatenate(e, 1) for e in (hits, ignored))
        self._class = self._curve // num_thresholds
        self._hit_images, self._ignored_images = self._images[hit], self._images[out]
        # Detections that match at some threshold; most do at several.
        once, self._once = np.unique(hit, return_inverse=True)
        class_of = np.zeros(total, int)
        class_of[hit] = self._class
        # For each of these, and each hit, slices of the running sums of detections, hits and
        # ignored detections that belong to its curve and end with it.
        self._found = starts[class_of[once]], once + 1
        self._hits = np.searchsorted(self._curve, self._curve), np.arange(len(hit)) + 1
        self._ignored = (np.searchsorted(curve, self._curve),
                         np.searchsorted(curve * total + out, self._curve * total + hit))
        self._starts = np.flatnonzero(np.diff(self._curve, prepend=-1))
        self._lift = 2. * (self._curve[-1:] - self._curve)  # 0 in the last curve

    def average_precision(self, weights: np.ndarray) -> float:
        """COCO's AP, in [0, 1]: COCOeval's over images of which each is there as often as
        `weights` says, detections of equal score in the order of images. 0 if no object is there.

        Args:
            weights: (num_images,) int.
        """
        found = _sums(weights[self._images], self._found)[self._once]
        found -= _sums(weights[self._ignored_images], self._ignored)
        hits = _sums(weights[self._hit_images], self._hits)
        objects = self._objects @ weights
        precision = hits / (found + np.spacing(1))  # as COCOeval has it
        recall = hits / np.maximum(objects, 1)[self._class]
        # The highest precision from each recall on. Each curve stands two above the next, so that
        # one maximum, running from the end, begins anew in each.
        highest = np.maximum.accumulate((precision + self._lift)[::-1])[::-1] - self._lift
        reached = np.searchsorted(self._recalls, recall, side='right')
        gained = np.diff(reached, prepend=0)  # recalls to which each hit is the first
        gained[self._starts] = reached[self._starts]
        curves = np.count_nonzero(objects) * self._per_class
        return float(highest @ gained / curves) if curves else 0.


def _by_score(records: List[Optional[Dict]], num_thresholds: int):
    """Image (D,), matched (T, D) and ignored (T, D) of a class's detections, best first."""
    records = [(i, r) for i, r in enumerate(records) if r is not None]
    scores = [r['dtScores'][:MAX_DETECTIONS] for _, r in records]
    order = np.argsort(-np.concatenate(scores), kind='stable')
    images = np.repeat([i for i, _ in records], [len(s) for s in scores])
    matched, ignored = (
        np.concatenate([r[key][:, :MAX_DETECTIONS] for _, r in records], 1)[:, order].astype(bool)
        for key in ('dtMatches', 'dtIgnore'))
    return images[order], matched, ignored


def _sums(values: np.ndarray, slices) -> np.ndarray:
    """Sum of values[start:end] for each of the starts and ends in `slices`."""
    running = np.concatenate([[0], np.cumsum(values)])
    start, end = slices
    return running[end] - running[start]
