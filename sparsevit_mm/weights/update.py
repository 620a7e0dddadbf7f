"""Drop and grow: a layer's weights that matter least make room for others."""
import math
from typing import Optional

from torch import Tensor

from .masks import grouped, ranks, ungrouped


def drop_fraction(step: int, steps: int, start: float = .5, end: float = .005) -> float:
    """Share of the weights to drop: a cosine from `start` at step 0 to `end` at step `steps`."""
    return end + (start - end) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2


def survivors(weight: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """The mask without its ceil(fraction * count) smallest weights.

    As in the published code, all that equal the last one to go go with it.

    Args:
        weight: Of any shape.
        mask: bool, of the same shape.
        fraction: Within 0 and 1.
    """
    magnitude = weight.detach().abs()
    count = math.ceil(fraction * int(mask.sum()))
    if count == 0:
        return mask.clone()
    return mask & (magnitude > magnitude[mask].kthvalue(count).values)


def drop_and_grow(weight: Tensor, gradient: Tensor, mask: Tensor, fraction: float,
                  group: Optional[int] = None, dim: int = 1) -> Tensor:
    """The mask after one update (SViTE, as its released code does it).

    The smallest weights go, see :func:`survivors`; as many come where the gradient is largest
    among all positions that are then outside. So one that has just been dropped may return; of
    equal gradients the first comes. A dense layer stays so.

    Args:
        weight: Of any shape.
        gradient: Of all positions, those outside the mask too; finite.
        mask: bool.
        fraction: Share of the mask to drop, within 0 and 1.
        group: For masks that keep N of every M weights: M. As many grow in each group as were
            dropped from it.
        dim: Along which the groups lie.

    Returns:
        A new mask with as many weights, in each group if there are such.
    """
    if mask.all():
        return mask.clone()
    left = survivors(weight, mask, fraction)
    size = group or mask.numel()
    as_rows = (lambda x: grouped(x, group, dim)) if group else (lambda x: x.reshape(1, size))
    rows = as_rows(left)
    room = as_rows(mask).sum(-1, keepdim=True) - rows.sum(-1, keepdim=True)
    # -1 is below every magnitude: weights that exist can't grow.
    score = as_rows(gradient.detach().abs()).masked_fill(rows, -1)
    rows = rows | (ranks(score) < room)
    return ungrouped(rows, mask.shape, dim) if group else rows.view_as(mask)
