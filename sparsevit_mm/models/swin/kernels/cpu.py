"""The hot step for inference on the CPU: a chunk of windows goes through the whole block while
it lies in the cache (see :mod:`~sparsevit_mm.models.chunks`), and is written back in place.
"""
from typing import Optional

from torch import Tensor, nn

from ...chunks import activate_, spans
from ..layout import WindowChunk, split
from ...windows import WindowPartition

# Of the hidden layer of the FFN, a chunk's largest temporary. Below MIN_TOKENS the weights, read
# again for every chunk, cost more than the cache saves.
CHUNK_BYTES = 8 * 2**20
MIN_TOKENS = 1024


def run_block(block: nn.Module, x: Tensor, windows: WindowPartition,
              selected: Optional[Tensor], group: int) -> Tensor:
    """See :func:`~sparsevit_mm.models.swin.kernels.run_block`."""
    stream = x.flatten(0, 1)
    size = max(CHUNK_BYTES // (block.ffn.feedforward_channels * x.element_size()), MIN_TOKENS)
    for index, images, plain in split(windows, selected, x.shape[0], size, group):
        bias = block.attn.w_msa.bias(None if plain else windows.masks)
        for span in spans(len(index), size // windows.table.shape[1]):
            _run_chunk(block, stream, WindowChunk(windows, index[span], images[span], plain), bias)
    return x


def _run_chunk(block: nn.Module, stream: Tensor, chunk: WindowChunk, bias: Tensor) -> None:
    """Runs a block on some windows of a stream (B * L, C), in place."""
    msa, ffn = block.attn.w_msa, block.ffn
    (widen, activate, _), narrow = ffn.layers[0], ffn.layers[1]
    tokens = stream.index_select(0, chunk.rows)[None]
    qkv = chunk.to_windows(msa.qkv(chunk.pad(block.norm1(tokens))))
    out = msa.attend(qkv, bias, chunk.mask_index)
    tokens += msa.proj(chunk.to_tokens(out))
    hidden = activate_(activate, widen(block.norm2(tokens)))
    tokens += ffn.gamma2(narrow(hidden))
    stream.index_copy_(0, chunk.rows, tokens[0])
