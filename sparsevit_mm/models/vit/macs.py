"""Exact closed-form count of the multiply-accumulates of a plain ViT."""
import math
from typing import Tuple

from torch import nn

from ...sparsity import SparsityConfig, kept_windows


def vit_macs(backbone: nn.Module, grid: Tuple[int, int], config: SparsityConfig) -> int:
    """Return the MACs of one image: patch embedding; query, key and value projections, both matrix
    products of attention, output projection and FFN on the tokens that run, including prefix tokens
    and representative. Norms, softmax and scores are not counted."""
    patches, width = math.prod(grid), backbone.embed_dims
    macs = patches * width * backbone.in_channels * backbone.patch_size**2
    ratios = [ratio for stage in config.ratios for ratio in stage]
    widths = [units for stage in backbone.unit_numbers(config) for units in stage]
    for layer, ratio, units in zip(backbone.layers, ratios, widths):
        kept = kept_windows(patches, ratio) if ratio else patches
        summary = backbone.fast == 'representative' and kept < patches
        tokens = kept + backbone.prefix + summary
        hidden, linears = units.neurons, layer.ffn.num_fcs
        inner = layer.attn.attn.out_proj.in_features // layer.num_heads * units.heads
        per_token = 4 * width * inner + 2 * width * hidden + (linears - 2) * hidden**2
        macs += tokens * per_token + 2 * tokens**2 * inner
    return macs
