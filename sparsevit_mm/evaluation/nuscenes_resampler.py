"""NDS on bootstrap resamples, in which a frame may count several times or not at all.

The devkit matches predictions to objects frame by frame, so the matches of a frame hold in any
resample. Only the metrics over all frames are recomputed.
"""
from collections import defaultdict
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from .units import Frame

# Errors that DetectionEval.evaluate does not define for a class.
_UNDEFINED = {'traffic_cone': ('attr_err', 'vel_err', 'orient_err'),
              'barrier': ('attr_err', 'vel_err')}


def read_frames(evaluation) -> 'FrameMatches':
    """Return the matches of the devkit's DetectionEval."""
    samples = [evaluation.nusc.get('sample', token)
               for token in evaluation.pred_boxes.sample_tokens]
    frames = [Frame(sample['scene_token'], sample['timestamp']) for sample in samples]
    return FrameMatches(evaluation.gt_boxes, evaluation.pred_boxes, evaluation.cfg, frames)


class FrameMatches:
    """Matches between the predictions and the objects of each frame.

    Args:
        truth, found: The devkit's EvalBoxes of objects and predictions, filtered.
        cfg: The devkit's DetectionConfig.
        frames: Scene and timestamp of each frame, in the order of `found`; None if unknown.

    Attributes:
        num_images: Number of frames.
    """
    sequence = 'scene'

    def __init__(self, truth, found, cfg, frames: Optional[Sequence[Frame]] = None):
        tokens, self.frames = found.sample_tokens, frames
        self.cfg, self.num_images = cfg, len(tokens)
        truth, found = ([_by_class(boxes[token]) for token in tokens] for boxes in (truth, found))
        self._classes = {name: _ClassMatches([boxes[name] for boxes in truth],
                                             [boxes[name] for boxes in found], name, cfg)
                         for name in cfg.class_names}

    def metrics(self, weights: np.ndarray):
        """Return the devkit's DetectionMetrics of a resample.

        They equal those of DetectionEval on tables and predictions that hold the drawn frames in
        this order.

        Args:
            weights: (num_images,) int, how often each frame was drawn.
        """
        from nuscenes.eval.detection.algo import calc_ap, calc_tp
        from nuscenes.eval.detection.constants import TP_METRICS
        from nuscenes.eval.detection.data_classes import DetectionMetrics
        cfg, metrics = self.cfg, DetectionMetrics(self.cfg)
        for name, matches in self._classes.items():
            data = matches.metric_data(weights)
            for distance in cfg.dist_ths:
                metrics.add_label_ap(name, distance, calc_ap(
                    data[distance], cfg.min_recall, cfg.min_precision))
            for error in TP_METRICS:
                metrics.add_label_tp(
                    name, error, np.nan if error in _UNDEFINED.get(name, ()) else calc_tp(
                        data[cfg.dist_th_tp], cfg.min_recall, error))
        return metrics


def _by_class(boxes: List) -> Dict[str, List]:
    sorted_boxes = defaultdict(list)
    for box in boxes:
        sorted_boxes[box.detection_name].append(box)
    return sorted_boxes


