"""Drop-and-grow updates of weight masks."""
import math
from typing import Optional

from torch import Tensor

from .masks import grouped, ranks, ungrouped


def drop_fraction(step: int, steps: int, start: float = .5, end: float = .005) -> float:
    """Return the share of weights to drop: a cosine from `start` at step 0 to `end` at `steps`."""
    return end + (start - end) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2


def survivors(weight: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """Return the mask without its ceil(fraction * count) weights of smallest magnitude.

    As in the published code, weights that tie with the largest dropped one are dropped too.

    Args:
        weight: Weight of any shape.
        mask: Bool mask of the same shape.
        fraction: Share of the mask to drop, in [0, 1].
    """
    magnitude = weight.detach().abs()
    count = math.ceil(fraction * int(mask.sum()))
    if count == 0:
        return mask.clone()
    return mask & (magnitude > magnitude[mask].kthvalue(count).values)


def drop_and_grow(weight: Tensor, gradient: Tensor, mask: Tensor, fraction: float,
                  group: Optional[int] = None, dim: int = 1) -> Tensor:
    """Update a mask by one drop-and-grow step, as in the released code of SViTE.

    The weights of smallest magnitude are dropped, see :func:`survivors`. As many are grown where
    the gradient magnitude is largest among all positions that are then outside the mask, so a
    weight may be dropped and grown in the same step; ties go to the first. A dense mask stays
    dense.

    Args:
        weight: Weight of any shape.
        gradient: Finite gradient of all positions, including those outside the mask.
        mask: Bool mask.
        fraction: Share of the mask to drop, in [0, 1].
        group: M, if the mask keeps N of every M weights: each group grows as many as it dropped.
        dim: Dimension along which the groups lie.

    Returns:
        A new mask with the same number of weights, also per group if `group` is given.
    """
    if mask.all():
        return mask.clone()
    left = survivors(weight, mask, fraction)
    size = group or mask.numel()
    as_rows = (lambda x: grouped(x, group, dim)) if group else (lambda x: x.reshape(1, size))
    rows = as_rows(left)
    room = as_rows(mask).sum(-1, keepdim=True) - rows.sum(-1, keepdim=True)
    # -1 is below every magnitude: weights inside the mask cannot grow.
    score = as_rows(gradient.detach().abs()).masked_fill(rows, -1)
    rows = rows | (ranks(score) < room)
    return ungrouped(rows, mask.shape, dim) if group else rows.view_as(mask)
