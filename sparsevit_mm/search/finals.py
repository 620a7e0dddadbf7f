"""The end of a search: the best are measured again and evaluated on all of val. Of many noisy
figures the luckiest would win."""
import math
from typing import Callable, Dict, List, Optional, Sequence

from ..sparsity import SparsityConfig
from .candidates import REJECTED, Candidate
from .problem import Metrics
from .study import REJECTIONS, SparsitySearch
from .summary import Finalist, figure_key

# In the study, beside study.REJECTIONS:
AGAIN, FINALISTS, DENSE = 'judged again', 'finalists', 'dense full'


class Finals:
    """Judges candidates again; each figure is kept in the study as soon as it is there.

    Args:
        search: The search.
        measure: Configuration and scope -> milliseconds, more carefully than in the search. A
            scope is one of Selection's, or None for the one that was searched.
        full: Likewise -> metrics on all of val.
        had_all: Whether the search itself evaluated on all of val.
        scopes: Judged beside the one that was searched; a finalist stands there in its best.
    """

    def __init__(self, search: SparsitySearch,
                 measure: Callable[[SparsityConfig, Optional[str]], float],
                 full: Optional[Callable[[SparsityConfig, Optional[str]], Metrics]] = None,
                 had_all: bool = True, scopes: Sequence[str] = ()):
        self.search, self.measure, self.full = search, measure, full
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
        self.search.study.set_user_attr(REJECTIONS, [
            c.trial for c in self.search.candidates if c.state == REJECTED])
        if not finalists:
            raise ValueError(
                f'measured again, none of {self.search.num_evaluated} evaluated candidates is '
                f'inside {limits.min_latency:.1f} to {limits.max_latency:.1f} ms: the band is '
                f'narrower than the noise of this machine, try more --rounds')
        finalists.sort(key=lambda f: (-self._objective(f), f.measured))
        self._keep(finalists)
        return finalists

    def points(self, points: Sequence[float]) -> List[Finalist]:
        """For each point, in milliseconds, the best candidate that proves no slower; a candidate
        that serves several stands there for each.

        Raises:
            ValueError: Nothing is so fast; names what is.
        """
        finalists = []
        for point in points:
            fitting = [c for c in self._evaluated() if c.latency <= point]
            for candidate in sorted(fitting, key=lambda c: (-c.metric, c.latency)):
                if self._measured(candidate) <= point:
                    finalists.append(self._finalist(candidate, point.__ge__, point))
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
                  point: Optional[float] = None) -> Finalist:
        """The candidate in the scope that serves it best, of those inside the limits."""
        own = Finalist(candidate, self._measured(candidate), self._full(candidate), point)
        others = (Finalist(candidate, self._measured(candidate, scope),
                           self._full(candidate, scope), point, scope) for scope in self.scopes)
        return max([own, *(f for f in others if admit(f.measured))], key=self._objective)

    def _full(self, candidate: Candidate, scope: Optional[str] = None) -> Optional[Metrics]:
        if scope is None and self.had_all:
            return None
        return self._once(candidate, figure_key('full', scope),
                          lambda: _plain(self.full(candidate.config, scope)))

    def _measured(self, candidate: Candidate, scope: Optional[str] = None) -> float:
        return self._once(candidate, figure_key('measured', scope),
                          lambda: self.measure(candidate.config, scope))

    def _objective(self, finalist: Finalist) -> float:
        if finalist.full is None:
            return finalist.candidate.metric
        return self.search.problem.objective(finalist.full)

    def _once(self, candidate: Candidate, key: str, compute: Callable):
        study = self.search.study
        again: Dict = study.user_attrs.get(AGAIN, {})
        figures = again.setdefault(str(candidate.trial), {})  # JSON keys are text
        if key not in figures:
            figures[key] = compute()
            study.set_user_attr(AGAIN, again)
        return figures[key]

    def _keep(self, finalists: List[Finalist]) -> None:
        study = self.search.study
        if not self.had_all and DENSE not in study.user_attrs:
            dense = SparsityConfig(0., self.search.problem.space.depths)
            study.set_user_attr(DENSE, _plain(self.full(dense, None)))
        study.set_user_attr(
            FINALISTS, [{'trial': f.candidate.trial, 'point': f.point, 'scope': f.scope}
                        for f in finalists])


def _plain(metrics: Metrics) -> Metrics:
    """As JSON holds them."""
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