class _ClassMatches:
    """Matches of one class. Predictions are in the devkit's order: by descending score, and with
    equal scores the last one first.

    Attributes:
        num_truths: (frames,) number of objects in each frame.
        frames: (predictions,) index of each prediction's frame.
        scores: (predictions,) float64.
        hits: For each distance threshold, (matches,) positions of the matched predictions.
        errors: For each TP metric, (matches,) float64 at the distance threshold of the TP metrics;
            NaN where the error is undefined.
    """

    def __init__(self, truth: List[List], found: List[List], name: str, cfg):
        self.cfg = cfg
        self.num_truths = np.array([len(boxes) for boxes in truth])
        counts = [len(boxes) for boxes in found]
        scores = np.array([box.detection_score for boxes in found for box in boxes])
        order = np.argsort(scores, kind='stable')[::-1]
        self.frames, self.scores = np.repeat(np.arange(len(found)), counts)[order], scores[order]
        matches = {distance: {} for distance in cfg.dist_ths}  # position: (object, prediction)
        positions = np.split(np.argsort(order), np.cumsum(counts)[:-1])
        for theirs, ours, places in zip(truth, found, positions):
            if theirs and ours:
                distances = np.linalg.norm(_centres(ours)[:, None] - _centres(theirs), axis=-1)
                for threshold, matched in matches.items():
                    for p, t in _match(distances, np.argsort(places), threshold):
                        matched[places[p]] = theirs[t], ours[p]
        self.hits = {distance: np.array(sorted(matched), int)
                     for distance, matched in matches.items()}
        self.errors = _errors(
            [matches[cfg.dist_th_tp][p] for p in self.hits[cfg.dist_th_tp]], name)

    def metric_data(self, weights: np.ndarray) -> Dict:
        """Return the devkit's DetectionMetricData for each distance threshold. Confidence and
        errors are computed only at the threshold of the TP metrics."""
        found = np.append(0, np.cumsum(weights[self.frames]))  # number before each prediction
        return {distance: self._metric_data(distance, weights, found, self.num_truths @ weights)
                for distance in self.hits}

    def _metric_data(self, distance: float, weights: np.ndarray, found: np.ndarray,
                     num_truths: int):
        """Return the DetectionMetricData that the devkit's ``accumulate`` computes from the
        matches. Its curves have one point per prediction; interpolation needs only those where
        recall has just risen or is about to rise."""
        from nuscenes.eval.detection.data_classes import DetectionMetricData
        hits = self.hits[distance]
        copies = weights[self.frames[hits]]
        if not num_truths or not copies.any():
            return DetectionMetricData.no_predictions()
        number = np.arange(copies.sum() + 1)  # number of matches so far
        first = np.repeat(found[hits] - np.cumsum(copies) + copies, copies) + number[1:]
        last = np.append(first - 1, found[-1])  # predictions up to the next match
        corner = np.stack([np.append(0, first), last], 1).ravel()  # predictions up to each point
        number = np.repeat(number, 2)[corner > 0]
        corner = corner[corner > 0]
        grid = np.linspace(0, 1, DetectionMetricData.nelem)
        precision = np.interp(grid, number / num_truths, number / corner, right=0)
        if distance != self.cfg.dist_th_tp:
            return DetectionMetricData(grid, precision, np.zeros_like(grid),
                                       *[np.ones_like(grid)] * len(self.errors))
        scores = self.scores[np.searchsorted(found, corner) - 1]
        confidence = np.interp(grid, number / num_truths, scores, right=0)
        rows = np.repeat(np.arange(len(hits)), copies)
        at = self.scores[hits][rows][::-1]
        return DetectionMetricData(grid, precision, confidence, **{
            error: np.interp(confidence[::-1], at, _running_mean(values[rows])[::-1])[::-1]
            for error, values in self.errors.items()})


def _centres(boxes: List) -> np.ndarray:
    """Return the box centres on the ground plane, (boxes, 2)."""
    return np.array([box.translation[:2] for box in boxes])


def _match(distances: np.ndarray, order: np.ndarray, threshold: float):
    """Yield pairs of (prediction, object) indices. Each prediction takes the nearest unmatched
    object if it is closer than the threshold.

    Args:
        distances: (predictions, objects).
        order: Order in which predictions are matched.
        threshold: Distance threshold.
    """
    left = distances.copy()
    for p in order[distances.min(1)[order] < threshold]:
        t = left[p].argmin()
        if left[p, t] < threshold:
            left[:, t] = np.inf
            yield p, t


def _errors(pairs: List[Tuple], name: str) -> Dict[str, np.ndarray]:
    """Return the TP metrics of the (object, prediction) pairs of a class, as in the devkit's
    ``accumulate``. Calling the devkit's functions pair by pair would take longer than matching."""
    def both(key, width):
        return (np.array([getattr(pair[i], key) for pair in pairs], float).reshape(-1, width)
                for i in (0, 1))

    (there, here), (size, found_size) = both('translation', 3), both('size', 3)
    common = np.minimum(size, found_size).prod(1)
    yaw, found_yaw = (np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)
                      for w, x, y, z in (q.T for q in both('rotation', 4)))
    period = np.pi if name == 'barrier' else 2 * np.pi
    velocity, found_velocity = both('velocity', 2)
    return dict(
        trans_err=np.linalg.norm((here - there)[:, :2], axis=1),
        vel_err=np.linalg.norm(found_velocity - velocity, axis=1),
        scale_err=1 - common / (size.prod(1) + found_size.prod(1) - common),
        orient_err=abs((yaw - found_yaw + period / 2) % period - period / 2),
        attr_err=np.array([float(truth.attribute_name != found.attribute_name)
                           if truth.attribute_name else np.nan for truth, found in pairs]))


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Return the running mean of the values that are not NaN: 0 before the first of them, and 1
    everywhere if all are NaN. Equals the devkit's ``cummean``, which is slow."""
    defined = ~np.isnan(values)
    if not defined.any():
        return np.ones(len(values))
    return np.nancumsum(values) / np.maximum(np.cumsum(defined), 1)
