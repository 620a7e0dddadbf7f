"""The additive model of latency.

A configuration takes the dense latency, plus for each stage that prunes a fixed cost (scores,
ranking) and what each of its blocks saves at the windows it keeps. Times come from whole forward
passes, each in the machine's state of its moment: the fit finds that state along with the costs.
"""
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import numpy as np

from .runs import Kept, Runs, windows_kept

STATE = 7  # runs in a row whose median tells the state of the machine


@dataclass
class Stage:
    """What the blocks of one stage cost.

    Attributes:
        total: Windows of its map.
        kept: Numbers of windows that were measured, ascending, all below `total`.
        costs: Milliseconds that one block takes at each of them beyond a dense block.
        fixed: Milliseconds that the stage takes if any of its blocks prunes.
    """
    total: int
    kept: List[int]
    costs: List[float]
    fixed: float

    def keeps(self, ratio: float) -> int:
        """Windows that a block keeps at a ratio."""
        return windows_kept(self.total, ratio)

    def block(self, kept: int) -> float:
        """Milliseconds that a block takes beyond a dense one, interpolated in the windows kept;
        fewer than were measured count as the fewest that were."""
        return float(np.interp(kept, [*self.kept, self.total], [*self.costs, 0.]))

    def latency(self, kept: Sequence[int]) -> float:
        """Milliseconds that the stage takes beyond a dense one, by the windows of each block."""
        fixed = self.fixed if min(kept) < self.total else 0.
        return sum(map(self.block, kept), fixed)


class AdditiveModel:
    """Columns: the dense latency; for each stage what its blocks save with their MACs, and three
    kinds of departures from that, which are penalised: the fixed cost, what is saved with the
    windows, and what each number of windows saves by itself. Without the penalty noise would find
    its way into them, as few configurations leave a stage dense.

    Args:
        kept: Numbers of windows in each stage, ascending, all below its total.
        totals: Windows of each stage's map.
        macs: Stage -> windows kept -> MACs that one block saves, as a share of the dense model.
    """
    STRENGTHS = 10. ** np.arange(-6, 5)
    ROUNDS = 8  # of the alternation between costs and states
    HUBER = 1.345  # standard deviations
    NEAR = .01  # relative error that is never too far off

    def __init__(self, kept: Sequence[Sequence[int]], totals: Sequence[int],
                 macs: Sequence[Dict[int, float]]):
        self.kept, self.totals, self.macs = kept, totals, macs
        # What stages depart by is thought of as a share of what they can save.
        self.scales = [max(saved.values(), default=0.) for saved in macs]
        self.starts = np.cumsum([1, *(3 + len(k) for k in kept)]).tolist()

    def row(self, kept: Kept) -> np.ndarray:
        """A configuration's row of the design matrix."""
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
        """Costs and states in turn, with Huber's weights on relative residuals.

        Returns:
            Dense latency in milliseconds, the stages, and the state of the machine in each run:
            a factor whose median is 1. Runs to check on have no part in any of them.
        """
        unit = float(np.median(runs.times))  # costs are shares of it, so that strengths fit all
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
        """Ridge regression at the strength of least squared error of leave-one-out, in closed
        form."""
        penalty = np.zeros(rows.shape[1])
        for s in range(len(self.kept)):
            penalty[self.starts[s] + 1:self.starts[s + 1]] = 1
        tiny = 1e-9 * np.square(rows).sum(0) + 1e-12  # where MACs and windows are one line
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
    """The state of the machine in each of a number of runs: medians over a few runs in a row, and
    straight lines between.

    Args:
        turns: The runs whose slowness is known, ascending.
        slowness: Time measured over time predicted.
    """
    parts = np.array_split(np.arange(len(turns)), max(len(turns) // STATE, 1))
    return np.interp(np.arange(number), [turns[part].mean() for part in parts],
                     [np.median(slowness[part]) for part in parts])
