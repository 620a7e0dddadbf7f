"""Record of a search: reads and writes the user attributes of its Optuna study.

The study also holds the attributes of :mod:`.store.workers`.
"""
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import optuna
from optuna.trial import FrozenTrial, Trial

from ..sparsity import Depths
from ..evaluation.metrics import Metrics
from .candidates import REJECTED, Candidate, finite
from .store.workers import Workers
from .summary import Finalist, Reference, Summary

SCHEMA = 3  # increment whenever the attributes below change
Figures = Tuple[float, float]
Compute = Callable[[], Any]

# Attributes of the study. Those in the first line are written once, by the first worker.
_SCHEMA, _IDENTITY, _IMPORTANCE, _REACH, _DENSE, _SEEDS = (
    'schema', 'identity', 'importance', 'reach', 'dense', 'seeds')
_REJECTED, _AGAIN, _FULL, _FINALISTS, _REFERENCES = (
    'rejected', 'judged again', 'dense full', 'finalists', 'references')
_DENSE_AGAIN = 'dense again: '  # followed by the key of the final evaluation
# Attributes of a trial
_CANDIDATE, _WORKER = 'candidate', 'worker'


class StudyRecord:
    """Typed access to the record of a search.

    Requests that share a study each have their own final evaluation, which judges the best
    candidates again. `end` is its key.

    Args:
        study: The study.
        workers: Workers of the study, which ensure that shared values are computed only once.
            None gives read-only access.

    Raises:
        ValueError: If a version of this package with another schema wrote the record.
    """

    def __init__(self, study: optuna.Study, workers: Optional[Workers] = None):
        self.study, self.workers = study, workers
        attrs = study.user_attrs
        if attrs.get(_SCHEMA, None if _IDENTITY in attrs else SCHEMA) != SCHEMA:
            raise ValueError(f'study {study.study_name!r} has schema {attrs.get(_SCHEMA, 1)}, but '
                             f'this version of sparsevit_mm requires {SCHEMA}: start a new study')

    # Values that all workers share, computed by the first worker that needs them

    def identity(self, compute: Compute) -> Dict:
        """Return what the results depend on: config, checkpoint, latency setting, limits, seed."""
        self.workers.once(_SCHEMA, lambda: SCHEMA)
        return self.workers.once(_IDENTITY, compute)

    def importance(self, compute: Optional[Compute] = None) -> Optional[Dict]:
        """Return the name of the importance score and, if 'auto' chose it, the comparison.

        Without `compute`, return None if no worker has determined it yet.
        """
        if compute is None:
            return self.study.user_attrs.get(_IMPORTANCE)
        return self.workers.once(_IMPORTANCE, compute)

    def reach(self, compute: Callable[[], Figures]) -> Figures:
        """Return the milliseconds of the dense and of the fastest configuration."""
        return tuple(self.workers.once(_REACH, compute))

    def dense(self, compute: Callable[[], Candidate], depths: Depths) -> Candidate:
        """Return the dense model as a candidate."""
        record = self.workers.once(_DENSE, lambda: compute().to_json())
        return Candidate.from_json(-1, record, depths)

    def seeds(self, enqueue: Callable[[], None]) -> None:
        """Enqueue the first population, once per study."""
        self.workers.once(_SEEDS, lambda: enqueue() or True)

    def end(self, name: str, run: Callable[[], None]) -> None:
        """Run the final evaluation `name` unless a worker has done so."""
        self.workers.once(f'end: {name}', lambda: run() or True)

    # Candidates, one per trial

    def trials(self) -> Iterator[FrozenTrial]:
        """Return the trials that hold a candidate."""
        return (t for t in self.study.get_trials(deepcopy=False) if has_candidate(t))

    @property
    def rejected(self) -> List[int]:
        """Numbers of the trials whose candidates were outside the limits when measured again."""
        return self.study.user_attrs.get(_REJECTED, [])

    def reject(self, trials: Sequence[int]) -> None:
        """Set :attr:`rejected`."""
        self.study.set_user_attr(_REJECTED, list(trials))

    # Final evaluation: repeated measurements and the resulting finalists

    def again(self, trial: int, figure: str, scope: Optional[str], compute: Compute) -> Any:
        """Return a repeated measurement of a candidate, computing it if it is not stored yet.

        Args:
            trial: Number of the candidate's trial.
            figure: 'ratio', the ratio of its latency to the dense model's; 'full', a
                :class:`Full`; or 'backbone', the milliseconds of its backbone alone and of the
                dense backbone.
            scope: Scope of the selection; None for the one that was searched.
            compute: Function that returns the value.
        """
        kept, key = self.study.user_attrs.get(_AGAIN, {}), _key(figure, scope)
        figures = kept.setdefault(str(trial), {})  # JSON keys are text
        if key not in figures:
            value = compute()
            figures[key] = value.to_json() if isinstance(value, Full) else value
            self.study.set_user_attr(_AGAIN, kept)
        value = figures[key]
        return Full(**value) if figure == 'full' else value

    def dense_again(self, end: str, compute: Callable[[], float]) -> float:
        """Return the dense model's milliseconds in a final evaluation, measuring if necessary."""
        key = _DENSE_AGAIN + end
        if key not in self.study.user_attrs:
            self.study.set_user_attr(key, compute())
        return self.study.user_attrs[key]

    def dense_full(self, compute: Callable[[], 'Full']) -> 'Full':
        """Return the metrics of the dense model on all of val, computing them if necessary."""
        if _FULL not in self.study.user_attrs:
            self.study.set_user_attr(_FULL, compute().to_json())
        return Full(**self.study.user_attrs[_FULL])

    def keep_finalists(self, end: str, finalists: Sequence[Finalist]) -> None:
        """Store the finalists of a final evaluation."""
        kept = self.study.user_attrs.get(_FINALISTS, {})
        kept[end] = [dict(name=f.name, trial=f.candidate.trial, point=f.point, scope=f.scope)
                     for f in finalists]
        self.study.set_user_attr(_FINALISTS, kept)

    def reference(self, name: str, compute: Callable[[str], Reference]) -> None:
        """Compute and store a reference point unless it is stored already."""
        kept = self.study.user_attrs.get(_REFERENCES, {})
        if name not in kept:
            kept[name] = asdict(compute(name))
            self.study.set_user_attr(_REFERENCES, kept)

    def summary(self, end: Optional[str] = None) -> Summary:
        """Return the whole record.

        Args:
            end: Final evaluation whose finalists to return. Defaults to the latest one.

        Raises:
            ValueError: If the study was not created by this package, or the search ended before
                the dense model was evaluated.
        """
        attrs, name = self.study.user_attrs, self.study.study_name
        for key in (_IDENTITY, _REACH, _DENSE):
            if key not in attrs:
                raise ValueError(f'study {name!r} has no {key!r}: either another program created '
                                 f'it, or its search ended before the first candidate')
        identity = attrs[_IDENTITY]
        depths = tuple(identity['depths'])
        rejected = self.rejected
        candidates = [candidate_of(trial, depths, rejected) for trial in self.trials()]
        ends = attrs.get(_FINALISTS, {})
        end = end or next(reversed(ends), '')
        dense = Candidate.from_json(-1, attrs[_DENSE], depths)
        dense_again = attrs.get(_DENSE_AGAIN + end)
        full = Full(**attrs.get(_FULL, {}))
        again = _Again(attrs.get(_AGAIN, {}), {c.trial: c for c in candidates},
                       dense_again or dense.latency)
        return Summary(
            name, identity['metric'], identity, dense, candidates,
            [again.finalist(**held) for held in ends.get(end, [])],
            [Reference(**r) for r in attrs.get(_REFERENCES, {}).values()], full.metrics,
            full.resampled, dense_again, again.all(), (self.importance() or {}).get('name'))


