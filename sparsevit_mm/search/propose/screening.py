"""First look: each candidate is first evaluated on a few images, and only the better ones fully.

This requires that both evaluations rank the candidates alike.
"""
import math
from typing import Callable, Iterable, List, Optional, Sequence

import numpy as np
from scipy.stats import rankdata

from ..candidates import Candidate

SHARE, RECENT = 1 / 3, 20  # share that is evaluated, relative to that many rivals
CHANCE = .1  # share of all candidates that is evaluated regardless of the first look
PAIRS = 10  # such candidates with both results that are needed before any is screened out
AGREEMENT = .7  # rank correlation below which first looks are ignored
ONE_SIDED = 1.645  # standard errors of a one-sided 95% confidence bound


def agreement(candidates: Iterable[Candidate], latency: bool = False) -> Optional[float]:
    """Compute Spearman's rank correlation of first look and evaluation.

    Only candidates that were not selected by their first look count: among the selected ones the
    correlation is far lower.

    Args:
        candidates: All candidates so far.
        latency: Whether to control for the latency (partial correlation).

    Returns:
        The correlation; None with fewer than :data:`PAIRS` candidates, or if the first looks or
        the metrics are all equal.
    """
    pairs = [c for c in candidates
             if c.sampled and c.first_look is not None and c.metric is not None]
    if len(pairs) < PAIRS:
        return None
    look, metric, ms = (_ranks(values) for values in (
        [c.first_look for c in pairs], [c.metric for c in pairs], [c.latency for c in pairs]))
    if latency:
        look, metric = (_without(values, ms) for values in (look, metric))
    scale = math.sqrt((look**2).sum() * (metric**2).sum())
    return float((look * metric).sum() / scale) if scale > 1e-9 else None


def too_low(correlation: float, count: int) -> bool:
    """Whether a rank correlation over `count` pairs is significantly below :data:`AGREEMENT`.

    The test uses Fisher's transformation with the variance for ranks (Fieller, Hartley and
    Pearson, 1957).
    """
    error = math.sqrt(1.06 / max(1, count - 3))
    correlation = min(max(correlation, -.9999), .9999)
    return math.atanh(correlation) + ONE_SIDED * error < math.atanh(AGREEMENT)


class FirstLook:
    """Screening of candidates by their first look.

    Args:
        rng: Random number generator.
        warn: Callback that receives a message, once, if the first look uses too few images.
        pareto: Whether low latency is an objective too. If so, a candidate is compared with those
            of the nearest latencies instead of the most recent ones.
    """

    def __init__(self, rng: np.random.Generator, warn: Callable[[str], None],
                 pareto: bool = False):
        self.rng, self.warn, self.pareto, self._warned = rng, warn, pareto, False

    def promising(self, candidate: Candidate, candidates: Iterable[Candidate]) -> bool:
        """Whether to evaluate a candidate after its first look. Sets ``candidate.sampled``.

        Args:
            candidate: The candidate.
            candidates: All previous candidates.
        """
        candidates = list(candidates)
        correlation = agreement(candidates, self.pareto)
        candidate.sampled = correlation is None or self.rng.random() < CHANCE
        if candidate.sampled:
            return True
        count = sum(c.sampled and c.metric is not None for c in candidates)
        if too_low(correlation, count):
            if not self._warned:
                self.warn(f'--first-look uses too few images: the rank correlation of first look '
                          f'and evaluation is {correlation:.2f} over {count} candidates. While it '
                          f'is below {AGREEMENT}, every candidate is evaluated.')
                self._warned = True
            return True
        looks = self._rivals(candidate, [c for c in candidates if c.first_look is not None])
        return candidate.first_look >= np.quantile(looks, 1 - SHARE)

    def _rivals(self, candidate: Candidate, looked: Sequence[Candidate]) -> List[float]:
        if self.pareto:
            looked = sorted(looked, key=lambda c: abs(c.latency - candidate.latency))[:RECENT]
        return [c.first_look for c in looked[-RECENT:]]


def _ranks(values: Sequence[float]) -> np.ndarray:
    ranks = rankdata(values)
    return ranks - ranks.mean()


def _without(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the residual of a linear fit to `other`; both must have mean 0."""
    square = (other**2).sum()
    return values - other * ((values * other).sum() / square) if square else values
