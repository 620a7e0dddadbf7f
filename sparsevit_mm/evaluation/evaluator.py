"""Configuration -> metrics, through one Runner that is built and loaded once."""
import copy
import io
import time
from contextlib import redirect_stdout
from functools import cached_property
from logging import FileHandler
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, Runner

from ..compat import val_loop_is
from ..config.building import build_runner
from ..config.reading import is_type
from ..config.resolution import at_scale
from ..cost.latency import LatencyMeter, LatencySetting, Meter
from ..cost.whole_model import ModelMeter, spread_batches
from ..models import get_sparse_backbone
from ..models.checkpoints import check_fits, unwrapped
from ..models.knobs import KnobSetter
from ..models.precision import half_precision
from ..models.selection.ranking import Selection
from ..operating_point import image_scale, point_of
from ..sparsity import Sparsity, SparsityConfig
from .bootstrap import Resampler, make_resampler
from .in_step import InStep
from .metrics import check_key
from .nuscenes_eval import accept_any_predictions

_OF_TRAINING = ('CheckpointHook', 'EarlyStoppingHook')


class Evaluator:
    """Evaluates a checkpoint at any sparsity with the config's own val data and evaluator, and on
    other data.

    In a distributed run every rank makes the same object, calls :meth:`on` for the same data, and
    then all but rank 0 call :meth:`serve`. Rank 0 evaluates, within ``with evaluator:``; each
    evaluation then runs on all ranks, with mmengine's distributed sampler and collection.

    Args:
        cfg: The config; the adaptation hook must be out of it, since it would set the sparsity
            of validation by itself.
        checkpoint: Checkpoint file of the whole model.
        build_runner: Config -> mmengine Runner.
        knobs: Names of the knobs of the model that configurations may set.
        dtype: See :func:`~sparsevit_mm.models.precision.half_precision`.

    Attributes:
        runner: Between evaluations its val loop is that of `cfg`, whatever was evaluated last.
        model: The runner's, without a wrapper.
        set_knobs: Sets the knobs of a point.
        backbone: The sparse backbone.
        selection: The one in force: by the config, until another is set.
        main: The evaluation on the val data of `cfg`.

    Raises:
        FileNotFoundError, ValueError: The checkpoint is not there, is refused or does not fit
            (see :func:`~sparsevit_mm.models.checkpoints.check_fits`).
    """

    def __init__(self, cfg: Config, checkpoint: str,
                 build_runner: Callable[[Config], Runner] = build_runner,
                 knobs: Sequence[str] = (), dtype: torch.dtype = torch.float32):
        cfg = copy.deepcopy(cfg)
        cfg.load_from, cfg.resume = checkpoint, False
        _leave_training(cfg)
        self.runner = build_runner(cfg)
        _leave_console()
        model = self.runner.model
        model = unwrapped(model)
        check_fits(model, checkpoint)
        self.model, self.backbone = model, get_sparse_backbone(model)
        self.set_knobs = KnobSetter(model, knobs)
        self.dtype = dtype
        self.selection = self.backbone.selection
        self._loaded = False
        self._in_step = InStep(self._run)
        self._data: List[Evaluation] = []
        self.main = self._add(cfg, self.runner.val_evaluator, self.runner.val_loop)

    @property
    def metric(self) -> BaseMetric:
        """The first metric of the config's val evaluator."""
        return self.main.metric

    def evaluate(self, sparsity: Sparsity,
                 selection: Optional[Selection] = None) -> Dict[str, float]:
        """Metrics at a configuration; empty where CocoMetric or NuScenesMetric found no
        detection.

        Args:
            sparsity: How many windows run.
            selection: Which; as the config says if None.
        """
        return self.main(sparsity, selection)

    def try_out(self, selection: Selection) -> None:
        """Runs the first batch of val, on this rank alone, to see whether the model can select so.

        Raises:
            ValueError: What the backbone says of a batch that it can't group.
        """
        self.backbone.selection = selection
        try:
            self._run_batch()
        finally:
            self.backbone.selection = self.selection

    def check_metric(self, key: str) -> None:
        """Makes sure, before anything is evaluated, that the evaluator gives a metric.

        Raises:
            ValueError: It does not; lists what it gives.
        """
        loop = self.main.loop  # tells the metrics of the data set
        check_key(loop.evaluator.metrics, key, lambda: self._first_batch(loop))

    def _first_batch(self, loop: BaseLoop) -> Dict[str, float]:
        """What the evaluator says of one batch; nothing if it can't, or needs all ranks."""
        if get_world_size() > 1:
            return {}
        batch = next(iter(loop.dataloader))
        with torch.no_grad(), _quiet():
            self.model.eval()
            samples = self.model.val_step(batch)
            loop.evaluator.process(data_samples=samples, data_batch=batch)
            try:
                return loop.evaluator.evaluate(len(samples))
            except Exception:  # of a metric that wants all of the data
                for metric in loop.evaluator.metrics:
                    metric.results.clear()
                return {}

    def check_knobs(self) -> None:
        """Runs the first batch of val, on this rank alone, to see whether the model reads its
        knobs.

        Raises:
            ValueError: Names those that it does not read.
        """
        with self.set_knobs.watching() as read:
            self._run_batch()
        idle = [name for name in self.set_knobs.names if name not in read]
        if idle:
            raise ValueError(f'{type(self.model).__name__} does not read {", ".join(idle)} when it '
                             f'predicts: nothing would change with it')

    def _run_batch(self) -> None:
        loader = self.runner.val_dataloader
        if isinstance(loader, dict):
            loader = self.runner.build_dataloader(dict(loader, persistent_workers=False))
        with torch.no_grad():
            self.model.eval()
            self.model.val_step(next(iter(loader)))

    def on(self, cfg: Config) -> 'Evaluation':
        """The same as :meth:`evaluate` on other data: of fewer images, or at another size.

        Args:
            cfg: Its val data loader, evaluator and loop are used, nothing else. The evaluator is
                built now, the loader before the first evaluation; its workers end with each one.
        """
        with _quiet():
            evaluator = self.runner.build_evaluator(copy.deepcopy(cfg.val_evaluator))
        return self._add(copy.deepcopy(cfg), evaluator)

    def serve(self) -> None:
        """Follows rank 0 in each evaluation, until it calls :meth:`stop`; on rank 0 nothing."""
        self._in_step.serve()

    def stop(self) -> None:
        """Ends :meth:`serve` on the other ranks; the end of ``with evaluator:`` does so too."""
        self._in_step.stop()

    def __enter__(self) -> 'Evaluator':
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def _add(self, cfg: Config, evaluator, own: Optional[BaseLoop] = None) -> 'Evaluation':
        for metric in evaluator.metrics:
            if type(metric).__name__ == 'NuScenesMetric':
                accept_any_predictions(metric)

        def build_loop(factor: float) -> BaseLoop:
            if factor == 1 and own is not None:
                return own
            data = cfg if factor == 1 else at_scale(cfg, factor)[0]
            loader = dict(copy.deepcopy(data.val_dataloader), persistent_workers=False)
            with _quiet():
                return LOOPS.build(
                    {'type': 'ValLoop', **copy.deepcopy(cfg.val_cfg)},
                    default_args=dict(runner=self.runner, dataloader=loader, evaluator=evaluator))

        index = len(self._data)
        self._data.append(Evaluation(
            evaluator.metrics[0], build_loop,
            lambda sparsity, selection: self._in_step(
                index, point_of(self.backbone.space, sparsity),
                selection or self.selection)))
        return self._data[index]

    def _run(self, index: int, config: SparsityConfig, selection: Selection) -> Dict[str, float]:
        runner = self.runner
        loop = self._data[index].loop_at(image_scale(config))
        self.backbone.sparsity, self.backbone.selection = config, selection
        self.set_knobs(config)
        try:
            with val_loop_is(runner, loop), half_precision(self.model, self.dtype), _quiet():
                # The first time as a validation by itself, which loads the checkpoint.
                metrics = loop.run() if self._loaded else runner.val()
        finally:  # what copies the model takes what it finds for the model's own
            self.set_knobs(SparsityConfig(config, config.depths))
        self._loaded = True
        return dict(metrics)


