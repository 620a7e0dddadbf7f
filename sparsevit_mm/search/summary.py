"""Content of a study, for reports, fronts and tables."""
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from ..evaluation.metrics import Metrics, objective
from .candidates import EVALUATED, REJECTED, Candidate, pareto_front

WINNER = 'winner'


@dataclass
class Reference:
    """Reference point, evaluated for comparison with the candidates.

    Attributes:
        kind: 'uniform', one ratio everywhere; 'stage', one stage pruned and the others dense;
            'resolution', the dense model on smaller images.
        name: For example '0.6', 'stage 2 at 0.6' or '576x576' (height x width).
        latency: Milliseconds.
        metric: Value of the objective.
        stage, ratio: Pruned stage and its sparsity ratio; None unless `kind` is 'stage'.
    """
    kind: str
    name: str
    latency: float
    metric: float
    stage: Optional[int] = None
    ratio: Optional[float] = None


@dataclass
class Finalist:
    """One of the best candidates, judged again in the final evaluation.

    Attributes:
        candidate: Candidate with the results of the search.
        measured: Milliseconds, measured again with more rounds.
        full: All metrics on all of val; None if the search already evaluated on all of val in the
            same scope.
        resampled: Objective on bootstrap resamples of all of val, as in a Candidate; None if
            `full` is None or the evaluator has no resampler.
        point: Latency in ms that a Pareto search chose it for; None in other searches.
        scope: Scope of the selection in which it was judged; None for the one that was searched.
        name: Name in the request: the point of a Pareto search, :data:`WINNER`, or ''.
        backbone: Milliseconds of its backbone alone and of the dense backbone; None if the search
            measures only the backbone.
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
        """Short label for tables."""
        return self.candidate.config.label + (f', scope {self.scope}' if self.scope else '')


@dataclass
class Summary:
    """Content of a study.

    Attributes:
        study: Name of the study.
        metric: Key of the metric to maximise.
        identity: What the results depend on: config, checkpoint, latency setting, limits, seed.
        dense: Dense model as a candidate with latency, metrics and resamples.
        candidates: Candidates of all workers, in the order of trials.
        finalists: Finalists of one final evaluation: the winner first, or one per point of a
            Pareto search; empty before the final evaluation.
        references: Reference points; empty unless requested.
        dense_full: All metrics of the dense model on all of val; None if the search already
            evaluated on all of val.
        dense_full_resampled: Objective of the dense model on bootstrap resamples of all of val.
        dense_again: Milliseconds of the dense model, measured again for the final evaluation; None
            before.
        judged: Candidates judged again in any final evaluation, as finalists without a name.
        importance: Score that ranked windows or tokens; None if not determined.
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

    # Results on all of val where available, else those of the search

    def metric_of(self, finalist: Finalist) -> float:
        """Objective of a finalist."""
        if finalist.full is None:
            return finalist.candidate.metric
        return objective(finalist.full, self.metric)

    def resampled_of(self, finalist: Finalist) -> Optional[Dict]:
        """Objective of a finalist on bootstrap resamples."""
        return finalist.candidate.resampled if finalist.full is None else finalist.resampled

    @property
    def dense_metric(self) -> float:
        """Objective of the dense model."""
        return self.dense.metric if self.dense_full is None else objective(self.dense_full,
                                                                           self.metric)

    @property
    def dense_resampled(self) -> Optional[Dict]:
        """Objective of the dense model on bootstrap resamples."""
        return self.dense.resampled if self.dense_full is None else self.dense_full_resampled

    @property
    def dense_latency(self) -> float:
        """Milliseconds of the dense model: that of the final evaluation, if there is one."""
        return self.dense.latency if self.dense_again is None else self.dense_again

    @property
    def drift(self) -> float:
        """Relative slowdown of the dense model between the start and the final evaluation."""
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
