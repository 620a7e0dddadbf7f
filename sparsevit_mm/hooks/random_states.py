"""Save and restore the states of random generators, so that a resumed training draws the same
numbers as an uninterrupted one: dropout, stochastic depth, augmentation in the main process."""
import random
from typing import Callable, Dict, Iterator, List, Optional

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size


def random_states() -> Dict:
    """Return the states of Python, numpy and torch in this process, in types that ``torch.load``
    accepts with ``weights_only``."""
    kind, keys, *rest = np.random.get_state()
    states = dict(python=random.getstate(), numpy=[kind, keys.tolist(), *rest],
                  torch=torch.get_rng_state())
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Dict) -> None:
    """Restore states from :func:`random_states`; the GPU state is skipped without a GPU."""
    version, keys, gauss = states['python']
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *rest = states['numpy']
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


class RandomRecord:
    """States of the random generators of all ranks when a checkpoint is saved.

    Only the master saves, so with several ranks the states are gathered beforehand.
    """

    def __init__(self):
        self.kept: Optional[List[Dict]] = None
        self.at_epoch: Optional[Callable[[], None]] = None

    def keep(self) -> None:
        """Gather the current states. Must be called on all ranks."""
        self.kept = all_gather_object(random_states())

    def forget(self) -> None:
        self.kept = None

    def put_back(self) -> None:
        """Restore the kept states of this rank."""
        set_random_states(self.kept[get_rank()])

    def to_save(self) -> List[Dict]:
        """Return the kept states by rank, or the state of this process alone if none were kept."""
        return self.kept or [random_states()]

    def resume(self, runner, states: List[Dict]) -> None:
        """Make a resumed training start from these states, including its first batch.

        An iteration-based loop first draws the batches that it skips, so the states are set after
        them. An epoch-based loop skips none, so they are set when the epoch begins.

        If the number of ranks has changed, log a warning and restore nothing.
        """
        if len(states) != get_world_size():
            runner.logger.warning(f'the checkpoint holds the random states of {len(states)} of '
                                  f'{get_world_size()} ranks: dropout and augmentation will '
                                  f'differ from an uninterrupted training')
            return

        def put() -> None:
            set_random_states(states[get_rank()])
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = AfterSkipped(loop.dataloader_iterator, loop.iter, put)
        else:
            self.at_epoch = put

    def begin_epoch(self) -> None:
        if self.at_epoch is not None:
            self.at_epoch()
            self.at_epoch = None


class AfterSkipped:
    """Iterator that calls a function once, after `count` items and before the next one."""

    def __init__(self, iterator: Iterator, count: int, call: Callable[[], None]):
        self.iterator, self.left, self.call = iterator, count, call

    def __iter__(self):
        return self

    def __next__(self):
        if self.left == 0:
            self.call()
        self.left -= 1
        return next(self.iterator)
