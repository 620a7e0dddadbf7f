"""Evaluation of sparsity configurations with one Runner that is built and loaded once."""
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
    """Evaluator of a checkpoint at any sparsity, on the config's val data or on other data.

    In a distributed run every rank creates the same object and calls :meth:`on` for the same data.
    Then all ranks but rank 0 call :meth:`serve`, and rank 0 evaluates inside ``with evaluator:``.
    Each evaluation runs on all ranks, with mmengine's distributed sampler and result collection.

    Args:
        cfg: Config without the adaptation hook, which would set the sparsity of the validation
            itself.
        checkpoint: Checkpoint file of the whole model.
        build_runner: Function that builds an mmengine Runner from a config.
        knobs: Names of the model's knobs that configurations may set.
        dtype: See :func:`~sparsevit_mm.models.precision.half_precision`.

    Attributes:
        runner: The runner. Between evaluations its val loop is the one of `cfg`.
        model: The runner's model, unwrapped.
        set_knobs: Callable that sets the knobs of an operating point.
        backbone: The sparse backbone.
        selection: The default selection, which is the config's until it is replaced.
        main: The evaluation on the val data of `cfg`.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint is refused or does not fit the model (see
            :func:`~sparsevit_mm.models.checkpoints.check_fits`), or the model lacks a knob.
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
        """First metric of the config's val evaluator."""
        return self.main.metric

    def evaluate(self, sparsity: Sparsity,
                 selection: Optional[Selection] = None) -> Dict[str, float]:
        """Return the metrics of a configuration.

        CocoMetric and NuScenesMetric return no metrics if nothing was detected.

        Args:
            sparsity: Sparsity ratios, which determine how many windows run.
            selection: How to select these windows. Defaults to `selection` of the evaluator.
        """
        return self.main(sparsity, selection)

    def try_out(self, selection: Selection) -> None:
        """Run the first val batch with a selection, on this rank only, to check that it works.

        Raises:
            ValueError: If the backbone cannot group the images of the batch.
        """
        self.backbone.selection = selection
        try:
            self._run_batch()
        finally:
            self.backbone.selection = self.selection

    def check_metric(self, key: str) -> None:
        """Check, before the first evaluation, that the evaluator reports a metric.

        Raises:
            ValueError: If it does not. The message lists the metrics that it reports.
        """
        loop = self.main.loop  # building it sets the dataset_meta of the metrics
        check_key(loop.evaluator.metrics, key, lambda: self._first_batch(loop))

    def _first_batch(self, loop: BaseLoop) -> Dict[str, float]:
        """Return the metrics of one batch; empty if the metric fails on it or there are several
        ranks."""
        if get_world_size() > 1:
            return {}
        batch = next(iter(loop.dataloader))
        with torch.no_grad(), _quiet():
            self.model.eval()
            samples = self.model.val_step(batch)
            loop.evaluator.process(data_samples=samples, data_batch=batch)
            try:
                return loop.evaluator.evaluate(len(samples))
            except Exception:  # the metric may need all of the data
                for metric in loop.evaluator.metrics:
                    metric.results.clear()
                return {}

    def check_knobs(self) -> None:
        """Run the first val batch, on this rank only, to check that the model reads its knobs.

        Raises:
            ValueError: If the model does not read some knobs, which the message names.
        """
        with self.set_knobs.watching() as read:
            self._run_batch()
        idle = [name for name in self.set_knobs.names if name not in read]
        if idle:
            raise ValueError(f'{type(self.model).__name__} does not read {", ".join(idle)} at '
                             f'prediction, so setting it has no effect')

    def _run_batch(self) -> None:
        loader = self.runner.val_dataloader
        if isinstance(loader, dict):
            loader = self.runner.build_dataloader(dict(loader, persistent_workers=False))
        with torch.no_grad():
            self.model.eval()
            self.model.val_step(next(iter(loader)))

    def on(self, cfg: Config) -> 'Evaluation':
        """Return an equivalent of :meth:`evaluate` for other data, such as fewer images or
        another image size.

        Args:
            cfg: Config of which only the val data loader, evaluator and loop are used. The
                evaluator is built now, the loader before the first evaluation. The loader's
                workers do not persist between evaluations.
        """
        with _quiet():
            evaluator = self.runner.build_evaluator(copy.deepcopy(cfg.val_evaluator))
        return self._add(copy.deepcopy(cfg), evaluator)

    def serve(self) -> None:
        """Take part in each evaluation of rank 0 until it calls :meth:`stop`. No-op on rank 0."""
        self._in_step.serve()

    def stop(self) -> None:
        """End :meth:`serve` on the other ranks, as does leaving ``with evaluator:``."""
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
                # Runner.val loads the checkpoint, so the first evaluation goes through it
                metrics = loop.run() if self._loaded else runner.val()
        finally:  # KnobSetter takes the values of a copy of the model for its defaults
            self.set_knobs(SparsityConfig(config, config.depths))
        self._loaded = True
        return dict(metrics)


