"""Several processes that do each step of a search as one: rank 0 searches, the others follow."""
from datetime import timedelta
from typing import Callable

import torch.distributed as dist
from mmengine.dist import get_dist_info

_PATIENCE = timedelta(days=365)


class OutOfStep(RuntimeError):
    """The other ranks follow no more."""


class InStep:
    """A function that every rank calls whenever rank 0 does, with the same arguments.

    Between the calls the other ranks wait within :meth:`serve`, as long as it takes: rank 0 may
    measure latency for an hour, which the collectives of NCCL would not sit through. So the
    arguments go through a gloo group of their own, on CPU. Without a process group, or alone in
    it, the function is simply called.

    All ranks must make the object, and call :meth:`serve` on all but rank 0. As a context manager
    on rank 0 it ends with :meth:`stop`, whether by an error or not.

    Args:
        function: Takes arguments that pickle.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.rank, size = get_dist_info()
        self._group = dist.new_group(backend='gloo', timeout=_PATIENCE) if size > 1 else None
        self._served = self._group is not None and self.rank == 0

    def __call__(self, *args):
        """What the function returns on rank 0.

        Raises:
            OutOfStep: Another rank called, or the others serve no more.
        """
        if self._group is None:
            return self.function(*args)
        if not self._served:
            raise OutOfStep('rank 0 alone begins a step, and none after stop() or an error: '
                            f'this is rank {self.rank}')
        self._served = False  # should the function fail, the others stand within it too
        self._send(args)
        result = self.function(*args)
        self._served = True
        return result

    def serve(self) -> None:
        """Follows rank 0 until it stops; on rank 0 nothing. What the function raises ends it."""
        if self.rank == 0:
            return
        while (args := self._send(None)) is not None:
            self.function(*args)
        dist.barrier(self._group)

    def stop(self) -> None:
        """Ends :meth:`serve` on the other ranks; nothing if they do not wait there."""
        if self._served:
            self._served = False
            self._send(None)
            # Rank 0 may end now, and its connections with it: not before all have heard.
            dist.barrier(self._group)

    def _send(self, args):
        """From rank 0 to the others, which get it as the result."""
        box = [args]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def __enter__(self) -> 'InStep':
        return self

    def __exit__(self, *_) -> None:
        self.stop()
