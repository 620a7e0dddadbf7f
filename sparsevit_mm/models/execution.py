"""Inference modes of a backbone: eager, compiled by torch.compile, or captured as a CUDA graph.

Compilation and capture happen once for each input shape and sparsity configuration, which
determine all shapes inside the backbone. The results are cached.

They read weights at their memory addresses. In-place changes (load_state_dict, EMAHook) therefore
take effect at once; if weights move (``.to``, a replaced layer), the cache is cleared.
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
Forward = Callable[..., Tuple[Tensor, ...]]

# Further shapes run eagerly: on a dataset with arbitrary image shapes, recording would never end.
MAX_SHAPES = 8
MAX_KEPT = 64  # recordings; the least recently used is dropped


class _Weights:
    """Memory addresses of the layers and weights of a module.

    They are checked before every run, so the module's dicts are collected once: traversing the
    module would take longer than a small graph.
    """

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
    """Base class that runs the forward of a module from cached recordings.

    :class:`Compiled` and :class:`Captured` implement the recording. A copied or unpickled executor
    starts with an empty cache.
    """

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
        """Compute ``forward(*inputs)``.

        Args:
            module: Module that owns the weights.
            forward: Function to record.
            config: Everything else that the result depends on.
            inputs: The image (B, C, H, W), followed by tensors whose shapes depend on that of the
                image, or None.
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
        """Whether a forward on such an input can be recorded."""
        raise NotImplementedError

    def record(self, forward: Forward, inputs: Inputs) -> Forward:
        """Return a function that computes ``forward`` for such shapes, dtypes and devices."""
        raise NotImplementedError

    def _warn(self, message: str) -> None:
        if not self._warned:
            warnings.warn(f'{type(self).__name__.lower()} execution: {message}')
            self._warned = True


class Compiled(Executor):
    """Executor that compiles the forward by torch.compile into one graph without breaks."""

    def serves(self, x: Tensor) -> bool:
        return True

    def record(self, forward: Forward, inputs: Inputs) -> Forward:

        def entry(*inputs):
            return forward(*inputs)

        # torch limits the recompilations per code object, so each recording gets a copy.
        code = entry.__code__.replace(co_name=f'entry_{id(entry)}')
        entry = types.FunctionType(code, entry.__globals__, closure=entry.__closure__)
        return torch.compile(entry, fullgraph=True, dynamic=False)


class Captured(Executor):
    """Executor that captures the forward as a CUDA graph, which launches all kernels by one call.
    On other devices it runs eagerly."""

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
        # Buffers created in inference mode cannot be written to outside of it.
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
            return tuple(out.clone() for out in outs)  # the next replay overwrites `outs`

        return replay

    def _capture(self, forward: Forward, inputs: Sequence[Optional[Tensor]]):
        """Capture ``forward`` of the static input buffers. Return the graph and its outputs."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.device(inputs[0].device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # initialise libraries before the capture
                for _ in range(3):
                    forward(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                outs = forward(*inputs)
        return graph, outs


EXECUTIONS = {'eager': None, 'compiled': Compiled, 'captured': Captured}


def _without_autocast_cache(device_type: str) -> torch.autocast:
    """Return the current autocast with its weight cache disabled, so that each forward casts the
    weights itself."""
    dtype = autocast_dtype(device_type)
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)
