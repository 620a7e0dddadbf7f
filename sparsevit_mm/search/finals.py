"""The end of a search: the best are measured again and evaluated on all of val. Of many noisy
figures the luckiest would win."""
from typing import Callable, List, Mapping, Optional, Sequence

from ..evaluation.metrics import Metrics
from ..sparsity import SparsityConfig
from .candidates import REJECTED, Candidate
from .study import SparsitySearch
from .summary import WINNER, Finalist


class Finals:
    """Judges candidates again; each figure is kept in the study as soon as it is there.

    Args:
        search: The search.
        end: Under which the finalists are kept.
        measure: Configuration and scope -> milliseconds, more carefully than in the search. A
            scope is one of Selection's, or None for the one that was searched.
        full: Likewise -> metrics on all of val.
        had_all: Whether the search itself evaluated on all of val.
        scopes: Judged beside the one that was searched; a finalist stands there in its best.
    """

    def __init__(self, search: SparsitySearch, end: str,
                 measure: Callable[[SparsityConfig, Optional[str]], float],
                 full: Optional[Callable[[SparsityConfig, Optional[str]], Metrics]] = None,
                 had_all: bool = True, scopes: Sequence[str] = ()):
        self.search, self.end, self.record = search, end, search.record
        self.measure, self.full = measure, full
        self.had_all, self.scopes = had_all, scopes

    def best(self, count: int) -> List[Finalist]:
        """The best candidates that prove inside the limits, the winner first; those outside are
        rejected for the next best.

        Raises:
            ValueError: None is inside.
        """
        limits, finalists = self.search.problem.limits, []
        for candidate in sorted(self._evaluated(), key=lambda c: (-c.metric, c.latency)):
            if len(finalists) == count:
                break
            if limits.admit(self._measured(candidate)):
                finalists.append(self._finalist(candidate, limits.admit))
            else:
                candidate.state = REJECTED
        self.record.reject([c.trial for c in self.search.candidates if c.state == REJECTED])
        if not finalists:
            raise ValueError(
                f'measured again, none of {self.search.num_evaluated} evaluated candidates is '
                f'inside {limits.min_latency:.1f} to {limits.max_latency:.1f} ms: the band is '
                f'narrower than the noise of this machine, try more --rounds')
        finalists.sort(key=lambda f: (-self._objective(f), f.measured))
        finalists[0].name = WINNER
        self._keep(finalists)
        return finalists

    def points(self, points: Mapping[str, float]) -> List[Finalist]:
        """For each point, a name and milliseconds, the best candidate that proves no slower; a
        candidate that serves several stands there for each.

        Raises:
            ValueError: Nothing is so fast; names what is.
        """
        finalists = []
        for name, point in points.items():
            fitting = [c for c in self._evaluated() if c.latency <= point]
            for candidate in sorted(fitting, key=lambda c: (-c.metric, c.latency)):
                if self._measured(candidate) <= point:
                    finalists.append(self._finalist(candidate, point.__ge__, point, name))
                    break
            else:
                fastest = min(self._evaluated(), key=lambda c: c.latency)
                raise ValueError(f'no candidate takes {point:.1f} ms at most; the fastest takes '
                                 f'{fastest.latency:.1f} ms')
        self._keep(finalists)
        return finalists

    def _evaluated(self) -> List[Candidate]:
        return [c for c in self.search.candidates if c.metric is not None]

    def _finalist(self, candidate: Candidate, admit: Callable[[float], bool],
                  point: Optional[float] = None, name: str = '') -> Finalist:
        """The candidate in the scope that serves it best, of those inside the limits."""
        own, *others = (Finalist(candidate, self._measured(candidate, scope),
                                 self._full(candidate, scope), point, scope, name)
                        for scope in (None, *self.scopes))
        return max([own, *(f for f in others if admit(f.measured))], key=self._objective)

    def _full(self, candidate: Candidate, scope: Optional[str] = None) -> Optional[Metrics]:
        if scope is None and self.had_all:
            return None
        return self.record.again(candidate.trial, 'full', scope,
                                 lambda: self.full(candidate.config, scope))

    def _measured(self, candidate: Candidate, scope: Optional[str] = None) -> float:
        return self.record.again(candidate.trial, 'measured', scope,
                                 lambda: self.measure(candidate.config, scope))

    def _objective(self, finalist: Finalist) -> float:
        if finalist.full is None:
            return finalist.candidate.metric
        return self.search.problem.objective(finalist.full)

    def _keep(self, finalists: List[Finalist]) -> None:
        if not self.had_all:
            dense = self.search.problem.space.config(0.)
            self.record.dense_full(lambda: self.full(dense, None))
        self.record.keep_finalists(self.end, finalists)
