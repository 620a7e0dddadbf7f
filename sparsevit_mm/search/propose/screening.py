"""A first look at each candidate on few images: only the better ones get the full evaluation, as
long as both agree on what is better."""
import math
from typing import Callable, Iterable, List, Optional, Sequence

import numpy as np
from scipy.stats import rankdata

from ..candidates import Candidate

SHARE, RECENT = 1 / 3, 20  # that of the candidates to compare with goes on
CHANCE = .1  # of all candidates go on whatever their first look says
PAIRS = 10  # such candidates with both figures, before any is turned away
AGREEMENT = .7  # rank correlation below which a first look decides nothing
ONE_SIDED = 1.645  # standard errors: 95% sure


def agreement(candidates: Iterable[Candidate], latency: bool = False) -> Optional[float]:
    """Spearman's rank correlation of first look and evaluation, over the candidates that were not
    selected by their first look: among the selected alone it is far lower.

    Args:
        candidates: All that were met.
        latency: Whether to take out what both figures owe to the latency (partial correlation).

    Returns:
        None with fewer than ``PAIRS`` candidates, or where a figure is the same for all.
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
    """Whether a rank correlation over `count` pairs is below :data:`AGREEMENT` beyond chance, by
    Fisher's transform with the variance of ranks (Fieller, Hartley and Pearson, 1957)."""
    error = math.sqrt(1.06 / max(1, count - 3))
    correlation = min(max(correlation, -.9999), .9999)
    return math.atanh(correlation) + ONE_SIDED * error < math.atanh(AGREEMENT)


class FirstLook:
    """Decides whether a first look is good enough for an evaluation.

    Args:
        rng: Lets some through by chance.
        warn: Called once, with a message, when the few images are found to be too few.
        pareto: Whether low latency is an objective too: a candidate is then compared with those of
            the nearest latencies, instead of the latest ones.
    """

    def __init__(self, rng: np.random.Generator, warn: Callable[[str], None],
                 pareto: bool = False):
        self.rng, self.warn, self.pareto, self._warned = rng, warn, pareto, False

    def promising(self, candidate: Candidate, candidates: Iterable[Candidate]) -> bool:
        """Whether to go on with a candidate that had its first look. Sets ``candidate.sampled``.

        Args:
            candidate: The candidate.
            candidates: All that were met before.
        """
        candidates = list(candidates)
        correlation = agreement(candidates, self.pareto)
        candidate.sampled = correlation is None or self.rng.random() < CHANCE
        if candidate.sampled:
            return True
        count = sum(c.sampled and c.metric is not None for c in candidates)
        if too_low(correlation, count):
            if not self._warned:
                self.warn(f'--first-look has too few images: the rank correlation of first look '
                          f'and evaluation is {correlation:.2f} over {count} candidates; every '
                          f'candidate is evaluated while it is below {AGREEMENT}')
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
    """What a linear fit on `other` leaves; both have mean 0."""
    square = (other**2).sum()
    return values - other * ((values * other).sum() / square) if square else values
