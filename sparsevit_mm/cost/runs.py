"""Collect the timed runs for a latency table: draw configurations and order their runs."""
from dataclasses import dataclass, field
from time import perf_counter as clock
from typing import Callable, List, Optional, Sequence, Set, Tuple

import numpy as np

from ..sparsity import SparsityConfig, SparsitySpace, kept_windows
from .latency import LatencyMeter

CHECKS = 20  # held-out configurations, all run in each sweep
FITS = 24  # configurations to fit on, drawn for each sweep
DENSE_EVERY = 12  # candidate runs per run of the dense configuration
SWEEPS = 2  # minimum: 48 draws to fit on, two runs of each held-out configuration
TRIES = 200  # draws before giving up on a new configuration
_GOLDEN = (5**.5 - 1) / 2
Kept = Tuple[Tuple[int, ...], ...]
Progress = Callable[[float, int], None]


@dataclass
class Runs:
    """Forward passes in the order in which they ran.

    Attributes:
        kept: Windows that each block kept in each run, by stage.
        times: Milliseconds of each run.
        checks: Whether the configuration of each run is held out from the fit.
    """
    kept: List[Kept] = field(default_factory=list)
    times: List[float] = field(default_factory=list)
    checks: List[bool] = field(default_factory=list)


class Draws:
    """Draws random configurations for a latency table. Held-out configurations all differ in the
    windows that they keep, from each other and from those to fit on.

    Args:
        space: Space of the configurations.
        windows: Windows of each stage's feature map.
        rng: Random generator.

    Raises:
        ValueError: If the space has too few distinct configurations to hold some out.
    """

    def __init__(self, space: SparsitySpace, windows: Sequence[int], rng: np.random.Generator):
        self.space, self.windows, self.rng = space, windows, rng
        self._level = rng.random()
        self.first = [c for c in space.uniform() if not c.is_dense]
        taken = {self.keeps(c) for c in [*self.first, space.config(0.)]}
        self.checks = [self.draw(taken) for _ in range(CHECKS)]
        self._held_out = {self.keeps(c) for c in self.checks}

    def keeps(self, config: SparsityConfig) -> Kept:
        """Return the windows that each block keeps, which determine the latency."""
        return tuple(tuple(windows_kept(total, r) for r in ratios)
                     for total, ratios in zip(self.windows, config.ratios))

    def next(self) -> SparsityConfig:
        """Return a configuration to fit on: first those with one ratio everywhere, which are
        extremes, then random ones."""
        return self.first.pop() if self.first else self.draw(set(self._held_out))

    def draw(self, taken: Set[Kept]) -> SparsityConfig:
        """Draw a configuration that is not in `taken`, and add it.

        Genes mix independent values with a common level, from all independent (apart from nesting)
        to one ratio everywhere. Levels cover the range evenly.

        Raises:
            ValueError: If `TRIES` draws yield no new configuration.
        """
        n = len(self.space.choices)
        for _ in range(TRIES):
            self._level = (self._level + _GOLDEN) % 1
            apart = self.rng.random()
            places = (1 - apart) * self._level + apart * self.rng.random(self.space.num_genes)
            config = self.space.decode((n * places).astype(int).tolist())
            if self.keeps(config) not in taken:
                taken.add(self.keeps(config))
                return config
        raise ValueError(f'cannot build a latency table: with {list(self.windows)} windows in the '
                         f'stages and {n} choices, fewer than {CHECKS} configurations differ, '
                         f'apart from those with one ratio; measure these few directly')


def collect(meter: LatencyMeter, draws: Draws, budget: float,
            progress: Optional[Progress] = None) -> Runs:
    """Run configurations until the time budget is spent. Each sweep shuffles the held-out
    configurations among those to fit on, so that their repeated runs sample all states of the
    machine.

    Args:
        meter: Meter that runs them.
        draws: Source of configurations.
        budget: Seconds; the last run may exceed them.
        progress: Callback that receives, after each run, the seconds spent and the number of
            distinct configurations measured.

    Raises:
        ValueError: If the budget is not a positive finite number, or is spent before two sweeps.
            The message then names a sufficient budget.
    """
    if not 0 < budget < np.inf:
        raise ValueError(f'budget is {budget} s: must be positive and finite')
    runs, start, seen = Runs(), clock(), set()
    dense = draws.space.config(0.)
    meter.once(dense)  # one-time initialization

    def run(config: SparsityConfig, check: bool) -> None:
        kept = draws.keeps(config)
        if meter.first_is_slow and kept not in seen:
            meter.once(config)
        seen.add(kept)
        runs.times.append(meter.once(config))
        runs.kept.append(kept)
        runs.checks.append(check)
        if progress is not None:
            progress(clock() - start, len(seen))

    needed = 1 + CHECKS + SWEEPS * FITS
    enough = SWEEPS * (CHECKS + FITS)
    num_candidates = 0
    while True:
        sweep = [(c, True) for c in draws.checks] + [(draws.next(), False) for _ in range(FITS)]
        for i in draws.rng.permutation(len(sweep)):
            if clock() - start >= budget:
                if num_candidates >= enough:
                    return runs
                would_do = (clock() - start) / max(num_candidates, 1) * enough
                raise ValueError(
                    f'{budget:g} s are not enough for a latency table: {len(seen)} of {needed} '
                    f'configurations were measured, in {num_candidates} of {enough} runs; about '
                    f'{1.2 * would_do:.0f} s should be enough')
            if num_candidates % DENSE_EVERY == 0:
                run(dense, False)
            run(*sweep[i])
            num_candidates += 1


def windows_kept(total: int, ratio: float) -> int:
    """Return how many of `total` windows a block runs at a sparsity ratio: all at 0."""
    return kept_windows(total, ratio) if ratio else total
