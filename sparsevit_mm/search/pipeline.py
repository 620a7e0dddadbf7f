"""From a config, a checkpoint and a limit to the winning config: the steps of a search in order."""
import hashlib
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, Optional

from mmengine.config import Config
from mmengine.logging import print_log

from ..config import is_type, without_adaptation
from ..cost.latency import LatencyMeter, LatencySetting
from ..cost.macs import backbone_macs
from ..data import check_data
from ..labels import check_labels
from ..sparsity import SparsityConfig, SparsitySpace
from .candidates import Candidate, write_csv
from .evaluator import Evaluator
from .export import check_exportable, export_config
from .limits import Limits
from .study import Problem, SparsitySearch
from .subset import restrict_to_subset

# The figure a paper would report, by evaluator.
_METRICS = {
    'CocoMetric': 'coco/bbox_mAP',
    'IoUMetric': 'mIoU',
    'CityscapesMetric': 'averageScoreCategories',  # IoU by category: of classes it gives none
    'NuScenesMetric': 'NuScenes metric/pred_instances_3d_NuScenes/NDS',
}


@dataclass
class SearchRequest:
    """What the user asks for.

    Attributes:
        config, checkpoint: Paths.
        options: Dotted settings merged into the config, or None.
        limits: What the winner must meet.
        setting: How latency is measured.
        rounds: Runs of the candidate, and of the dense model beside it, in one measurement.
        num_trials: Evaluations in all.
        num_samples: Images of an evaluation; all of val if None.
        metric: Key of the metric; the usual one of the evaluator if None.
        seed: Of the sampler and of the subset.
        storage: URL of an Optuna storage.
        resume: Go on with the study that is there.
        out: Where the winning config goes.
        overwrite: Whether `out` may exist.
    """
    config: str
    checkpoint: str
    options: Optional[Dict]
    limits: Limits
    setting: LatencySetting
    rounds: int
    num_trials: int
    num_samples: Optional[int]
    metric: Optional[str]
    seed: int
    storage: str
    resume: bool
    out: Path
    overwrite: bool


