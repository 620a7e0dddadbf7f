"""Additive latency model.

The latency of a configuration is the dense latency, plus, for each stage that prunes, a fixed cost
(scores, ranking) and the savings of each block at the windows it keeps. Times are those of whole
forward passes, and the speed of the machine drifts between them: the fit estimates this state along
with the costs.
"""
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import numpy as np

from .runs import Kept, Runs, windows_kept

STATE = 7  # consecutive runs whose median estimates the state of the machine


@dataclass
class Stage:
    """Costs of the blocks of one stage, relative to dense blocks.

    Attributes:
        total: Windows of its feature map.
        kept: Measured numbers of windows, ascending, all below `total`.
        costs: Milliseconds of a block at each of them, minus those of a dense block.
        fixed: Milliseconds that the stage takes in addition if any of its blocks prunes.
    """
    total: int
    kept: List[int]
    costs: List[float]
    fixed: float

    def keeps(self, ratio: float) -> int:
        """Return the number of windows that a block keeps at a sparsity ratio."""
        return windows_kept(self.total, ratio)

    def block(self, kept: int) -> float:
        """Return the milliseconds of a block minus those of a dense one, interpolated linearly in
        the kept windows and constant below the fewest measured."""
        return float(np.interp(kept, [*self.kept, self.total], [*self.costs, 0.]))

    def latency(self, kept: Sequence[int]) -> float:
        """Return the milliseconds of the stage minus those of a dense one, given the windows that
        each block keeps."""
        fixed = self.fixed if min(kept) < self.total else 0.
        return sum(map(self.block, kept), fixed)


class AdditiveModel:
    """Robust ridge regression of latency on configurations.

    The columns of the design matrix are the dense latency and, for each stage, the savings that are
    proportional to MACs and three penalized deviations from them: the fixed cost, savings
    proportional to windows, and one for each number of windows. Without the penalty the deviations
    would fit noise, as few configurations leave a stage dense.

    Args:
        kept: Numbers of kept windows in each stage, ascending, all below its total.
        totals: Windows of each stage's feature map.
        macs: For each stage, kept windows -> MACs that a block saves, as a share of the dense
            backbone's.
    """
    STRENGTHS = 10. ** np.arange(-6, 5)
    ROUNDS = 8  # alternations between fitting costs and states
    HUBER = 1.345  # standard deviations
    NEAR = .01  # relative error up to which a run always has full weight

    def __init__(self, kept: Sequence[Sequence[int]], totals: Sequence[int],
                 macs: Sequence[Dict[int, float]]):
        self.kept, self.totals, self.macs = kept, totals, macs
        # Deviations are expressed as shares of what the stage can save.
        self.scales = [max(saved.values(), default=0.) for saved in macs]
        self.starts = np.cumsum([1, *(3 + len(k) for k in kept)]).tolist()

    def row(self, kept: Kept) -> np.ndarray:
        """Return the row of the design matrix of a configuration."""
        row = np.zeros(self.starts[-1])
        row[0] = 1
        for s, blocks in enumerate(kept):
            start = self.starts[s]
            for k in blocks:
                if k < self.totals[s]:
                    row[start] += self.macs[s][k]
                    row[start + 1] = self.scales[s]
                    row[start + 2] += self.scales[s] * (1 - k / self.totals[s])
                    row[start + 3 + self.kept[s].index(k)] += self.scales[s]
        return row

    def fit(self, runs: Runs) -> Tuple[float, List[Stage], np.ndarray]:
        """Fit costs and states in turn, with Huber weights on relative residuals. Held-out runs are
        not used.

        Returns:
            Dense latency in milliseconds, the stages, and the state of the machine in each run: a
            factor of its times, with a median of 1 over all runs.
        """
        unit = float(np.median(runs.times))  # makes the penalty independent of the scale of times
        times, rows = np.array(runs.times) / unit, np.array([self.row(k) for k in runs.kept])
        fitted = ~np.array(runs.checks)
        state, weights = np.ones(len(times)), np.ones(len(times))
        predicted = times
        for _ in range(self.ROUNDS):
            scale = np.sqrt(weights) / predicted
            costs = self._solve((rows * scale[:, None])[fitted], (times / state * scale)[fitted])
            predicted = np.maximum(rows @ costs, times.min() / 10)
            state = _state(np.flatnonzero(fitted), (times / predicted)[fitted], len(times))
            state /= np.median(state)
            off = np.abs(times / state / predicted - 1)
            allowed = max(self.HUBER * 1.4826 * np.median(off[fitted]), self.NEAR)
            weights = allowed / np.maximum(off, allowed)
        costs = costs * unit
        return float(costs[0]), [self._stage(s, costs) for s in range(len(self.kept))], state

    def _solve(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Solve a ridge regression at the strength with the least leave-one-out squared error, in
        closed form."""
        penalty = np.zeros(rows.shape[1])
        for s in range(len(self.kept)):
            penalty[self.starts[s] + 1:self.starts[s + 1]] = 1
        tiny = 1e-9 * np.square(rows).sum(0) + 1e-12  # if MACs and windows are collinear
        best = np.inf
        for strength in self.STRENGTHS:
            inverse = np.linalg.inv(rows.T @ rows + np.diag(strength * penalty + tiny))
            costs = inverse @ (rows.T @ values)
            leverage = np.einsum('ij,jk,ik->i', rows, inverse, rows)
            error = np.square((values - rows @ costs) / (1 - np.minimum(leverage, .999))).mean()
            if error < best:
                best, chosen = error, costs
        return chosen

    def _stage(self, s: int, costs: np.ndarray) -> Stage:
        start, scale = self.starts[s], self.scales[s]
        by_macs, fixed, by_windows = costs[start:start + 3]
        blocks = [float(by_macs * self.macs[s][k] + scale * (
            by_windows * (1 - k / self.totals[s]) + departure))
            for k, departure in zip(self.kept[s], costs[start + 3:])]
        return Stage(self.totals[s], list(self.kept[s]), blocks, float(scale * fixed))


def _state(turns: np.ndarray, slowness: np.ndarray, number: int) -> np.ndarray:
    """Estimate the state of the machine in each run: medians over groups of consecutive runs,
    interpolated linearly.

    Args:
        turns: Indices of the runs with known slowness, ascending.
        slowness: Measured over predicted time of these runs.
        number: Number of all runs.
    """
    parts = np.array_split(np.arange(len(turns)), max(len(turns) // STATE, 1))
    return np.interp(np.arange(number), [turns[part].mean() for part in parts],
                     [np.median(slowness[part]) for part in parts])
