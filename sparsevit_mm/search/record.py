"""What a search keeps in its Optuna study: the one reader and writer of its attributes.

Beside them a study holds what :mod:`.store.workers` say of themselves, and Optuna's own.
"""
import math
from dataclasses import asdict
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import optuna
from optuna.trial import FrozenTrial, Trial

from ..sparsity import Depths
from .candidates import REJECTED, Candidate
from .store.workers import Workers
from .summary import Finalist, Reference, Summary

SCHEMA = 2  # goes up with each change of what stands below
Figures = Tuple[float, float]
Compute = Callable[[], Any]

# Attributes of the study. Those of the first line are written once, by whichever worker is first.
_SCHEMA, _IDENTITY, _IMPORTANCE, _REACH, _DENSE, _SEEDS = (
    'schema', 'identity', 'importance', 'reach', 'dense', 'seeds')
_REJECTED, _AGAIN, _FULL, _FINALISTS, _REFERENCES = (
    'rejected', 'judged again', 'dense full', 'finalists', 'references')
_CANDIDATE, _WORKER = 'candidate', 'worker'  # of a trial


class StudyRecord:
    """Typed access to the record of a search.

    Args:
        study: The study.
        workers: Of the study, so that what is computed once is computed by one of them; None to
            read only.

    Raises:
        ValueError: Another version of this package wrote the record.
    """

    def __init__(self, study: optuna.Study, workers: Optional[Workers] = None):
        self.study, self.workers = study, workers
        attrs = study.user_attrs
        if attrs.get(_SCHEMA, None if _IDENTITY in attrs else SCHEMA) != SCHEMA:
            raise ValueError(f'study {study.study_name!r} has schema {attrs.get(_SCHEMA, 1)}, this '
                             f'version of sparsevit_mm reads {SCHEMA}: begin another')

    # What all workers share, computed by the first that asks.

    def identity(self, compute: Compute) -> Dict:
        """What the figures depend on: config, checkpoint, latency setting, limits, seed."""
        self.workers.once(_SCHEMA, lambda: SCHEMA)
        return self.workers.once(_IDENTITY, compute)

    def importance(self, compute: Optional[Compute] = None) -> Optional[Dict]:
        """Name of the score, and the comparison that it was chosen by; None if nobody settled it
        and nothing computes it."""
        if compute is None:
            return self.study.user_attrs.get(_IMPORTANCE)
        return self.workers.once(_IMPORTANCE, compute)

    def reach(self, compute: Callable[[], Figures]) -> Figures:
        """Milliseconds of the dense and of the sparsest configuration."""
        return tuple(self.workers.once(_REACH, compute))

    def dense(self, compute: Callable[[], Candidate], depths: Depths) -> Candidate:
        """The dense model as a candidate."""
        record = self.workers.once(_DENSE, lambda: compute().to_json())
        return Candidate.from_json(-1, record, depths)

    def seeds(self, enqueue: Callable[[], None]) -> None:
        """Queues the first population."""
        self.workers.once(_SEEDS, lambda: enqueue() or True)

    def end(self, name: str, run: Callable[[], None], waiting: Callable[[str], None]) -> None:
        """Runs the end of a search unless that was done; `waiting` is called with the worker that
        runs it, if it is another."""
        self.workers.once(f'end: {name}', lambda: run() or True, waiting)

    # Candidates: one a trial.

    def trials(self) -> Iterator[FrozenTrial]:
        """Those that hold a candidate."""
        return (t for t in self.study.get_trials(deepcopy=False) if has_candidate(t))

    @property
    def rejected(self) -> List[int]:
        """Trials whose candidates proved outside the limits when they were measured again."""
        return self.study.user_attrs.get(_REJECTED, [])

    def reject(self, trials: Sequence[int]) -> None:
        """Sets :attr:`rejected`."""
        self.study.set_user_attr(_REJECTED, list(trials))

    # The end: figures that were taken again, and who came out best.

    def again(self, trial: int, figure: str, scope: Optional[str], compute: Compute) -> Any:
        """A candidate's figure, 'measured' (milliseconds) or 'full' (metrics), in a scope; computed
        unless it is there."""
        kept, key = self.study.user_attrs.get(_AGAIN, {}), _key(figure, scope)
        figures = kept.setdefault(str(trial), {})  # JSON keys are text
        if key not in figures:
            value = compute()
            figures[key] = _plain(value) if isinstance(value, dict) else value
            self.study.set_user_attr(_AGAIN, kept)
        return figures[key]

    def measured_again(self) -> Dict[int, float]:
        """Trial -> milliseconds."""
        return {int(trial): figures['measured']
                for trial, figures in self.study.user_attrs.get(_AGAIN, {}).items()
                if 'measured' in figures}

    def dense_full(self, compute: Callable[[], Dict[str, float]]) -> Dict[str, float]:
        """Metrics of the dense model on all of val."""
        if _FULL not in self.study.user_attrs:
            self.study.set_user_attr(_FULL, _plain(compute()))
        return self.study.user_attrs[_FULL]

    def keep_finalists(self, end: str, finalists: Sequence[Finalist]) -> None:
        """Of one end: another request of the same study has an end of its own."""
        kept = self.study.user_attrs.get(_FINALISTS, {})
        kept[end] = [dict(name=f.name, trial=f.candidate.trial, point=f.point, scope=f.scope)
                     for f in finalists]
        self.study.set_user_attr(_FINALISTS, kept)

    def reference(self, name: str, compute: Callable[[str], Reference]) -> None:
        """Keeps a point of comparison, unless it is there."""
        kept = self.study.user_attrs.get(_REFERENCES, {})
        if name not in kept:
            kept[name] = asdict(compute(name))
            self.study.set_user_attr(_REFERENCES, kept)

    def summary(self, end: Optional[str] = None) -> Summary:
        """All of it.

        Args:
            end: Whose finalists; None takes the newest.

        Raises:
            ValueError: No search of this package made the study, or it was stopped before the
                dense model was evaluated.
        """
        attrs, name = self.study.user_attrs, self.study.study_name
        for key in (_IDENTITY, _REACH, _DENSE):
            if key not in attrs:
                raise ValueError(f'study {name!r} holds no {key!r}: either it was made by another '
                                 f'program, or its search ended before the first candidate')
        identity = attrs[_IDENTITY]
        depths = tuple(identity['depths'])
        rejected = self.rejected
        candidates = [candidate_of(trial, depths, rejected) for trial in self.trials()]
        ends = attrs.get(_FINALISTS, {})
        chosen = ends.get(end, []) if end else list(ends.values() or [[]])[-1]
        return Summary(
            name, identity['metric'], identity, Candidate.from_json(-1, attrs[_DENSE], depths),
            candidates, self._finalists(chosen, candidates),
            [Reference(**r) for r in attrs.get(_REFERENCES, {}).values()], attrs.get(_FULL))

    def _finalists(self, chosen: List[Dict], candidates: List[Candidate]) -> List[Finalist]:
        by_trial, again = {c.trial: c for c in candidates}, self.study.user_attrs.get(_AGAIN, {})
        finalists = []
        for held in chosen:
            figures, scope = again[str(held['trial'])], held['scope']
            finalists.append(Finalist(
                by_trial[held['trial']], figures[_key('measured', scope)],
                figures.get(_key('full', scope)), held['point'], scope, held['name']))
        return finalists


