"""NDS on resamples of the frames it was scored on.

The devkit matches predictions to objects frame by frame, so what a frame's matching gave holds in
any list of frames; only the figures over all frames are made anew.
"""
from typing import Dict, List, Sequence

import numpy as np

from .nuscenes_eval import load_evaluation
from .records import ResultFileRecord

# Errors that DetectionEval.evaluate leaves out, by class.
_UNDEFINED = {'traffic_cone': ('attr_err', 'vel_err', 'orient_err'),
              'barrier': ('attr_err', 'vel_err')}


class NDSResampler:
    """NDS of a NuScenesMetric, in [0, 1].

    Args:
        metric: The metric of the runner's evaluator.
    """

    def __init__(self, metric):
        self.metric, self.record = metric, ResultFileRecord(metric)

    def __call__(self, resamples: int, seed: int = 0) -> np.ndarray:
        """(resamples,) float64, of the last evaluation; zeros where nothing was detected."""
        evaluation = load_evaluation(self.metric, self.record.path)
        if evaluation is None:
            return np.zeros(resamples)
        matches = FrameMatches(evaluation.gt_boxes, evaluation.pred_boxes, evaluation.cfg)
        rng, num_frames = np.random.default_rng(seed), matches.num_frames
        return np.array([matches.metrics(rng.integers(num_frames, size=num_frames)).nd_score
                         for _ in range(resamples)])


class FrameMatches:
    """What each frame's predictions were matched to.

    Args:
        truth, found: The devkit's EvalBoxes, filtered.
        cfg: The devkit's DetectionConfig.

    Attributes:
        num_frames: Frames, in the order of `found`.
    """

    def __init__(self, truth, found, cfg):
        self.cfg, self.num_frames = cfg, len(found.sample_tokens)
        self._classes = {name: _ClassMatches(
            [[box for box in truth[token] if box.detection_name == name]
             for token in found.sample_tokens],
            [[box for box in found[token] if box.detection_name == name]
             for token in found.sample_tokens], name, cfg) for name in cfg.class_names}

    def metrics(self, frames: Sequence[int]):
        """The devkit's DetectionMetrics over a list of frames, any of them repeated: those of
        DetectionEval on tables and predictions that hold these frames in this order.

        Args:
            frames: Positions in [0, num_frames).
        """
        from nuscenes.eval.detection.algo import calc_ap, calc_tp
        from nuscenes.eval.detection.constants import TP_METRICS
        from nuscenes.eval.detection.data_classes import DetectionMetrics
        cfg, metrics = self.cfg, DetectionMetrics(self.cfg)
        for name, matches in self._classes.items():
            data = matches.metric_data(frames)
            for distance in cfg.dist_ths:
                metrics.add_label_ap(name, distance, calc_ap(
                    data[distance], cfg.min_recall, cfg.min_precision))
            for error in TP_METRICS:
                metrics.add_label_tp(
                    name, error, np.nan if error in _UNDEFINED.get(name, ()) else calc_tp(
                        data[cfg.dist_th_tp], cfg.min_recall, error))
        return metrics


class _ClassMatches:
    """The matches of one class.

    Attributes:
        num_truths: (frames,) objects of each frame.
        starts: (frames + 1,) where each frame's predictions start in the following.
        scores: (predictions,) float64.
        matched: By distance threshold, (predictions,) bool.
        errors: By TP metric, (predictions,) float64 at the threshold of the TP metrics; NaN where
            nothing matched, or the error is not defined.
    """

    def __init__(self, truth: List[List], found: List[List], name: str, cfg):
        from nuscenes.eval.detection.constants import TP_METRICS
        self.cfg = cfg
        self.num_truths = np.array([len(boxes) for boxes in truth])
        self.starts = np.cumsum([0, *(len(boxes) for boxes in found)])
        total = self.starts[-1]
        self.scores = np.array([box.detection_score for boxes in found for box in boxes])
        self.matched = {distance: np.zeros(total, bool) for distance in cfg.dist_ths}
        self.errors = {error: np.full(total, np.nan) for error in TP_METRICS}
        for start, end, theirs, ours in zip(self.starts, self.starts[1:], truth, found):
            if not theirs or not ours:
                continue
            order = _by_score(self.scores[start:end])
            distances = np.array([[cfg.dist_fcn_callable(t, p) for t in theirs] for p in ours])
            for threshold in cfg.dist_ths:
                for p, t in _match(distances, order, threshold):
                    self.matched[threshold][start + p] = True
                    if threshold == cfg.dist_th_tp:
                        for error, value in _errors(theirs[t], ours[p], name).items():
                            self.errors[error][start + p] = value

    def metric_data(self, frames: Sequence[int]) -> Dict:
        """The devkit's DetectionMetricData by distance threshold; errors only at that of the
        TP metrics."""
        rows = np.concatenate([np.arange(self.starts[f], self.starts[f + 1]) for f in frames])
        rows = rows[_by_score(self.scores[rows])]
        num_truths = self.num_truths[frames].sum()
        errors = {error: values[rows] for error, values in self.errors.items()}
        return {distance: _metric_data(self.scores[rows], matched[rows], num_truths,
                                       errors if distance == self.cfg.dist_th_tp else {})
                for distance, matched in self.matched.items()}


def _by_score(scores: np.ndarray) -> np.ndarray:
    """The devkit's order: highest first, and of equals the last."""
    return np.argsort(scores, kind='stable')[::-1]


def _match(distances: np.ndarray, order: np.ndarray, threshold: float):
    """Yields (prediction, object): each takes the nearest object left, if it is near enough.

    Args:
        distances: (predictions, objects).
        order: In which the predictions choose.
    """
    left = distances.copy()
    for p in order:
        t = left[p].argmin()
        if left[p, t] < threshold:
            left[:, t] = np.inf
            yield p, t


def _errors(truth, found, name: str) -> Dict[str, float]:
    """Of a match, as the devkit's ``accumulate`` takes them."""
    from nuscenes.eval.common import utils
    period = np.pi if name == 'barrier' else 2 * np.pi
    return dict(trans_err=utils.center_distance(truth, found),
                vel_err=utils.velocity_l2(truth, found),
                scale_err=1 - utils.scale_iou(truth, found),
                orient_err=utils.yaw_diff(truth, found, period),
                attr_err=1 - utils.attr_acc(truth, found))


def _metric_data(scores: np.ndarray, matched: np.ndarray, num_truths: int,
                 errors: Dict[str, np.ndarray]):
    """The devkit's DetectionMetricData, as its ``accumulate`` makes it of matches.

    Args:
        scores: (predictions,), descending.
        matched: (predictions,) bool.
        num_truths: Objects in all frames.
        errors: By TP metric, (predictions,); 1 for those that are not given.
    """
    from nuscenes.eval.common.utils import cummean
    from nuscenes.eval.detection.constants import TP_METRICS
    from nuscenes.eval.detection.data_classes import DetectionMetricData
    if not num_truths or not matched.any():
        return DetectionMetricData.no_predictions()
    hits = np.cumsum(matched)
    recall = np.linspace(0, 1, DetectionMetricData.nelem)
    precision = np.interp(recall, hits / num_truths, hits / np.arange(1, len(hits) + 1), right=0)
    confidence = np.interp(recall, hits / num_truths, scores, right=0)
    means = {error: np.ones_like(recall) for error in TP_METRICS}
    for error, values in errors.items():
        means[error] = np.interp(confidence[::-1], scores[matched][::-1],
                                 cummean(values[matched])[::-1])[::-1]
    return DetectionMetricData(recall, precision, confidence, **means)
