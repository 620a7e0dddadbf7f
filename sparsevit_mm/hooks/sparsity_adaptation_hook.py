"""Sparsity-aware adaptation: a random configuration at every training iteration."""
from typing import Dict, Optional, Sequence

import numpy as np
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS

from ..models import get_sparse_backbone
from ..sparsity import Sparsity, SparsityConfig, SparsitySpace


@HOOKS.register_module()
class SparsityAdaptationHook(Hook):
    """Draws the backbone's sparsity for each training iteration (SparseViT, section 3.2).

    The draw is a function of the seed and the iteration alone: every rank draws the same without
    communication, a resumed run draws what the unbroken one would have drawn, and the data
    loader's randomness plays no part. The mean ratio drawn is logged as ``sparsity``.

    Validation runs at the configurations the user names. Metrics of the first keep their usual
    names, those of each further one are prefixed with its name, ``60%/coco/bbox_mAP``. Training
    goes on at its own draw, and after it the backbone has the sparsity it was built with.

    Args:
        choices: Ratios a pair of blocks may draw; the paper's 0, 0.1, ... 0.8 by default.
        seed: Seed of the draws.
        val_sparsity: One configuration for validation (anything SparsityConfig takes; dense by
            default), or a dict of several by name.

    Raises:
        ValueError, TypeError: A choice or a configuration that SparsitySpace or SparsityConfig
            refuses, or an empty dict; the latter two before training or validation starts.
    """
    # Before EMAHook in after_val_epoch, which takes the averaged weights away again, and before
    # LoggerHook and CheckpointHook, which read the metrics.
    priority = 'ABOVE_NORMAL'

    def __init__(self,
                 choices: Optional[Sequence[float]] = None,
                 seed: int = 0,
                 val_sparsity: Sparsity = None):
        self.space_args = {} if choices is None else dict(choices=tuple(choices))
        SparsitySpace((1, ), **self.space_args)  # refuse bad choices while the config is built
        self.seed = seed
        self.val_sparsity = val_sparsity if isinstance(val_sparsity, dict) else {'': val_sparsity}
        if not self.val_sparsity:
            raise ValueError('val_sparsity is an empty dict: name at least one configuration')

    def before_run(self, runner) -> None:
        self.backbone = get_sparse_backbone(runner.model)
        self.space = SparsitySpace(self.backbone.depths, **self.space_args)
        self.val_configs = {
            name: SparsityConfig(value, self.backbone.depths)
            for name, value in self.val_sparsity.items()
        }
        self.built_with = self.backbone.sparsity

    def draw(self, iteration: int) -> SparsityConfig:
        """The configuration of an iteration, counted from 0 over the whole training."""
        return self.space.sample(np.random.default_rng((self.seed, iteration)))

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        self.backbone.sparsity = self.draw(runner.iter)
        runner.message_hub.update_scalar('train/sparsity', self.backbone.sparsity.mean)

    def after_train(self, runner) -> None:
        self.backbone.sparsity = self.built_with

    def before_val_epoch(self, runner) -> None:
        self.before_validation = self.backbone.sparsity
        self.backbone.sparsity = next(iter(self.val_configs.values()))

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        for name, config in list(self.val_configs.items())[1:]:
            self.backbone.sparsity = config
            for key, value in _evaluate(runner.val_loop).items():
                metrics[f'{name}/{key}'] = value
                # RuntimeInfoHook has passed the first configuration's metrics on already.
                runner.message_hub.update_scalar(f'val/{name}/{key}', value)
        self.backbone.sparsity = self.before_validation


def _evaluate(val_loop) -> Dict[str, float]:
    """One more pass of mmengine's ValLoop over its data, without its epoch hooks."""
    for idx, data_batch in enumerate(val_loop.dataloader):
        val_loop.run_iter(idx, data_batch)
    return val_loop.evaluator.evaluate(len(val_loop.dataloader.dataset))
