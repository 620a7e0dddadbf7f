"""Final evaluation of a search: the best candidates are measured again and evaluated on all of val.

Otherwise the candidate with the luckiest noise would win.
"""
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
    """Final evaluation of a search. Each result is stored in the study immediately.

    A scope is one of those of Selection, or None for the one that was searched.

    Args:
        search: The search.
        end: Key of the final evaluation, under which the finalists are stored.
        measure: Function that maps a configuration and a scope to the ratio of its latency to the
            dense model's, measured with more rounds than in the search.
        searched: Milliseconds of the dense model that the latencies of the search refer to.
        dense: Milliseconds of the dense model, measured now.
        limits: Limits in milliseconds, resolved with `dense`.
        full: Function that maps a configuration and a scope to its results on all of val. Required
            unless `had_all` is set and `scopes` is empty.
        had_all: Whether the search itself evaluated on all of val.
        scopes: Further scopes to judge the candidates in. Each finalist gets its best scope.
        backbone: Function that maps a configuration and a scope to the milliseconds of its
            backbone alone and of the dense backbone. If given, it is called for the finalists.
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
        """Return the `count` best candidates within the limits when measured again, winner first.

        Candidates outside the limits are rejected, and the next best ones take their place.

        Raises:
            ValueError: If no candidate is within the limits.
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
                f'none of {self.search.num_evaluated} evaluated candidates is within '
                f'{limits.min_latency:.1f} to {limits.max_latency:.1f} ms when measured again: the '
                f'band is narrower than the measurement noise of this machine, try more --rounds')
        finalists.sort(key=lambda f: (-self._objective(f), f.measured))
        finalists[0].name = WINNER
        self._keep(finalists)
        return finalists

    def points(self, points: Mapping[str, float], count: int = 1) -> List[Finalist]:
        """Return the best finalist for each point of a Pareto search.

        A point chooses among the `count` best candidates that meet its latency when measured again
        and those judged for other points. A candidate may serve several points. If the search used
        all of val, the whole front is measured again.

        Args:
            points: Mapping of name to milliseconds.
            count: Number of candidates to judge for each point.

        Raises:
            ValueError: If no candidate meets a point. The message gives the lowest latency.
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
        """Return the best candidates of the search that meet a point when measured again."""
        best: List[Candidate] = []
        fitting = [c for c in self._evaluated() if c.latency * self._drift <= point]
        for candidate in sorted(fitting, key=lambda c: (-c.metric, c.latency)):
            if len(best) == count:
                break
            if self._measured(candidate) <= point:
                best.append(candidate)
        if not best:
            fastest = min(self._evaluated(), key=lambda c: c.latency)
            raise ValueError(f'no candidate takes at most {point:.1f} ms; the fastest takes '
                             f'{fastest.latency * self._drift:.1f} ms')
        return best

    def _evaluated(self) -> List[Candidate]:
        return [c for c in self.search.candidates if c.metric is not None]

    def _finalist(self, candidate: Candidate, admit: Callable[[float], bool],
                  point: Optional[float] = None, name: str = '') -> Finalist:
        """Return the candidate in its best scope; further scopes must be within the limits."""
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
        """Return the milliseconds of a candidate, measured again unless stored."""
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
