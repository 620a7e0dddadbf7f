"""Check latency predictions against held-out measurements."""
from dataclasses import dataclass
from typing import Callable, Dict, List

import numpy as np

from .runs import Kept, Runs


@dataclass(frozen=True)
class Check:
    """Accuracy of a table on configurations that it was not fitted on. Errors and spreads are
    relative to the median of the measurements.

    Attributes:
        median_error, worst_error: Median and largest error of the prediction.
        spearman: Rank correlation of predictions and measurements; 0 if either is constant.
        spread, worst_spread: Median and largest difference between the medians of the first and the
            second half of the measurements: the part of the error that may be due to the machine.
        number: Number of configurations.
        repeats: Fewest measurements of a configuration.
    """
    median_error: float
    worst_error: float
    spearman: float
    spread: float
    worst_spread: float
    number: int
    repeats: int

    def __str__(self) -> str:
        return (f'{self.number} configurations not fitted on: median error '
                f'{self.median_error:.1%}, worst {self.worst_error:.1%}, Spearman '
                f'{self.spearman:.3f}; measured again ({self.repeats} times or more) they differ '
                f'by {self.spread:.1%}, worst {self.worst_spread:.1%}')


def check(runs: Runs, state: np.ndarray, predict: Callable[[Kept], float]) -> Check:
    """Compare predictions with the held-out runs.

    Args:
        runs: All runs.
        state: State of the machine in each, see :meth:`~.additive.AdditiveModel.fit`.
        predict: Maps kept windows to milliseconds.
    """
    measured: Dict[Kept, List[float]] = {}
    for kept, ms, factor, held_out in zip(runs.kept, runs.times, state, runs.checks):
        if held_out:
            measured.setdefault(kept, []).append(ms / factor)
    medians = np.array([np.median(times) for times in measured.values()])
    halves = np.array([[np.median(times[:len(times) // 2]), np.median(times[len(times) // 2:])]
                       for times in measured.values()])
    predicted = np.array([predict(kept) for kept in measured])
    errors = np.abs(predicted / medians - 1)
    spreads = np.abs(halves[:, 0] - halves[:, 1]) / medians
    return Check(float(np.median(errors)), float(errors.max()), _spearman(predicted, medians),
                 float(np.median(spreads)), float(spreads.max()), len(medians),
                 min(map(len, measured.values())))


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [_ranks(a), _ranks(b)]
    return 0. if min(map(np.ptp, ranks)) == 0 else float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks; ties get their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
