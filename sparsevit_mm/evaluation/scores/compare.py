"""Comparison of a model's metric under the scores that can select its windows or tokens."""
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ...config.reading import find_backbone
from ...models import SparseBackbone
from ...models.checkpoints import read_checkpoint
from ...models.selection.importance import TRAINED
from ...sparsity import Sparsity, SparsityConfig
from ..bootstrap import RESAMPLES
from ..evaluator import Evaluation, Evaluator
from ..intervals import Interval, Resampled, difference
from ..metrics import Metrics, check_metric
from ..subset import restrict_to_subset
from .choice import RANDOM, Judged, choose, say

SPARSITIES = .5, .7
SAMPLES = 100  # default number of images
DRAWS = 3  # evaluations of the random score that are averaged

SharesOf = Callable[[Callable[[], Metrics]], Tuple[Metrics, Optional[float]]]


@dataclass
class ScoreRow:
    """Results under one score. Lists have one value per sparsity.

    Attributes:
        name: Name of the score, or 'dense', which has the same value at each sparsity.
        values: Values of the metric.
        intervals: The same with 95% confidence intervals.
        less_own: Mean over the sparsities minus that of the config's score, on the same resamples;
            None for that score and for 'dense'.
        shares: Share of the objects' area that ran, averaged over objects, in [0, 1]; None if
            unknown.
    """
    name: str
    values: List[float]
    intervals: List[Interval]
    less_own: Optional[Interval] = None
    shares: Optional[List[float]] = None

    @classmethod
    def from_json(cls, record: Dict) -> 'ScoreRow':
        less_own = record['less_own']
        return cls(**{**record, 'intervals': [Interval(**i) for i in record['intervals']],
                      'less_own': less_own and Interval(**less_own)})


@dataclass
class ScoreComparison:
    """Result of :func:`compare_scores`.

    Attributes:
        metric: Key of the metric.
        labels: Labels of the sparsities.
        num_images: Number of evaluated images.
        own: Score of the config.
        adapted_to: Score that the model was adapted with; None if there is none.
        choice: Score to use.
        sentence: The choice and its reason as a sentence.
        rows: Results of the dense model, then of each score.
    """
    metric: str
    labels: List[str]
    num_images: int
    own: str
    adapted_to: Optional[str]
    choice: str
    sentence: str
    rows: List[ScoreRow] = field(default_factory=list)

    def to_json(self) -> Dict:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Dict) -> 'ScoreComparison':
        return cls(**{**record, 'rows': [ScoreRow.from_json(row) for row in record['rows']]})


