"""The runs behind a latency table: which configurations, in which order, for how long."""
from dataclasses import dataclass, field
from time import perf_counter as clock
from typing import Callable, List, Optional, Sequence, Set, Tuple

import numpy as np

from ..sparsity import SparsityConfig, SparsitySpace, kept_windows
from .latency import LatencyMeter

CHECKS = 20  # configurations that are not fitted on; each sweep runs all of them again
FITS = 24  # further configurations, which no other sweep runs
DENSE_EVERY = 12  # runs
SWEEPS = 2  # at least: 48 configurations to fit on, and two runs of those to check on
TRIES = 200  # at a configuration that is new
_GOLDEN = (5**.5 - 1) / 2
Kept = Tuple[Tuple[int, ...], ...]
Progress = Callable[[float, int], None]


@dataclass
class Runs:
    """Forward passes in the order in which they ran.

    Attributes:
        kept: For each, the windows that each block kept, by stage.
        times: Milliseconds.
        checks: For each, whether its configuration is kept from the fit.
    """
    kept: List[Kept] = field(default_factory=list)
    times: List[float] = field(default_factory=list)
    checks: List[bool] = field(default_factory=list)


class Draws:
    """Random configurations, no two alike in the windows that they keep.

    Args:
        space: The configurations.
        windows: Windows of each stage's map.
        rng: Source of all randomness.

    Raises:
        ValueError: Too few configurations differ to leave some to check on.
    """

    def __init__(self, space: SparsitySpace, windows: Sequence[int], rng: np.random.Generator):
        self.space, self.windows, self.rng = space, windows, rng
        self._level = rng.random()
        self.first = [c for c in space.uniform() if not c.is_dense]
        taken = {self.keeps(c) for c in [*self.first, space.config(0.)]}
        self.checks = [self.draw(taken) for _ in range(CHECKS)]
        self._held_out = {self.keeps(c) for c in self.checks}

    def keeps(self, config: SparsityConfig) -> Kept:
        """Windows that each block keeps: all that latency depends on."""
        return tuple(tuple(windows_kept(total, r) for r in ratios)
                     for total, ratios in zip(self.windows, config.ratios))

    def next(self) -> SparsityConfig:
        """A configuration to fit on: first those of one ratio everywhere, the extremes."""
        return self.first.pop() if self.first else self.draw(set(self._held_out))

    def draw(self, taken: Set[Kept]) -> SparsityConfig:
        """Ratios independent but for nesting, drawn together towards a level that covers all
        evenly: up to one ratio everywhere. `taken` grows."""
        n = len(self.space.choices)
        for _ in range(TRIES):
            self._level = (self._level + _GOLDEN) % 1
            apart = self.rng.random()
            places = (1 - apart) * self._level + apart * self.rng.random(self.space.num_genes)
            config = self.space.decode((n * places).astype(int).tolist())
            if self.keeps(config) not in taken:
                taken.add(self.keeps(config))
                return config
        raise ValueError(f'no table: with {list(self.windows)} windows in the stages and '
                         f'{n} choices, fewer than {CHECKS} configurations differ beyond those '
                         f'of one ratio; measure the few there are')


def collect(meter: LatencyMeter, draws: Draws, budget: float,
            progress: Optional[Progress] = None) -> Runs:
    """Runs configurations until the time is up. In each sweep those to check on take their turns
    among new ones, so that repeated measurements of them see all that the machine went through.

    Args:
        budget: Seconds; the last run may go beyond.
        progress: Gets the seconds spent and the configurations measured, after each run.

    Raises:
        ValueError: The budget is no time, or was spent before two sweeps: names one that would do.
    """
    if not 0 < budget < np.inf:
        raise ValueError(f'budget {budget} is no number of seconds')
    runs, start, seen = Runs(), clock(), set()
    dense = draws.space.config(0.)
    meter.once(dense)  # what only a first run of all does, is done

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
                    f'{budget:g} s are too few for a latency table: {len(seen)} configurations '
                    f'of {needed} were measured, in {num_candidates} runs of {enough}; about '
                    f'{1.2 * would_do:.0f} s would do')
            if num_candidates % DENSE_EVERY == 0:
                run(dense, False)
            run(*sweep[i])
            num_candidates += 1


def windows_kept(total: int, ratio: float) -> int:
    """Windows of `total` that a block runs at a ratio: all at 0."""
    return kept_windows(total, ratio) if ratio else total
