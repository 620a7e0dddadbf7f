"""Rows of a map taken out and put back in place, with gradients that cost no more than the rows.

Plain indexing would let autograd write and add a map of zeros for every gather, and copy the map's
gradient for every scatter.
"""
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..tracing import is_tracing


def take_rows(x: Tensor, rows: Tensor) -> Tuple[Tensor, Tensor]:
    """Rows of a map, and the map, to be handed to :func:`put_rows`.

    Args:
        x: (B, L, C), contiguous; between :func:`own` and :func:`release` where gradients flow.
        rows: (M,) int64, indices into B * L.

    Returns:
        (M, C) and (B, L, C).
    """
    if _differentiates(x):
        return _TakeRows.apply(x, rows)
    return x.flatten(0, 1).index_select(0, rows), x


def put_rows(x: Tensor, values: Tensor, rows: Tensor, spare: Optional[Tensor]) -> Tensor:
    """Writes (M, C) values to the rows of (B, L, C), in place, and returns the map.

    Where a row is given several times the values must be equal; all but one of them are marked
    in `spare`, which holds M bools.
    """
    values = values.to(x.dtype)
    if _differentiates(x, values):
        return _PutRows.apply(x, values, rows, spare)
    if is_tracing():
        return x.flatten(0, 1).index_copy(0, rows, values).reshape(x.shape)
    x.flatten(0, 1).index_copy_(0, rows, values)
    return x


def own(x: Tensor, training: bool) -> Tensor:
    """A map whose rows may be written to: a copy in training, where gradients or a checkpointed
    second run may need what was in it."""
    return x.clone() if (training or torch.is_grad_enabled()) and not is_tracing() else x


def release(x: Tensor) -> Tensor:
    """The map after the last :func:`put_rows`. In the backward pass, copies the gradient that
    comes in once, since rows of it are written to from here on."""
    return _Release.apply(x) if _differentiates(x) else x


def _differentiates(*tensors: Tensor) -> bool:
    if not torch.is_grad_enabled() or is_tracing():
        return False
    return any(t.requires_grad for t in tensors)


class _TakeRows(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, rows):
        ctx.save_for_backward(rows)
        return x.flatten(0, 1).index_select(0, rows), x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_values, grad_x):
        rows, = ctx.saved_tensors
        # What came in at these rows went into the values by _PutRows: what the map itself had
        # there was overwritten. Spare rows bring zeros, so that adding serves duplicates.
        grad_x.flatten(0, 1).index_fill_(0, rows, 0.).index_add_(0, rows, grad_values)
        return grad_x, None


class _PutRows(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, values, rows, spare):
        ctx.save_for_backward(rows, spare)
        x.flatten(0, 1).index_copy_(0, rows, values)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, spare = ctx.saved_tensors
        grad_values = grad.flatten(0, 1).index_select(0, rows)
        if spare is not None:
            grad_values.masked_fill_(spare.reshape(-1, 1), 0.)
        return grad, grad_values, None, None


class _Release(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad.clone(memory_format=torch.contiguous_format)
