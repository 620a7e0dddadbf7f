"""Swin block for inference on the CPU.

A chunk of windows runs through the whole block while it is in the cache (see
:mod:`~sparsevit_mm.models.chunks`), and is written back in place.
"""
from typing import Optional

from torch import Tensor, nn

from ...chunks import activate_, spans
from ...narrow import BlockWidth, give_first, take_first
from ..layout import WindowChunk, split
from ...windows import WindowPartition

# Size of the FFN's hidden layer, the largest temporary of a chunk. With fewer than MIN_TOKENS
# tokens, reading the weights again for every chunk costs more than the cache saves.
CHUNK_BYTES = 8 * 2**20
MIN_TOKENS = 1024


def run_block(block: nn.Module, x: Tensor, windows: WindowPartition,
              selected: Optional[Tensor], group: int,
              width: Optional[BlockWidth] = None) -> Tensor:
    """See :func:`~sparsevit_mm.models.swin.kernels.run_block`."""
    stream = x.flatten(0, 1)
    hidden = block.num_neurons if width is None else width.neurons
    size = max(CHUNK_BYTES // (hidden * x.element_size()), MIN_TOKENS)
    for index, images, plain in split(windows, selected, x.shape[0], size, group):
        bias = block.attn.w_msa.bias(None if plain else windows.masks, width and width.heads)
        for span in spans(len(index), size // windows.table.shape[1]):
            _run_chunk(block, stream, WindowChunk(windows, index[span], images[span], plain), bias,
                       width)
    return x


def _run_chunk(block: nn.Module, stream: Tensor, chunk: WindowChunk, bias: Tensor,
               width: Optional[BlockWidth]) -> None:
    """Run a block in place on some windows of a residual stream (B * L, C)."""
    msa, ffn, heads = block.attn.w_msa, block.ffn, width and width.heads
    (widen, activate, _), narrow = ffn.layers[0], ffn.layers[1]
    tokens = stream.index_select(0, chunk.rows)[None]
    qkv = chunk.to_windows(msa.project(chunk.pad(block.norm1(tokens)), heads))
    out = msa.attend(qkv, bias, chunk.mask_index)
    tokens += msa.merge(chunk.to_tokens(out), heads)
    normed = block.norm2(tokens)
    if width is None:
        out = narrow(activate_(activate, widen(normed)))
    else:
        out = take_first(narrow, activate_(activate, give_first(widen, normed, width.neurons)))
    tokens += ffn.gamma2(out)
    stream.index_copy_(0, chunk.rows, tokens[0])
