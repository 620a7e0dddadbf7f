"""Multiply-accumulates of the backbone, exact and in closed form."""
import math
from typing import Optional, Sequence

import torch

from ..models import SparseSwinTransformer
from ..models.windows import num_windows, partition
from ..sparsity import Sparsity, SparsityConfig, kept_windows


def backbone_macs(backbone: SparseSwinTransformer,
                  shape: Sequence[int],
                  batch_size: int = 1,
                  sparsity: Optional[Sparsity] = None,
                  count_padding: bool = False) -> int:
    """Multiply-accumulates of one forward pass.

    Counts patch embedding, query, key and value, both products of attention, projection, FFN,
    patch merging, and the update of skipped windows where they get one; no norms, no softmax, no
    scores (the convention of SparseViT, table 1).

    Args:
        backbone: Gives depths, widths and window size.
        shape: (H, W) of the input, in pixels.
        batch_size: Images.
        sparsity: The configuration; the backbone's own by default.
        count_padding: Count padded tokens as if every layer ran on them, as the published figures
            do. By default what this package runs is counted: padding costs attention only. A
            pruned block is counted with the most tokens that its windows can hold, since which
            windows it runs depends on the image; inference on the CPU runs no more than they do.

    Returns:
        MACs, an int.
    """
    config = backbone.sparsity if sparsity is None else SparsityConfig(sparsity, backbone.depths)
    patch, window = backbone.patch_size, backbone.window_size
    height, width = (math.ceil(side / patch) for side in shape)
    macs = height * width * backbone.num_features[0] * backbone.in_channels * patch**2
    for stage, ratios in zip(backbone.stages, config.ratios):
        total = running = num_windows(height, width, window)
        for block, ratio in zip(stage.blocks, ratios):
            kept = kept_windows(total, ratio) if ratio else total
            attended = kept * window**2
            windows = partition(height, width, window, block.shift, torch.device('cpu'))
            tokens = attended if count_padding else windows.token_bounds[kept]
            channels = block.attn.w_msa.proj.in_features
            hidden = block.ffn.feedforward_channels
            macs += tokens * (4 * channels**2 + 2 * channels * hidden)
            macs += 2 * attended * window**2 * channels
            if block.bypass is not None and kept < running:
                dropped, running = running - kept, kept
                updated = (dropped * window**2 if count_padding
                           else windows.token_bounds[dropped])
                macs += channels**2 * (updated + dropped)
        if stage.downsample is not None:
            stride = stage.downsample.sampler.stride[0]
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            macs += height * width * stage.downsample.reduction.weight.numel()
    return batch_size * macs