class Evaluation:
    """Callable like :meth:`Evaluator.evaluate` for one set of data.

    Attributes:
        metric: First metric of the data's evaluator.
        seconds: Duration of the last evaluation.
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
        """Return mmengine's val loop over images resized by a factor; built on first use."""
        if factor not in self._loops:
            self._loops[factor] = self._build_loop(factor)
        return self._loops[factor]

    @property
    def loop(self) -> BaseLoop:
        """Val loop at the config's image size."""
        return self.loop_at(1.)

    @cached_property
    def image_paths(self) -> List[str]:
        """Paths of the images in evaluation order; empty if the data set provides none."""
        dataset = self.loop.dataloader.dataset
        if not hasattr(dataset, 'get_data_info'):
            return []
        infos = (dataset.get_data_info(i) for i in range(len(dataset)))
        return [info['img_path'] for info in infos if isinstance(info.get('img_path'), str)]

    def resampler(self, objective: str) -> Optional[Resampler]:
        """Return a resampler of the objective, see :func:`~.bootstrap.make_resampler`."""
        return make_resampler(self.metric, objective, lambda: self.image_paths)

    def batches(self, batch_size: int, factor: float = 1.) -> List[Any]:
        """Return batches at an image scale for :class:`~..cost.whole_model.ModelMeter`."""
        loader = self.loop_at(factor).dataloader
        return spread_batches(loader.dataset, loader.collate_fn, batch_size)


def make_meter(evaluator: Evaluator, evaluation: Evaluation, setting: LatencySetting, rounds: int,
               scales: Iterable[float] = ()) -> Meter:
    """Create the latency meter for a setting, which states whether to measure the backbone or the
    whole model.

    Args:
        evaluator: Evaluator that holds the model.
        evaluation: Evaluation whose images are used to measure the whole model.
        setting: See :class:`~sparsevit_mm.cost.latency.LatencySetting`.
        rounds: Number of runs of each configuration.
        scales: Image scales other than 1 that configurations may set.
    """
    if setting.of == 'backbone':
        return LatencyMeter(evaluator.backbone, setting, rounds)
    batches = {scale: evaluation.batches(setting.batch_size, scale)
               for scale in {1., *map(float, scales)}}
    return ModelMeter(evaluator.model, batches, setting, rounds, evaluator.set_knobs.names)


def _quiet() -> redirect_stdout:
    """Hide standard output, to which pycocotools prints its progress and tables."""
    return redirect_stdout(io.StringIO())


def _leave_training(cfg: Config) -> None:
    """Remove the hooks that monitor or visualize a training by its validations.

    They would save the best candidates as checkpoints, draw their predictions, and build the
    training data.
    """
    hooks = dict(cfg.get('default_hooks') or {}, checkpoint=None)
    hooks.pop('visualization', None)
    cfg.default_hooks = hooks
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or []
                        if not any(is_type(hook, name) for name in _OF_TRAINING)]


def _leave_console() -> None:
    """Show only warnings on the console, to leave it to the search's progress. The log file still
    gets everything."""
    for handler in MMLogger.get_current_instance().handlers:
        if not isinstance(handler, FileHandler):
            handler.setLevel('WARNING')
