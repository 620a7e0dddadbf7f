"""The hot step in plain PyTorch: trains, runs on every device, can be compiled and exported."""
from typing import TYPE_CHECKING, Optional, Union

import torch.utils.checkpoint as cp
from torch import Tensor

from ..layout import AllWindows, KeptWindows
from ..windows import WindowPartition

if TYPE_CHECKING:
    from ..stage import SwinBlock


def run_block(block: 'SwinBlock', x: Tensor, windows: WindowPartition,
              selected: Optional[Tensor]) -> Tensor:
    """See :func:`~sparsevit_mm.models.kernels.run_block`."""
    layout = AllWindows(windows) if selected is None else KeptWindows(windows, selected)
    tokens, rest = layout.take(x)
    if block.with_cp and tokens.requires_grad:
        tokens = cp.checkpoint(_run_tokens, block, tokens, layout, use_reentrant=False)
    else:
        tokens = _run_tokens(block, tokens, layout)
    return layout.put(rest, tokens)


def _run_tokens(block: 'SwinBlock', tokens: Tensor,
                layout: Union[AllWindows, KeptWindows]) -> Tensor:
    """(B, T, C) -> the same."""
    msa = block.attn.w_msa
    qkv = layout.to_windows(msa.qkv(layout.pad(block.norm1(tokens))))
    out = msa.attend(qkv, msa.bias(layout.masks), layout.mask_index)
    if msa.proj_drop.training and msa.proj_drop.p:
        # The toolkits draw this dropout window by window; one seed must give one result.
        out = layout.to_tokens(msa.proj_drop(msa.proj(out)))
    else:
        out = msa.proj(layout.to_tokens(out))
    tokens = tokens + block.attn.drop(out)
    return block.ffn(block.norm2(tokens), identity=tokens)
