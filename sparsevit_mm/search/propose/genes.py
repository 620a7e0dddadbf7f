"""Operators on genes: how a search draws, crosses and mutates configurations. Where ratios never
fall within a stage, genes stay sorted.

Independent draws, sorted within the stage, as published, are nearly all alike where a stage is
deep: the mean of nine draws hardly varies. The operators here act on sorted genes and keep them
sorted, so that draws cover the cost evenly and children lie between, or well beyond, their parents.
"""
from functools import lru_cache
from typing import Callable, List, Sequence

import numpy as np

from ...sparsity import SparsityConfig, SparsitySpace

PROPOSALS = 32  # of which a draw takes the one nearest to its cost
MUTATION = .1  # per gene, as published
_GOLDEN = (5**.5 - 1) / 2


class Genes:
    """Draws, crosses and mutates configurations of a space.

    Args:
        space: The configurations.
        cost: Configuration -> cost, MACs say: higher for lower ratios.
        rng: Source of all randomness.
        max_cost: Draws stay below it as far as the space allows.
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
        """A configuration whose cost is the next of a sequence that fills the range from the
        sparsest to the dense one evenly, however many are drawn."""
        self._place = (self._place + _GOLDEN) % 1
        target = self.low + self._place * (self.high - self.low)
        proposals = [self.spread() for _ in range(PROPOSALS)]
        return min(proposals, key=lambda config: abs(self.cost(config) - target))

    def spread(self) -> SparsityConfig:
        """A configuration of any cost: each stage anywhere from flat to steep, about a centre of
        its own; the centres lie about a common level, so that the cheapest and the dearest
        configurations occur too."""
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
        """Each stage from one parent, or pair by pair from either. A pair's ratio lies between
        those of its parents."""
        genes: List[int] = []
        for stage in zip(self._stages(a), self._stages(b)):
            size = len(stage[0])
            parents = self.rng.integers(2, size=size if self.rng.random() < .5 else 1)
            genes += [stage[parent][i] for i, parent in enumerate(np.resize(parents, size))]
        for pair in zip(self._knobs(a), self._knobs(b)):
            genes.append(pair[self.rng.integers(2)])
        return self.space.decode(genes)

    def mutate(self, config: SparsityConfig) -> SparsityConfig:
        """Each gene changes with the published probability to any choice, and its neighbours in the
        stage follow as far as nesting demands: a first pair at 0.8 takes all along."""
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
        """Of each knob any value; widths lie about a level of their own, as ratios do."""
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
        """Genes beside the ratios."""
        genes = self._encode(config)
        return genes[len(genes) - len(self.space.knobs):]

    def _knob(self, i: int) -> int:
        return int(self.rng.integers(len(self.space.knobs[i].values)))
