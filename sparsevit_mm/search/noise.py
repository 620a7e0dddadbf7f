"""What a figure's bootstrap resamples say of it: how far chance alone could have moved it.

All functions take the figure on resamples of the images, (resamples,). Two figures are compared on
the same resamples: what is hard or easy about an image then drops out of their difference.
"""
from typing import List, Sequence, Tuple

import numpy as np

from .candidates import Candidate

_LIMITS = 2.5, 97.5  # percentiles


def interval(resampled: Sequence[float]) -> Tuple[float, float]:
    """The 95% bootstrap interval (percentile method)."""
    low, high = np.percentile(resampled, _LIMITS)
    return float(low), float(high)


def difference(one: Sequence[float], other: Sequence[float]) -> Tuple[float, float, float]:
    """Mean and 95% interval of one figure less another.

    Raises:
        ValueError: They are not of the same resamples.
    """
    one, other = np.asarray(one, float), np.asarray(other, float)
    if one.shape != other.shape:
        raise ValueError(f'{one.size} and {other.size} resamples can not be paired')
    return (float((one - other).mean()), *interval(one - other))


def within_noise(candidates: Sequence[Candidate], best: Candidate) -> List[Candidate]:
    """The candidates that these images do not tell from the best: the 95% interval of the best's
    objective less theirs includes 0, as it does for the best itself.

    Those without resamples are left out; all are if the best has none.

    Raises:
        ValueError: The numbers of resamples differ.
    """
    if best.resampled is None:
        return []
    alike = []
    for candidate in candidates:
        if candidate.resampled is not None:
            _, low, high = difference(best.resampled, candidate.resampled)
            if low <= 0 <= high:
                alike.append(candidate)
    return alike