@dataclass
class Full:
    """Evaluation of a configuration on all of val.

    Attributes:
        metrics: All metrics of the evaluator.
        resampled: Objective on bootstrap resamples; None if the evaluator has no resampler.
    """
    metrics: Optional[Metrics] = None
    resampled: Optional[Dict] = None

    def to_json(self) -> Dict:
        return dict(metrics=finite(self.metrics), resampled=self.resampled)


class _Again:
    """Candidates that were judged again, as finalists.

    Args:
        figures: Mapping of trial number, as text, to the values of :meth:`StudyRecord.again`.
        candidates: Mapping of trial number to candidate.
        dense: Milliseconds of the dense model.
    """

    def __init__(self, figures: Dict[str, Dict], candidates: Dict[int, Candidate], dense: float):
        self.figures, self.candidates, self.dense = figures, candidates, dense

    def finalist(self, trial: int, name: str = '', point: Optional[float] = None,
                 scope: Optional[str] = None) -> Finalist:
        figures = self.figures[str(trial)]
        full = Full(**figures.get(_key('full', scope), {}))
        backbone = figures.get(_key('backbone', scope))
        return Finalist(self.candidates[trial], figures[_key('ratio', scope)] * self.dense,
                        full.metrics, full.resampled, point, scope, name,
                        backbone and tuple(backbone))

    def all(self) -> List[Finalist]:
        """Return all of them, in the scope that was searched."""
        return [self.finalist(int(trial)) for trial, figures in self.figures.items()
                if 'ratio' in figures]


def has_candidate(trial: FrozenTrial) -> bool:
    return _CANDIDATE in trial.user_attrs


def candidate_of(trial: FrozenTrial, depths: Depths, rejected: Sequence[int]) -> Candidate:
    candidate = Candidate.from_json(trial.number, trial.user_attrs[_CANDIDATE], depths)
    if trial.number in rejected:
        candidate.state = REJECTED
    return candidate


def figures_of(trial: FrozenTrial) -> Dict:
    """Return the trial's candidate as JSON, or an empty dict if it has none."""
    return trial.user_attrs.get(_CANDIDATE, {})


def attributes(candidate: Candidate, worker: str) -> Dict:
    """Return the attributes of a trial that holds a candidate."""
    return {_CANDIDATE: candidate.to_json(), _WORKER: worker}


def put(trial: Trial, candidate: Candidate) -> None:
    """Store a candidate in its trial."""
    trial.set_user_attr(_CANDIDATE, candidate.to_json())


def sign(trial: Trial, worker: str) -> None:
    """Store the id of the worker that runs the trial."""
    trial.set_user_attr(_WORKER, worker)


def worker_of(trial: FrozenTrial) -> str:
    """Return the id of the worker that runs the trial, or '' before :func:`sign`."""
    return trial.user_attrs.get(_WORKER, '')


def _key(figure: str, scope: Optional[str]) -> str:
    return f'{figure}, scope {scope}' if scope else figure
