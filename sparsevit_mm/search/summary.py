"""What a study holds, for whoever reads it: reports, fronts, tables."""
from dataclasses import dataclass, field
from typing import Dict, List, Optional

import optuna

from .candidates import EVALUATED, REJECTED, Candidate, pareto_front


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
        point: The latency in ms that a Pareto search chose it for; None of other searches.
        scope: In which its figures were taken; None is the one that was searched.
    """
    candidate: Candidate
    measured: float
    full: Optional[Dict[str, float]] = None
    point: Optional[float] = None
    scope: Optional[str] = None

    @property
    def label(self) -> str:
        """Short text for tables."""
        return self.candidate.config.label + (f', scope {self.scope}' if self.scope else '')


def figure_key(figure: str, scope: Optional[str]) -> str:
    """Under which a candidate's figure is kept in the study."""
    return f'{figure}, scope {scope}' if scope else figure


@dataclass
class Summary:
    """A search as its storage holds it.

    Attributes:
        study: Name of the study.
        metric: Key of the objective.
        identity: What the figures depend on: config, checkpoint, latency setting, limits, seed.
        dense: The dense model as a candidate: latency, metrics, resampled.
        candidates: All that the workers met, in the order of trials.
        finalists: Best first; empty before the end. The first is the winner.
        references: Empty unless the search was asked for them.
        dense_full: All metrics of the dense model on all of val; None as those of a Finalist.
    """
    study: str
    metric: str
    identity: Dict
    dense: Candidate
    candidates: List[Candidate]
    finalists: List[Finalist] = field(default_factory=list)
    references: List[Reference] = field(default_factory=list)
    dense_full: Optional[Dict[str, float]] = None

    @property
    def evaluated(self) -> List[Candidate]:
        return [c for c in self.candidates if c.state in (EVALUATED, REJECTED)]

    @property
    def front(self) -> List[Candidate]:
        return pareto_front(self.candidates)


def summarise(study: optuna.Study) -> Summary:
    """Reads a study that a search made.

    Raises:
        ValueError: No search of this package made it, or it was stopped before the dense model
            was evaluated.
    """
    attrs = study.user_attrs
    for key in ('identity', 'reach', 'dense'):
        if key not in attrs:
            raise ValueError(f'study {study.study_name!r} holds no {key!r}: either it was made by '
                             f'another program, or its search ended before the first candidate')
    identity = attrs['identity']
    depths = tuple(identity['depths'])
    candidates = [Candidate.from_json(t.number, t.user_attrs['candidate'], depths)
                  for t in study.get_trials(deepcopy=False) if 'candidate' in t.user_attrs]
    for candidate in candidates:
        if candidate.trial in attrs.get('rejected', []):
            candidate.state = REJECTED
    by_trial, again = {c.trial: c for c in candidates}, attrs.get('judged again', {})
    finalists = []
    for chosen in attrs.get('finalists', []):
        figures, scope = again[str(chosen['trial'])], chosen.get('scope')
        finalists.append(Finalist(
            by_trial[chosen['trial']], figures[figure_key('measured', scope)],
            figures.get(figure_key('full', scope)), chosen['point'], scope))
    return Summary(study.study_name, identity['metric'], identity,
                   Candidate.from_json(-1, attrs['dense'], depths), candidates, finalists,
                   [Reference(**r) for r in attrs.get('references', {}).values()],
                   attrs.get('dense full'))
