"""Row-wise operations on feature maps, run in chunks that fit the CPU cache.

For inference on the CPU, where a large temporary costs more than the arithmetic on it: its pages
are newly allocated, and it is evicted from the cache before the next layer reads it.
"""
import math
from typing import Callable, Iterator, Tuple

import torch
from torch import Tensor, nn

from ..compat import gelu_
from .tracing import is_tracing

# Size of the largest temporary of a chunk, and of each of the several temporaries of a strip.
CHUNK_BYTES = 2**20
STRIP_BYTES = 2**20


def pays(x: Tensor) -> bool:
    """Whether operations on this tensor should run in chunks: on the CPU, without gradients and
    outside of tracing."""
    return x.device.type == 'cpu' and not torch.is_grad_enabled() and not is_tracing()


def spans(length: int, size: int) -> Iterator[slice]:
    """Yield slices that cover `length`, of nearly equal lengths of at most ``max(size, 1)``."""
    number = math.ceil(length / max(size, 1))
    for i in range(number):
        yield slice(length * i // number, length * (i + 1) // number)


def map_rows(step: Callable[[Tensor], Tensor], x: Tensor, width: int,
             out_dim: int = 1) -> Tensor:
    """Compute ``step(x)`` for a `step` that treats each row of `x` separately.

    Args:
        step: Function that maps any r rows (B, r, ...) to results with r rows along `out_dim`.
        x: (B, R, ...).
        width: Values per row and image in the largest temporary of `step`.
        out_dim: Row dimension of the result.
    """
    if not pays(x):
        return step(x)
    out = None
    for span in spans(x.shape[1], CHUNK_BYTES // (width * x.shape[0] * x.element_size())):
        part = step(x[:, span])
        if part.shape[out_dim] == x.shape[1]:
            return part
        if out is None:
            shape = list(part.shape)
            shape[out_dim] = x.shape[1]
            out = part.new_empty(shape)
        out.narrow(out_dim, span.start, span.stop - span.start).copy_(part)
    return out


def activate_(activation: nn.Module, x: Tensor) -> Tensor:
    """Apply an activation, in place if it is GELU."""
    if type(activation) is nn.GELU:
        return gelu_(x, activation.approximate)
    return activation(x)


Part = Tuple[slice, slice]  # images of a batch of maps, and rows of these images


def map_strips(step: Callable[[Tensor, Part], Tensor], x: Tensor, halo: int = 0) -> Tensor:
    """Compute ``step`` on a whole batch of maps. The result of a row may depend on at most `halo`
    rows above and below it in the same image.

    Args:
        step: Function of some rows of some images, (b, h, W, C), and the :data:`Part` that they
            are. It returns one result per row along dimension 1. Results of the outer `halo` rows
            are discarded, except at the top and bottom of the map.
        x: (B, H, W, C).
        halo: Number of rows.
    """
    height = x.shape[1]
    if not pays(x):
        return step(x, (slice(None), slice(None)))
    row_bytes = x.shape[2] * x.shape[3] * 4  # steps compute in fp32
    images = []
    for i in range(len(x)):
        strips = []
        for span in spans(height, STRIP_BYTES // row_bytes - 2 * halo):
            low, high = max(span.start - halo, 0), min(span.stop + halo, height)
            part = step(x[i:i + 1, low:high], (slice(i, i + 1), slice(low, high)))
            strips.append(part[:, span.start - low:span.stop - low])
        images.append(torch.cat(strips, 1))
    return torch.cat(images)
