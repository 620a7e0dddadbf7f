"""Reference points: uniform sparsity, a single pruned stage, and the dense model on smaller images,
which is what a user would try first."""
from typing import Callable, Dict, Iterator, Tuple

from ..sparsity import SparsityConfig
from .study import SparsitySearch
from .summary import Reference

UNIFORM, ALONE = (.2, .4, .6, .8), (.4, .8)

Figures = Tuple[float, float]


class References:
    """Reference points of a search. :meth:`run` evaluates them and stores each immediately.

    Args:
        search: The search.
        latency: Function that maps a configuration to milliseconds.
        evaluate: Function that maps a configuration to the objective.
        smaller: Mapping of (H, W) of smaller images to a function that returns the milliseconds
            and the objective of the dense model on them.
    """

    def __init__(self, search: SparsitySearch, latency: Callable[[SparsityConfig], float],
                 evaluate: Callable[[SparsityConfig], float],
                 smaller: Dict[Tuple[int, int], Callable[[], Figures]]):
        self.search, self.latency, self.evaluate = search, latency, evaluate
        self.smaller = smaller

    def run(self) -> None:
        for name, make in self._tasks():
            self.search.record.reference(name, make)

    def _tasks(self) -> Iterator[Tuple[str, Callable[[str], Reference]]]:
        depths = self.search.problem.space.depths
        for ratio in UNIFORM:
            config = SparsityConfig(ratio, depths)
            yield f'{ratio:g}', lambda name: Reference('uniform', name, *self._figures(config))
        for stage in range(len(depths)):
            for ratio in ALONE:
                config = SparsityConfig([ratio * (i == stage) for i in range(len(depths))], depths)
                yield f'stage {stage} at {ratio:g}', lambda name: Reference(
                    'stage', name, *self._figures(config), stage, ratio)
        for (height, width), figures in self.smaller.items():
            yield f'{height}x{width}', lambda name: Reference('resolution', name, *figures())

    def _figures(self, config: SparsityConfig) -> Figures:
        met = self.search.memo.get(config)
        if met is not None and met.metric is not None:
            return met.latency, met.metric
        return self.latency(config), self.evaluate(config)
