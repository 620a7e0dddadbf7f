"""Settings of a search, as given by the user."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from ..cost.latency import DTYPES, LatencySetting
from ..models.selection.importance import SCORES
from ..operating_point import Knob
from ..sparsity import SparsitySpace
from ..widths import check_widths
from .limits import Limits, parse_latency
from .summary import WINNER

# Default points of a Pareto search, as shares of the dense latency
POINTS = ['90%', '80%', '70%', '60%', '50%']
AUTO = 'auto'


@dataclass
class SearchRequest:
    """Settings of a search.

    Attributes:
        config, checkpoint: Paths.
        options: Settings with dotted keys that are merged into the config, or None.
        limits: Limits that a candidate must meet to be evaluated.
        setting: How to measure latency.
        out: Path of the winning config.
        overwrite: Whether to overwrite `out` if it exists.
        eval_dtype: Dtype of the evaluations: 'fp32', 'fp16' or 'bf16'. Defaults to that of the
            setting. See :func:`~sparsevit_mm.models.precision.half_precision`.
        rounds: Timed runs of the candidate, and of the dense model, per latency measurement.
        num_trials: Total number of candidates to evaluate.
        num_samples: Number of val images per evaluation. Defaults to all.
        first_look: Number of images of the first look at a candidate; None disables it.
        metric: Key of the metric to maximise. Defaults to the usual one of the evaluator.
        seed: Seed of the sampler, the image subsets and the bootstrap resamples.
        sampler: One of :data:`~.propose.sampler.SAMPLERS`.
        table: Path of a LatencyTable that predicts the latencies. If None, they are measured.
        storage: URL of the storage, see :func:`~.store.storage.open_storage`.
        study: Name of the study to join or create.
        resume: Continue the only study of the storage.
        pareto: Search the Pareto front of metric and latency.
        points: Latencies to write a config for, in ms ('30ms') or as a share of dense ('70%').
        evaluation_timeout: Time limit of one candidate in seconds; None for no limit.
        finalists: Number of candidates to judge again, for the winner or for each point.
        references: Whether to evaluate reference points for comparison.
        scopes: Scopes of Selection in which to judge the finalists, besides the config's own.
        knobs: Values of the test config, and the image scale, to search along with the ratios.
        choices: Sparsity ratios to choose from, in [0, 1). Defaults to those of the backbone.
        widths: Mapping of kind, 'heads' or 'ffn', to the shares to choose from for each stage.
        importance: Score that ranks windows or tokens, or :data:`AUTO` to choose the best one
            before the search. Defaults to that of the study, else that of the config.
    """
    config: str
    checkpoint: str
    options: Optional[Dict]
    limits: Limits
    setting: LatencySetting
    out: Path
    overwrite: bool = False
    eval_dtype: Optional[str] = None
    rounds: int = 15
    num_trials: int = 200
    num_samples: Optional[int] = None
    first_look: Optional[int] = None
    metric: Optional[str] = None
    seed: int = 0
    sampler: str = 'nsga2'
    table: Optional[str] = None
    storage: str = ''
    study: Optional[str] = None
    resume: bool = False
    pareto: bool = False
    points: List[str] = field(default_factory=lambda: list(POINTS))
    evaluation_timeout: Optional[float] = None
    finalists: int = 3
    references: bool = False
    scopes: List[str] = field(default_factory=list)
    knobs: List[Knob] = field(default_factory=list)
    choices: Optional[Sequence[float]] = None
    widths: Dict[str, Sequence[float]] = field(default_factory=dict)
    importance: Optional[str] = None

    def __post_init__(self):
        for option, value in (('--trials', self.num_trials), ('--finalists', self.finalists)):
            if value < 1:
                raise ValueError(f'{option} {value} must be at least 1')
        if self.evaluation_timeout is not None and not self.evaluation_timeout > 0:
            raise ValueError(f'--evaluation-timeout {self.evaluation_timeout:g} must be a positive '
                             f'number of seconds')
        if self.evaluated_in not in DTYPES:
            raise ValueError(f'--eval-dtype {self.eval_dtype!r} is not one of {", ".join(DTYPES)}')
        names = [knob.name for knob in self.knobs]
        if any(knob.is_width for knob in self.knobs):
            raise ValueError(f'--knob: {", ".join(names)}: use --widths for the widths of stages')
        if len({*names}) < len(names):
            raise ValueError(f'--knob: duplicate names in {", ".join(names)}')
        if names and self.setting.of != 'model':
            raise ValueError('--knob does not affect the latency of the backbone: use '
                             '--latency-of model')
        self.widths = check_widths(self.widths)
        if self.choices is not None:
            self.choices = SparsitySpace((), tuple(self.choices)).choices  # raises
            if self.table is not None:
                raise ValueError('--choices cannot be combined with --latency-table, which has '
                                 'its own choices')
        if (names or self.widths) and self.table is not None:
            option = '--knob' if names else '--widths'
            raise ValueError(f'{option} cannot be combined with --latency-table: a latency table '
                             f'covers only sparsity ratios')
        if self.importance not in (None, AUTO, *SCORES):
            raise ValueError(f'--importance {self.importance!r} is not one of {AUTO}, '
                             f'{", ".join(SCORES)}')
        if self.first_look is not None:
            if self.first_look < 1:
                raise ValueError(f'--first-look {self.first_look} must be at least 1 image')
            if self.num_samples is not None and self.first_look >= self.num_samples:
                raise ValueError(f'--first-look {self.first_look} must be less than --num-samples '
                                 f'{self.num_samples}')
        if self.pareto:
            if self.scopes:
                raise ValueError('--scopes cannot be combined with --pareto: all configurations of '
                                 'a front have the same scope')
            if self.sampler == 'published':
                raise ValueError('--sampler published supports only one objective: use another '
                                 'sampler with --pareto')
            for point in self.points:
                point_latency(point, 1.)  # raises ValueError if invalid
            if len({parse_latency(point, '--points') for point in self.points}) < len(
                    self.points):
                raise ValueError(f'--points {",".join(self.points)} contains duplicates')

    @property
    def evaluated_in(self) -> str:
        """The dtype of the evaluations."""
        return self.eval_dtype or self.setting.dtype

    def winners(self) -> Dict[str, Path]:
        """Return the path of each winning config by name: that of the point in a Pareto search."""
        if not self.pareto:
            return {WINNER: self.out}
        return {point: self.out.with_name(f'{self.out.stem}_{_plain(point)}.py')
                for point in self.points}


def point_latency(point: str, dense_latency: float) -> float:
    """Convert a point to milliseconds.

    Raises:
        ValueError: If the point is zero or :func:`~.limits.parse_latency` rejects it.
    """
    value, of_dense = parse_latency(point, '--points')
    if not value:
        raise ValueError(f'--points {point!r} must be greater than 0')
    return value * dense_latency if of_dense else value


def _plain(point: str) -> str:
    """Convert a point for a file name: '70%' -> '70pct', '30.5ms' and '30.5' -> '30.5ms'."""
    number = point.strip().replace('%', 'pct')
    return number if number[-1].isalpha() else f'{number}ms'
