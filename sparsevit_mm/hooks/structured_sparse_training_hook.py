"""Structured sparse training: a part of the heads and FFN neurons exists, and which part moves."""
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
    """What an update goes by, for each group of units."""
    importance: Dict[str, Tensor]
    growth: Dict[str, Tensor]


@HOOKS.register_module()
class StructuredSparseTrainingHook(MaskedTrainingHook):
    """Trains with a fixed share of the heads and FFN neurons of each block (S2ViTE; SViTE, NeurIPS
    2021). ``tools/compact_model.py`` then makes an ordinary smaller model of the checkpoint.

    Before the first iteration the units of largest weights (L1) are kept. Every `interval`
    iterations each block drops the least important: heads by the change of the loss without them to
    first order, neurons by the L1 norm of their weights; and grows as many where the gradient of
    the weights is largest (L1), among those that were not there: what an update drops it does not
    take back. A unit that does not exist has output weights of zero, as have their moments in the
    optimizer and their averages in EMAHook, and keeps the input weights that it had: so its output
    weights have a gradient. The published code masks both sides of a neuron, which leaves it no
    gradient and no way back, and takes the gradient of a head's output, which is zero here.

    Masks are in the checkpoint and equal on all ranks, resume, and are taken over by ``load_from``
    as those of :class:`~.sparse_training_hook.SparseTrainingHook`. Blocks whose output weights are
    frozen stay as they are. Logged are ``heads`` and ``neurons``, the shares that exist,
    ``units_moved`` (by the last update) and ``mask_new``.

    Args:
        head_density: Share of each block's heads that exists, in (0, 1]: the whole part of their
            number, at least one.
        neuron_density: The same for the hidden neurons of each FFN.
        interval: Iterations from one update of the masks to the next.
        end: Share of the training after which masks stay as they are; 0 for masks that never move.
        drop_fraction: Share of a block's units that an update drops, rounded up, at the start; no
            more than there are others, and never all.
        last_drop_fraction: The same at the end of the training; between them it falls by a cosine.
        blocks: Regular expressions, one or several, for whole names of blocks, each of an attention
            with `qkv`, `proj` and `num_heads` and an FFN of mmcv or with `fc1` and `fc2`. By
            default all blocks of the model's sparse backbone.

    Raises:
        ValueError: An argument out of its range. Before the first iteration: the model has no
            sparse backbone with heads, `blocks` match nothing or no block, no update would take
            place, or a resumed checkpoint holds no masks or others than these settings make.
        TypeError: Before the first iteration: the optimizer wrapper is none of OptimWrapper's kind,
            or the optimizer keeps its moments on other ranks.
        RuntimeError: The masks differ over ranks.
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
                             f'{frozen[0]} first')
        if frozen:
            runner.logger.info(f'frozen heads and neurons stay as they are: {", ".join(frozen)}')
        self.watched = HeadWatch(self.groups)
        return first_units(self.groups, self.densities)

    def _make(self, masks: Masks) -> UnitMasks:
        for name, group in self.groups.items():
            count, held = unit_count(group.number, self.densities[group.kind]), int(
                masks[name].sum())
            if held != count:
                raise ValueError(f'{name}: {held} of {group.number} exist in the checkpoint, and '
                                 f'{count} at the density {self.densities[group.kind]} of this '
                                 f'training')
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
        # Those that come have kept moments of weight decay alone; before they do, these go.
        self.masks.apply_to_moments(runner.optim_wrapper.optimizer)
        return self.masks.drop_and_grow({**scores.importance, **neurons}, scores.growth, fraction)

    def _figures(self, moved: int) -> Dict[str, float]:
        return dict(heads=self.masks.share('heads'), neurons=self.masks.share('neurons'),
                    units_moved=moved)
