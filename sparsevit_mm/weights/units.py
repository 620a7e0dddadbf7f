"""Importance, dropping and growing of attention heads and FFN neurons (S2ViTE: SViTE, NeurIPS 2021,
section 3.2)."""
import math
from typing import Iterable, Tuple

import torch
from torch import Tensor

from .masks import ranks


def head_importance(outputs: Tensor, gradients: Tensor) -> Tensor:
    """Estimate the change in loss when a head is removed (first-order Taylor expansion): the
    absolute value of the sum of output times gradient over an image, averaged over images.

    Args:
        outputs: (B, T, H, d) outputs of the heads, before the projection.
        gradients: (B, T, H, d) gradients of the loss with respect to `outputs`.

    Returns:
        (H,) fp32.
    """
    return (outputs.float() * gradients.float()).sum((1, 3)).abs().mean(0)


def unit_norms(number: int, weights: Iterable[Tuple[Tensor, int, int]]) -> Tensor:
    """Compute the L1 norm of each unit: of weights it is the importance of neurons, of gradients
    the growth score of masked units.

    Args:
        number: Number of units.
        weights: Tuples of a weight, the dimension along which its units lie, and how often the
            sequence of units repeats (3 for a fused query, key and value). For neurons: (F, C) of
            the FFN's first layer with 0 and 1, and (C, F) of its second with 1 and 1.

    Returns:
        (number,) fp32.
    """
    return sum(weight.float().abs().movedim(dim, 0).reshape(copies, number, -1).sum((0, 2))
               for weight, dim, copies in weights)


def drop_and_grow_units(importance: Tensor, growth: Tensor, mask: Tensor,
                        fraction: float) -> Tensor:
    """Drop the least important units of a mask and grow as many from outside it.

    Dropped units cannot grow back in the same update; in the published code they always did. At
    most as many units are dropped as lie outside the mask, and at least one is kept, since grown
    units start with zero output weights. Among ties the first is grown and the last is dropped.

    Args:
        importance: (N,) importance; values outside the mask are ignored.
        growth: (N,) growth scores; values inside the mask are ignored.
        mask: (N,) bool.
        fraction: Share of the mask to drop, in [0, 1]; the count is rounded up.

    Returns:
        A new mask with the same number of units.
    """
    outside = ~mask
    existing = int(mask.sum())
    count = max(0, min(math.ceil(fraction * existing), int(outside.sum()), existing - 1))
    infinite = torch.full_like(importance, float('inf'))
    keep_first = torch.where(mask, importance, -infinite)
    left = ranks(keep_first[None])[0] < existing - count
    grow_first = torch.where(outside, growth.to(infinite), -infinite)
    return left | (ranks(grow_first[None])[0] < count)
