"""Multiply-accumulates (MACs) of a Swin, exact and in closed form."""
import math
from typing import List, Sequence

import torch
from torch import nn

from ...sparsity import SparsityConfig, kept_windows
from ..windows import num_windows, partition


def swin_macs(backbone: nn.Module, shape: Sequence[int], config: SparsityConfig,
              count_padding: bool) -> int:
    """Compute the MACs of one image.

    Counted are patch embedding, query, key and value, both matrix products of attention,
    projection, FFN, patch merging, and the linear update of skipped windows, if enabled. Norms,
    softmax and scores are not counted (the convention of SparseViT, table 1).

    A pruned block counts the maximum number of tokens that its windows can contain, since the
    selection depends on the image. Inference on the CPU runs only the tokens that they do contain.
    Padding costs attention only, unless `count_padding` is true, as in the published figures.
    """
    patch, window = backbone.patch_size, backbone.window_size
    height, width = (math.ceil(side / patch) for side in shape)
    macs = height * width * backbone.num_features[0] * backbone.in_channels * patch**2
    for stage, ratios, widths in zip(backbone.stages, config.ratios,
                                     backbone.unit_numbers(config)):
        total = running = num_windows(height, width, window)
        for block, ratio, units in zip(stage.blocks, ratios, widths):
            kept = kept_windows(total, ratio) if ratio else total
            attended = kept * window**2
            windows = partition(height, width, window, block.shift, torch.device('cpu'))
            tokens = attended if count_padding else windows.token_bounds[kept]
            proj = block.attn.w_msa.proj
            inner, channels = proj.in_features, proj.out_features
            inner, hidden = inner // block.num_heads * units.heads, units.neurons
            macs += tokens * (4 * channels * inner + 2 * channels * hidden)
            macs += 2 * attended * window**2 * inner
            if block.bypass is not None and kept < running:
                dropped, running = running - kept, kept
                updated = (dropped * window**2 if count_padding
                           else windows.token_bounds[dropped])
                macs += channels**2 * (updated + dropped)
        if stage.downsample is not None:
            stride = stage.downsample.sampler.stride[0]
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            macs += height * width * stage.downsample.reduction.weight.numel()
    return macs


def stage_windows(backbone: nn.Module, shape: Sequence[int]) -> List[int]:
    """Return the number of windows of each stage, including padding, for (H, W) pixels."""
    height, width = (math.ceil(side / backbone.patch_size) for side in shape)
    totals = []
    for stage in backbone.stages:
        totals.append(num_windows(height, width, backbone.window_size))
        if stage.downsample is not None:
            stride_y, stride_x = stage.downsample.sampler.stride
            height, width = math.ceil(height / stride_y), math.ceil(width / stride_x)
    return totals
