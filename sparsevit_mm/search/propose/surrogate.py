"""Surrogate models over the genes: the objective that a configuration may reach, and the
probability that it is within the limits. They are small enough to refit for every proposal."""
from typing import Callable

import numpy as np

PENALTIES = np.logspace(-5, 0, 11)  # per observation
OPTIMISM = 2.  # standard deviations
STEPS = 8  # Newton steps; the penalty keeps them bounded


class QuadraticModel:
    """Bayesian ridge regression on the features and their pairwise products.

    The penalty minimises the leave-one-out error, so that pure noise hardly affects predictions.

    Args:
        features: (N, D) features.
        values: (N,) observed values.
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
        """Return upper confidence bounds (M,) for features (M, D): the predictions plus
        :data:`OPTIMISM` standard deviations."""
        terms = self._standard(features)
        along = terms @ self._axes.T
        # Outside the span of the observations
        beside = np.maximum(0, (terms**2).sum(1) - (along**2).sum(1))
        variance = (along**2 / self._precision).sum(1) + beside / self._penalty
        return self._mean + along @ self._weights + OPTIMISM * np.sqrt(self._variance * variance)

    def _standard(self, features: np.ndarray) -> np.ndarray:
        return (_quadratic(features) - self._centre) / self._scale


def fit_inside(inside: np.ndarray, outside: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a logistic regression that predicts whether a configuration is within the limits.

    A linear model suffices because latency is almost linear in the ratios.

    Args:
        inside: (N, D) features of configurations within the limits.
        outside: (M, D) features of configurations outside the limits.

    Returns:
        Function that maps features to probabilities.
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
