"""A search problem without a model: metric, latency and MACs in closed form."""
import numpy as np

from sparsevit_mm.search.store.joining import JoinedStudy
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.problem import Problem
from sparsevit_mm.search.study import SparsitySearch
from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace

MEMORY = 'sqlite:///:memory:'
FREE = Limits(max_latency=1e9)


def latency_of(config: SparsityConfig) -> float:
    """Milliseconds, 10 for dense; earlier stages cost more."""
    share = [np.mean([1 - r for r in stage]) for stage in config.ratios]
    return float(10 * np.average(share, weights=range(len(share), 0, -1)))


def macs_of(config: SparsityConfig) -> int:
    return round(1e9 * (1 - config.mean))


def metric_of(config: SparsityConfig) -> float:
    """Separable: sparsity costs least in the last stages, and nothing up to a bit of it."""
    stages = len(config.ratios)
    return 1 - sum((stages - i) * max(0, r - .1)**2 for i, stage in enumerate(config.ratios)
                   for r in stage) / (2 * stages)


class Landscape:
    """Makes searches over one space, and keeps what was asked of it.

    Attributes:
        evaluated, measured: The configurations in the order they were asked for.
    """

    def __init__(self, depths=(2, 2), choices=None, metric=metric_of):
        self.space = SparsitySpace(depths, choices) if choices else SparsitySpace(depths)
        self.metric = metric
        self.evaluated, self.measured = [], []

    def evaluate(self, config):
        self.evaluated.append(config)
        value = self.metric(config)
        return value if isinstance(value, dict) else {'score': value}

    def latency(self, config):
        self.measured.append(config)
        return latency_of(config)

    def search(self, storage=MEMORY, limits=FREE, problem=None, seed=0, resume=False,
               population_size=8, study=None, sampler='nsga2', timeout=None,
               **identity) -> SparsitySearch:
        """`problem`: other settings of the Problem."""
        problem = Problem(self.space, self.evaluate, self.latency, macs_of, 'score', limits,
                          **problem or {})
        joined = JoinedStudy(storage, dict(data='toy', **identity), study, resume, problem.pareto)
        return SparsitySearch(problem, joined, seed, sampler, population_size, timeout)

    def all_configs(self):
        genes = np.ndindex(*[len(self.space.choices)] * self.space.num_genes)
        return {self.space.decode(g) for g in genes}
