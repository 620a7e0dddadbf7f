"""Sparse training from scratch: a part of the weights exists, and which part moves."""
import re
from typing import Dict, Optional, Sequence, Union

from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from torch import Tensor

from ..compat import is_resuming
from ..models.checkpoints import unwrapped
from ..weights import WeightMasks, drop_fraction, maskable_weights
from ..weights.densities import check_density
from ..weights.masking import DISTRIBUTIONS, draw_masks
from ..weights.masks import parse_pattern
from .mask_record import RECORD, check_resumable, load_masks, to_save
from .random_states import RandomRecord


@HOOKS.register_module()
class SparseTrainingHook(Hook):
    """Trains with a fixed share of the weights of linear layers and convolutions (SViTE,
    unstructured; NeurIPS 2021).

    Masks are drawn before the first iteration; weights outside them, their moments in the
    optimizer and their averages in EMAHook are zero from then on. Every `interval` iterations each
    layer drops the smallest of its weights and grows as many where the gradient is largest, see
    :func:`~sparsevit_mm.weights.drop_and_grow`; weights that grow start at 0. The update follows
    the optimizer's step and takes the gradient of that step, before it is clipped: with gradient
    accumulation of all its batches. Clipping sees the gradient of the weights that exist.

    Masks are a function of the seed and the gradients, so all ranks have the same; they are
    compared once an epoch. The checkpoint holds them and the states of the random generators, and a
    resumed training goes on as the unbroken one. Without ``resume``, ``load_from`` takes over the
    masks that the checkpoint holds for layers of the same name and shape; others are drawn.

    Parameters without gradient (frozen stages) stay as they are and count for no density. Logged
    are ``density``, ``weights_moved`` (by the last update) and ``mask_new``, the share of the masks
    that was not there at the start.

    Args:
        density: Share of the weights that exist, in (0, 1]; may be None with a pattern.
        interval: Iterations from one update of the masks to the next.
        distribution: Over layers: ``'erk'`` or ``'uniform'``.
        end: Share of the training after which masks stay as they are; 0 for masks that never move.
        drop_fraction: Share of a layer's weights that an update drops, at the start.
        last_drop_fraction: The same at the end of the training; between them it falls by a cosine.
        layers: Regular expressions, one or several: only layers whose name holds a match.
        seed: Of the first masks.
        pattern: ``'2:4'``: 2 of every 4 weights along the inputs, in place of a distribution.
            Layers whose number of inputs is no multiple of 4 stay dense.

    Raises:
        ValueError: An argument out of its range. Before the first iteration: `layers` match
            nothing, a layer can't be masked, no update would take place, or a resumed checkpoint
            holds no masks or others than these settings make.
        TypeError: Before the first iteration: the optimizer wrapper is none of OptimWrapper's kind,
            or the optimizer keeps its moments on other ranks.
        RuntimeError: The masks differ over ranks.
    """
    priority = 'ABOVE_NORMAL'  # before CheckpointHook

    def __init__(self,
                 density: Optional[float],
                 interval: int,
                 distribution: str = 'erk',
                 end: float = .8,
                 drop_fraction: float = .5,
                 last_drop_fraction: float = .005,
                 layers: Optional[Union[str, Sequence[str]]] = None,
                 seed: int = 0,
                 pattern: Optional[str] = None):
        self.pattern = None if pattern is None else parse_pattern(pattern)
        if self.pattern:
            n, m = self.pattern
            if density not in (None, n / m):
                raise ValueError(f'density is {density}, but pattern {pattern} keeps {n / m}')
            density = n / m
        elif density is None:
            raise ValueError('density is None: give the share of the weights to keep')
        check_density(density)
        if distribution not in DISTRIBUTIONS:
            raise ValueError(f'distribution is {distribution!r}: none of '
                             f'{", ".join(DISTRIBUTIONS)}')
        if not (isinstance(interval, int) and interval > 0):
            raise ValueError(f'interval is {interval}: not a whole number above 0')
        if not 0 <= end <= 1:
            raise ValueError(f'end is {end}: not within 0 and 1')
        if not 0 <= last_drop_fraction <= drop_fraction <= 1:
            raise ValueError(f'drop_fraction falls from {drop_fraction} to {last_drop_fraction}: '
                             f'not within 1 and 0')
        layers = [layers] if isinstance(layers, str) else layers
        for expression in layers or ():
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f'layers: {expression!r} is no regular expression: '
                                 f'{error}') from None
        self.layers = None if layers is None else list(layers)
        self.density, self.distribution, self.seed = density, distribution, seed
        self.interval, self.end = interval, end
        self.drop_fraction, self.last_drop_fraction = drop_fraction, last_drop_fraction
        self.masks: Optional[WeightMasks] = None
        self.loaded: Dict = {}  # what the checkpoint holds
        self.resumed = False
        self.rounds = 0  # intervals that have passed
        self.random = RandomRecord()

    @property
    def settings(self) -> Dict:
        """What a resumed training must have in common with the one it goes on with."""
        return dict(density=self.density, distribution=self.distribution, interval=self.interval,
                    end=self.end, drop_fraction=self.drop_fraction,
                    last_drop_fraction=self.last_drop_fraction, layers=self.layers, seed=self.seed,
                    pattern=None if self.pattern is None else list(self.pattern))

    def after_load_checkpoint(self, runner, checkpoint: Dict) -> None:
        self.loaded, self.resumed = checkpoint.get(RECORD, {}), is_resuming(runner)

    def before_save_checkpoint(self, runner, checkpoint: Dict) -> None:
        if self.masks is not None:
            checkpoint[RECORD] = to_save(self.masks, self.start, self.settings, self.rounds,
                                         self.random.to_save())

    def before_train(self, runner) -> None:
        self._check(runner)
        weights = self._trainable_weights(runner)
        masks = draw_masks(weights, self.density, self.distribution, self.pattern, self.seed)
        if self.resumed:
            check_resumable(self.loaded, masks, self.settings)
        masks.update(load_masks(self.loaded, masks, self.settings))
        self.masks = WeightMasks(weights, masks, self.pattern and self.pattern[1])
        self._check_zero(self.loaded.get('masks', {}))
        self.without_gradient = set()
        if self.resumed:
            self.start = {name: bits.cpu() for name, bits in self.loaded['start'].items()}
            self.rounds = self.loaded['rounds']
            self.random.resume(runner, self.loaded['random'])
        else:
            self.start, self.rounds = self.masks.packed(), 0
            self._log(runner, moved=0)
        self._apply(runner)
        self.optimizer_step = runner.optim_wrapper.step
        runner.optim_wrapper.step = lambda **kwargs: self._step(runner, **kwargs)
        self.loaded, self.resumed = {}, False

    def _check(self, runner) -> None:
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            raise TypeError(f'SparseTrainingHook steps with one OptimWrapper, not with '
                            f'{type(wrapper).__name__}')
        if hasattr(wrapper.optimizer, 'consolidate_state_dict'):
            raise TypeError(f'{type(wrapper.optimizer).__name__} keeps its moments on other ranks, '
                            f'where they can not be masked')
        if self.end and self.interval >= self.end * runner.max_iters:
            raise ValueError(f'interval is {self.interval}: no update would take place within '
                             f'{self.end:g} of {runner.max_iters} iterations; for masks that never '
                             f'move set end=0')

    def _trainable_weights(self, runner):
        model = unwrapped(runner.model)
        found = maskable_weights(model, self.layers)
        weights = {name: weight for name, weight in found.items()
                   if weight.parameter.requires_grad}
        frozen = [name for name in found if name not in weights]
        if not weights:
            raise ValueError(f'all {len(found)} layers to be masked are frozen, {frozen[0]} first')
        if frozen:
            runner.logger.info(f'{len(frozen)} frozen layers stay as they are: '
                               f'{", ".join(frozen)}')
        return weights

    def _check_zero(self, loaded: Dict[str, Tensor]) -> None:
        for name, count in self.masks.outside().items():
            if name in loaded:
                raise ValueError(f'{name}: {count} weights outside the mask of the checkpoint are '
                                 f'not zero in it: its masks and weights are of two trainings')

    def _apply(self, runner) -> None:
        self.masks.apply_to_weights()
        self.masks.apply_to_moments(runner.optim_wrapper.optimizer)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                self.masks.apply_to_copy(hook.ema_model.module)

    def before_train_epoch(self, runner) -> None:
        self.random.begin_epoch()

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        self.random.forget()

    def _step(self, runner, **kwargs) -> None:
        """In place of the optimizer wrapper's own, which it calls."""
        passed = (runner.iter + 1) // self.interval
        due = passed > self.rounds and runner.iter + 1 < self.end * runner.max_iters
        gradients = self._gradients(runner) if due else {}
        # Zero gradients keep moments at zero in every optimizer that works value by value, and
        # the norm that is clipped is that of the weights that exist.
        self.masks.apply_to_gradients()
        self.optimizer_step(**kwargs)
        self.masks.apply_to_weights()
        if due:
            self.rounds = passed
            self._update(runner, gradients)

    def _gradients(self, runner) -> Dict[str, Tensor]:
        parameters = self.masks.parameters()
        without = {name for name, p in parameters.items() if p.grad is None}
        if without - self.without_gradient:
            runner.logger.info(f'layers without a gradient keep their masks: '
                               f'{", ".join(sorted(without - self.without_gradient))}')
            self.without_gradient |= without
        return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}

    def _update(self, runner, gradients: Dict[str, Tensor]) -> None:
        unfit = [name for name, gradient in gradients.items()
                 if not (gradient.isfinite().all()
                         and self.masks.weights[name].parameter.isfinite().all())]
        if unfit:
            runner.logger.warning(f'iteration {runner.iter + 1}: masks stay as they are, since '
                                  f'gradients or weights of {len(unfit)} layers are not finite, '
                                  f'{unfit[0]} first')
            return
        fraction = drop_fraction(runner.iter + 1, runner.max_iters, self.drop_fraction,
                                 self.last_drop_fraction)
        moved = self.masks.drop_and_grow(gradients, fraction)
        self._apply(runner)
        self._log(runner, moved)

    def _log(self, runner, moved: int) -> None:
        for key, value in dict(density=self.masks.density, weights_moved=moved,
                               mask_new=self.masks.new_since(self.start)).items():
            runner.message_hub.update_scalar(f'train/{key}', value)

    def after_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None,
                         outputs: Optional[Dict] = None) -> None:
        if get_world_size() == 1:
            return
        if self.every_n_train_iters(runner, _epoch_length(runner, self.interval)):
            self._compare_ranks(runner)
        if any(self.every_n_train_iters(runner, hook.interval, hook.save_begin)
               or self.is_last_train_iter(runner) for hook in runner.hooks
               if isinstance(hook, CheckpointHook) and not hook.by_epoch):
            self.random.keep()

    def after_train_epoch(self, runner) -> None:
        if get_world_size() > 1:
            self.random.keep()

    def before_val(self, runner) -> None:
        if self.masks is not None:
            self.random.keep()

    def after_val(self, runner) -> None:
        # A resumed training does not repeat the validation that followed the checkpoint.
        if self.masks is not None:
            self.random.put_back()

    def after_train(self, runner) -> None:
        del runner.optim_wrapper.step  # the wrapper's own is its class's

    def _compare_ranks(self, runner) -> None:
        digests = all_gather_object(self.masks.digest())
        others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise RuntimeError(f'iteration {runner.iter + 1}: the masks of ranks {others} differ '
                               f'from those of rank 0: their weights or gradients do')


def _epoch_length(runner, otherwise: int) -> int:
    try:
        return len(runner.train_dataloader)
    except TypeError:  # a stream
        return otherwise
