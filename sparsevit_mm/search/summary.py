"""What a study holds, for whoever reads it: reports, fronts, tables."""
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from ..evaluation.metrics import Metrics, objective
from .candidates import EVALUATED, REJECTED, Candidate, pareto_front

WINNER = 'winner'


@dataclass
class Reference:
    """A point beside the candidates, evaluated for comparison.

    Attributes:
        kind: 'uniform', one ratio everywhere; 'stage', one stage pruned and the others dense;
            'resolution', the dense model on smaller images.
        name: '0.6', 'stage 2 at 0.6', '576x576'.
        latency: Milliseconds.
        metric: The objective.
        stage, ratio: Of kind 'stage'.
    """
    kind: str
    name: str
    latency: float
    metric: float
    stage: Optional[int] = None
    ratio: Optional[float] = None


@dataclass
class Finalist:
    """One of the best, judged again at the end.

    Attributes:
        candidate: As the search saw it.
        measured: Milliseconds, measured again with more rounds.
        full: All metrics on all of val; None where the search itself evaluated on all of it.
        resampled: The objective on bootstrap resamples of all of val, as those of a Candidate.
        point: The latency in ms that a Pareto search chose it for; None of other searches.
        scope: In which its figures were taken; None is the one that was searched.
        name: What the request calls it: the point of a Pareto search; :data:`WINNER`, or nothing.
        backbone: Milliseconds of its backbone alone, and of the dense one beside it; None where
            nothing else was measured.
    """
    candidate: Candidate
    measured: float
    full: Optional[Metrics] = None
    resampled: Optional[Dict] = None
    point: Optional[float] = None
    scope: Optional[str] = None
    name: str = ''
    backbone: Optional[Tuple[float, float]] = None

    @property
    def label(self) -> str:
        """Short text for tables."""
        return self.candidate.config.label + (f', scope {self.scope}' if self.scope else '')


@dataclass
class Summary:
    """A search as its storage holds it.

    Attributes:
        study: Name of the study.
        metric: Key of the objective.
        identity: What the figures depend on: config, checkpoint, latency setting, limits, seed.
        dense: The dense model as a candidate: latency, metrics, resampled.
        candidates: All that the workers met, in the order of trials.
        finalists: Of one end: best first, the first is the winner; empty before the end.
        references: Empty unless the search was asked for them.
        dense_full: All metrics of the dense model on all of val; None as those of a Finalist.
        dense_full_resampled: Their objective on bootstrap resamples.
        dense_again: Milliseconds of the dense model, measured again beside the finalists; None
            before the end.
        importance: Score that windows were chosen by; None if no search settled it.
        judged: All candidates that were judged again for any end, as finalists without a name.
    """
    study: str
    metric: str
    identity: Dict
    dense: Candidate
    candidates: List[Candidate]
    finalists: List[Finalist] = field(default_factory=list)
    references: List[Reference] = field(default_factory=list)
    dense_full: Optional[Metrics] = None
    dense_full_resampled: Optional[Dict] = None
    dense_again: Optional[float] = None
    judged: List[Finalist] = field(default_factory=list)
    importance: Optional[str] = None

    # The best evidence there is: all of val where the search had only some of it.

    def metric_of(self, finalist: Finalist) -> float:
        """Its objective."""
        if finalist.full is None:
            return finalist.candidate.metric
        return objective(finalist.full, self.metric)

    def resampled_of(self, finalist: Finalist) -> Optional[Dict]:
        """Its objective on resamples."""
        return finalist.candidate.resampled if finalist.full is None else finalist.resampled

    @property
    def dense_metric(self) -> float:
        """Objective of the dense model."""
        return self.dense.metric if self.dense_full is None else objective(self.dense_full,
                                                                           self.metric)

    @property
    def dense_resampled(self) -> Optional[Dict]:
        """Objective of the dense model on resamples."""
        return self.dense.resampled if self.dense_full is None else self.dense_full_resampled

    @property
    def dense_latency(self) -> float:
        """Milliseconds of the dense model: the newest measurement, beside which the finalists
        stand."""
        return self.dense.latency if self.dense_again is None else self.dense_again

    @property
    def drift(self) -> float:
        """By which share the dense model got slower between the start and the end."""
        return self.dense_latency / self.dense.latency - 1

    @property
    def is_pareto(self) -> bool:
        """Whether low latency was an objective too."""
        return len(self.identity.get('objectives', ())) > 1

    @property
    def evaluated(self) -> List[Candidate]:
        return [c for c in self.candidates if c.state in (EVALUATED, REJECTED)]

    @property
    def front(self) -> List[Candidate]:
        return pareto_front(self.candidates)
