"""Gather rows of a map and scatter them back in place, with gradients that only touch these rows.

With plain indexing, autograd would allocate and add a map of zeros for every gather, and copy the
gradient of the map for every scatter.
"""
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..tracing import is_tracing


def take_rows(x: Tensor, rows: Tensor) -> Tuple[Tensor, Tensor]:
    """Gather rows of a map.

    Args:
        x: (B, L, C), contiguous. With gradients it must come from :func:`own`, and end in
            :func:`release`.
        rows: (M,) int64, indices into B * L.

    Returns:
        The rows (M, C), and the map (B, L, C) to pass to :func:`put_rows`.
    """
    if _differentiates(x):
        return _TakeRows.apply(x, rows)
    return x.flatten(0, 1).index_select(0, rows), x


def put_rows(x: Tensor, values: Tensor, rows: Tensor, spare: Optional[Tensor]) -> Tensor:
    """Write values (M, C) to rows of a map (B, L, C), in place unless tracing, and return the map.

    If a row occurs several times, its values must be equal, and `spare`, M bools, must mark all
    but one of them.
    """
    values = values.to(x.dtype)
    if _differentiates(x, values):
        return _PutRows.apply(x, values, rows, spare)
    if is_tracing():
        return x.flatten(0, 1).index_copy(0, rows, values).reshape(x.shape)
    x.flatten(0, 1).index_copy_(0, rows, values)
    return x


def own(x: Tensor, training: bool) -> Tensor:
    """Return a map that may be modified in place. In training or with gradients enabled it is a
    copy, since gradients or the recomputation of a checkpointed block may need the original."""
    return x.clone() if (training or torch.is_grad_enabled()) and not is_tracing() else x


def release(x: Tensor) -> Tensor:
    """Return the map after the last :func:`put_rows`. The backward pass copies the incoming
    gradient once, since the backward of earlier steps modifies its rows in place."""
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
        # _PutRows overwrote these rows of the map and passed their gradient on to the values, so
        # the map gets none here. Spare rows have zero gradient, so adding is right for duplicates.
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
