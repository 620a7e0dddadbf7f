"""What a search knows of each configuration it met, and the CSV that says so."""
import csv
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, Iterable, Optional

from ..sparsity import Depths, SparsityConfig

EVALUATED, OUTSIDE, FAILED, DUPLICATE = 'evaluated', 'outside', 'failed', 'duplicate'
REJECTED = 'rejected'


@dataclass
class Candidate:
    """One configuration that the search met.

    Attributes:
        trial: Number of the Optuna trial.
        config: The configuration.
        state: 'evaluated'; 'outside' the limits, so never evaluated; 'failed', its metric is NaN;
            'duplicate' of an earlier trial; 'rejected', it was evaluated, but proved outside the
            limits when its latency was measured again.
        macs: Multiply-accumulates of the backbone in the latency setting.
        latency: Milliseconds; None where the MACs alone excluded it.
        metric: The objective; None unless evaluated.
        metrics: All that the evaluator gave.
    """
    trial: int
    config: SparsityConfig
    state: str
    macs: Optional[int] = None
    latency: Optional[float] = None
    metric: Optional[float] = None
    metrics: Optional[Dict[str, float]] = None

    def to_json(self) -> Dict:
        """All but the trial, as JSON holds it: it knows no NaN."""
        record = {**asdict(self), 'config': self.config.to_list()}
        record['metrics'] = self.metrics and {
            key: float(value) for key, value in self.metrics.items() if math.isfinite(value)
        }
        del record['trial']
        return record

    @classmethod
    def from_json(cls, trial: int, record: Dict, depths: Depths) -> 'Candidate':
        """The inverse of :meth:`to_json`."""
        return cls(trial, **{**record, 'config': SparsityConfig(record['config'], depths)})


def write_csv(path: Path, candidates: Iterable[Candidate]) -> None:
    """One line per candidate, in the order of trials; empty cells where nothing was measured."""
    candidates = sorted(candidates, key=lambda c: c.trial)
    keys = sorted({key for c in candidates for key in c.metrics or {}})
    partial = path.with_suffix('.partial')
    with partial.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['trial', 'state', 'sparsity', 'mean_sparsity', 'macs', 'latency_ms',
                         'metric', *keys])
        for c in candidates:
            metrics = c.metrics or {}
            writer.writerow([c.trial, c.state, c.config, f'{c.config.mean:.4f}', c.macs,
                             None if c.latency is None else f'{c.latency:.3f}', c.metric,
                             *(metrics.get(key) for key in keys)])
    partial.replace(path)
