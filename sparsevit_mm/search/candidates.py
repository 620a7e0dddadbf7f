"""What a search knows of each configuration it met, and the CSV that says so."""
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
    """One configuration that the search met.

    Attributes:
        trial: Number of the Optuna trial.
        config: The configuration, an OperatingPoint where the search sets knobs.
        state: 'evaluated'; 'outside' the limits, so never evaluated; 'failed', its metric is NaN or
            its evaluation raised;
            'duplicate' of an earlier trial; 'rejected', it was evaluated, but proved outside the
            limits when its latency was measured again; 'screened', on the few images of the first
            look it was not among the better ones.
        macs: Multiply-accumulates of the backbone in the latency setting.
        latency: Milliseconds; None where the MACs alone excluded it.
        metric: The objective; None unless evaluated.
        metrics: All that the evaluator gave.
        first_look: The objective on the few images of the first look, if there was one.
        resampled: JSON of the :class:`~..evaluation.intervals.Resampled` objective, the same
            resamples for every candidate; None where the evaluator has no resampler.
        seconds: What judging it took, evaluation and latency.
        dense: Milliseconds of the dense model that was measured beside it; None where the latency
            is a table's.
        sampled: Whether chance alone decided that it goes on after the first look.
        error: What the evaluation raised, of a failed one.
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
        """All but the trial, as JSON holds it: it knows no NaN."""
        record = {**asdict(self), **point_to_json(self.config)}
        record['metrics'] = self.metrics and finite(self.metrics)
        del record['trial'], record['config']
        return record

    @classmethod
    def from_json(cls, trial: int, record: Dict, depths: Depths) -> 'Candidate':
        """The inverse of :meth:`to_json`. Fields that a later version added are left out."""
        known = {f.name: record[f.name] for f in fields(cls) if f.name in record}
        return cls(trial, **{**known, 'config': point_from_json(record, depths)})


def finite(metrics: Metrics) -> Metrics:
    """As JSON holds them: None for NaN and infinity."""
    return {key: float(value) if value is not None and math.isfinite(value) else None
            for key, value in metrics.items()}


def write_csv(path: Path, candidates: Iterable[Candidate]) -> None:
    """One line per candidate, in the order of trials; empty cells where nothing was measured."""
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
    """Candidates of a file that :func:`write_csv` wrote: trial, configuration, state, MACs, latency
    and metric.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Names the file, the line and what is wrong in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} is not there')
    with path.open(newline='', encoding='utf-8', errors='replace') as file:
        reader = csv.DictReader(file)
        missing = {'trial', 'state', 'sparsity', 'macs', 'latency_ms', 'metric'} - {
            *(reader.fieldnames or ())}
        if missing:
            raise ValueError(f'{path} is no file of candidates: it has no column '
                             f'{", ".join(sorted(missing))}')
        try:
            return [_from_row(row) for row in reader]
        except (ValueError, TypeError, SyntaxError, csv.Error) as error:
            raise ValueError(f'{path}, line {reader.line_num}: {error}') from None


def _from_row(row: Dict[str, str]) -> Candidate:
    if None in row.values():
        raise ValueError('the line is cut short')
    stages = ast.literal_eval(row['sparsity']) if row['sparsity'] else None
    if not isinstance(stages, list) or not all(isinstance(stage, list) for stage in stages):
        raise ValueError(f'sparsity {row["sparsity"]!r} is no list of stages')
    if row['state'] not in STATES:
        raise ValueError(f'state {row["state"]!r} is none of {", ".join(STATES)}')
    return Candidate(int(row['trial']), SparsityConfig(stages, list(map(len, stages))),
                     row['state'], row['macs'] and int(row['macs']) or None,
                     _number(row['latency_ms']), _number(row['metric']))


def _number(text: str) -> Optional[float]:
    return float(text) if text else None


def pareto_front(candidates: Iterable[Candidate]) -> List[Candidate]:
    """The evaluated candidates that none beats: each is better than all faster ones. From the
    fastest to the slowest, which is the best."""
    front: List[Candidate] = []
    evaluated = (c for c in candidates if c.state == EVALUATED)
    for candidate in sorted(evaluated, key=lambda c: (c.latency, -c.metric)):
        if not front or candidate.metric > front[-1].metric:
            front.append(candidate)
    return front


def _digits(value: Optional[float], digits: int) -> Optional[str]:
    return None if value is None else f'{value:.{digits}f}'


def within_noise(candidates: Sequence[Candidate], best: Candidate) -> List[Candidate]:
    """The candidates that these images do not tell from the best: the 95% interval of the best's
    objective less theirs includes 0, as it does for the best itself.

    Those without resamples are left out; all are if the best has none.

    Raises:
        ValueError: They are not of the same images.
    """
    if best.resampled is None:
        return []
    alike = []
    for candidate in candidates:
        if candidate.resampled is not None:
            if difference(best.resampled, candidate.resampled).includes(0):
                alike.append(candidate)
    return alike
