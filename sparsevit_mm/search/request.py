"""What the user of a search asks for."""
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

# Shares of the dense latency that a Pareto search picks winners for, unless told.
POINTS = ['90%', '80%', '70%', '60%', '50%']
AUTO = 'auto'


@dataclass
class SearchRequest:
    """What the user asks for.

    Attributes:
        config, checkpoint: Paths.
        options: Dotted settings merged into the config, or None.
        limits: What a candidate must meet to be evaluated.
        setting: How latency is measured.
        out: Where the winning config goes.
        overwrite: Whether `out` may exist.
        eval_dtype: Of the evaluations: 'fp32', 'fp16' or 'bf16'; that of the setting if None. See
            :func:`~sparsevit_mm.models.precision.half_precision`.
        rounds: Runs of the candidate, and of the dense model beside it, in one measurement.
        num_trials: Evaluations in all.
        num_samples: Images of an evaluation; all of val if None.
        first_look: Images of the first look at a candidate; none if None.
        metric: Key of the metric; the usual one of the evaluator if None.
        seed: Of the sampler and of the subset.
        sampler: One of :data:`~.propose.sampler.SAMPLERS`.
        table: File of a LatencyTable to take latencies from; measured if None.
        storage: Of the study, see :func:`~.store.storage.open_storage`.
        study: Name of the study to join or begin.
        resume: Go on with the one study that is there.
        pareto: Search the front of metric against latency.
        points: Latencies that get a config of the front, in ms ('30ms') or of dense ('70%').
        evaluation_timeout: Seconds for one candidate; none if None.
        finalists: How many are judged again, for the winner or for each point.
        references: Whether to evaluate points to compare with.
        scopes: Of Selection, in which the finalists are judged beside the config's own.
        knobs: Values of the test config, and the size of the images, that are chosen beside the
            ratios.
        choices: Ratios to choose from, in [0, 1); those of the backbone's space if None.
        widths: Kind, 'heads' or 'ffn' -> shares of them to choose from for each stage.
        importance: Score that windows are chosen by, or :data:`AUTO` to find the one that is best
            before the search; the study's, else the config's, if None.
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
                raise ValueError(f'{option} {value}: at least one is needed')
        if self.evaluation_timeout is not None and not self.evaluation_timeout > 0:
            raise ValueError(f'--evaluation-timeout {self.evaluation_timeout:g}: a number of '
                             f'seconds is needed')
        if self.evaluated_in not in DTYPES:
            raise ValueError(f'--eval-dtype {self.eval_dtype!r} is none of {", ".join(DTYPES)}')
        names = [knob.name for knob in self.knobs]
        if any(knob.is_width for knob in self.knobs):
            raise ValueError(f'--knob: {", ".join(names)}: widths of stages are chosen by --widths')
        if len({*names}) < len(names):
            raise ValueError(f'--knob: {", ".join(names)} are not all different')
        if names and self.setting.of != 'model':
            raise ValueError('--knob changes nothing of the backbone: --latency-of model')
        self.widths = check_widths(self.widths)
        if self.choices is not None:
            self.choices = SparsitySpace((), tuple(self.choices)).choices  # raises
            if self.table is not None:
                raise ValueError('--choices: a latency table has its own; search without it')
        if (names or self.widths) and self.table is not None:
            option = '--knob' if names else '--widths'
            raise ValueError(f'{option}: a latency table knows of ratios alone; search without it')
        if self.importance not in (None, AUTO, *SCORES):
            raise ValueError(f'--importance {self.importance!r} is none of {AUTO}, '
                             f'{", ".join(SCORES)}')
        if self.first_look is not None:
            if self.first_look < 1:
                raise ValueError(f'--first-look {self.first_look}: at least one image is needed')
            if self.num_samples is not None and self.first_look >= self.num_samples:
                raise ValueError(f'--first-look {self.first_look} images are no fewer than the '
                                 f'{self.num_samples} of --num-samples')
        if self.pareto:
            if self.scopes:
                raise ValueError('--scopes compares for one winner: a front holds configurations '
                                 'of one scope')
            if self.sampler == 'published':
                raise ValueError('--sampler published has one objective; --pareto goes with the '
                                 'others')
            for point in self.points:
                point_latency(point, 1.)  # raises
            if len({parse_latency(point, '--points') for point in self.points}) < len(
                    self.points):
                raise ValueError(f'--points {",".join(self.points)}: two of them are the same')

    @property
    def evaluated_in(self) -> str:
        """The dtype of the evaluations."""
        return self.eval_dtype or self.setting.dtype

    def winners(self) -> Dict[str, Path]:
        """File of each winning config by its name: the point in a Pareto search."""
        if not self.pareto:
            return {WINNER: self.out}
        return {point: self.out.with_name(f'{self.out.stem}_{_plain(point)}.py')
                for point in self.points}


def point_latency(point: str, dense_latency: float) -> float:
    """Milliseconds of a point, see :func:`~.limits.parse_latency`; ValueError if it is none."""
    value, of_dense = parse_latency(point, '--points')
    if not value:
        raise ValueError(f'--points {point!r}: nothing is so fast')
    return value * dense_latency if of_dense else value


def _plain(point: str) -> str:
    """For a file name: '70%' -> '70pct', '30.5ms' -> '30.5ms'."""
    number = point.strip().replace('%', 'pct')
    return number if number[-1].isalpha() else f'{number}ms'
