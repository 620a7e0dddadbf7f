"""What is searched, and how one configuration is judged."""
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
    """What is searched: the space, and how a configuration is judged.

    Attributes:
        space: The configurations.
        evaluate: Configuration -> metrics; an empty dict counts as metric 0.
        latency: Configuration -> milliseconds, measured or from a table.
        macs: Configuration -> multiply-accumulates.
        metric: Key of the objective, to be maximised.
        limits: What a candidate must meet to be evaluated.
        pareto: Whether low latency is an objective too.
        look: As `evaluate`, on fewer images, for a first look.
        resample: The objective of the last evaluation on bootstrap resamples of its images.
        canonical: Configuration -> the one to try in its place, of the same latency.
        dense: Milliseconds of the dense model that ran beside the configuration in the last call of
            `latency`; None where that measured nothing.
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
        """See :func:`~..evaluation.metrics.objective`."""
        return objective(metrics, self.metric)

    def judge(self, trial: int, config: SparsityConfig,
              promising: Callable[[Candidate], bool]) -> Candidate:
        """What can be said of a configuration, the cheapest first.

        Args:
            trial: Number of the trial.
            config: The configuration.
            promising: Candidate with its first look -> whether the evaluation is worth it.
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
