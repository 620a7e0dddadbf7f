"""The hot step of the backbone behind one signature: gather, attention, FFN, scatter."""
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
    """One Swin block on the windows selected.

    Picks the fastest implementation that is right here; all equal :mod:`.reference`.

    Args:
        block: A :class:`~..stage.SwinBlock`, which gives the layers.
        x: (B, L, C) residual stream, contiguous, from
            :func:`~sparsevit_mm.models.swin.rows.own`. May be written to.
        windows: The partition of this block.
        selected: (G, K) int64, the windows to run in each group of images, see
            :func:`~sparsevit_mm.models.selection.ranking.rank_windows`; None for all of each image.
        group: Images of a group.
        gate: (G, K) fp32, shares of the selected windows, for the gradient of a learned score
            alone; None without.
        width: How many heads and neurons run; None for all.

    Returns:
        (B, L, C), the stream after the block.
    """
    if _runs_in_chunks(block, x):
        return cpu.run_block(block, x, windows, selected, group, width)
    return reference.run_block(block, x, windows, selected, group, gate, width)


def _runs_in_chunks(block: nn.Module, x: Tensor) -> bool:
    """Chunks know no dropout, and write to what the hook of a layer may keep."""
    return (chunks.pays(x) and not is_hooked(block)
            and not any(module.training for module in block.modules()))