class SearchPipeline:
    """Prepares a search; everything that can be wrong with the input fails in here, before the
    first candidate. See :class:`SearchRequest` for the arguments.

    Attributes:
        dense_metrics, dense_latency: Of the dense model; latency in milliseconds.
        search: All candidates, after :meth:`run` with `search.best` the winner.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: Name what is wrong.
    """

    def __init__(self, cfg: Config, request: SearchRequest, build_runner: Callable):
        self.cfg, self.request = cfg, request
        self.work_dir = Path(cfg.work_dir)
        check_exportable(request.config, request.out, request.overwrite)
        check_data(cfg, 'val')
        check_labels(cfg, 'val')
        metric = request.metric or default_metric(cfg)
        run_cfg = deepcopy(cfg)
        run_cfg.custom_hooks = without_adaptation(cfg.get('custom_hooks'))
        if request.num_samples is not None:
            restrict_to_subset(run_cfg, 'val', request.num_samples, request.seed, cfg.work_dir)
        self.evaluator = Evaluator(run_cfg, request.checkpoint, build_runner)
        backbone = self.evaluator.backbone
        self.meter = LatencyMeter(backbone, request.setting, request.rounds)
        self.space = SparsitySpace(backbone.depths)
        self.problem = Problem(
            self.space, self.evaluator.evaluate, self.latency, self.macs, metric, request.limits,
            self._identity(metric))
        self.search = SparsitySearch(
            self.problem, request.storage, request.seed,
            population_size=max(4, min(50, request.num_trials // 4)), resume=request.resume)
        self.dense = SparsityConfig(0., backbone.depths)
        try:
            self._measure_dense()
            self.search.problem = replace(self.problem, limits=self.limits)
        except Exception:  # then the corrected command must not find a search begun
            self.search.discard_if_empty()
            raise

    def macs(self, config: SparsityConfig) -> int:
        setting = self.request.setting
        return backbone_macs(self.evaluator.backbone, setting.shape, setting.batch_size, config)

    def latency(self, config: SparsityConfig) -> float:
        """Milliseconds, as ratio to the dense model measured beside it: a machine that is busier
        now than at the start of the search changes both."""
        return self.meter.measure([self.dense, config])[1].ratio * self.dense_latency

    def _measure_dense(self) -> None:
        """Dense latency and metrics, once per study: they are kept in its storage."""
        study, limits = self.search.study, self.request.limits
        sparsest = self.space.uniform()[-1]
        if 'dense' not in study.user_attrs:
            dense, fastest = self.meter.measure([self.dense, sparsest])
            study.set_user_attr('reach', [dense.median, fastest.ratio * dense.median])
        self.dense_latency, fastest = study.user_attrs['reach']
        self.limits = limits.resolve(self.dense_latency)
        self.limits.check_reachable(fastest, self.dense_latency, self.macs(sparsest))
        if 'dense' not in study.user_attrs:
            metrics = self.evaluator.evaluate(self.dense)
            check_metric(metrics, self.problem.metric)
            study.set_user_attr('dense', {k: float(v) for k, v in metrics.items()})
        self.dense_metrics = study.user_attrs['dense']

    def _identity(self, metric: str) -> Dict:
        request = self.request
        text = self.cfg.copy()
        for key in ('work_dir', 'launcher', 'load_from', 'resume', 'filename'):
            text._cfg_dict.pop(key, None)
        return {
            'config': hashlib.sha256(text.pretty_text.encode()).hexdigest()[:16],
            'checkpoint': _fingerprint(request.checkpoint),
            'depths': list(self.space.depths),
            'choices': list(self.space.choices),
            'metric': metric,
            'num_samples': request.num_samples,
            'seed': request.seed,
            'latency setting': str(request.setting),
            **request.limits.identity(),
        }

    def run(self, report: Callable[[Candidate], None]) -> None:
        """Searches, with the CSV kept up to date, then writes the winning config.

        Raises:
            ValueError: See ``run`` and ``confirm_best`` of :class:`~.study.SparsitySearch`.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)

        def record(candidate: Candidate) -> None:
            write_csv(self.work_dir / 'candidates.csv', self.search.candidates)
            report(candidate)

        self.search.run(self.request.num_trials, record)
        self.meter.rounds *= 3
        self.search.confirm_best(self.latency)
        write_csv(self.work_dir / 'candidates.csv', self.search.candidates)
        self.export()

    def export(self) -> None:
        request, best = self.request, self.search.best
        samples = 'all of val' if request.num_samples is None else (
            f'{request.num_samples} images of val (seed {request.seed})')
        export_config(
            self.cfg, request.config, request.options, best.config, request.checkpoint,
            request.out, [
                'Found by tools/search_sparsity.py; train.py fine-tunes it, test.py tests it.',
                f'{self.problem.metric} {best.metric:.4g} on {samples}, '
                f'dense {self.dense_metrics[self.problem.metric]:.4g}',
                f'backbone latency {best.latency:.2f} ms, dense {self.dense_latency:.2f} ms',
                f'measured at {request.setting}',
                f'backbone {best.macs / 1e9:.3f} GMACs, dense {self.macs(self.dense) / 1e9:.3f}',
                f'best of {self.search.num_evaluated} evaluated, seed {request.seed}',
            ])
        print_log(f'winner {best.config} written to {request.out}', 'current')


def default_metric(cfg: Config) -> str:
    """The usual metric of the config's val evaluator. Raises ValueError if it has none here."""
    evaluators = cfg.val_evaluator
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    for evaluator in evaluators:
        for name, metric in _METRICS.items():
            if is_type(evaluator, name):
                return metric
    raise ValueError(f'--metric is needed: {[e.get("type") for e in evaluators]} has no default')


def check_metric(metrics: Dict[str, float], metric: str) -> None:
    """Raises ValueError if the dense model's metrics lack the objective; lists what there is."""
    if not metrics:
        raise ValueError('the dense model detects nothing, so the evaluator gives no metric: '
                         'is this the right checkpoint?')
    if metric not in metrics:
        raise ValueError(f'the evaluator gives no {metric!r}; it gives {", ".join(metrics)}')


def _fingerprint(path: str) -> str:
    """Identifies a file by its content: a search must not go on with other weights."""
    if '://' in path:
        return path
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()[:16]
