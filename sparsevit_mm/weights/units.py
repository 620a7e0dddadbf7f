"""Attention heads and FFN neurons as units that exist or not: which matter, which go, which come
(S2ViTE: SViTE, NeurIPS 2021, section 3.2)."""
import math
from typing import Iterable, Tuple

import torch
from torch import Tensor

from .masks import ranks


def head_importance(outputs: Tensor, gradients: Tensor) -> Tensor:
    """What the loss changes by without a head, to first order: for each image the absolute sum of
    output times gradient, averaged over images.

    Args:
        outputs: (B, T, H, d), what heads give to the projection.
        gradients: (B, T, H, d), of the loss, with respect to them.

    Returns:
        (H,) fp32.
    """
    return (outputs.float() * gradients.float()).sum((1, 3)).abs().mean(0)


def unit_norms(number: int, weights: Iterable[Tuple[Tensor, int, int]]) -> Tensor:
    """L1 norm of the weights of each unit: the importance of neurons. Of their gradients: how much
    units would be worth that are not there.

    Args:
        number: Of units.
        weights: Each with the dimension along which units lie, and how many times all of them come
            (3 where query, key and value are one weight): of neurons (F, C) of the FFN's first
            layer with 0 and 1, and (C, F) of its second with 1 and 1.

    Returns:
        (number,) fp32.
    """
    return sum(weight.float().abs().movedim(dim, 0).reshape(copies, number, -1).sum((0, 2))
               for weight, dim, copies in weights)


def drop_and_grow_units(importance: Tensor, growth: Tensor, mask: Tensor,
                        fraction: float) -> Tensor:
    """The units after one update: the least important go, and as many come that were not there.

    Unlike in the published code those that go can not come back at once: there, they always did.
    No more go than there are others, and one stays: what comes starts with output weights of zero.
    Of equal ones the first comes and the last goes.

    Args:
        importance: (N,), of each unit; of those outside the mask of no meaning.
        growth: (N,), how much each unit would be worth; of those in the mask of no meaning.
        mask: (N,) bool.
        fraction: Share of the mask to drop, within 0 and 1, rounded up.

    Returns:
        A new mask with as many units.
    """
    outside = ~mask
    existing = int(mask.sum())
    count = max(0, min(math.ceil(fraction * existing), int(outside.sum()), existing - 1))
    infinite = torch.full_like(importance, float('inf'))
    keep_first = torch.where(mask, importance, -infinite)
    left = ranks(keep_first[None])[0] < existing - count
    grow_first = torch.where(outside, growth.to(infinite), -infinite)
    return left | (ranks(grow_first[None])[0] < count)
