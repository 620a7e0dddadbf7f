"""Breakdown of accuracy by class and object size for the dense and sparse models, with the share
of each part's area that the sparse backbone ran."""
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Sequence

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook

from ..config.reading import is_type, without_adaptation
from ..evaluation.evaluator import Evaluator
from ..models import SparseBackbone
from ..sparsity import SparsityConfig
from .breakdown_scores import DetectionScore, SegmentationScore, Values
from .overlay import sum_of
from .windows import Placement, count_blocks


@dataclass
class Row:
    """Part of the data. Lists hold one value per configuration, the dense one first.

    Attributes:
        group: 'all', 'size', 'class' or 'image'.
        name: Name within the group, such as 'small' or 'person'.
        count: Number of units in the ground truth; of group 'image', of evaluated images.
        unit: What is counted: 'objects', 'pixels' or 'images'.
        figures: Metric -> values; None where the evaluator gives none.
        shares: Share of the area that ran, averaged over the blocks, in [0, 1]; None without area.
    """
    group: str
    name: str
    count: int
    unit: str
    figures: Dict[str, Values]
    shares: Values


@dataclass
class Breakdown:
    """Result of :func:`break_down`.

    Attributes:
        labels: Labels of the configurations, 'dense' first.
        metrics: 'box AP', 'mask AP' or both, in [0, 1]; or 'IoU (%)'.
        rows: Rows for all, sizes (detection only) and classes, then the whole image.
    """
    labels: List[str]
    metrics: List[str]
    rows: List[Row]


_SCORES = {'CocoMetric': DetectionScore, 'IoUMetric': SegmentationScore}


def scored_by(cfg: Config, split: str) -> str:
    """Return which metric scores the split ('val' or 'test'): 'CocoMetric' or 'IoUMetric'.

    Raises:
        ValueError: If neither metric scores the split, or the model uses sliding-window inference,
            where the backbone sees a pixel several times.
    """
    evaluators = cfg.get(f'{split}_evaluator')
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators or {}]
    found = [(name, e) for e in evaluators for name in _SCORES if is_type(e, name)]
    if not found:
        raise ValueError(f'a breakdown needs {" or ".join(_SCORES)}; the {split} evaluator is '
                         f'{", ".join(str(e.get("type")) for e in evaluators)}')
    name, evaluator = found[0]
    if evaluator.get('format_only'):
        raise ValueError(f'{name} of {split} has format_only, so it computes no metric')
    if (cfg.get('model', {}).get('test_cfg') or {}).get('mode') == 'slide':
        raise ValueError('model.test_cfg.mode is slide: a breakdown needs one pass over the whole '
                         'image; set --cfg-options model.test_cfg.mode=whole')
    return name


class ShareRecorder(Hook):
    """Hook that reports the share of the blocks that ran at each pixel of a recorded validation.

    Args:
        backbone: Backbone of the runner's model.
        add: Callback that receives each data sample and its shares, (H, W) float64 in [0, 1] at
            the original size of the image.
    """

    def __init__(self, backbone: SparseBackbone, add: Callable):
        self.backbone, self.add, self.maps = backbone, add, None
        self.means: List[float] = []

    @contextmanager
    def recording(self) -> Iterator[List[float]]:
        """Record validations within the context, yielding a list of each image's mean share."""
        self.means = []
        with self.backbone.recording() as self.maps:
            try:
                yield self.means
            finally:
                self.maps = None

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.maps is None:
            return
        for index, sample in enumerate(outputs):
            placement = Placement.from_metainfo(sample.metainfo)
            count = sum_of(count_blocks(self.backbone, self.maps, sample.ori_shape[:2], placement,
                                        index))
            self.means.append(count.share)
            self.add(sample, count.run / count.blocks)
        for blocks in self.maps:
            blocks.clear()


def break_down(cfg: Config, checkpoint: str, configs: Sequence[SparsityConfig],
               split: str = 'test',
               report: Callable[[str], None] = lambda label: None) -> Breakdown:
    """Evaluate a checkpoint dense and at other configurations, with the config's own data.

    Args:
        cfg: Config of the whole model.
        checkpoint: Path of a checkpoint of the whole model.
        configs: Sparse configurations to compare with the dense model.
        split: 'val' or 'test'.
        report: Callback that receives the label of each configuration before its evaluation.

    Raises:
        ValueError: See :func:`scored_by` and :class:`~..evaluation.evaluator.Evaluator`. Also if
            CocoMetric scores neither bbox nor segm, a configuration is dense, the dense model
            detects nothing, or the split has no ground truth.
        FileNotFoundError: If the checkpoint does not exist.
    """
    kind = scored_by(cfg, split)
    for config in configs:
        if config.is_dense:
            raise ValueError(f'sparsity {config} is dense: there is nothing to compare')
    cfg = deepcopy(cfg)
    cfg.custom_hooks = without_adaptation(cfg.get('custom_hooks'))
    cfg.val_dataloader, cfg.val_evaluator = cfg[f'{split}_dataloader'], cfg[f'{split}_evaluator']
    cfg.val_cfg = cfg.get('val_cfg') or {}
    evaluator = Evaluator(cfg, checkpoint)
    metrics = evaluator.runner.val_evaluator.metrics
    score = _SCORES[kind](next(m for m in metrics if type(m).__name__ == kind))
    recorder = ShareRecorder(evaluator.backbone, score.add)
    evaluator.runner.register_hook(recorder)

    dense = evaluator.backbone.space.config(0.)
    report(dense.label)
    if not evaluator.evaluate(dense):
        raise ValueError('the dense model detects nothing, so the evaluator gives no metric: '
                         'is this the right checkpoint?')
    rows = [Row(*row, score.unit, {name: [] for name in score.metrics}, [])
            for row in score.rows()]
    if not rows[0].count:
        raise ValueError(f'the ground truth of {split} has no {score.unit}')
    _append(rows, score.figures(), [1. if row.count else None for row in rows])
    whole = Row('image', 'whole image', 0, 'images', {}, [1.])
    for config in configs:
        report(config.label)
        with recorder.recording() as shares:
            evaluator.evaluate(config)
        _append(rows, score.figures(), score.shares())
        whole.count = len(shares)
        whole.shares.append(float(np.mean(shares)))
    labels = [config.label for config in (dense, *configs)]
    whole.figures = {name: [None] * len(labels) for name in score.metrics}
    return Breakdown(labels, list(score.metrics), [*rows, whole])


def _append(rows: List[Row], figures: Dict[str, Values], shares: Values) -> None:
    """Append the values of one configuration to the rows."""
    for i, row in enumerate(rows):
        for name, values in figures.items():
            row.figures[name].append(values[i])
        row.shares.append(shares[i])
