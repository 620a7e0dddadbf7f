"""Genetic operators of a search: drawing, crossover and mutation of configurations.

In a deep stage, the published independent draws, sorted within the stage, are nearly all alike: the
mean of nine draws hardly varies. If ratios must not decrease within a stage, the operators here act
on sorted genes and keep them sorted, so that draws cover the cost evenly and children lie between,
or well beyond, their parents.
"""
from functools import lru_cache
from typing import Callable, List, Sequence

import numpy as np

from ...sparsity import SparsityConfig, SparsitySpace

PROPOSALS = 32  # per draw, which takes the one nearest to its target cost
MUTATION = .1  # probability per gene, as published
_GOLDEN = (5**.5 - 1) / 2


class Genes:
    """Draws, crosses and mutates configurations of a space.

    Args:
        space: Search space.
        cost: Function that maps a configuration to a cost that decreases as ratios increase, such
            as MACs.
        rng: Random number generator.
        max_cost: Upper limit of the costs that draws aim at.
    """

    def __init__(self, space: SparsitySpace, cost: Callable[[SparsityConfig], float],
                 rng: np.random.Generator, max_cost: float = np.inf):
        self.space, self.cost, self.rng = space, cost, rng
        uniform = space.uniform()
        costs = [cost(config) for config in uniform]
        self.low, self.high = min(costs), min(max_cost, max(costs))
        self._place = rng.random()
        self._encode = lru_cache(1 << 12)(space.encode)  # parents have many children

    def draw(self) -> SparsityConfig:
        """Draw a configuration close to the next cost of a low-discrepancy sequence.

        The sequence covers the range from the sparsest to the dense configuration evenly, however
        many are drawn.
        """
        self._place = (self._place + _GOLDEN) % 1
        target = self.low + self._place * (self.high - self.low)
        proposals = [self.spread() for _ in range(PROPOSALS)]
        return min(proposals, key=lambda config: abs(self.cost(config) - target))

    def spread(self) -> SparsityConfig:
        """Draw a configuration of any cost.

        Each stage varies around its own centre, from not at all to strongly. The centres vary
        around a common level, so that the cheapest and the most expensive configurations occur.
        """
        n = len(self.space.choices)
        level, width = self.rng.random(2)
        genes: List[int] = []
        for size in self.space.stage_genes:
            centre = level + width * (self.rng.random() - level)
            reach = self.rng.random() / 2
            bounds = np.clip([centre - reach, centre + reach], 0, 1)
            genes += np.minimum(n * self.rng.uniform(*bounds, size), n - 1).astype(int).tolist()
        genes += self._spread_knobs()
        return self.space.decode(genes)

    def cross(self, a: SparsityConfig, b: SparsityConfig) -> SparsityConfig:
        """Cross two parents, taking each stage as a whole, or gene by gene, from either of them.

        Each ratio lies between those of the parents.
        """
        genes: List[int] = []
        for stage in zip(self._stages(a), self._stages(b)):
            size = len(stage[0])
            parents = self.rng.integers(2, size=size if self.rng.random() < .5 else 1)
            genes += [stage[parent][i] for i, parent in enumerate(np.resize(parents, size))]
        for pair in zip(self._knobs(a), self._knobs(b)):
            genes.append(pair[self.rng.integers(2)])
        return self.space.decode(genes)

    def mutate(self, config: SparsityConfig) -> SparsityConfig:
        """Set each gene to a random choice with the published probability.

        In a nested space the other genes of the stage follow as far as necessary to stay sorted: a
        ratio of 0.8 in the first pair raises all others to at least that.
        """
        genes: List[int] = []
        for stage in self._stages(config):
            stage = np.array(stage)
            for i in np.flatnonzero(self.rng.random(len(stage)) < MUTATION):
                stage[i] = self.rng.integers(len(self.space.choices))
                if self.space.nested:
                    stage[:i] = np.minimum(stage[:i], stage[i])
                    stage[i:] = np.maximum(stage[i:], stage[i])
            genes += stage.tolist()
        genes += [self._knob(i) if self.rng.random() < MUTATION else gene
                  for i, gene in enumerate(self._knobs(config))]
        return self.space.decode(genes)

    def _spread_knobs(self) -> List[int]:
        """Draw the genes of the knobs: widths around a common level, like ratios, others freely."""
        knobs = self.space.knobs
        if not any(knob.is_width for knob in knobs):
            return [self._knob(i) for i in range(len(knobs))]
        level, width = self.rng.random(2)
        genes = []
        for i, knob in enumerate(knobs):
            place = level + width * (self.rng.random() - level)
            genes.append(int(place * len(knob.values)) if knob.is_width else self._knob(i))
        return genes

    def _stages(self, config: SparsityConfig) -> List[Sequence[int]]:
        return list(self.space.by_stage(self._encode(config)))

    def _knobs(self, config: SparsityConfig) -> Sequence[int]:
        """Return the genes of the knobs."""
        genes = self._encode(config)
        return genes[len(genes) - len(self.space.knobs):]

    def _knob(self, i: int) -> int:
        return int(self.rng.integers(len(self.space.knobs[i].values)))
