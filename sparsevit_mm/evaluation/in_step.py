"""Distributed steps of a search: rank 0 runs the search, and the other ranks follow each step."""
from datetime import timedelta
from typing import Callable

import torch.distributed as dist
from mmengine.dist import get_dist_info

_PATIENCE = timedelta(days=365)


class OutOfStep(RuntimeError):
    """Raised when a step cannot run because the other ranks no longer follow."""


class InStep:
    """Wrapper of a function that all ranks call with the same arguments whenever rank 0 calls it.

    Between calls the other ranks wait in :meth:`serve`. The arguments go through a separate gloo
    group on the CPU with a long timeout: rank 0 may measure latency for an hour, and NCCL
    collectives would time out. In a single process the function is called directly.

    All ranks must create the object, and all but rank 0 must call :meth:`serve`. On rank 0 it is a
    context manager that calls :meth:`stop` on exit, also after an error.

    Args:
        function: Function to call. Its arguments must be picklable.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.rank, size = get_dist_info()
        self._group = dist.new_group(backend='gloo', timeout=_PATIENCE) if size > 1 else None
        self._served = self._group is not None and self.rank == 0

    def __call__(self, *args):
        """Call the function on all ranks and return the result of rank 0.

        Raises:
            OutOfStep: If another rank calls, or the other ranks no longer serve.
        """
        if self._group is None:
            return self.function(*args)
        if not self._served:
            raise OutOfStep('only rank 0 can start a step, and not after stop() or an error: '
                            f'this is rank {self.rank}')
        self._served = False  # if the function fails, the other ranks may be stuck in it
        self._send(args)
        result = self.function(*args)
        self._served = True
        return result

    def serve(self) -> None:
        """Follow rank 0 until it stops or the function raises an error. No-op on rank 0."""
        if self.rank == 0:
            return
        while (args := self._send(None)) is not None:
            self.function(*args)
        dist.barrier(self._group)

    def stop(self) -> None:
        """End :meth:`serve` on the other ranks. No-op if they are not waiting there."""
        if self._served:
            self._served = False
            self._send(None)
            # Rank 0 may exit and close its connections only after all ranks have received this
            dist.barrier(self._group)

    def _send(self, args):
        """Broadcast arguments from rank 0 and return them on all ranks."""
        box = [args]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def __enter__(self) -> 'InStep':
        return self

    def __exit__(self, *_) -> None:
        self.stop()
