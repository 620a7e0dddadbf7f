"""Handling of skipped windows: copy them, or apply a linear update."""
from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import chunks
from .layout import KeptWindows, WindowChunk, split
from ..windows import WindowPartition

SKIPPED = 'copy', 'linear'
CHUNK_BYTES = 2**18  # of tokens per chunk; with two temporaries they fit the cache


class Bypass(nn.Module):
    """Linear update of skipped windows that replaces the blocks which skip them.

    The update is a linear function of the normalised token, in place of the FFN, plus one of the
    mean of the window's normalised tokens, in place of attention.

    A window gets one update per stage, at the first block whose plain partition skips it. Since
    ratios never fall within a stage, it stands for all following blocks. It costs a twelfth of
    one block. Weights start at zero, which copies tokens, and dense checkpoints, which lack them,
    load strictly.

    Args:
        channels: Number of channels C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.context = nn.Parameter(torch.zeros(channels, channels))

    def forward(self, tokens: Tensor, layout: Union[KeptWindows, WindowChunk]) -> Tensor:
        """Compute the update (G, T, C) of the tokens (G, T, C) of whole windows."""
        normed = F.layer_norm(tokens, tokens.shape[-1:])
        context = F.linear(layout.window_mean(normed), self.context, self.bias)
        return layout.add_to_windows(F.linear(normed, self.weight), context)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys,
                              unexpected_keys, error_msgs):
        names = {f'{prefix}{name}': param for name, param in self.named_parameters()}
        if names.keys().isdisjoint(state_dict):
            state_dict.update({name: torch.zeros_like(param) for name, param in names.items()})
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys,
                                      unexpected_keys, error_msgs)


def update_skipped(bypass: Bypass, x: Tensor, windows: WindowPartition, skipped: Tensor,
                   group: int = 1) -> Tensor:
    """Add the linear update to the tokens of skipped windows in the residual stream.

    Args:
        bypass: Module that computes the update.
        x: (B, L, C), contiguous, see :func:`~.kernels.run_block`. Modified in place.
        windows: The partition that `skipped` refers to.
        skipped: (G, M) int64, skipped windows of each group of images.
        group: Number of images per group.

    Returns:
        (B, L, C).
    """
    if not chunks.pays(x):
        layout = KeptWindows(windows, skipped, group)
        tokens, rest = layout.take(x)
        return layout.put(rest, tokens + bypass(tokens, layout))
    stream, size = x.flatten(0, 1), CHUNK_BYTES // (x.shape[2] * x.element_size())
    for index, images, plain in split(windows, skipped, x.shape[0], size, group):
        for span in chunks.spans(len(index), size // windows.table.shape[1]):
            layout = WindowChunk(windows, index[span], images[span], plain)
            tokens = stream.index_select(0, layout.rows)[None]
            stream.index_copy_(0, layout.rows, (tokens + bypass(tokens, layout))[0])
    return x
