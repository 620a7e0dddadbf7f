"""Sparsity-aware adaptation: training with a random configuration at every iteration."""
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence, Union

import numpy as np
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS

from ..compat import is_resuming
from ..budget import Front
from ..models import get_sparse_backbone
from ..models.knobs import WidthSetter
from ..operating_point import PointSpace, operating_point, width_knobs
from ..sparsity import Sparsity, SparsityConfig, SparsitySpace
from ..widths import check_widths
from .distillation import Distillation

DENSE_SHARE = .2  # with distillation
RECORD = 'sparsity_adaptation'  # key in a checkpoint
OWN_SHARE = .5  # share of the draws around a list that are unchanged configurations of the list


@HOOKS.register_module()
class SparsityAdaptationHook(Hook):
    """Hook that draws the sparsity of the backbone for each training iteration (SparseViT,
    section 3.2).

    A draw depends on the seed and the iteration only: all ranks draw the same without
    communication, a resumed run repeats the draws of an uninterrupted one, and the randomness of
    the data loader has no effect. The mean sparsity ratio of a draw is logged as ``sparsity``.

    By default the draws cover the whole space, as published. Drawing `around` a list prepares the
    weights for its configurations and for a search close to them: a configuration is picked
    uniformly from the list, and each of its genes (the ratio of a pair of blocks, or a width) moves
    to an adjacent choice with probability 1 - 0.5 ** (1 / genes), up or down with equal probability
    (always inwards at either end); then Swin's ratios are sorted within each stage. Half of the
    draws are therefore unchanged, whatever the depth of the backbone, and most others differ in one
    or two genes.

    Validation runs the given configurations, at the widths that the backbone was built with. The
    metrics of the first keep their names; those of the others are prefixed with the name of the
    configuration, ``60%/coco/bbox_mAP``. Training then continues with its own draws; after it the
    backbone has the sparsity that it was built with.

    Args:
        choices: Sparsity ratios that a pair of blocks may draw; by default those of the backbone's
            space (the paper's 0, 0.1, ..., 0.8).
        seed: Seed of the draws.
        val_sparsity: Configuration for validation (anything that SparsityConfig accepts; dense by
            default), or a dict of several by name.
        around: Configurations to draw around (anything that SparsityConfig accepts), or the file of
            a :class:`~sparsevit_mm.budget.Front` that a search wrote.
        distillation: Weight of a loss that keeps the features of the drawn configuration close to
            the dense features of the initial weights, see :class:`~.distillation.Distillation`;
            0 disables it.
        dense_share: Share of iterations that train the dense configuration; 0.2 by default with
            distillation, otherwise 0.
        widths: Shares of heads and FFN neurons to draw independently for each stage:
            ``dict(heads=[1, .75, .5], ffn=[1, .75, .5])``; the dense configuration runs all. The
            units of the checkpoint must be sorted beforehand, see tools/order_units.py.

    Raises:
        ValueError, TypeError: If an argument is out of range, a dict or list is empty, or a file is
            not a front. Before training or validation: if SparsityConfig rejects a configuration,
            one to draw around is not made up of the choices, the model has no heads for `widths` or
            its units are not sorted, or a resumed checkpoint has other settings.
        FileNotFoundError: If the file of the front does not exist.
    """
    # Must run before EMAHook in after_val_epoch, which restores the original weights, and before
    # LoggerHook and CheckpointHook, which read the metrics.
    priority = 'ABOVE_NORMAL'

    def __init__(self,
                 choices: Optional[Sequence[float]] = None,
                 seed: int = 0,
                 val_sparsity: Sparsity = None,
                 around: Optional[Union[str, Path, Sequence[Sparsity]]] = None,
                 distillation: float = 0.,
                 dense_share: Optional[float] = None,
                 widths: Optional[Mapping[str, Sequence[float]]] = None):
        self.choices = choices
        if choices is not None:
            SparsitySpace((1, ), tuple(choices))  # raises for bad choices already here
        self.seed = seed
        self.val_sparsity = val_sparsity if isinstance(val_sparsity, dict) else {'': val_sparsity}
        if not self.val_sparsity:
            raise ValueError('val_sparsity is an empty dict: name at least one configuration')
        if isinstance(around, (str, Path)):
            around = [point.config for point in Front.load(around).points]
        if around is not None and not (isinstance(around, (list, tuple)) and around):
            raise ValueError(f'around is {around!r}: neither a list of configurations nor the '
                             f'file of a front')
        self.around = around
        self.widths = check_widths(widths)
        if not distillation >= 0:
            raise ValueError(f'distillation is {distillation}: the weight must be 0 or more')
        if dense_share is None:
            dense_share = DENSE_SHARE if distillation else 0.
        if not 0 <= dense_share < 1:
            raise ValueError(f'dense_share is {dense_share}: must be in [0, 1)')
        self.distillation, self.dense_share = distillation, dense_share
        self.distiller: Optional[Distillation] = None
        self.teacher_state: Optional[Dict] = None  # of a resumed adaptation

    def before_run(self, runner) -> None:
        self.backbone = get_sparse_backbone(runner.model)
        space = self.backbone.space
        if self.widths and not self.backbone.attention_blocks():
            raise ValueError(f'widths: {type(self.backbone).__name__} has no heads and neurons '
                             f'that can be skipped')
        knobs = width_knobs(self.widths, self.backbone.all_units()) if self.widths else []
        self.space = PointSpace.beside(
            space if self.choices is None else space.of(self.choices), knobs)
        self.val_configs = {
            name: space.config(value)
            for name, value in self.val_sparsity.items()
        }
        self.centres = None if self.around is None else [
            self._centre(value) for value in self.around]
        outside = [str(c) for c in self.centres or [] if c not in self.space]
        if outside:
            raise ValueError(f'around holds configurations that are not made up of the choices '
                             f'{self.space.choices}: {", ".join(outside)}')
        self.built_with = self.backbone.sparsity
        self.set_widths = WidthSetter(self.backbone)
        self.dense = operating_point(space.config(0.), {knob.name: 1. for knob in knobs})

    def _centre(self, value: Sparsity) -> SparsityConfig:
        """Convert a configuration, keeping only the knobs that are drawn."""
        knobs = {knob.name for knob in self.space.knobs}
        given = {name: share for name, share in getattr(value, 'knobs', ()) if name in knobs}
        return self.space.config(operating_point(self.backbone.space.config(value), given))

    def before_train(self, runner) -> None:
        if self.widths:
            self.backbone.unit_order.require('widths')
        if self.distillation:
            self.distiller = Distillation(runner.model, self.backbone, self.distillation)
            if self.teacher_state is not None:
                self.distiller.teacher.load_state_dict(self.teacher_state)

    @property
    def settings(self) -> Dict:
        """Settings that a resumed adaptation must share with the original one."""
        return dict(importance=self.backbone.selection.importance, seed=self.seed,
                    distillation=self.distillation, dense_share=self.dense_share,
                    **dict(widths=self.widths) if self.widths else {})

    def before_save_checkpoint(self, runner, checkpoint: Dict) -> None:
        checkpoint[RECORD] = dict(settings=self.settings)
        if self.distiller is not None:
            checkpoint[RECORD]['teacher'] = self.distiller.teacher.state_dict()

    def after_load_checkpoint(self, runner, checkpoint: Dict) -> None:
        if not is_resuming(runner) or RECORD not in checkpoint:
            return
        held = checkpoint[RECORD]
        there, here = held['settings'], self.settings
        differences = [f'{key}={there.get(key)!r} there, {here.get(key)!r} here'
                       for key in {**there, **here} if there.get(key) != here.get(key)]
        if differences:
            raise ValueError('the adaptation to resume has other settings: '
                             + '; '.join(differences))
        self.teacher_state = held.get('teacher')

    def draw(self, iteration: int) -> SparsityConfig:
        """Draw the configuration of an iteration, counted from 0 over the whole training."""
        rng = np.random.default_rng((self.seed, iteration))
        if self.centres is None:
            config = self.space.sample(rng)
        else:
            config = self._neighbour(self.centres[rng.integers(len(self.centres))], rng)
        return self.dense if rng.random() < self.dense_share else config

    def _neighbour(self, centre: SparsityConfig, rng: np.random.Generator) -> SparsityConfig:
        """Return the configuration itself in half of the draws, otherwise a neighbor of it."""
        size, last = self.space.num_genes, np.array(self.space.gene_sizes) - 1
        genes, steps = np.array(self.space.encode(centre)), rng.choice((-1, 1), size)
        steps[genes == last] = -1
        steps[genes == 0] = 1
        steps[rng.random(size) < OWN_SHARE**(1 / size)] = 0
        # The clip is for genes with a single choice.
        return self.space.decode((genes + steps).clip(0, last).tolist())

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        drawn = self.draw(runner.iter)
        self.backbone.sparsity = drawn
        self.set_widths(drawn)
        runner.message_hub.update_scalar('train/sparsity', drawn.mean)

    def after_train(self, runner) -> None:
        self.backbone.sparsity = self.built_with
        self.set_widths(self.built_with)
        if self.distiller is not None:
            self.distiller.remove()
            self.distiller = None

    def before_val_epoch(self, runner) -> None:
        self.before_validation = self.backbone.sparsity
        self.backbone.sparsity = next(iter(self.val_configs.values()))
        self.set_widths(self.built_with)

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        for name, config in list(self.val_configs.items())[1:]:
            self.backbone.sparsity = config
            for key, value in _evaluate(runner.val_loop).items():
                metrics[f'{name}/{key}'] = value
                # RuntimeInfoHook has already logged the metrics of the first configuration.
                runner.message_hub.update_scalar(f'val/{name}/{key}', value)
        self.backbone.sparsity = self.before_validation


def _evaluate(val_loop) -> Dict[str, float]:
    """Run mmengine's ValLoop over its data once more, without its epoch hooks."""
    for idx, data_batch in enumerate(val_loop.dataloader):
        val_loop.run_iter(idx, data_batch)
    return val_loop.evaluator.evaluate(len(val_loop.dataloader.dataset))
