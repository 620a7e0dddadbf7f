"""The end of a search: the best are measured again and evaluated on all of val. Of many noisy
figures the luckiest would win."""
import math
from typing import Callable, Dict, List, Optional, Sequence

from ..sparsity import SparsityConfig
from .candidates import REJECTED, Candidate
from .problem import Metrics
from .study import REJECTIONS, SparsitySearch
from .summary import Finalist

# In the study, beside study.REJECTIONS:
AGAIN, FINALISTS, DENSE = 'judged again', 'finalists', 'dense full'


class Finals:
    """Judges candidates again; each figure is kept in the study as soon as it is there.

    Args:
        search: The search.
        measure: Configuration -> milliseconds, more carefully than in the search.
        full: Configuration -> metrics on all of val; None if the search had all of it.
    """

    def __init__(self, search: SparsitySearch, measure: Callable[[SparsityConfig], float],
                 full: Optional[Callable[[SparsityConfig], Metrics]] = None):
        self.search, self.measure, self.full = search, measure, full

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
                finalists.append(self._finalist(candidate))
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
                    finalists.append(self._finalist(candidate, point))
                    break
            else:
                fastest = min(self._evaluated(), key=lambda c: c.latency)
                raise ValueError(f'no candidate takes {point:.1f} ms at most; the fastest takes '
                                 f'{fastest.latency:.1f} ms')
        self._keep(finalists)
        return finalists

    def _evaluated(self) -> List[Candidate]:
        return [c for c in self.search.candidates if c.metric is not None]

    def _finalist(self, candidate: Candidate, point: Optional[float] = None) -> Finalist:
        full = self.full and self._once(
            candidate, 'full', lambda: _plain(self.full(candidate.config)))
        return Finalist(candidate, self._measured(candidate), full or None, point)

    def _measured(self, candidate: Candidate) -> float:
        return self._once(candidate, 'measured', lambda: self.measure(candidate.config))

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
        if self.full is not None and DENSE not in study.user_attrs:
            dense = SparsityConfig(0., self.search.problem.space.depths)
            study.set_user_attr(DENSE, _plain(self.full(dense)))
        study.set_user_attr(
            FINALISTS, [{'trial': f.candidate.trial, 'point': f.point} for f in finalists])


def _plain(metrics: Metrics) -> Metrics:
    """As JSON holds them."""
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