def take_samples(cfg: Config, num_samples: Optional[int], seed: int) -> int:
    """Restrict val to a subset, see :func:`~..subset.restrict_to_subset`.

    Args:
        cfg: Config, changed in place.
        num_samples: Number of images. Defaults to 100, or all if there are fewer.
        seed: Seed of the draw.

    Returns:
        The number of images.

    Raises:
        ValueError: If there are fewer images than requested.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    total = len(DATASETS.build(cfg.val_dataloader.dataset))
    if num_samples is not None and num_samples > total:
        raise ValueError(f'--num-samples {num_samples}: val has {total} images')
    number = min(SAMPLES, total) if num_samples is None else num_samples
    if number != total:
        restrict_to_subset(cfg, 'val', number, seed, cfg.work_dir)
    return number


def usable_scores(cfg: Config, checkpoint: str, backbone: SparseBackbone,
                  sparsities: Sequence[Sparsity] = SPARSITIES) -> List[str]:
    """Return the scores under which a checkpoint can be evaluated.

    These are all scores that can select windows or tokens at every sparsity, except trained ones
    whose weights are not in the checkpoint.

    Args:
        cfg: The config.
        checkpoint: Checkpoint file of the whole model.
        backbone: Sparse backbone built from the config.
        sparsities: Sparsities to evaluate at.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint is invalid or its importance heads do not fit.
    """
    usable = [set(backbone.scores_for(backbone.space.config(s))) for s in sparsities]
    names = [name for name in backbone.scores if all(name in some for some in usable)]
    if not TRAINED.keys() & set(names):
        return names
    state = read_checkpoint(checkpoint)
    state = {key[len('module.'):] if key.startswith('module.') else key: value
             for key, value in state.get('state_dict', state).items()}
    prefix = '.'.join(map(str, find_backbone(cfg)[1:])) + '.'
    held = backbone.scores_held(state, prefix)
    return [name for name in names if name not in TRAINED or name in held]


def check_importance(name: str, cfg: Config, checkpoint: str,
                     backbone: SparseBackbone) -> None:
    """Check that a checkpoint can run under a score.

    Raises:
        ValueError: If the backbone has no such score, or the score is trained and the checkpoint
            lacks its weights.
    """
    if name not in backbone.scores:
        raise ValueError(f'importance {name!r} is not one of {", ".join(backbone.scores)}')
    if name in TRAINED and name not in usable_scores(cfg, checkpoint, backbone):
        raise ValueError(f'importance {name!r} needs trained weights, which {checkpoint} lacks: '
                         f'{TRAINED[name]}')


def compare_scores(evaluator: Evaluator, evaluate: Evaluation, metric: str,
                   sparsities: Sequence[SparsityConfig], scores: Sequence[str], seed: int = 0,
                   shares: Optional[SharesOf] = None,
                   report: Callable[[str], None] = lambda label: None) -> ScoreComparison:
    """Evaluate a model dense and under each score, in one process or on all ranks.

    Args:
        evaluator: Evaluator of the model.
        evaluate: One of its evaluations, which provides the images.
        metric: Key of the metric to compare.
        sparsities: Sparsities to evaluate at, none of them dense.
        scores: Scores from :func:`usable_scores`, including the config's.
        seed: Seed of the random score and the bootstrap.
        shares: Function that runs an evaluation and returns its metrics and the share of the
            objects' area that ran. Defaults to no shares.
        report: Callback that receives a description of each evaluation before it starts.

    Raises:
        ValueError: If the metric is missing, undefined or cannot be resampled.
    """
    own = evaluator.selection.importance
    resample = evaluate.resampler(metric)
    if resample is None:
        raise ValueError(f'{type(evaluate.metric).__name__}: bootstrap of {metric} is not '
                         f'supported, so differences between scores can not be tested')
    trial = _Trial(evaluator, evaluate, metric, lambda: resample(RESAMPLES, seed), seed, shares)
    report('dense')
    dense = trial.dense(len(sparsities))
    with evaluator.backbone.adapted_to.silenced():
        figures = {}
        for name in scores:
            report(f'{name} at {" and ".join(map(label_of, sparsities))}')
            figures[name] = [trial.under(name, config) for config in sparsities]
    adapted_to = evaluator.backbone.adapted_to.name
    judged = [Judged(name, float(np.mean([f.value for f in of_score])),
                     Resampled.mean([f.resampled for f in of_score]))
              for name, of_score in figures.items()]
    labels, num_images = list(map(label_of, sparsities)), len(evaluate.loop.dataloader.dataset)
    choice = choose(judged, own, adapted_to)
    sentence = say(choice, labels, metric.rsplit('/', 1)[-1], num_images)
    mean = {j.name: j.resampled for j in judged}
    rows = [_row('dense', dense)]
    for name, of_score in figures.items():
        less = None if name == own else difference(mean[name], mean[own])
        rows.append(_row(name, of_score, less))
    return ScoreComparison(metric, labels, num_images, own, adapted_to, choice.name, sentence, rows)


def label_of(sparsity: SparsityConfig) -> str:
    """Return a label such as '50%' for a uniform sparsity, else its usual label."""
    ratios = {ratio for stage in sparsity.ratios for ratio in stage}
    return f'{sparsity.mean:.0%}' if len(ratios) == 1 else sparsity.label


@dataclass
class _Figure:
    value: float
    resampled: Resampled
    share: Optional[float]


@dataclass
class _Trial:
    """Evaluations of :func:`compare_scores`; see its arguments."""
    evaluator: Evaluator
    evaluate: Evaluation
    metric: str
    resample: Callable[[], Resampled]
    seed: int
    shares: Optional[SharesOf]

    def dense(self, times: int) -> List[_Figure]:
        metrics = self.evaluate(0.)
        check_metric(metrics, self.metric)
        return times * [_Figure(metrics[self.metric], self.resample(), None)]

    def under(self, name: str, sparsity: SparsityConfig) -> _Figure:
        selection = replace(self.evaluator.selection, importance=name)
        figures = []
        for draw in range(DRAWS if name == RANDOM else 1):
            torch.manual_seed(self.seed + draw)
            run, share = partial(self.evaluate, sparsity, selection), None
            if self.shares is None:
                metrics = run()
            else:
                metrics, share = self.shares(run)
            # There are no metrics if nothing was detected, which counts as 0
            figures.append(_Figure(metrics.get(self.metric, 0.), self.resample(), share))
        return _Figure(
            float(np.mean([f.value for f in figures])),
            Resampled.mean([f.resampled for f in figures]),
            None if figures[0].share is None else float(np.mean([f.share for f in figures])))


def _row(name: str, figures: Sequence[_Figure],
         less_own: Optional[Interval] = None) -> ScoreRow:
    shares = [figure.share for figure in figures]
    return ScoreRow(name, [float(f.value) for f in figures],
                    [f.resampled.interval() for f in figures], less_own,
                    None if None in shares else shares)
