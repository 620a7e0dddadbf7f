"""Pipeline of a search: all steps from the study and the dense model to the winning config."""
import time
from collections import Counter
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.logging import print_log

from ..cost.latency import Latency, LatencyMeter, Meter
from ..cost.macs import backbone_macs
from ..cost.table import LatencyTable
from ..evaluation.evaluator import make_meter
from ..evaluation.metrics import check_metric, default_metric
from ..models.checkpoints import fingerprint
from ..models.selection.ranking import Selection
from ..operating_point import image_scale
from ..sparsity import SparsityConfig
from .baselines import References
from .candidates import Candidate, write_csv
from .finals import Finals
from .identity import config_identity, file_identity
from .limits import Limits
from .problem import Problem
from .propose.space import check_order, fastest_points, space_of
from .record import Full
from .request import SearchRequest, point_latency
from .results import SearchResult, write_front, write_manifest, write_winners
from .score import SearchedScore
from .splits import Evaluations
from .store.deadline import deadline
from .store.joining import JoinedStudy
from .study import SparsitySearch

Waiting = Callable[[str, str, float], None]

CAREFUL = 3  # factor of the rounds in the final evaluation
RESAMPLING = .04  # share of the evaluation time to spend on bootstrap resamples


class SearchPipeline:
    """Steps of a search. Use it as a context manager so that the worker signs off at the end.

    Args:
        cfg: Config of the whole model.
        request: Settings of the search.
        evaluations: Evaluations built from both.

    Attributes:
        search: This worker's search, with all candidates; set by :meth:`prepare`.
        score_check: Comparison by which ``--importance auto`` chose the score, also for workers
            that joined the study; None in other searches. Set by :meth:`prepare`.
    """

    def __init__(self, cfg: Config, request: SearchRequest, evaluations: Evaluations):
        self.cfg, self.request, self.evaluations = cfg, request, evaluations
        self.work_dir = Path(cfg.work_dir)
        self.metric = request.metric or default_metric(cfg)
        self.spent: Counter = Counter()
        self._dense_beside: Optional[float] = None
        self.backbone = evaluations.evaluator.backbone
        self.space = space_of(self.backbone, request)
        self.densest = self.backbone.space.config(0.)  # with the knobs of the config
        self.meter = self._meter(request.rounds)
        self.table = LatencyTable.load(request.table) if request.table is not None else None
        self.joined: Optional[JoinedStudy] = None

    def prepare(self, report: Callable[[str], None] = lambda label: None,
                waiting: Optional[Waiting] = None) -> None:
        """Join the study, determine the score, resolve the limits and evaluate the dense model.

        All invalid input fails here, before the first candidate.

        Args:
            report: Callback that receives a description of each evaluation of
                ``--importance auto``.
            waiting: ``Workers.on_wait``, called here and in :meth:`run` while this worker waits
                for another one.

        Raises:
            ValueError, FileNotFoundError: If the input is invalid.
        """
        request = self.request
        self.joined = JoinedStudy(request.storage, self._identity(), request.study, request.resume,
                                  request.pareto)
        if waiting is not None:
            self.joined.workers.on_wait = waiting
        try:
            self.evaluations.evaluator.check_metric(self.metric)
            self._check_selection(report)
            limits = self._resolve_limits()
            problem = self._problem(limits)
            self.joined.record.dense(lambda: self._evaluate_dense(problem), self.space.depths)
            self.search = SparsitySearch(problem, self.joined, request.seed, request.sampler,
                                         max(4, min(50, request.num_trials // 4)),
                                         request.evaluation_timeout)
        except Exception:  # the corrected command must not find an existing study
            self.joined.discard_if_empty()
            raise
        except BaseException:  # interrupted: keep the measurements for a later run
            self.joined.leave()
            raise

    def __enter__(self) -> 'SearchPipeline':
        return self

    def __exit__(self, *_) -> None:
        if self.joined is not None:
            self.joined.leave()

    def _check_selection(self, report: Callable[[str], None]) -> None:
        """Set the score, and check that the table, knobs, unit order and scopes are usable."""
        request, evaluator = self.request, self.evaluations.evaluator
        self.score = SearchedScore(self.cfg, request, self.evaluations, self.joined.record)
        self.score_check = self.score.settle(self.metric, report)
        self.meter.select(evaluator.selection)
        if self.table is not None:
            self.table.require(self.backbone, request.setting)
        evaluator.check_knobs()
        check_order(request)
        for scope in request.scopes:
            selection = self._selection(scope)
            selection.alone().group_of(request.setting.batch_size)  # raises ValueError if invalid
            evaluator.try_out(selection)

    def _resolve_limits(self) -> Limits:
        """Return the limits in milliseconds. The dense latency is measured once per study."""
        request = self.request
        points = fastest_points(self.space)
        self.dense_latency, fastest = self.joined.record.reach(lambda: self._reach(points))
        limits = request.limits.resolve(self.dense_latency)
        limits.check_reachable(fastest, self.dense_latency, min(map(self.macs, points)))
        for point in request.points if request.pareto else ():
            Limits(max_latency=point_latency(point, self.dense_latency)).check_reachable(
                fastest, self.dense_latency, 0, f'--points {point}')
        return limits

    def _problem(self, limits: Limits) -> Problem:
        main = self.evaluations.evaluator.main
        resampler = main.resampler(self.metric)
        return Problem(
            self.space, self._timed('evaluation', self.evaluations.evaluator.evaluate),
            self._timed('latency', self.latency), self.macs, self.metric, limits,
            self.request.pareto,
            self.evaluations.look and self._timed('evaluation', self.evaluations.look),
            resample=resampler and (lambda: resampler(
                seed=self.request.seed, seconds=RESAMPLING * main.seconds)),
            dense=lambda: self._dense_beside,
            **dict(canonical=self.table.canonical) if self.table else {})

    def macs(self, config: SparsityConfig) -> int:
        return backbone_macs(self.backbone, self._shape(config), self.request.setting.batch_size,
                             config)

    def _shape(self, config: SparsityConfig) -> Tuple[int, int]:
        """Return (H, W) of the images of a configuration, in pixels."""
        scale = image_scale(config)
        return self.request.setting.shape if scale == 1 else self.evaluations.sizes[scale]

    def latency(self, config: SparsityConfig) -> float:
        """Return the milliseconds of a configuration, from the table or measured."""
        return self.table.predict(config) if self.table else self.measure(config)

    def measure(self, config: SparsityConfig) -> float:
        """Measure a configuration in turn with the dense model.

        Return the ratio of both times the dense latency at the start of the search, since a change
        in the machine's load affects both.
        """
        dense, sparse = self._beside_dense(config)
        self._dense_beside = dense.median
        return sparse.ratio * self.dense_latency

    def _beside_dense(self, config: SparsityConfig,
                      scope: Optional[str] = None) -> List[Latency]:
        self.meter.select(self._selection(scope))
        return self.meter.measure([self.densest, config])

    def _selection(self, scope: Optional[str]) -> Selection:
        """Return the selection in use, in another scope if one is given."""
        own = self.evaluations.evaluator.selection
        return replace(own, scope=scope) if scope else own

    def _timed(self, what: str, function: Callable) -> Callable:
        """Wrap a function so that its seconds are added to ``spent[what]``."""
        @wraps(function)
        def timed(*args):
            start = time.monotonic()
            try:
                return function(*args)
            finally:
                self.spent[what] += time.monotonic() - start
        return timed

    def _meter(self, rounds: int, shape: Optional[Tuple[int, int]] = None) -> Meter:
        """Create a meter in the requested setting, or on the smaller images of `shape` (H, W)."""
        evaluator, setting = self.evaluations.evaluator, self.request.setting
        if shape is None:
            return make_meter(evaluator, evaluator.main, setting, rounds, self.evaluations.sizes)
        return make_meter(evaluator, self.evaluations.smaller[shape],
                          replace(setting, shape=shape), rounds)

    def _reach(self, sparsest: Sequence[SparsityConfig]) -> Tuple[float, float]:
        """Return the milliseconds of the dense configuration and of the fastest in `sparsest`."""
        if self.table:
            return self.table.dense, min(map(self.table.predict, sparsest))
        dense, *others = self.meter.measure([self.densest, *sparsest])
        return dense.median, min(other.ratio for other in others) * dense.median

    def _evaluate_dense(self, problem: Problem) -> Candidate:
        everything = replace(problem, limits=Limits(), latency=lambda _: self.dense_latency,
                             look=None)
        with deadline(self.request.evaluation_timeout, self.joined.leave, 'the dense evaluation'):
            candidate = everything.judge(-1, self.densest, lambda _: True)
        check_metric(candidate.metrics, problem.metric)
        return candidate

    def _identity(self) -> dict:
        request, metric = self.request, self.metric
        return {
            **config_identity(self.cfg),
            'checkpoint': file_identity(request.checkpoint),
            'depths': list(self.space.depths),
            'choices': list(self.space.choices),
            'metric': metric,
            'knobs': [f'{knob.name}={",".join(map(str, knob.values))}'
                      for knob in request.knobs],
            'widths': [f'{kind}={",".join(map(str, shares))}'
                       for kind, shares in request.widths.items()] or None,
            'objectives': [metric, 'latency'] if request.pareto else [metric],
            'num_samples': request.num_samples,
            'first_look': request.first_look,
            'seed': request.seed,
            'latency setting': str(request.setting),
            'evaluated in': request.evaluated_in,
            'latency table': request.table and file_identity(request.table),
            **request.limits.identity(),
        }

    def run(self,
            report: Callable[[Candidate], None] = lambda candidate: None) -> SearchResult:
        """Run the search and the final evaluation, and write the winning configs.

        The CSV file is updated after each candidate.

        Args:
            report: Callback that receives each candidate of this worker.

        Raises:
            ValueError: See :meth:`.SparsitySearch.run` and :class:`~.finals.Finals`.
            EvaluationError: See :meth:`.SparsitySearch.run`.
        """
        request, record, end = self.request, self.search.record, self._end_key()
        self.work_dir.mkdir(parents=True, exist_ok=True)
        write_manifest(self.work_dir, request, self.search.study.study_name, end)

        def keep(candidate: Candidate) -> None:
            self._write_csv(self.search.candidates)
            report(candidate)

        start, self.spent = time.monotonic(), Counter()
        self.search.run(request.num_trials, keep)
        spent = dict(self.spent, all=time.monotonic() - start)
        record.end(end, lambda: self._end(end))
        summary = record.summary(end)
        self._write_csv(summary.candidates)
        write_winners(self.cfg, request, self.search, summary, self.score.written)
        if request.pareto:
            write_front(self.work_dir, summary, request.setting.identity(),
                        fingerprint(self.backbone))
        return SearchResult(summary, self.search.problem.limits, request.setting,
                            request.winners(), self.work_dir, self.score_check, spent)

    def _end_key(self) -> str:
        """Return the key of the final evaluation, which is repeated if the request changes."""
        request = self.request
        chosen = f'best {request.finalists}'
        if request.pareto:
            chosen += f' for {", ".join(request.points)}'
        if request.scopes:
            chosen += f' in scopes {", ".join(request.scopes)}'
        return f'after {request.num_trials}, {chosen}' + ', references' * request.references

    def _end(self, end: str) -> None:
        request, problem = self.request, self.search.problem
        self.meter = self._meter(CAREFUL * request.rounds)
        now = self.search.record.dense_again(
            end, lambda: self.meter.measure([self.densest])[0].median)
        finals = Finals(
            self.search, end, lambda config, scope: self._beside_dense(config, scope)[1].ratio,
            self.dense_latency, now, request.limits.resolve(now), self._full,
            self.evaluations.full is None,
            [s for s in request.scopes if s != self._selection(None).scope],
            None if request.setting.of == 'backbone' else self._of_backbone)
        if request.pareto:
            finals.points({p: point_latency(p, now) for p in request.points}, request.finalists)
        else:
            finals.best(request.finalists)
        if request.references:
            References(self.search, self.latency, lambda c: problem.objective(problem.evaluate(c)),
                       {size: lambda size=size: self._smaller(size)
                        for size in self.evaluations.smaller}).run()

    def _full(self, config: SparsityConfig, scope: Optional[str]) -> Full:
        evaluation = self.evaluations.full or self.evaluations.evaluator.main
        resampler = evaluation.resampler(self.metric)  # before the evaluation that it resamples
        metrics = evaluation(config, self._selection(scope))
        return Full(metrics, resampler and resampler(seed=self.request.seed).to_json())

    def _of_backbone(self, config: SparsityConfig, scope: Optional[str]) -> Tuple[float, float]:
        """Return the milliseconds of a backbone alone and of the dense one."""
        request, medians = self.request, []
        for shape in dict.fromkeys((self._shape(config), self._shape(self.densest))):
            alone = LatencyMeter(self.backbone, replace(request.setting, of='backbone',
                                                        shape=shape), request.rounds)
            alone.select(self._selection(scope))
            medians.append([one.median for one in alone.measure([self.densest, config])])
        return medians[0][1], medians[-1][0]

    def _smaller(self, size: Tuple[int, int]) -> Tuple[float, float]:
        """Return milliseconds and objective of the dense model on images of size (H, W)."""
        smaller, own = (meter.measure([self.densest])[0].median for meter in (
            self._meter(self.request.rounds, size), self.meter))
        ratio = smaller / own
        metrics = self.evaluations.smaller[size](self.densest)
        return ratio * self.dense_latency, self.search.problem.objective(metrics)

    def _write_csv(self, candidates: List[Candidate]) -> None:
        try:
            write_csv(self.work_dir / 'candidates.csv', candidates)
        except OSError as error:  # not fatal: the study holds everything
            print_log(f'candidates.csv could not be written: {error}', 'current', 30)
