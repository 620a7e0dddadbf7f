"""The hot step of the backbone behind one signature: gather, attention, FFN, scatter."""
from typing import TYPE_CHECKING, Optional

from torch import Tensor

from .. import chunks
from ..windows import WindowPartition
from . import cpu, reference

if TYPE_CHECKING:
    from ..stage import SwinBlock


def run_block(block: 'SwinBlock', x: Tensor, windows: WindowPartition,
              selected: Optional[Tensor] = None) -> Tensor:
    """One Swin block on the windows selected.

    Picks the fastest implementation that is right here; all equal :mod:`.reference`.

    Args:
        block: Gives the layers.
        x: (B, L, C) residual stream, contiguous, from :func:`~sparsevit_mm.models.rows.own`. May
            be written to.
        windows: The partition of this block.
        selected: (B, K) int64, the windows to run in each image; None for all.

    Returns:
        (B, L, C), the stream after the block.
    """
    if _runs_in_chunks(block, x):
        return cpu.run_block(block, x, windows, selected)
    return reference.run_block(block, x, windows, selected)


def _runs_in_chunks(block: 'SwinBlock', x: Tensor) -> bool:
    """Chunks know no dropout, and write to what the hook of a layer may keep."""
    return chunks.pays(x) and not any(
        module.training or module._forward_hooks or module._forward_pre_hooks
        for module in block.modules())
