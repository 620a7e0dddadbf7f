"""A block on the first of its heads and neurons: the layers with a part of their weights.

Weights are cut at each call, where they lie, so that nothing is kept that a change of them would
leave stale. Whole blocks do not come here.
"""
from typing import NamedTuple, Optional

import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn


class BlockWidth(NamedTuple):
    """How many heads and FFN neurons of a block run: the first ones."""
    heads: int
    neurons: int


def project_heads(x: Tensor, weight: Tensor, bias: Optional[Tensor], heads: int,
                  of: int) -> Tensor:
    """Query, key and value of the first heads.

    Args:
        x: (..., C).
        weight, bias: (3 * of * d, C) and (3 * of * d, ), of all heads.
        heads: That run.
        of: All heads.

    Returns:
        (..., 3 * heads * d).
    """
    def first(t: Tensor) -> Tensor:
        return t.unflatten(0, (3, of, -1))[:, :heads].flatten(0, 2)

    if heads == of:
        return F.linear(x, weight, bias)
    return F.linear(x, first(weight), None if bias is None else first(bias))


def take_first(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer on the first of its inputs: (..., K) -> (..., C)."""
    return F.linear(x, layer.weight[:, :x.shape[-1]], layer.bias)


def give_first(layer: nn.Linear, x: Tensor, number: int) -> Tensor:
    """The first of the layer's outputs: (..., C) -> (..., number)."""
    return F.linear(x, layer.weight[:number], None if layer.bias is None else layer.bias[:number])


def feed_forward(ffn: FFN, x: Tensor, width: Optional[BlockWidth]) -> Tensor:
    """(..., C) -> the same: the layers of an FFN of two, without what follows them."""
    if width is None:
        return ffn.layers(x)
    (widen, activate, drop), narrow, last_drop = ffn.layers
    return last_drop(take_first(narrow, drop(activate(give_first(widen, x, width.neurons)))))
