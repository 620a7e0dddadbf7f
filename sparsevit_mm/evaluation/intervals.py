"""What a figure's bootstrap resamples say of it: how far chance alone could have moved it.

All functions take the figure on resamples of the images, (resamples,). Two figures are compared on
the same resamples: what is hard or easy about an image then drops out of their difference.
"""
from typing import Sequence, Tuple

import numpy as np

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
