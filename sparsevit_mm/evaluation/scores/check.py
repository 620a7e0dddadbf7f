"""Choice of the score that selects the windows or tokens of a checkpoint, made on val images."""
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner, set_random_seed

from ...config.data import check_data, is_annotation_loader, step_name
from ...config.labels import check_labels
from ...config.reading import find_backbone, without_adaptation
from ...models.checkpoints import unwrapped
from ...sparsity import Sparsity
from ..evaluator import Evaluator
from ..metrics import Metrics, default_metric
from .compare import (SPARSITIES, ScoreComparison, check_importance, compare_scores, take_samples,
                      usable_scores)
from .survey import StageRow, survey

# Errors that models raise if the data lack annotations or the loss cannot run outside of training
_NO_LOSS = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError,
            TypeError, ValueError)


@dataclass
class SelectionReport:
    """Result of :func:`check_selection`.

    Attributes:
        comparison: Metrics under each score, and the choice.
        stages: Statistics of each score in each stage.
        labelled: Description of the images on which the loss was computed; None if it was not.
    """
    comparison: ScoreComparison
    stages: List[StageRow]
    labelled: Optional[str]

    @property
    def choice(self) -> str:
        """The score to use."""
        return self.comparison.choice

    @property
    def sentence(self) -> str:
        """The choice and its reason as a sentence."""
        return self.comparison.sentence

    def to_json(self) -> Dict:
        return {**asdict(self), 'choice': self.choice, 'sentence': self.sentence}


def check_selection(cfg: Config, checkpoint: str, sparsities: Sequence[Sparsity] = SPARSITIES,
                    num_samples: Optional[int] = None, seed: int = 0,
                    report: Callable[[str], None] = lambda label: None) -> SelectionReport:
    """Compare the scores that can select the windows or tokens of a checkpoint, and choose one.

    Args:
        cfg: The config. The log and the annotations of the drawn images go to its ``work_dir``.
        checkpoint: Checkpoint file of the whole model.
        sparsities: Sparsities to evaluate at. The choice depends on the mean over them.
        num_samples: Number of val images. Defaults to 100, or all if there are fewer.
        seed: Seed of the choice of images and of the random score.
        report: Callback that receives the name of each step before it starts.

    Raises:
        ValueError: If the config has no sparse backbone, its score cannot be evaluated, a sparsity
            is dense, there are fewer images than requested, or they show no object. See also
            :class:`~..evaluator.Evaluator` and :func:`~.compare.compare_scores`.
        FileNotFoundError: If the checkpoint or the data do not exist.
    """
    find_backbone(cfg)
    check_data(cfg, 'val')
    check_labels(cfg, 'val')
    cfg = deepcopy(cfg)
    cfg.custom_hooks = without_adaptation(cfg.get('custom_hooks'))
    metric = default_metric(cfg)
    num_samples = take_samples(cfg, num_samples, seed)
    evaluator = Evaluator(cfg, checkpoint)
    backbone = evaluator.backbone
    configs = list(dict.fromkeys(backbone.space.config(s) for s in sparsities))
    for config in configs:
        if config.is_dense:
            raise ValueError(f'sparsity {config} is dense, so the score has no effect')
    check_importance(evaluator.selection.importance, cfg, checkpoint, backbone)
    configured = backbone.sparsity
    for config in configs:
        backbone.sparsity = config  # raises if the config's score cannot select at this sparsity
    backbone.sparsity = configured
    scores = usable_scores(cfg, checkpoint, backbone, configs)
    shares = None
    if type(evaluator.metric).__name__ == 'CocoMetric':
        shares = _ObjectShares(evaluator)
    comparison = compare_scores(evaluator, evaluator.main, metric, configs, scores, seed, shares,
                                report)
    stages, labelled = _survey(cfg, evaluator, scores, num_samples, seed, report)
    return SelectionReport(comparison, stages, labelled)


class _ObjectShares:
    """Callable that runs an evaluation with a CocoMetric and returns its metrics and the share of
    the objects' area that ran, averaged over objects.

    Raises:
        ValueError: If the images show no object.
    """

    def __init__(self, evaluator: Evaluator):
        from ...visualization.breakdown import ShareRecorder  # these need pycocotools
        from ...visualization.breakdown_scores import DetectionScore
        metric = evaluator.metric
        truth = metric._coco_api
        if truth is not None and all(a.get('iscrowd') for a in truth.anns.values()):
            raise ValueError(f'the {len(truth.imgs)} val images contain no object, so there is '
                             f'nothing to score: use more images or another seed')
        self.score = DetectionScore(metric)
        self.recorder = ShareRecorder(evaluator.backbone, self.score.add)
        evaluator.runner.register_hook(self.recorder)

    def __call__(self, evaluate: Callable[[], Metrics]) -> Tuple[Metrics, Optional[float]]:
        with self.recorder.recording():
            metrics = evaluate()
        self.score.rows()  # the first row covers all objects
        return metrics, self.score.shares()[0]


def _survey(cfg: Config, evaluator: Evaluator, scores: Sequence[str], number: int, seed: int,
            report: Callable[[str], None]) -> Tuple[List[StageRow], Optional[str]]:
    """Return the rows of the survey, and a description of the images on which the loss was
    computed, None if it was not."""
    runner = evaluator.runner
    model = unwrapped(runner.model)
    run = partial(survey, model, evaluator.backbone, scores)
    report('updates and gradients')
    own, others = _annotated(cfg.val_dataloader), cfg.get('train_dataloader')
    reason = 'its pipeline loads no annotations'
    if own is not None:
        try:
            return run(_batches(runner, own, number), True), f'{number} images of val'
        except _NO_LOSS as error:
            reason = _first_line(error)
    rows = run(_batches(runner, cfg.val_dataloader, number), False)
    if others is None:
        return rows, None
    try:
        set_random_seed(seed)  # for the augmentations
        gains = run(_batches(runner, _in_order(others), number), True)
    except (*_NO_LOSS, OSError):  # the training data may not exist
        return rows, None
    for row, other in zip(rows, gains):
        row.gain = other.gain
    return rows, f'the first {number} images of train (val gives no loss: {reason})'


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__} {error}'.strip().splitlines()[0]


def _annotated(loader: ConfigDict) -> Optional[ConfigDict]:
    """Return the loader with annotations loaded right after the image, or None if its pipeline
    loads none.

    Annotations are then resized along with the image, unlike in many test pipelines. Pipelines with
    mmpretrain's PackInputs, which takes the labels from the data set, need no loading step.
    """
    loader = deepcopy(loader)
    steps = list(loader.dataset.get('pipeline', ()))
    labels = [step for step in steps if is_annotation_loader(step)]
    if not labels:
        return loader if 'PackInputs' in map(step_name, steps) else None
    others = [step for step in steps if not is_annotation_loader(step)]
    first = max((i + 1 for i, step in enumerate(others) if step_name(step).startswith('Load')),
                default=0)
    loader.dataset.pipeline = others[:first] + labels + others[first:]
    return loader


def _in_order(loader: ConfigDict) -> ConfigDict:
    return ConfigDict({**loader, 'sampler': dict(type='DefaultSampler', shuffle=False),
                       'batch_sampler': None})


def _batches(runner: Runner, loader: ConfigDict, number: int) -> Iterator:
    """Return batches with the first `number` images of a loader, rounded up to whole batches."""
    loader = runner.build_dataloader({**deepcopy(loader), 'persistent_workers': False})
    return islice(loader, -(-number // loader.batch_size))
