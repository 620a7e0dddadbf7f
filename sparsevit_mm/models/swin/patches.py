"""Patch embedding, patch merging, and the output norm.

Layers and parameters are those of mmcv. The computation runs row by row on (B, H, W, C), whereas
mmcv copies the map to and from (B, C, H, W).
"""
from typing import Optional, Tuple

import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import PatchEmbed, PatchMerging
from torch import Tensor, nn

from ...compat import is_hooked
from ..chunks import map_rows, pays


def embed_patches(layer: PatchEmbed, image: Tensor) -> Tuple[Tensor, Tuple[int, int]]:
    """Compute ``layer(image)`` for a convolution whose stride equals its kernel size.

    Args:
        layer: Patch embedding with patches of p x p pixels.
        image: (B, in_channels, H, W) with any H and W. It is zero-padded at the bottom and right.

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
    """Compute ``layer(x, hw_shape)``.

    Args:
        layer: Patch merging layer.
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
    # nn.Unfold lists the four values of the first channel, then those of the second. Here all
    # channels of the first value come first, so that weights are reordered instead of the map.
    weight = _values_first(layer.reduction.weight)
    if norm is not None:
        scale, shift = _values_first(norm.weight), _values_first(norm.bias)

    def step(rows: Tensor) -> Tensor:
        rows = rows.flatten(3)
        if norm is not None:
            rows = F.layer_norm(rows, (4 * C, ), scale, shift, norm.eps)
        return F.linear(rows, weight, layer.reduction.bias)

    # A quarter of the actual row width, because smaller chunks would read the weights too often.
    return map_rows(step, patches, w * C).flatten(1, 2), (h, w)


def to_features(norm: nn.Module, x: Tensor, hw_shape: Tuple[int, int]) -> Tensor:
    """Normalise (B, H * W, C) and return it as contiguous (B, C, H, W)."""
    H, W = hw_shape
    x = x.reshape(x.shape[0], H, W, -1)

    def step(rows: Tensor) -> Tensor:
        return norm(rows).permute(0, 3, 1, 2)

    return map_rows(step, x, W * x.shape[3], out_dim=2).contiguous()


def _norm(norm: Optional[nn.Module], x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _values_first(x: Optional[Tensor]) -> Optional[Tensor]:
    """Reorder (..., C * 4) to (..., 4 * C)."""
    return x if x is None else x.unflatten(-1, (-1, 4)).transpose(-1, -2).flatten(-2)
