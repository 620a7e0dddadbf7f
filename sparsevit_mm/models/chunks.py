"""Steps that treat the rows of a map one by one, taken in chunks that fit the cache.

For inference on the CPU: there, a large temporary costs more than the arithmetic on it, because it
comes as fresh pages and has left the cache before the next layer reads it.
"""
import math
from typing import Callable, Iterator, Tuple

import torch
from torch import Tensor, nn

from ..compat import gelu_
from .tracing import is_tracing

# Of the largest temporary of a chunk; of a strip, which has several at a time.
CHUNK_BYTES = 2**20
STRIP_BYTES = 2**20


def pays(x: Tensor) -> bool:
    """Whether work on this tensor should be cut into chunks: on the CPU, without gradients."""
    return x.device.type == 'cpu' and not torch.is_grad_enabled() and not is_tracing()


def spans(length: int, size: int) -> Iterator[slice]:
    """Slices of nearly equal length, at most `size` but at least 1, that cover `length`."""
    number = math.ceil(length / max(size, 1))
    for i in range(number):
        yield slice(length * i // number, length * (i + 1) // number)


def map_rows(step: Callable[[Tensor], Tensor], x: Tensor, width: int,
             out_dim: int = 1) -> Tensor:
    """``step(x)``, where `step` treats the rows of `x` one by one.

    Args:
        step: Takes (B, r, ...), any r rows, and returns their results along `out_dim`.
        x: (B, R, ...).
        width: Values of one image's row in the step's largest temporary.
        out_dim: The dimension of rows in the result.
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
    """In place where PyTorch has it."""
    if type(activation) is nn.GELU:
        return gelu_(x, activation.approximate)
    return activation(x)


Part = Tuple[slice, slice]  # of a batch of maps: images, and rows of theirs


def map_strips(step: Callable[[Tensor, Part], Tensor], x: Tensor, halo: int = 0) -> Tensor:
    """``step(x, everything)`` where the result of a row depends on its image alone, on at most
    `halo` rows above and below.

    Args:
        step: Takes (b, h, W, C), some rows of some images, and which they are; returns one result
            for each row, along dimension 1. Those of the outer `halo` rows are not used, unless
            they are the map's own first or last.
        x: (B, H, W, C).
        halo: Rows.
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
