"""Candidates of a search, their Pareto front, and their CSV file."""
import ast
import csv
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence

from ..evaluation.intervals import difference
from ..evaluation.metrics import Metrics
from ..files import replacing
from ..operating_point import point_from_json, point_to_json
from ..sparsity import Depths, SparsityConfig

EVALUATED, OUTSIDE, FAILED, DUPLICATE = 'evaluated', 'outside', 'failed', 'duplicate'
REJECTED, SCREENED = 'rejected', 'screened'
STATES = EVALUATED, OUTSIDE, FAILED, DUPLICATE, REJECTED, SCREENED


@dataclass
class Candidate:
    """Configuration that the search has tried.

    Attributes:
        trial: Number of the Optuna trial.
        config: The configuration; an OperatingPoint if the search has knobs.
        state: One of

            - 'evaluated';
            - 'outside': outside the limits, so not evaluated;
            - 'failed': its metric is NaN, or its evaluation raised or timed out;
            - 'duplicate': of an earlier trial, or being judged by another worker;
            - 'rejected': evaluated, but outside the limits when measured again;
            - 'screened': not among the better ones in the first look.
        macs: Multiply-accumulate operations of the backbone in the latency setting.
        latency: Milliseconds; None if not measured, for example because of the limit on MACs.
        metric: Value of the objective; None unless evaluated.
        metrics: All metrics of the evaluator.
        first_look: Objective on the images of the first look; None if there was none.
        resampled: JSON of the objective as :class:`~..evaluation.intervals.Resampled`, with the
            same resamples for every candidate; None if the evaluator has no resampler.
        seconds: Time to judge it: latency measurement and evaluation.
        dense: Milliseconds of the dense model measured in turn with it; None if nothing was
            measured.
        sampled: Whether it was drawn for evaluation before its first look was considered.
        error: Text of the exception that the evaluation raised; None if it raised none.
    """
    trial: int
    config: SparsityConfig
    state: str
    macs: Optional[int] = None
    latency: Optional[float] = None
    metric: Optional[float] = None
    metrics: Optional[Dict[str, float]] = None
    first_look: Optional[float] = None
    resampled: Optional[Dict] = None
    seconds: Optional[float] = None
    dense: Optional[float] = None
    sampled: bool = False
    error: Optional[str] = None

    def to_json(self) -> Dict:
        """Convert all fields but `trial` to JSON types, with None for non-finite metrics."""
        record = {**asdict(self), **point_to_json(self.config)}
        record['metrics'] = self.metrics and finite(self.metrics)
        del record['trial'], record['config']
        return record

    @classmethod
    def from_json(cls, trial: int, record: Dict, depths: Depths) -> 'Candidate':
        """Inverse of :meth:`to_json`. Ignore fields that a later version has added."""
        known = {f.name: record[f.name] for f in fields(cls) if f.name in record}
        return cls(trial, **{**known, 'config': point_from_json(record, depths)})


def finite(metrics: Metrics) -> Metrics:
    """Replace NaN and infinity with None, since JSON has neither."""
    return {key: float(value) if value is not None and math.isfinite(value) else None
            for key, value in metrics.items()}


def write_csv(path: Path, candidates: Iterable[Candidate]) -> None:
    """Write one row per candidate in the order of trials. Missing values are empty cells."""
    candidates = sorted(candidates, key=lambda c: c.trial)
    keys = sorted({key for c in candidates for key in c.metrics or {}})
    knobs = sorted({name for c in candidates for name, _ in c.config.knobs})
    with replacing(path) as partial, partial.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['trial', 'state', 'sparsity', 'mean_sparsity', *knobs, 'macs',
                         'latency_ms', 'metric', 'first_look', 'seconds', *keys])
        for c in candidates:
            metrics = c.metrics or {}
            set_to = dict(c.config.knobs)
            writer.writerow([c.trial, c.state, SparsityConfig(c.config, c.config.depths),
                             f'{c.config.mean:.4f}', *(set_to.get(name) for name in knobs), c.macs,
                             _digits(c.latency, 3), c.metric, c.first_look,
                             _digits(c.seconds, 2), *(metrics.get(key) for key in keys)])


def read_csv(path: Path) -> List[Candidate]:
    """Read the candidates of a file from :func:`write_csv`.

    Only the trial, state, sparsity ratios, MACs, latency and metric are read.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is invalid. The message names the file, the line and the fault.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist')
    with path.open(newline='', encoding='utf-8', errors='replace') as file:
        reader = csv.DictReader(file)
        missing = {'trial', 'state', 'sparsity', 'macs', 'latency_ms', 'metric'} - {
            *(reader.fieldnames or ())}
        if missing:
            raise ValueError(f'{path} is not a file of candidates: it has no column '
                             f'{", ".join(sorted(missing))}')
        try:
            return [_from_row(row) for row in reader]
        except (ValueError, TypeError, SyntaxError, csv.Error) as error:
            raise ValueError(f'{path}, line {reader.line_num}: {error}') from None


def _from_row(row: Dict[str, str]) -> Candidate:
    if None in row.values():
        raise ValueError('the line is truncated')
    stages = ast.literal_eval(row['sparsity']) if row['sparsity'] else None
    if not isinstance(stages, list) or not all(isinstance(stage, list) for stage in stages):
        raise ValueError(f'sparsity {row["sparsity"]!r} is not a list of stages')
    if row['state'] not in STATES:
        raise ValueError(f'state {row["state"]!r} is not one of {", ".join(STATES)}')
    return Candidate(int(row['trial']), SparsityConfig(stages, list(map(len, stages))),
                     row['state'], row['macs'] and int(row['macs']) or None,
                     _number(row['latency_ms']), _number(row['metric']))


def _number(text: str) -> Optional[float]:
    return float(text) if text else None


def pareto_front(candidates: Iterable[Candidate]) -> List[Candidate]:
    """Return the evaluated candidates with a better metric than all faster ones.

    They are sorted from the fastest to the slowest, which has the best metric.
    """
    front: List[Candidate] = []
    evaluated = (c for c in candidates if c.state == EVALUATED)
    for candidate in sorted(evaluated, key=lambda c: (c.latency, -c.metric)):
        if not front or candidate.metric > front[-1].metric:
            front.append(candidate)
    return front


def _digits(value: Optional[float], digits: int) -> Optional[str]:
    return None if value is None else f'{value:.{digits}f}'


def within_noise(candidates: Sequence[Candidate], best: Candidate) -> List[Candidate]:
    """Return the candidates that do not differ significantly from the best, including the best.

    The 95% confidence interval of the difference of their objectives includes 0. Candidates
    without resamples are left out, and so are all candidates if the best has none.

    Raises:
        ValueError: If the resamples are not from the same images.
    """
    if best.resampled is None:
        return []
    alike = []
    for candidate in candidates:
        if candidate.resampled is not None:
            if difference(best.resampled, candidate.resampled).includes(0):
                alike.append(candidate)
    return alike
