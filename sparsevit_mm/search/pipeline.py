"""From evaluations and a limit to the winning config: the steps of a search in order."""
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from mmengine.config import Config
from mmengine.logging import print_log

from ..cost.latency import LatencyMeter
from ..cost.macs import backbone_macs
from ..cost.table import LatencyTable
from ..evaluation.bootstrap import make_resampler
from ..evaluation.metrics import Metrics, check_metric, default_metric
from ..models.selection.ranking import Selection
from ..sparsity import SparsityConfig
from .baselines import References
from .candidates import Candidate, write_csv
from .finals import Finals
from .identity import config_identity, file_identity
from .limits import Limits
from .problem import Problem
from .request import SearchRequest, point_latency
from .results import write_front, write_manifest, write_winners
from .score import SearchedScore
from .splits import Evaluations
from .study import SparsitySearch

RESAMPLES = 100  # of the bootstrap, for every candidate


class SearchPipeline:
    """Prepares a search; everything that can be wrong with the input fails in here, before the
    first candidate. Use it as a context, so that other workers see it leave.

    Args:
        cfg: The config.
        request: What the user asks for.
        evaluations: Made of both.
        report: Called with what is evaluated for ``--importance auto``.

    Attributes:
        dense: The dense model, as a candidate.
        search: All candidates.
        finalists: After :meth:`run`: the best, judged again; the first is the winner. In a Pareto
            search one for each point.
        score_check: What made ``--importance auto`` choose, for the worker that began the study as
            for those that joined; None of other searches.
        searching, evaluating: Likewise: seconds that this worker spent, before the end, on the
            candidates, and of these on their evaluation by the toolkit.
        dense_full: Likewise: metrics of the dense model on all of val; None if the search had all.

    Raises:
        ValueError, FileNotFoundError: Name what is wrong.
    """

    def __init__(self, cfg: Config, request: SearchRequest, evaluations: Evaluations,
                 report: Callable[[str], None] = lambda label: None):
        self.cfg, self.request, self.evaluations = cfg, request, evaluations
        self.searching = self.evaluating = 0.
        self.work_dir = Path(cfg.work_dir)
        metric = request.metric or default_metric(cfg)
        evaluator = evaluations.evaluator
        self.backbone = backbone = evaluator.backbone
        self.space = backbone.space
        self.densest = self.space.config(0.)
        self.meter = LatencyMeter(backbone, request.setting, request.rounds)
        self.table: Optional[LatencyTable] = None
        if request.table is not None:
            self.table = LatencyTable.load(request.table)
        resampler = make_resampler(evaluator.metric, metric)
        problem = Problem(
            self.space, self._evaluate, self.latency, self.macs, metric, request.limits,
            self._identity(metric), request.pareto, evaluations.look,
            resample=resampler and (lambda: resampler(RESAMPLES, request.seed)),
            **dict(canonical=self.table.canonical) if self.table else {})
        self.search = SparsitySearch(
            problem, request.storage, request.study, request.resume, request.seed, request.sampler,
            population_size=max(4, min(50, request.num_trials // 4)))
        self.score = SearchedScore(cfg, request, evaluations, self.search)
        try:
            self.score_check = self.score.settle(metric, report)
            self.meter.backbone.selection = evaluator.selection.alone()
            if self.table is not None:
                self.table.require(backbone, request.setting)
            for scope in request.scopes:
                selection = self._selection(scope)
                selection.alone().group_of(request.setting.batch_size)  # raises
                evaluator.try_out(selection)
            self._measure_dense(problem)
        except BaseException:  # then the corrected command must not find a search begun
            self.search.discard_if_empty()
            raise

    def __enter__(self) -> 'SearchPipeline':
        return self

    def __exit__(self, *_) -> None:
        self.search.workers.stop()

    def macs(self, config: SparsityConfig) -> int:
        setting = self.request.setting
        return backbone_macs(self.backbone, setting.shape, setting.batch_size, config)

    def latency(self, config: SparsityConfig) -> float:
        """Milliseconds: the table's, or measured."""
        return self.table.predict(config) if self.table else self.measure(config)

    def measure(self, config: SparsityConfig, scope: Optional[str] = None) -> float:
        """Milliseconds, as ratio to the dense model measured beside it: a machine that is busier
        now than at the start of the search changes both."""
        self.meter.backbone.selection = self._selection(scope).alone()
        return self.meter.measure([self.densest, config])[1].ratio * self.dense.latency

    def _selection(self, scope: Optional[str]) -> Selection:
        """The config's own, in another scope if one is named."""
        own = self.evaluations.evaluator.selection
        return replace(own, scope=scope) if scope else own

    def _evaluate(self, config: SparsityConfig) -> Metrics:
        start = time.monotonic()
        metrics = self.evaluations.evaluator.evaluate(config)
        self.evaluating += time.monotonic() - start
        return metrics

    def _measure_dense(self, problem: Problem) -> None:
        """Dense latency and metrics, once per study: they are kept in its storage."""
        record, config = self.search.record, self.space.uniform()[-1]
        dense, sparsest = record.reach(lambda: self._reach(config))
        limits = self.request.limits.resolve(dense)
        limits.check_reachable(sparsest, dense, self.macs(config))
        for point in self.request.points if self.request.pareto else ():
            Limits(max_latency=point_latency(point, dense)).check_reachable(
                sparsest, dense, 0, f'--points {point}')
        self.dense = record.dense(lambda: self._evaluate_dense(problem, dense), self.space.depths)
        self.search.problem = replace(problem, limits=limits)

    def _reach(self, sparsest: SparsityConfig) -> Tuple[float, float]:
        """Milliseconds of the dense and of the sparsest configuration."""
        if self.table:
            return self.table.dense, self.table.predict(sparsest)
        dense, fastest = self.meter.measure([self.densest, sparsest])
        return dense.median, fastest.ratio * dense.median

    def _evaluate_dense(self, problem: Problem, latency: float) -> Candidate:
        everything = replace(problem, limits=Limits(), latency=lambda _: latency, look=None)
        candidate = everything.judge(-1, self.densest, lambda _: True)
        check_metric(candidate.metrics, problem.metric)
        return candidate

    def _identity(self, metric: str) -> dict:
        request = self.request
        return {
            **config_identity(self.cfg),
            'checkpoint': file_identity(request.checkpoint),
            'depths': list(self.space.depths),
            'choices': list(self.space.choices),
            'metric': metric,
            'objectives': [metric, 'latency'] if request.pareto else [metric],
            'num_samples': request.num_samples,
            'first_look': request.first_look,
            'seed': request.seed,
            'latency setting': str(request.setting),
            'latency table': request.table and file_identity(request.table),
            **request.limits.identity(),
        }

    def run(self, report: Callable[[Candidate], None],
            waiting: Callable[[str], None] = lambda worker: None) -> None:
        """Searches, with the CSV kept up to date, then judges the best again and writes the winning
        configs.

        Args:
            report: Called after each candidate of this worker.
            waiting: Called with the worker that judges the best again, if it is another one.

        Raises:
            ValueError: See ``run`` of :class:`~.study.SparsitySearch` and :class:`~.finals.Finals`.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)
        record, end = self.search.record, self._end_key()
        write_manifest(self.work_dir, self.request, self.search.study.study_name, end)

        def keep(candidate: Candidate) -> None:
            self._write_csv(self.search.candidates)
            report(candidate)

        start, self.evaluating = time.monotonic(), 0.
        self.search.run(self.request.num_trials, keep)
        self.searching = time.monotonic() - start
        record.end(end, lambda: self._end(end), waiting)
        summary = record.summary(end)
        self.finalists, self.dense_full = summary.finalists, summary.dense_full
        self._write_csv(summary.candidates)
        write_winners(self.cfg, self.request, self.search, summary, self.score.written)
        if self.request.pareto:
            write_front(self.work_dir, summary, self.request.setting.identity())

    def _end_key(self) -> str:
        """A search that goes on, or is asked for something else, ends again."""
        request = self.request
        chosen = ', '.join(request.points) if request.pareto else f'best {request.finalists}'
        if request.scopes:
            chosen += f' in scopes {", ".join(request.scopes)}'
        return f'after {request.num_trials}, {chosen}' + ', references' * request.references

    def _end(self, end: str) -> None:
        request, problem = self.request, self.search.problem
        self.meter = LatencyMeter(self.backbone, request.setting, 3 * request.rounds)
        full = self.evaluations.full or self.evaluations.evaluator.evaluate
        finals = Finals(
            self.search, end, self.measure,
            lambda config, scope: full(config, self._selection(scope)),
            self.evaluations.full is None,
            [s for s in request.scopes if s != self._selection(None).scope])
        if request.pareto:
            finals.points({p: point_latency(p, self.dense.latency) for p in request.points})
        else:
            finals.best(request.finalists)
        if request.references:
            References(self.search, self.latency, lambda c: problem.objective(problem.evaluate(c)),
                       {size: lambda size=size: self._smaller(size)
                        for size in self.evaluations.smaller}).run()

    def _smaller(self, size: Tuple[int, int]) -> Tuple[float, float]:
        """Milliseconds and objective of the dense model on smaller images."""
        request = self.request
        smaller = LatencyMeter(self.backbone, replace(request.setting, shape=size), request.rounds)
        ratio = (smaller.measure([self.densest])[0].median
                 / self.meter.measure([self.densest])[0].median)
        metrics = self.evaluations.smaller[size](self.densest)
        return ratio * self.dense.latency, self.search.problem.objective(metrics)

    def _write_csv(self, candidates: List[Candidate]) -> None:
        try:
            write_csv(self.work_dir / 'candidates.csv', candidates)
        except OSError as error:  # the study has it all
            print_log(f'candidates.csv could not be written: {error}', 'current', 30)
