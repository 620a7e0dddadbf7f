"""A first look at each candidate on few images: only the better ones get the full evaluation, as
long as both agree on what is better."""
from typing import Callable, Iterable, Optional

import numpy as np
from scipy.stats import spearmanr

from ..candidates import Candidate

SHARE, RECENT = 1 / 3, 20  # that of the latest candidates goes on; a search gets better with time
CHANCE = .1  # that another goes on too, so that the agreement is not that of the best alone
PAIRS = 10  # candidates with both figures, before any is turned away
AGREEMENT = .7  # rank correlation below which a first look decides nothing


def agreement(candidates: Iterable[Candidate]) -> Optional[float]:
    """Spearman's rank correlation of first look and evaluation; None with fewer than ``PAIRS``
    candidates that have both, or where either is the same for all."""
    pairs = [(c.first_look, c.metric) for c in candidates
             if c.first_look is not None and c.metric is not None]
    if len(pairs) < PAIRS or any(len(set(column)) == 1 for column in zip(*pairs)):
        return None
    return float(spearmanr(*zip(*pairs)).statistic)


class FirstLook:
    """Decides whether a first look is good enough for an evaluation.

    Args:
        rng: Lets some through by chance.
        warn: Called once, with a message, when the few images are found to be too few.
    """

    def __init__(self, rng: np.random.Generator, warn: Callable[[str], None]):
        self.rng, self.warn, self._warned = rng, warn, False

    def promising(self, value: float, candidates: Iterable[Candidate]) -> bool:
        """Whether to go on with a candidate.

        Args:
            value: Its objective at the first look.
            candidates: All that were met before.
        """
        candidates = list(candidates)
        rank_correlation = agreement(candidates)
        if rank_correlation is None:
            return True
        if rank_correlation < AGREEMENT:
            if not self._warned:
                self.warn(f'--first-look has too few images: the rank correlation of first look '
                          f'and evaluation is {rank_correlation:.2f}; every candidate is '
                          f'evaluated while it is below {AGREEMENT}')
                self._warned = True
            return True
        looks = [c.first_look for c in candidates if c.first_look is not None][-RECENT:]
        return value >= np.quantile(looks, 1 - SHARE) or self.rng.random() < CHANCE
