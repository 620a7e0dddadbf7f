"""Implementations of a Swin block (gather, attention, FFN, scatter) with a common signature."""
from typing import Optional

from torch import Tensor, nn

from ....compat import is_hooked
from ... import chunks
from ...narrow import BlockWidth
from ...windows import WindowPartition
from . import cpu, reference


def run_block(block: nn.Module, x: Tensor, windows: WindowPartition,
              selected: Optional[Tensor] = None, group: int = 1,
              gate: Optional[Tensor] = None, width: Optional[BlockWidth] = None) -> Tensor:
    """Run one Swin block on the selected windows.

    The fastest applicable implementation is used. All of them equal :mod:`.reference`.

    Args:
        block: A :class:`~..stage.SwinBlock`, which provides the layers.
        x: (B, L, C) residual stream, contiguous; if windows are selected, from
            :func:`~sparsevit_mm.models.swin.rows.own`. It may be modified in place.
        windows: The partition of this block.
        selected: (G, K) int64, the windows to run in each group of images, see
            :func:`~sparsevit_mm.models.selection.ranking.rank_windows`; None for all windows.
        group: Number of images per group.
        gate: (G, K) fp32, shares of the selected windows, used only for the gradient of a trained
            score; None without one.
        width: How many heads and neurons run; None for all.

    Returns:
        (B, L, C), the stream after the block.
    """
    if _runs_in_chunks(block, x):
        return cpu.run_block(block, x, windows, selected, group, width)
    return reference.run_block(block, x, windows, selected, group, gate, width)


def _runs_in_chunks(block: nn.Module, x: Tensor) -> bool:
    """Whether the chunked CPU implementation applies. It does not support dropout, and overwrites
    tensors that a hook may keep."""
    return (chunks.pays(x) and not is_hooked(block)
            and not any(module.training for module in block.modules()))
