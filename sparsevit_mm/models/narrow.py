"""Layers that run only the first heads and neurons of a block.

Weights are sliced at each call, so that no copy of them can become stale. Blocks that run all
units do not use these slices.
"""
from typing import NamedTuple, Optional

import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn


class BlockWidth(NamedTuple):
    """Number of heads and FFN neurons of a block that run. They are the first ones."""
    heads: int
    neurons: int


def project_heads(x: Tensor, weight: Tensor, bias: Optional[Tensor], heads: int,
                  of: int) -> Tensor:
    """Compute query, key and value of the first heads.

    Args:
        x: (..., C).
        weight, bias: (3 * of * d, C) and (3 * of * d, ), for all heads of d channels.
        heads: Number of heads that run.
        of: Number of all heads.

    Returns:
        (..., 3 * heads * d).
    """
    def first(t: Tensor) -> Tensor:
        return t.unflatten(0, (3, of, -1))[:, :heads].flatten(0, 2)

    if heads == of:
        return F.linear(x, weight, bias)
    return F.linear(x, first(weight), None if bias is None else first(bias))


def take_first(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer to its first K input channels: (..., K) -> (..., C)."""
    return F.linear(x, layer.weight[:, :x.shape[-1]], layer.bias)


def give_first(layer: nn.Linear, x: Tensor, number: int) -> Tensor:
    """Compute the first output channels of a linear layer: (..., C) -> (..., number)."""
    return F.linear(x, layer.weight[:number], None if layer.bias is None else layer.bias[:number])


def feed_forward(ffn: FFN, x: Tensor, width: Optional[BlockWidth]) -> Tensor:
    """Apply the layers of a two-layer FFN, (..., C) -> (..., C), without layer scale, DropPath and
    residual."""
    if width is None:
        return ffn.layers(x)
    (widen, activate, drop), narrow, last_drop = ffn.layers
    return last_drop(take_first(narrow, drop(activate(give_first(widen, x, width.neurons)))))
