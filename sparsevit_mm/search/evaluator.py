"""Configuration -> metrics, through one Runner that is built and loaded once."""
import copy
import io
from contextlib import redirect_stdout
from logging import FileHandler
from typing import Dict

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper

from ..checkpoints import check_fits
from ..config import is_type
from ..models import get_sparse_backbone
from ..sparsity import Sparsity
from .nuscenes_eval import accept_any_predictions

_OF_TRAINING = ('CheckpointHook', 'EarlyStoppingHook')


class Evaluator:
    """Evaluates a checkpoint at any sparsity with the config's own val data and evaluator.

    Args:
        cfg: The config; the adaptation hook must be out of it, since it would set the sparsity
            of validation by itself.
        checkpoint: Checkpoint file of the whole model.
        build_runner: Config -> mmengine Runner.

    Raises:
        FileNotFoundError, ValueError: The checkpoint is not there, is refused or does not fit
            (see :func:`~sparsevit_mm.checkpoints.check_fits`).
    """

    def __init__(self, cfg: Config, checkpoint: str, build_runner):
        cfg = copy.deepcopy(cfg)
        cfg.load_from, cfg.resume = checkpoint, False
        _leave_training(cfg)
        self.runner = build_runner(cfg)
        _leave_console()
        model = self.runner.model
        model = model.module if is_model_wrapper(model) else model
        check_fits(model, checkpoint)
        self.backbone = get_sparse_backbone(model)
        for metric in self.runner.val_evaluator.metrics:
            if type(metric).__name__ == 'NuScenesMetric':
                accept_any_predictions(metric)
        self._loaded = False

    def evaluate(self, sparsity: Sparsity) -> Dict[str, float]:
        """Metrics at a configuration; empty where CocoMetric or NuScenesMetric found no
        detection."""
        self.backbone.sparsity = sparsity
        with redirect_stdout(io.StringIO()):  # pycocotools prints its tables
            if self._loaded:
                return dict(self.runner.val_loop.run())
            metrics = self.runner.val()  # builds the loop and loads the checkpoint, hooks and all
        self._loaded = True
        return dict(metrics)


def _leave_training(cfg: Config) -> None:
    """Takes out the hooks that judge a training by its validations: they would save the best of
    the candidates as checkpoints, and build the training's data for it."""
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, checkpoint=None)
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or []
                        if not any(is_type(hook, name) for name in _OF_TRAINING)]


def _leave_console() -> None:
    """The console is for the search's progress; the log file still gets everything."""
    for handler in MMLogger.get_current_instance().handlers:
        if not isinstance(handler, FileHandler):
            handler.setLevel('WARNING')
