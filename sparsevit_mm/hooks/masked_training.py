"""Base of the hooks that train with masks: schedules mask updates, saves masks in checkpoints and
checks that all ranks have the same."""
import re
from typing import Any, Dict, List, Optional, Sequence, Union

from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..compat import is_resuming
from ..models.checkpoints import unwrapped
from ..weights import drop_fraction
from ..weights.masking import Masking, Masks
from .mask_record import check_resumable, load_masks, to_save
from .random_states import RandomRecord


class MaskedTrainingHook(Hook):
    """Base class of hooks that train with masks and update them every `interval` iterations.

    A subclass sets `record` and implements the methods below that raise NotImplementedError.

    Args:
        interval: Iterations between mask updates.
        end: Share of the training after which masks are fixed; 0 fixes them from the start.
        drop_fraction: Share of the unmasked weights or units that an update drops, at the start.
        last_drop_fraction: The same at the end of the training; a cosine interpolates.

    Attributes:
        record: Key of the masks in a checkpoint.

    Raises:
        ValueError: If an argument is out of range.
    """
    priority = 'ABOVE_NORMAL'  # before CheckpointHook
    record: str

    def __init__(self, interval: int, end: float, drop_fraction: float,
                 last_drop_fraction: float):
        if not (isinstance(interval, int) and interval > 0):
            raise ValueError(f'interval is {interval}: must be a positive integer')
        if not 0 <= end <= 1:
            raise ValueError(f'end is {end}: must be in [0, 1]')
        if not 0 <= last_drop_fraction <= drop_fraction <= 1:
            raise ValueError(f'drop_fraction falls from {drop_fraction} to {last_drop_fraction}: '
                             f'both must be in [0, 1], and it must not rise')
        self.interval, self.end = interval, end
        self.drop_fraction, self.last_drop_fraction = drop_fraction, last_drop_fraction
        self.masks: Optional[Masking] = None
        self.loaded: Dict = {}  # record of the loaded checkpoint
        self.resumed = False
        self.rounds = 0  # intervals that have passed
        self.random = RandomRecord()

    @property
    def settings(self) -> Dict:
        """Settings that a resumed training must share with the original one."""
        return dict(interval=self.interval, end=self.end, drop_fraction=self.drop_fraction,
                    last_drop_fraction=self.last_drop_fraction)

    def _first_masks(self, runner, model: nn.Module) -> Masks:
        """Find the weights or units to mask and return their initial masks, on the CPU."""
        raise NotImplementedError

    def _make(self, masks: Masks) -> Masking:
        """Create the object that applies masks to the model."""
        raise NotImplementedError

    def _scores(self, runner) -> Any:
        """Return the scores for an update. Called before the optimizer step."""
        raise NotImplementedError

    def _unfit(self, scores: Any) -> str:
        """Describe which scores or weights are not finite; empty if all are finite."""
        raise NotImplementedError

    def _move(self, runner, scores: Any, fraction: float) -> int:
        """Update the masks; return how many weights or units moved."""
        raise NotImplementedError

    def _figures(self, moved: int) -> Dict[str, float]:
        """Return the values to log after an update."""
        raise NotImplementedError

    def after_load_checkpoint(self, runner, checkpoint: Dict) -> None:
        self.loaded, self.resumed = checkpoint.get(self.record, {}), is_resuming(runner)

    def before_save_checkpoint(self, runner, checkpoint: Dict) -> None:
        if self.masks is not None:
            checkpoint[self.record] = to_save(self.masks, self.start, self.settings, self.rounds,
                                              self.random.to_save())

    def before_train(self, runner) -> None:
        self._check(runner)
        model = unwrapped(runner.model)
        masks = self._first_masks(runner, model)
        if self.resumed:
            check_resumable(self.loaded, masks, self.settings)
        masks.update(load_masks(self.loaded, masks, self.settings))
        self.masks = self._make(masks)
        self._check_zero(self.loaded.get('masks', {}))
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
        wrapper, name = runner.optim_wrapper, type(self).__name__
        if not isinstance(wrapper, OptimWrapper):
            raise TypeError(f'{name} needs a single OptimWrapper, not {type(wrapper).__name__}')
        if hasattr(wrapper.optimizer, 'consolidate_state_dict'):
            raise TypeError(f'{type(wrapper.optimizer).__name__} keeps its moments on other ranks, '
                            f'where they cannot be masked')
        others = [type(hook).__name__ for hook in runner.hooks
                  if isinstance(hook, MaskedTrainingHook) and hook is not self]
        if others:
            raise ValueError(f'{name} and {others[0]} in one training: each would undo the '
                             f'masking of the other; use only one')
        if self.end and self.interval >= self.end * runner.max_iters:
            raise ValueError(f'interval is {self.interval}: no update would take place within '
                             f'{self.end:g} of {runner.max_iters} iterations; set end=0 to keep '
                             f'the masks fixed')

    def _check_zero(self, loaded: Dict[str, Tensor]) -> None:
        for name, count in self.masks.outside().items():
            if name in loaded:
                raise ValueError(f'{name}: {count} weights outside the mask of the checkpoint are '
                                 f'not zero: its masks and weights are from different trainings')

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

    def _due(self, runner, ahead: int = 0) -> bool:
        """Whether a mask update is due in this iteration or one of the next `ahead` ones."""
        return ((runner.iter + 1 + ahead) // self.interval > self.rounds
                and runner.iter + 1 < self.end * runner.max_iters)

    def _step(self, runner, **kwargs) -> None:
        """Replace the step of the optimizer wrapper: call it, and update the masks when due."""
        due = self._due(runner)
        scores = self._scores(runner) if due else None
        with self.masks.stepping():
            self.optimizer_step(**kwargs)
        if due:
            self.rounds = (runner.iter + 1) // self.interval
            self._update(runner, scores)

    def _update(self, runner, scores: Any) -> None:
        unfit = self._unfit(scores)
        if unfit:
            runner.logger.warning(f'iteration {runner.iter + 1}: masks stay as they are, since '
                                  f'{unfit}')
            return
        fraction = drop_fraction(runner.iter + 1, runner.max_iters, self.drop_fraction,
                                 self.last_drop_fraction)
        moved = self._move(runner, scores, fraction)
        self._apply(runner)
        self._log(runner, moved)

    def _log(self, runner, moved: int) -> None:
        for key, value in dict(self._figures(moved),
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
        # A resumed training does not repeat the validation after the checkpoint, so the random
        # generators must not depend on it.
        if self.masks is not None:
            self.random.put_back()

    def after_train(self, runner) -> None:
        del runner.optim_wrapper.step  # uncovers the method of the class

    def _compare_ranks(self, runner) -> None:
        digests = all_gather_object(self.masks.digest())
        others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise RuntimeError(f'iteration {runner.iter + 1}: the masks of ranks {others} differ '
                               f'from those of rank 0, so their weights or gradients differ')


def as_patterns(name: str, given: Optional[Union[str, Sequence[str]]]) -> Optional[List[str]]:
    """Return one or several regular expressions as a list, and None as None.

    Raises:
        ValueError: If one is not a valid regular expression. The message names the argument.
    """
    if given is None:
        return None
    patterns = [given] if isinstance(given, str) else list(given)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f'{name}: {pattern!r} is not a regular expression: {error}') from None
    return patterns


def _epoch_length(runner, otherwise: int) -> int:
    try:
        return len(runner.train_dataloader)
    except TypeError:  # an iterable dataset has no length
        return otherwise
