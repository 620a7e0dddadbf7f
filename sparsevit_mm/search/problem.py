"""Optimisation problem of a search: search space, objective and limits."""
import math
import time
from dataclasses import dataclass
from typing import Callable, Optional

from ..evaluation.intervals import Resampled
from ..evaluation.metrics import Metrics, objective
from ..sparsity import SparsityConfig, SparsitySpace
from .candidates import EVALUATED, FAILED, OUTSIDE, SCREENED, Candidate
from .limits import Limits


@dataclass(frozen=True)
class Problem:
    """Optimisation problem of a search.

    Attributes:
        space: Search space.
        evaluate: Function that maps a configuration to its metrics. An empty dict counts as 0.
        latency: Function that maps a configuration to milliseconds, measured or from a table.
        macs: Function that maps a configuration to multiply-accumulate operations.
        metric: Key of the metric to maximise.
        limits: Limits in milliseconds that a candidate must meet to be evaluated.
        pareto: Whether low latency is an objective too.
        look: Like `evaluate`, but on fewer images, for a first look; None to go without.
        resample: Function that returns the objective of the last evaluation on bootstrap resamples
            of its images; None to go without.
        canonical: Function that maps a configuration to an equivalent one to try instead, whose
            latency differs by no more than the noise.
        dense: Function that returns the milliseconds of the dense model measured in the last call
            of `latency`; None if that measured nothing.
    """
    space: SparsitySpace
    evaluate: Callable[[SparsityConfig], Metrics]
    latency: Callable[[SparsityConfig], float]
    macs: Callable[[SparsityConfig], int]
    metric: str
    limits: Limits
    pareto: bool = False
    look: Optional[Callable[[SparsityConfig], Metrics]] = None
    resample: Optional[Callable[[], Resampled]] = None
    canonical: Callable[[SparsityConfig], SparsityConfig] = lambda config: config
    dense: Callable[[], Optional[float]] = lambda: None

    def objective(self, metrics: Metrics) -> float:
        """Return the objective, see :func:`~..evaluation.metrics.objective`."""
        return objective(metrics, self.metric)

    def judge(self, trial: int, config: SparsityConfig,
              promising: Callable[[Candidate], bool]) -> Candidate:
        """Judge a configuration, cheapest checks first: MACs, latency, first look, evaluation.

        Args:
            trial: Number of the trial.
            config: The configuration.
            promising: Function that decides from the first look whether to evaluate a candidate.

        Returns:
            The candidate, with the state it reached.
        """
        start = time.monotonic()
        candidate = Candidate(trial, config, OUTSIDE, macs=self.macs(config))
        if candidate.macs <= self.limits.max_macs:
            candidate.latency = self.latency(config)
            candidate.dense = self.dense()
            if self.limits.admit(candidate.latency):
                self._evaluate(candidate, promising)
        candidate.seconds = time.monotonic() - start
        return candidate

    def _evaluate(self, candidate: Candidate, promising: Callable[[Candidate], bool]) -> None:
        if self.look is not None:
            candidate.first_look = self.objective(self.look(candidate.config))
            if not promising(candidate):
                candidate.state = SCREENED
                return
        candidate.metrics = self.evaluate(candidate.config)
        value = self.objective(candidate.metrics)
        if math.isnan(value):
            candidate.state = FAILED
            return
        candidate.state, candidate.metric = EVALUATED, value
        if self.resample is not None:
            candidate.resampled = self.resample().to_json()
