"""Structured sparse training with dynamic masks of heads and FFN neurons."""
from typing import Dict, NamedTuple, Optional, Sequence, Union

from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ..compat import accumulative_counts
from ..weights.blocks import UnitGroup, unit_groups
from ..weights.densities import check_density
from ..weights.masking import Masks
from ..weights.unit_masking import UnitMasks, first_units
from ..widths import unit_count
from .head_watch import HeadWatch
from .masked_training import MaskedTrainingHook, as_patterns


class Scores(NamedTuple):
    """Importance and growth scores of the units, by group."""
    importance: Dict[str, Tensor]
    growth: Dict[str, Tensor]


@HOOKS.register_module()
class StructuredSparseTrainingHook(MaskedTrainingHook):
    """Hook that trains with a fixed share of the heads and FFN neurons of each block (S2ViTE;
    SViTE, NeurIPS 2021). ``tools/compact_model.py`` turns its checkpoints into smaller dense
    models.

    The initial masks keep the units with the largest weights (L1 norm). Every `interval` iterations
    each block drops its least important units and grows as many. Heads are ranked by the
    first-order change in loss when they are removed, neurons by the L1 norm of their weights. The
    grown units are those with the largest gradients (L1 norm) among the ones masked before the
    update, so dropped units do not return at once. A masked unit has zero output weights, with zero
    optimizer moments and EMAHook averages, and keeps its input weights, so its output weights have
    a gradient. The published code masks both sides of a neuron, which leaves it without a gradient
    and unable to return, and uses the gradient of a head's output, which is zero here.

    Masks are saved, resumed, loaded by ``load_from`` and compared between ranks as in
    :class:`~.sparse_training_hook.SparseTrainingHook`. Heads or neurons of a block with frozen
    output weights stay as they are. The hook logs ``heads`` and ``neurons`` (the unmasked shares),
    ``units_moved`` (in the last update) and ``mask_new``.

    Args:
        head_density: Share of heads to keep in each block, in (0, 1]. The count is rounded down, to
            at least one.
        neuron_density: The same for the hidden neurons of each FFN.
        interval: Iterations between mask updates.
        end: Share of the training after which masks are fixed; 0 fixes them from the start.
        drop_fraction: Share of a block's unmasked units that an update drops, at the start. The
            count is rounded up, to at most the number of masked units, and never all.
        last_drop_fraction: The same at the end of the training; a cosine interpolates.
        blocks: One or several regular expressions that match full block names. Each block has one
            attention with `qkv`, `proj` and `num_heads`, and one FFN, mmcv's or one with `fc1` and
            `fc2`. By default all blocks of the model's sparse backbone.

    Raises:
        ValueError: If an argument is out of range. Before the first iteration: if the model has no
            sparse backbone with heads, `blocks` match no supported block, all are frozen, no update
            would take place, another hook trains with masks, a resumed checkpoint holds no masks,
            or the masks of the checkpoint do not fit its weights or these settings.
        TypeError: Before the first iteration: if the optimizer wrapper is not an OptimWrapper, or
            the optimizer keeps its moments on other ranks.
        RuntimeError: If the masks differ between ranks.
    """
    record = 'structured_sparse_training'

    def __init__(self,
                 head_density: float,
                 neuron_density: float,
                 interval: int,
                 end: float = .8,
                 drop_fraction: float = .5,
                 last_drop_fraction: float = .005,
                 blocks: Optional[Union[str, Sequence[str]]] = None):
        self.densities = dict(heads=head_density, neurons=neuron_density)
        for kind, density in self.densities.items():
            try:
                check_density(density)
            except ValueError as error:
                raise ValueError(f'{kind[:-1]}_{error}') from None
        self.blocks = as_patterns('blocks', blocks)
        super().__init__(interval, end, drop_fraction, last_drop_fraction)

    @property
    def settings(self) -> Dict:
        return dict(head_density=self.densities['heads'], neuron_density=self.densities['neurons'],
                    **super().settings, blocks=self.blocks)

    def _first_masks(self, runner, model: nn.Module) -> Masks:
        found = unit_groups(model, self.blocks)
        self.groups: Dict[str, UnitGroup] = {
            name: group for name, group in found.items() if group.output.parameter.requires_grad}
        frozen = [name for name in found if name not in self.groups]
        if not self.groups:
            raise ValueError(f'all {len(found)} groups of heads and neurons are frozen, '
                             f'starting with {frozen[0]}')
        if frozen:
            runner.logger.info(f'frozen heads and neurons stay as they are: {", ".join(frozen)}')
        self.watched = HeadWatch(self.groups)
        return first_units(self.groups, self.densities)

    def _make(self, masks: Masks) -> UnitMasks:
        for name, group in self.groups.items():
            count, held = unit_count(group.number, self.densities[group.kind]), int(
                masks[name].sum())
            if held != count:
                raise ValueError(f'{name}: the checkpoint keeps {held} of {group.number} units, '
                                 f'but the density {self.densities[group.kind]} of this training '
                                 f'keeps {count}')
        return UnitMasks(self.groups, masks)

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        if self._due(runner, accumulative_counts(runner.optim_wrapper) - 1):
            self.watched.watch()

    def _step(self, runner, **kwargs) -> None:
        super()._step(runner, **kwargs)
        self.watched.end()

    def after_train(self, runner) -> None:
        self.watched.end()
        super().after_train(runner)

    def _scores(self, runner) -> Scores:
        return Scores(self.watched.importance(), self.masks.growth())

    def _unfit(self, scores: Scores) -> str:
        unfit = [name for name, growth in scores.growth.items() if not (
            growth.isfinite().all() and self.masks.norms(name).isfinite().all()
            and scores.importance.get(name, growth).isfinite().all())]
        if not unfit:
            return ''
        return (f'importance, gradients or weights of {len(unfit)} groups of heads or neurons are '
                f'not finite, {unfit[0]} first')

    def _move(self, runner, scores: Scores, fraction: float) -> int:
        neurons = {name: self.masks.norms(name) for name, group in self.groups.items()
                   if group.kind == 'neurons'}
        # The moments of masked input weights come from weight decay alone; clear them before the
        # units grow.
        self.masks.apply_to_moments(runner.optim_wrapper.optimizer)
        return self.masks.drop_and_grow({**scores.importance, **neurons}, scores.growth, fraction)

    def _figures(self, moved: int) -> Dict[str, float]:
        return dict(heads=self.masks.share('heads'), neurons=self.masks.share('neurons'),
                    units_moved=moved)
