"""The states of the random generators, so that a resumed training draws what the unbroken one
would have drawn: dropout, stochastic depth, augmentation in the main process."""
import random
from typing import Callable, Dict, Iterator, List, Optional

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size


def random_states() -> Dict:
    """Of Python, numpy and torch in this process, in types that ``weights_only`` loads."""
    kind, keys, *rest = np.random.get_state()
    states = dict(python=random.getstate(), numpy=[kind, keys.tolist(), *rest],
                  torch=torch.get_rng_state())
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Dict) -> None:
    """What :func:`random_states` gave; a GPU's is left out where there is none."""
    version, keys, gauss = states['python']
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *rest = states['numpy']
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


class RandomRecord:
    """The generators of all ranks, as they are when a checkpoint is saved.

    The master alone saves, so with several ranks their states are gathered beforehand.
    """

    def __init__(self):
        self.kept: Optional[List[Dict]] = None
        self.at_epoch: Optional[Callable[[], None]] = None

    def keep(self) -> None:
        """Takes the states as they are now; all ranks have to."""
        self.kept = all_gather_object(random_states())

    def forget(self) -> None:
        self.kept = None

    def put_back(self) -> None:
        """Sets this rank's generators to what was kept."""
        set_random_states(self.kept[get_rank()])

    def to_save(self) -> List[Dict]:
        """States by rank; of the master alone if none were kept."""
        return self.kept or [random_states()]

    def resume(self, runner, states: List[Dict]) -> None:
        """Has a resumed training draw its first batch, and all else, from these states.

        An iteration-based loop draws the batches that it skips first: the states are set after
        them. An epoch-based one draws none: they are set as the epoch begins.
        """
        if len(states) != get_world_size():
            runner.logger.warning(f'the checkpoint holds the random states of {len(states)} of '
                                  f'{get_world_size()} ranks: dropout and augmentation will not '
                                  f'go on as in the unbroken training')
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
    """An iterator that calls a function once, before it gives what follows the first `count`."""

    def __init__(self, iterator: Iterator, count: int, call: Callable[[], None]):
        self.iterator, self.left, self.call = iterator, count, call

    def __iter__(self):
        return self

    def __next__(self):
        if self.left == 0:
            self.call()
        self.left -= 1
        return next(self.iterator)
