"""Create an Optuna study or join an existing one."""
from typing import Dict, Optional

import optuna

from ..identity import differences
from ..record import StudyRecord
from .storage import open_storage, shown
from .workers import Workers

STUDY_NAME = 'sparsevit'


class JoinedStudy:
    """Study that this worker takes part in.

    Use it as a context manager so that the worker signs off at the end.

    Args:
        storage: URL of the storage, see :func:`~.storage.open_storage`.
        identity: What the results depend on. A study continues only with the same identity.
        study: Name of the study to join or create. None creates one in an empty storage.
        resume: Continue the only study of the storage, if there is one.
        pareto: Whether low latency is an objective too.

    Attributes:
        study: The Optuna study.
        storage: The storage.
        workers: This worker and its view of the others.
        record: Record of the search in the study.

    Raises:
        ValueError: If no study is named but the storage has some and `resume` cannot choose one,
            or if the study was created for another search (lists the differences) or by a version
            of this package with another schema.
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
        """Leave the study, and delete it if this worker created it and it is unused.

        A study is in use if it has candidates or other live workers.
        """
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
        f'{storage} already contains a study: {", ".join(sorted(names))}. Continue or join it with '
        f'--study NAME (or --resume if it is the only one), or use a new NAME to start another')


def _check_identity(stored: Dict, identity: Dict) -> None:
    lines = differences(stored, identity)
    if lines:
        raise ValueError('the study belongs to a different search:\n  ' + '\n  '.join(lines))