class Evaluation:
    """Configuration -> metrics on one set of data, as :meth:`Evaluator.evaluate`.

    Attributes:
        metric: The first metric of the data's evaluator.
        seconds: That the last evaluation took.
    """

    def __init__(self, metric: BaseMetric, build_loop: Callable[[float], BaseLoop],
                 evaluate: Callable):
        self.metric, self._build_loop, self._evaluate = metric, build_loop, evaluate
        self._loops: Dict[float, BaseLoop] = {}
        self.seconds = 0.

    def __call__(self, sparsity: Sparsity,
                 selection: Optional[Selection] = None) -> Dict[str, float]:
        start = time.perf_counter()
        metrics = self._evaluate(sparsity, selection)
        self.seconds = time.perf_counter() - start
        return metrics

    def loop_at(self, factor: float) -> BaseLoop:
        """mmengine's val loop over images whose sides are so many times as long, built when it is
        first asked for."""
        if factor not in self._loops:
            self._loops[factor] = self._build_loop(factor)
        return self._loops[factor]

    @property
    def loop(self) -> BaseLoop:
        """Over images as the config has them."""
        return self.loop_at(1.)

    @cached_property
    def image_paths(self) -> List[str]:
        """Files of the images in the order of evaluation; empty if the data set names none."""
        dataset = self.loop.dataloader.dataset
        if not hasattr(dataset, 'get_data_info'):
            return []
        infos = (dataset.get_data_info(i) for i in range(len(dataset)))
        return [info['img_path'] for info in infos if isinstance(info.get('img_path'), str)]

    def resampler(self, objective: str) -> Optional[Resampler]:
        """What gives resamples of the objective after each evaluation, see
        :func:`~.bootstrap.make_resampler`."""
        return make_resampler(self.metric, objective, lambda: self.image_paths)

    def batches(self, batch_size: int, factor: float = 1.) -> List[Any]:
        """Some of the data at an image scale, for :class:`~..cost.whole_model.ModelMeter`."""
        loader = self.loop_at(factor).dataloader
        return spread_batches(loader.dataset, loader.collate_fn, batch_size)


