"""A model's metric under each of the scores that windows or tokens may be chosen by, and which to
use."""
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
SAMPLES = 100  # images, where there are as many
DRAWS = 3  # of the random score, averaged

SharesOf = Callable[[Callable[[], Metrics]], Tuple[Metrics, Optional[float]]]


@dataclass
class ScoreRow:
    """A score's figures; lists hold one value for each sparsity.

    Attributes:
        name: Of the score, or 'dense', whose figures are the same at each.
        values: The metric.
        intervals: The same, each with its 95% interval.
        less_own: Mean over the sparsities less that of the config's own score, on the same
            resamples; None of that score itself.
        shares: Share of the area of all objects that ran, in [0, 1]; None where it is not known.
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
    """Attributes:
        metric: Key of the figure in the evaluator's metrics.
        labels: Of the sparsities.
        num_images: That were evaluated.
        own: The config's score.
        adapted_to: The score that the model was adapted with; None if with none.
        rows: Dense, then the scores.
        choice: The score to use.
        sentence: The same in words, with the reason.
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
    """Restricts val to some images, see :func:`~..subset.restrict_to_subset`.

    Args:
        cfg: Changed in place.
        num_samples: Images; 100, or all if there are fewer, if None.
        seed: Which.

    Returns:
        Their number.

    Raises:
        ValueError: There are not so many.
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
    """The scores that a checkpoint can be judged under: all that can choose what runs, those
    with weights of their own where the checkpoint holds them.

    Args:
        cfg: The config.
        checkpoint: File of the whole model.
        backbone: Of that config.
        sparsities: To judge at.

    Raises:
        FileNotFoundError, ValueError: The checkpoint is not there, or its heads do not fit.
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
    """Makes sure that a checkpoint can run under a score.

    Raises:
        ValueError: There is no such score, or it needs weights of its own and the checkpoint holds
            none.
    """
    if name not in backbone.scores:
        raise ValueError(f'importance {name!r} is none of {", ".join(backbone.scores)}')
    if name in TRAINED and name not in usable_scores(cfg, checkpoint, backbone):
        raise ValueError(f'importance {name!r} needs weights of its own, and {checkpoint} holds '
                         f'none: {TRAINED[name]}')


def compare_scores(evaluator: Evaluator, evaluate: Evaluation, metric: str,
                   sparsities: Sequence[SparsityConfig], scores: Sequence[str], seed: int = 0,
                   shares: Optional[SharesOf] = None,
                   report: Callable[[str], None] = lambda label: None) -> ScoreComparison:
    """Evaluates a model dense and under each score, by itself or in step with other ranks.

    Args:
        evaluator: Of the model.
        evaluate: One of its evaluations: the images.
        metric: Key of the figure to judge by.
        sparsities: Not dense.
        scores: From :func:`usable_scores`; the config's own is among them.
        seed: Of the random scores.
        shares: Runs an evaluation, and gives beside its metrics the share of the area of objects
            that ran; None to do without.
        report: Called with what is evaluated next.

    Raises:
        ValueError: The metric is not there, is NaN, or has no resamples.
    """
    own = evaluator.selection.importance
    resample = evaluate.resampler(metric)
    if resample is None:
        raise ValueError(f'{type(evaluate.metric).__name__} has no resamples of {metric}, so that '
                         f'scores can not be told from chance by it')
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
    """'50%' of a uniform one, else as in other tables."""
    ratios = {ratio for stage in sparsity.ratios for ratio in stage}
    return f'{sparsity.mean:.0%}' if len(ratios) == 1 else sparsity.label


@dataclass
class _Figure:
    value: float
    resampled: Resampled
    share: Optional[float]


@dataclass
class _Trial:
    """What :func:`compare_scores` evaluates with; see there."""
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
            # Nothing detected gives no metrics, and counts as 0.
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
