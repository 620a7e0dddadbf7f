"""What becomes of the windows that are skipped: copied through, or a linear update."""
from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import chunks
from .layout import KeptWindows, WindowChunk, split
from ..windows import WindowPartition

SKIPPED = 'copy', 'linear'
CHUNK_BYTES = 2**18  # of tokens: they and two temporaries lie in the cache


class Bypass(nn.Module):
    """A linear function of a token and of its window's mean, both normalised, in place of the
    blocks that skip the window: one layer stands for the FFN, the other for attention.

    A window gets it once in a stage, at the block from which on the plain partition skips it;
    ratios never fall within a stage, so it stands for all blocks that follow. It costs a twelfth
    of one block. It starts at zero, as a copy, so that dense checkpoints, which have none, load
    strictly.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.context = nn.Parameter(torch.zeros(channels, channels))

    def forward(self, tokens: Tensor, layout: Union[KeptWindows, WindowChunk]) -> Tensor:
        """(G, T, C) tokens of whole windows -> (G, T, C), what is added to them."""
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
    """The residual stream with the update added to the tokens of skipped windows.

    Args:
        bypass: Gives the update.
        x: (B, L, C), contiguous, see :func:`~.kernels.run_block`. Written to in place.
        windows: The partition that `skipped` is of.
        skipped: (G, M) int64, windows of each group of images.
        group: Images of a group.

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
