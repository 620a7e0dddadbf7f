"""Begins an Optuna study, or joins one."""
from typing import Dict, Optional

import optuna

from ..identity import differences
from ..record import StudyRecord
from .storage import open_storage, shown
from .workers import Workers

STUDY_NAME = 'sparsevit'


class JoinedStudy:
    """A study that this worker takes part in. Use it as a context, so that others see it leave.

    Args:
        storage: Where it is, see :func:`~.storage.open_storage`.
        identity: Names what its figures depend on; a study goes on only under the same.
        study: Its name, to join it or to begin it; None begins one in an empty storage.
        resume: Go on with the one study of the storage, if there is one.
        pareto: Whether low latency is an objective too.

    Attributes:
        study: Of Optuna.
        storage: Its storage.
        workers: This worker, and what it sees of others.
        record: What the study keeps.

    Raises:
        ValueError: No study is named, and the storage holds some; the study was made for another
            search (lists the differences), or by another version of this package.
    """

    def __init__(self, storage: str, identity: Dict, study: Optional[str] = None,
                 resume: bool = False, pareto: bool = False):
        self.storage = open_storage(storage)
        names = optuna.get_all_study_names(self.storage)
        name = study or _unnamed(names, shown(storage), resume)
        self._begun = name not in names
        self.study = optuna.create_study(
            storage=self.storage, study_name=name, load_if_exists=True,
            directions=['maximize', 'minimize'] if pareto else ['maximize'])
        self.workers = Workers(self.study)
        self.workers.start()
        try:
            self.record = StudyRecord(self.study, self.workers)
            _check_identity(self.record.identity(lambda: identity), identity)
        except BaseException:
            self.leave()
            raise

    def __enter__(self) -> 'JoinedStudy':
        return self

    def __exit__(self, *_) -> None:
        self.leave()

    def leave(self) -> None:
        self.workers.stop()

    def discard_if_empty(self) -> None:
        """Takes a study that this worker began out of its storage, unless a candidate is in it, or
        another worker; leaves it in any case."""
        empty = next(self.record.trials(), None) is None and not self.workers.others()
        self.leave()
        if self._begun and empty:
            optuna.delete_study(study_name=self.study.study_name, storage=self.storage)


def _unnamed(names, storage: str, resume: bool) -> str:
    if not names:
        return STUDY_NAME
    if resume and len(names) == 1:
        return names[0]
    raise ValueError(
        f'{storage} holds a search already: {", ".join(sorted(names))}. Go on with it, or join '
        f'it, by --study NAME (or --resume, if it is the only one); a new NAME begins another')


def _check_identity(stored: Dict, identity: Dict) -> None:
    lines = differences(stored, identity)
    if lines:
        raise ValueError('the study was made for another search:\n  ' + '\n  '.join(lines))