def has_candidate(trial: FrozenTrial) -> bool:
    return _CANDIDATE in trial.user_attrs


def candidate_of(trial: FrozenTrial, depths: Depths, rejected: Sequence[int]) -> Candidate:
    candidate = Candidate.from_json(trial.number, trial.user_attrs[_CANDIDATE], depths)
    if trial.number in rejected:
        candidate.state = REJECTED
    return candidate


def state_of(trial: FrozenTrial) -> Optional[str]:
    """State of its candidate; None without one."""
    return trial.user_attrs.get(_CANDIDATE, {}).get('state')


def attributes(candidate: Candidate, worker: str) -> Dict:
    """Of a trial that holds a candidate."""
    return {_CANDIDATE: candidate.to_json(), _WORKER: worker}


def put(trial: Trial, candidate: Candidate) -> None:
    """Keeps a candidate in its trial."""
    trial.set_user_attr(_CANDIDATE, candidate.to_json())


def sign(trial: Trial, worker: str) -> None:
    """Says whose the trial is."""
    trial.set_user_attr(_WORKER, worker)


def worker_of(trial: FrozenTrial) -> str:
    """Empty before it is signed."""
    return trial.user_attrs.get(_WORKER, '')


def _key(figure: str, scope: Optional[str]) -> str:
    return f'{figure}, scope {scope}' if scope else figure


def _plain(metrics: Dict[str, float]) -> Dict[str, float]:
    """As JSON holds them."""
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
