"""Reading of a search from its work directory: the study and the paths in ``search.json``."""
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import optuna
from sqlalchemy.engine import make_url

from ..search.candidates import Candidate
from ..search.record import StudyRecord, worker_of
from ..search.results import MANIFEST
from ..search.store.storage import open_storage
from ..search.store.urls import JOURNAL, shown
from ..search.summary import Summary

PATIENCE = 30.  # seconds to retry an unreachable storage: short, as a user waits for the report


class Judged(NamedTuple):
    """Candidate with its worker and times.

    Attributes:
        candidate: The candidate.
        worker: Id of the worker that judged it; empty if the trial names none.
        start, end: Local times of the start and end of the trial.
    """
    candidate: Candidate
    worker: str
    start: datetime
    end: datetime


@dataclass
class SearchRecord:
    """Search read from its work directory.

    Attributes:
        work_dir: Work directory of the search.
        manifest: Content of ``search.json``.
        storage: URL of the storage, without password.
        summary: Summary of the study.
        pareto: Whether latency was a second objective.
        judged: Candidates in the order in which their trials ended.
        again: Trial number -> latency in milliseconds of each candidate remeasured at the end,
            corrected for the drift of the dense model.
    """
    work_dir: Path
    manifest: Dict
    storage: str
    summary: Summary
    pareto: bool
    judged: List[Judged]
    again: Dict[int, float]

    @property
    def best(self) -> Optional[Candidate]:
        """The winner, or the best candidate so far if the search has not ended; in a Pareto search,
        always the candidate with the best metric. None before the first evaluation."""
        if self.summary.finalists and not self.pareto:
            return self.summary.finalists[0].candidate
        return self.summary.front[-1] if self.summary.front else None


def read_search(work_dir: Path, storage: Optional[str] = None) -> SearchRecord:
    """Read a search from its work directory.

    Args:
        work_dir: Work directory of ``tools/search_sparsity.py``.
        storage: URL of the storage; needed if the one in ``search.json`` lacks its password or has
            moved.

    Raises:
        FileNotFoundError: If ``search.json`` or the file of the storage does not exist.
        ValueError: If ``search.json`` is broken, the storage refuses access, or it does not hold
            the study, or the study was not made by a search.
    """
    manifest = _read_manifest(Path(work_dir))
    url, name = storage or manifest['storage'], manifest['study']
    _check_file(url)
    opened = open_storage(url, patience=PATIENCE)
    names = optuna.get_all_study_names(opened)
    if name not in names:
        raise ValueError(f'{shown(url)} holds no study {name!r}; it holds '
                         f'{", ".join(map(repr, sorted(names))) or "none"}')
    study = optuna.load_study(study_name=name, storage=opened)
    record = StudyRecord(study)
    summary = record.summary(manifest.get('end'))
    return SearchRecord(Path(work_dir), manifest, shown(url), summary, len(study.directions) == 2,
                        _judged(study, summary),
                        {f.candidate.trial: f.measured / (1 + summary.drift)
                         for f in summary.judged})


def _read_manifest(work_dir: Path) -> Dict:
    path = work_dir / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist: {work_dir} is not a work directory of '
                                f'tools/search_sparsity.py')
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is broken: {error}') from None
    for key in ('storage', 'study'):
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), str):
            raise ValueError(f'{path} is broken: it has no {key}')
    return manifest


def _check_file(url: str) -> None:
    """Raise FileNotFoundError if the storage is a file that does not exist: opening it would create
    it."""
    if url.startswith(JOURNAL):
        path = url[len(JOURNAL):]
    elif url.startswith('sqlite'):
        path = make_url(url).database
    else:
        return
    if not path or not Path(path).is_file():
        raise FileNotFoundError(f'the storage {path} does not exist: if it was moved, give its '
                                f'URL with --storage')


def _judged(study: optuna.Study, summary: Summary) -> List[Judged]:
    candidates = {c.trial: c for c in summary.candidates}
    judged = []
    for trial in study.get_trials(deepcopy=False):
        start = trial.datetime_start or trial.datetime_complete
        if trial.number in candidates and start:
            judged.append(Judged(candidates[trial.number], worker_of(trial), start,
                                 trial.datetime_complete or start))
    return sorted(judged, key=lambda j: j.end)
