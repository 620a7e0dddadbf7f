"""How a backbone runs at inference: eagerly, compiled by torch.compile, or captured as a CUDA
graph. Both are made once for an input shape and a sparsity configuration, which fix every shape
within, and are kept when another takes its turn.

Weights are read where they lie, so that a change in place (load_state_dict, EMAHook) counts at
once; weights that lie elsewhere (``.to``, a replaced layer) make everything anew.
"""
import operator
import types
import warnings
from collections import OrderedDict
from itertools import chain
from typing import Callable, Dict, Hashable, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..compat import autocast_dtype
from .tracing import is_tracing
from .windows import hold_partitions

Inputs = Tuple[Optional[Tensor], ...]
Forward = Callable[..., Tuple[Tensor, ...]]  # of the inputs

# Beyond these, shapes run eagerly: a data set of images of any shape would never stop capturing.
MAX_SHAPES = 8
MAX_KEPT = 64


class _Weights:
    """Where the layers and weights of a module lie. Asked before every run: a plain walk over
    the module would take longer than a small graph."""

    def __init__(self, module: nn.Module):
        self._dicts = [held for m in module.modules()
                       for held in (m._modules, m._parameters, m._buffers) if held]
        self._values = self._current()
        self._tensors = [value for value in self._values if isinstance(value, Tensor)]
        self._pointers = self._addresses()

    def moved(self) -> bool:
        values = self._current()
        return (len(values) != len(self._values)
                or not all(map(operator.is_, values, self._values))
                or self._addresses() != self._pointers)

    def _current(self) -> list:
        return list(chain.from_iterable(map(dict.values, self._dicts)))

    def _addresses(self) -> list:
        return list(map(Tensor.data_ptr, self._tensors))


class Executor:
    """Runs a module's forward by recordings of it. The base of :class:`Compiled` and
    :class:`Captured`, which say how one is made. Copies of a module start without any."""

    def __init__(self):
        self._recordings: 'OrderedDict[Hashable, Forward]' = OrderedDict()
        self._shapes: Dict[Hashable, None] = {}
        self._weights: Optional[_Weights] = None
        self._warned = False

    def __deepcopy__(self, memo) -> 'Executor':
        return type(self)()

    def __reduce__(self):
        return type(self), ()

    def __call__(self, module: nn.Module, forward: Forward, config: Hashable,
                 inputs: Inputs) -> Tuple[Tensor, ...]:
        """``forward(*inputs)``.

        Args:
            module: Owner of the weights.
            forward: What is recorded.
            config: What else it depends on.
            inputs: The image, (B, C, H, W), then what goes along with it: tensors whose shapes
                follow from the image's, or None.
        """
        x = inputs[0]
        if module.training or torch.is_grad_enabled() or is_tracing() or not self.serves(x):
            return forward(*inputs)
        if self._weights is None or self._weights.moved():
            self._recordings.clear()
            self._shapes.clear()
            self._weights = _Weights(module)
        shape = (tuple(x.shape), x.dtype, x.device)
        if shape not in self._shapes and len(self._shapes) >= MAX_SHAPES:
            self._warn(f'more than {MAX_SHAPES} input shapes: further ones run eagerly')
            return forward(*inputs)
        self._shapes[shape] = None
        key = (shape, tuple(i is None for i in inputs), config, autocast_dtype(x.device.type),
               torch.is_inference_mode_enabled())
        if key not in self._recordings:
            self._recordings[key] = self.record(forward, inputs)
            if len(self._recordings) > MAX_KEPT:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        return self._recordings[key](*inputs)

    def serves(self, x: Tensor) -> bool:
        """Whether inputs like this can be recorded."""
        raise NotImplementedError

    def record(self, forward: Forward, inputs: Inputs) -> Forward:
        """What computes ``forward`` for inputs of the shapes, dtypes and device of these."""
        raise NotImplementedError

    def _warn(self, message: str) -> None:
        if not self._warned:
            warnings.warn(f'{type(self).__name__.lower()} execution: {message}')
            self._warned = True


class Compiled(Executor):
    """One graph of torch.compile, without breaks."""

    def serves(self, x: Tensor) -> bool:
        return True

    def record(self, forward: Forward, inputs: Inputs) -> Forward:

        def entry(*inputs):
            return forward(*inputs)

        # The number of recompilations is limited for each code object: a copy starts afresh.
        code = entry.__code__.replace(co_name=f'entry_{id(entry)}')
        entry = types.FunctionType(code, entry.__globals__, closure=entry.__closure__)
        return torch.compile(entry, fullgraph=True, dynamic=False)


class Captured(Executor):
    """CUDA graphs: every kernel is launched by one call. On other devices runs eagerly."""

    def __init__(self):
        super().__init__()
        self._pool = None

    def serves(self, x: Tensor) -> bool:
        if x.device.type == 'cuda':
            return True
        self._warn(f'input on {x.device.type}, CUDA graphs need CUDA: runs eagerly')
        return False

    def record(self, forward: Forward, inputs: Inputs) -> Forward:
        device = inputs[0].device
        # Buffers made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad(), _without_autocast_cache(device.type):
            static = [i if i is None else i.detach().clone(memory_format=torch.contiguous_format)
                      for i in inputs]
            with hold_partitions() as held:
                graph, outs = self._capture(forward, static)

        def replay(*inputs: Optional[Tensor], held=held) -> Tuple[Tensor, ...]:
            with torch.inference_mode(False), torch.no_grad():
                for buffer, value in zip(static, inputs):
                    if buffer is not None:
                        buffer.copy_(value)
            graph.replay()
            return tuple(out.clone() for out in outs)  # the next replay writes to `outs`

        return replay

    def _capture(self, forward: Forward, inputs: Sequence[Optional[Tensor]]):
        """A graph that computes ``forward`` from what the inputs hold, and its outputs."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.device(inputs[0].device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries initialise themselves outside the capture
                for _ in range(3):
                    forward(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                outs = forward(*inputs)
        return graph, outs


EXECUTIONS = {'eager': None, 'compiled': Compiled, 'captured': Captured}


def _without_autocast_cache(device_type: str) -> torch.autocast:
    """The autocast in force; casts of weights are part of each forward, not kept from another."""
    dtype = autocast_dtype(device_type)
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)
