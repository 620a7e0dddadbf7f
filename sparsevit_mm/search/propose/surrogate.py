"""What was evaluated so far, as models over the genes: which metric a configuration may reach, and
whether it is inside the limits. Small, so that they can be fitted anew for every proposal."""
from typing import Callable

import numpy as np

PENALTIES = np.logspace(-5, 0, 11)  # per observation
OPTIMISM = 2.  # standard deviations
STEPS = 8  # of Newton; the penalty keeps them in bounds


class QuadraticModel:
    """Bayesian ridge regression on the features and their products, with the penalty that predicts
    observations left out best: where they are noise, it says next to nothing.

    Args:
        features: (N, D).
        values: (N, ).
    """

    def __init__(self, features: np.ndarray, values: np.ndarray):
        terms = _quadratic(features)
        self._centre, self._scale = terms.mean(0), terms.std(0) + 1e-9
        self._mean = values.mean()
        u, s, self._axes = np.linalg.svd(self._standard(features), full_matrices=False)
        fits = []
        for penalty in PENALTIES * len(values):
            kept = s**2 / (s**2 + penalty)
            leverage = (u**2 * kept).sum(1) + 1 / len(values)
            residual = values - self._mean - u @ (kept * (u.T @ (values - self._mean)))
            fits.append((np.mean((residual / np.maximum(1 - leverage, .02))**2), penalty))
        self._variance, self._penalty = min(fits)
        self._precision = s**2 + self._penalty
        self._weights = s / self._precision * (u.T @ (values - self._mean))

    def optimistic(self, features: np.ndarray) -> np.ndarray:
        """The prediction and :data:`OPTIMISM` standard deviations of it (an upper confidence
        bound), (N, )."""
        terms = self._standard(features)
        along = terms @ self._axes.T
        beside = np.maximum(0, (terms**2).sum(1) - (along**2).sum(1))  # never observed
        variance = (along**2 / self._precision).sum(1) + beside / self._penalty
        return self._mean + along @ self._weights + OPTIMISM * np.sqrt(self._variance * variance)

    def _standard(self, features: np.ndarray) -> np.ndarray:
        return (_quadratic(features) - self._centre) / self._scale


def fit_inside(inside: np.ndarray, outside: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression: how likely a configuration is inside the limits. A limit bounds the
    latency, which is next to linear in the ratios.

    Args:
        inside, outside: (N, D) and (M, D), the features of those that proved so.

    Returns:
        Features -> probability.
    """

    def design(x: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(x)), x])

    terms = np.concatenate([design(inside), design(outside)])
    label = np.arange(len(terms)) < len(inside)
    penalty = np.diag([1e-6] + [1e-2] * inside.shape[1])
    weights = np.zeros(terms.shape[1])
    for _ in range(STEPS):
        p = _sigmoid(terms @ weights)
        hessian = (terms.T * (p * (1 - p) + 1e-6)) @ terms + penalty
        weights += np.linalg.solve(hessian, terms.T @ (label - p) - penalty @ weights)
    return lambda x: _sigmoid(design(x) @ weights)


def _quadratic(x: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, i] * x[:, j]], 1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))
