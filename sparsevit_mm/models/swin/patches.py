"""Between image, stages and features: patch embedding, patch merging, the norm of the output.

The layers and their parameters are mmcv's; the work is done row by row on (B, H, W, C), where
mmcv copies the map to and from (B, C, H, W).
"""
from typing import Optional, Tuple

import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import PatchEmbed, PatchMerging
from torch import Tensor, nn

from ...compat import is_hooked
from ..chunks import map_rows, pays


def embed_patches(layer: PatchEmbed, image: Tensor) -> Tuple[Tensor, Tuple[int, int]]:
    """``layer(image)`` for a convolution whose stride is its kernel size.

    Args:
        layer: Patch embedding of patches p x p.
        image: (B, in_channels, H, W), any H and W: zeros are added at the bottom and right.

    Returns:
        (B, h * w, C) and (h, w).
    """
    if not pays(image) or is_hooked(layer):
        return layer(image)
    if layer.adaptive_padding is not None:
        image = layer.adaptive_padding(image)
    weight, bias = layer.projection.weight, layer.projection.bias
    channels, in_channels, p, _ = weight.shape
    B, _, H, W = image.shape
    h, w = H // p, W // p
    patches = image[:, :, :h * p, :w * p].reshape(B, in_channels, h, p, w, p)
    patches = patches.permute(0, 2, 4, 1, 3, 5)

    def step(rows: Tensor) -> Tensor:
        return _norm(layer.norm, F.linear(rows.flatten(3), weight.flatten(1), bias))

    return map_rows(step, patches, w * channels).flatten(1, 2), (h, w)


def merge_patches(layer: PatchMerging, x: Tensor,
                  hw_shape: Tuple[int, int]) -> Tuple[Tensor, Tuple[int, int]]:
    """``layer(x, hw_shape)``.

    Args:
        layer: Patch merging.
        x: (B, H * W, C).
        hw_shape: (H, W).

    Returns:
        (B, h * w, C') and (h, w).
    """
    norm = layer.norm
    if layer.sampler.stride != (2, 2) or is_hooked(layer) or not (
            norm is None or type(norm) is nn.LayerNorm):
        return layer(x, hw_shape)
    B, _, C = x.shape
    H, W = hw_shape
    x = x.reshape(B, H, W, C)
    if H % 2 or W % 2:
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
    h, w = x.shape[1] // 2, x.shape[2] // 2
    patches = x.reshape(B, h, 2, w, 2, C).permute(0, 1, 3, 2, 4, 5)
    # nn.Unfold gives all four values of the first channel, then of the second: here all channels
    # of the first value come first, so that the weights are reordered instead of the map.
    weight = _values_first(layer.reduction.weight)
    if norm is not None:
        scale, shift = _values_first(norm.weight), _values_first(norm.bias)

    def step(rows: Tensor) -> Tensor:
        rows = rows.flatten(3)
        if norm is not None:
            rows = F.layer_norm(rows, (4 * C, ), scale, shift, norm.eps)
        return F.linear(rows, weight, layer.reduction.bias)

    # By the quarter of a row: fewer rows at a time would read the weights too often.
    return map_rows(step, patches, w * C).flatten(1, 2), (h, w)


def to_features(norm: nn.Module, x: Tensor, hw_shape: Tuple[int, int]) -> Tensor:
    """Norm, then (B, H * W, C) -> (B, C, H, W), contiguous."""
    H, W = hw_shape
    x = x.reshape(x.shape[0], H, W, -1)

    def step(rows: Tensor) -> Tensor:
        return norm(rows).permute(0, 3, 1, 2)

    return map_rows(step, x, W * x.shape[3], out_dim=2).contiguous()


def _norm(norm: Optional[nn.Module], x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _values_first(x: Optional[Tensor]) -> Optional[Tensor]:
    """(..., C * 4) -> (..., 4 * C)."""
    return x if x is None else x.unflatten(-1, (-1, 4)).transpose(-1, -2).flatten(-2)
