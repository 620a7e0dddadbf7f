"""The end of a search: the best are measured again and evaluated on all of val. Of many noisy
figures the luckiest would win."""
import math
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

from ..sparsity import SparsityConfig
from .candidates import REJECTED, Candidate
from .limits import Limits
from .record import Full
from .study import SparsitySearch
from .summary import WINNER, Finalist

Judge = Callable[[SparsityConfig, Optional[str]], float]
Pair = Tuple[float, float]


class Finals:
    """Judges candidates again; each figure is kept in the study as soon as it is there.

    Args:
        search: The search.
        end: Under which the finalists are kept.
        measure: Configuration and scope -> latency as a ratio to the dense model's, more carefully
            than in the search. A scope is one of Selection's, or None for the one that was
            searched.
        searched: Milliseconds of the dense model that the search's latencies go by.
        dense: Milliseconds of the dense model, measured now.
        limits: In milliseconds of now.
        full: Configuration and scope -> metrics on all of val.
        had_all: Whether the search itself evaluated on all of val.
        scopes: Judged beside the one that was searched; a finalist stands there in its best.
        backbone: Configuration and scope -> milliseconds of the backbone alone, and of the dense
            one beside it, for the finalists; where the whole model is measured.
    """

    def __init__(self, search: SparsitySearch, end: str, measure: Judge, searched: float,
                 dense: float, limits: Limits,
                 full: Optional[Callable[[SparsityConfig, Optional[str]], Full]] = None,
                 had_all: bool = True, scopes: Sequence[str] = (),
                 backbone: Optional[Callable[[SparsityConfig, Optional[str]], Pair]] = None):
        self.search, self.end, self.record = search, end, search.record
        self.measure, self.full, self.had_all, self.scopes = measure, full, had_all, scopes
        self.backbone = backbone
        self.dense, self.limits, self._drift = dense, limits, dense / searched

    def best(self, count: int) -> List[Finalist]:
        """The best candidates that prove inside the limits, the winner first; those outside are
        rejected for the next best.

        Raises:
            ValueError: None is inside.
        """
        limits, finalists = self.limits, []
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

    def points(self, points: Mapping[str, float], count: int = 1) -> List[Finalist]:
        """For each point, a name and milliseconds, the best of the `count` best candidates that
        prove no slower, and of those that were judged for other points; one that serves several
        stands there for each. Where the search had all of val, the whole front is measured again.

        Raises:
            ValueError: Nothing is so fast; names what is.
        """
        judged: List[Candidate] = []
        for point in points.values():
            judged += self._best_within(point, count)
        finalists = []
        for name, point in points.items():
            fitting = [self._finalist(c, point.__ge__, point, name)
                       for c in {c.trial: c for c in judged}.values()
                       if self._measured(c) <= point]
            finalists.append(max(fitting, key=lambda f: (self._objective(f), -f.measured)))
        for candidate in self.search.front if self.had_all else ():
            self._measured(candidate)
        self._keep(finalists)
        return finalists

    def _best_within(self, point: float, count: int) -> List[Candidate]:
        """By the search's own figures, but measured again."""
        best: List[Candidate] = []
        fitting = [c for c in self._evaluated() if c.latency * self._drift <= point]
        for candidate in sorted(fitting, key=lambda c: (-c.metric, c.latency)):
            if len(best) == count:
                break
            if self._measured(candidate) <= point:
                best.append(candidate)
        if not best:
            fastest = min(self._evaluated(), key=lambda c: c.latency)
            raise ValueError(f'no candidate takes {point:.1f} ms at most; the fastest takes '
                             f'{fastest.latency * self._drift:.1f} ms')
        return best

    def _evaluated(self) -> List[Candidate]:
        return [c for c in self.search.candidates if c.metric is not None]

    def _finalist(self, candidate: Candidate, admit: Callable[[float], bool],
                  point: Optional[float] = None, name: str = '') -> Finalist:
        """The candidate in the scope that serves it best, of those inside the limits."""
        own, *others = (self._in_scope(candidate, point, scope, name)
                        for scope in (None, *self.scopes))
        return max([own, *(f for f in others if admit(f.measured))], key=self._objective)

    def _in_scope(self, candidate: Candidate, point: Optional[float], scope: Optional[str],
                  name: str) -> Finalist:
        full = self._full(candidate, scope)
        return Finalist(candidate, self._measured(candidate, scope), full.metrics, full.resampled,
                        point, scope, name)

    def _full(self, candidate: Candidate, scope: Optional[str] = None) -> Full:
        if scope is None and self.had_all:
            return Full()
        return self.record.again(candidate.trial, 'full', scope,
                                 lambda: self.full(candidate.config, scope))

    def _measured(self, candidate: Candidate, scope: Optional[str] = None) -> float:
        """Milliseconds."""
        return self.dense * self.record.again(candidate.trial, 'ratio', scope,
                                              lambda: self.measure(candidate.config, scope))

    def _objective(self, finalist: Finalist) -> float:
        if finalist.full is None:
            return finalist.candidate.metric
        value = self.search.problem.objective(finalist.full)
        return -math.inf if math.isnan(value) else value

    def _keep(self, finalists: List[Finalist]) -> None:
        if not self.had_all:
            dense = SparsityConfig(0., self.search.problem.space.depths)
            self.record.dense_full(lambda: self.full(dense, None))
        for finalist in finalists if self.backbone else ():
            finalist.backbone = tuple(self.record.again(
                finalist.candidate.trial, 'backbone', finalist.scope,
                lambda f=finalist: self.backbone(f.candidate.config, f.scope)))
        self.record.keep_finalists(self.end, finalists)