def make_meter(evaluator: Evaluator, evaluation: Evaluation, setting: LatencySetting, rounds: int,
               scales: Iterable[float] = ()) -> Meter:
    """What measures latency in a setting: of the evaluator's backbone, or of its whole model on the
    images of an evaluation.

    Args:
        evaluator: Of the model.
        evaluation: Of the images.
        setting: See :class:`~sparsevit_mm.cost.latency.LatencySetting`.
        rounds: How often each configuration is run.
        scales: Image scales that configurations may set, beside 1.
    """
    if setting.of == 'backbone':
        return LatencyMeter(evaluator.backbone, setting, rounds)
    batches = {scale: evaluation.batches(setting.batch_size, scale)
               for scale in {1., *map(float, scales)}}
    return ModelMeter(evaluator.model, batches, setting, rounds, evaluator.set_knobs.names)


def _quiet() -> redirect_stdout:
    """pycocotools prints what it does, and its tables."""
    return redirect_stdout(io.StringIO())


def _leave_training(cfg: Config) -> None:
    """Takes out the hooks that judge or show a training by its validations: they would save the
    best of the candidates as checkpoints, draw their images, and build the training's data."""
    hooks = dict(cfg.get('default_hooks') or {}, checkpoint=None)
    hooks.pop('visualization', None)
    cfg.default_hooks = hooks
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or []
                        if not any(is_type(hook, name) for name in _OF_TRAINING)]


def _leave_console() -> None:
    """The console is for the search's progress; the log file still gets everything."""
    for handler in MMLogger.get_current_instance().handlers:
        if not isinstance(handler, FileHandler):
            handler.setLevel('WARNING')
