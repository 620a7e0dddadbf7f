"""Landscapes for fast search benchmarks: metric and cost of every configuration of a space, from a
surrogate of a recorded search or from a formula."""
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
from scipy.stats import spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from sparsevit_mm.search.candidates import read_csv
from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace

LARGEST = 1_000_000  # limit on the number of enumerated configurations
FEWEST = 20  # evaluated configurations that a surrogate needs
RECORDED = ('evaluated', 'rejected')  # states with a metric


@dataclass
class Landscape:
    """Metric and cost of every configuration of a space.

    Attributes:
        name, about: Name and description; the latter says how well a surrogate predicts
            configurations that were left out of the fit.
        space: The space.
        genes: All configurations, (N, genes), sorted within their stages.
        metric: (N,), on the scale of 0 to 100.
        cost: (N,), relative to dense.
    """
    name: str
    about: str
    space: SparsitySpace
    genes: np.ndarray
    metric: np.ndarray
    cost: np.ndarray

    def __post_init__(self):
        self.index = {tuple(genes): i for i, genes in enumerate(self.genes.tolist())}

    def row(self, config: SparsityConfig) -> int:
        return self.index[self.space.encode(config)]

    def best(self, limit: float) -> float:
        """Return the highest metric at a cost of at most `limit`, relative to dense."""
        return self.metric[self.cost <= limit].max()


def recorded(path: Path) -> Landscape:
    """Fit a surrogate to a recorded search.

    The metric is a Gaussian process over the ratios of the pairs (Matern 5/2 with one length scale
    each, and noise), the cost a linear fit to the MACs.

    Args:
        path: CSV with the columns sparsity, state, macs and metric, as a search writes it. If all
            metrics are at most 1, they are scaled by 100.

    Raises:
        FileNotFoundError, ValueError: See :func:`~sparsevit_mm.search.candidates.read_csv`.
        ValueError: If there are fewer than :data:`FEWEST` evaluated configurations, or the space is
            too large to enumerate.
    """
    candidates = read_csv(path)
    seen = np.array([c.state in RECORDED for c in candidates], bool)
    if seen.sum() < FEWEST:
        raise ValueError(f'{path} has {seen.sum()} evaluated configurations, a surrogate needs '
                         f'{FEWEST}')
    space = SparsitySpace(candidates[0].config.depths)
    genes = np.array([space.encode(c.config) for c in candidates])
    metric = np.array([c.metric for c in candidates if c.state in RECORDED])
    metric *= 100 if metric.max() <= 1 else 1
    macs = np.array([c.macs or np.nan for c in candidates])
    choices, measured = np.array(space.choices), np.isfinite(macs)
    ratios = choices[genes]

    every = enumerate_space(space)
    kernel = (ConstantKernel() * Matern(np.ones(space.num_genes), (.1, 30), nu=2.5)
              + WhiteKernel(.01))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2,
                                       random_state=0).fit(ratios[seen], metric)
    fixed = GaussianProcessRegressor(process.kernel_, optimizer=None, normalize_y=True)
    left_out = cross_val_predict(fixed, ratios[seen], metric, cv=LeaveOneOut())
    r2 = 1 - np.mean((left_out - metric)**2) / metric.var()
    linear = LinearRegression().fit(ratios[measured], macs[measured])
    about = (f'{seen.sum()} evaluated, {metric.min():.1f} to {metric.max():.1f}; left out in turn: '
             f'R2 {r2:.2f}, rank correlation {spearmanr(left_out, metric)[0]:.2f}; '
             f'MACs: R2 {linear.score(ratios[measured], macs[measured]):.3f}')
    predicted = np.concatenate([process.predict(choices[part])
                                for part in np.array_split(every, len(every) // 10_000 + 1)])
    return Landscape(path.stem, about, space, every, predicted,
                     linear.predict(choices[every]) / linear.intercept_)


def synthetic(depths: Sequence[int] = (2, 2, 6, 2), top: float = 42.6,
              rugged: float = .05) -> Landscape:
    """Make a landscape from a formula, on the scale of the published COCO figures: 42.6 dense,
    about 41.3 at the published ratios with 0.64 of the MACs.

    Each pair of blocks loses metric above a knee; knees and slopes are random. High ratios in two
    consecutive pairs lose more. Each configuration deviates from the smooth surface by normal
    noise, as metrics on a subset do.

    Args:
        depths: Depths of the backbone.
        top: Metric of the dense model.
        rugged: Standard deviation of the noise.
    """
    space, rng = SparsitySpace(tuple(depths)), np.random.default_rng(0)
    every = enumerate_space(space)
    ratios = np.array(space.choices)[every]
    pairs = space.num_genes
    knee, weight = rng.uniform(.1, .5, pairs), rng.uniform(1, 8, pairs) / np.sqrt(pairs / 6)
    loss = np.maximum(0, ratios - knee)**1.5 @ weight
    loss += 3 * np.sum(np.maximum(0, ratios[:, 1:] - .4) * np.maximum(0, ratios[:, :-1] - .4), 1)
    share = rng.uniform(.7, 1.3, pairs)
    cost = 1 - .92 * ratios @ (share / share.sum())
    metric = top - loss + rng.normal(0, rugged, len(every))
    return Landscape('synthetic', f'made up; rugged by {rugged}', space, every, metric, cost)


def enumerate_space(space: SparsitySpace) -> np.ndarray:
    """Return all configurations as genes, (N, genes); raise a ValueError if there are too many."""
    if space.count() > LARGEST:
        raise ValueError(f'{space.count():,} configurations of depths {space.depths} are too many '
                         f'to enumerate')
    choices = range(len(space.choices))
    stages = [list(itertools.combinations_with_replacement(choices, size))
              for size in space.stage_genes]
    return np.array([sum(parts, ()) for parts in itertools.product(*stages)])
