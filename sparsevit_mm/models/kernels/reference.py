"""The hot step in plain PyTorch: trains, runs on every device, can be compiled and exported."""
from typing import TYPE_CHECKING, Optional, Union

import torch
import torch.utils.checkpoint as cp
from torch import Tensor

from ..attention import WindowMSA
from ..layout import AllWindows, KeptWindows
from ..tracing import is_tracing
from ..windows import WindowPartition
from . import triton_attention

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


def _attend(msa: WindowMSA, qkv: Tensor, layout: Union[AllWindows, KeptWindows]) -> Tensor:
    """(B, K, N, 3C) -> (B, K, N, C)."""
    head_dim = qkv.shape[3] // (3 * msa.num_heads)
    if (msa.triton and not torch.is_grad_enabled() and not is_tracing()
            and not (msa.attn_drop.training and msa.attn_drop.p)
            and triton_attention.is_available(qkv.device)
            and triton_attention.supports(qkv.shape[2], head_dim, qkv.dtype)):
        return triton_attention.window_attention(
            qkv, msa.relative_position_bias_table, layout.windows.window_size,
            layout.windows.shift, layout.mask_index, msa.extra_scale * head_dim**-.5)
    return msa.attend(qkv, msa.bias(layout.masks), layout.mask_index)


def _run_tokens(block: 'SwinBlock', tokens: Tensor,
                layout: Union[AllWindows, KeptWindows]) -> Tensor:
    """(B, T, C) -> the same."""
    msa = block.attn.w_msa
    qkv = layout.to_windows(msa.qkv(layout.pad(block.norm1(tokens))))
    out = _attend(msa, qkv, layout)
    if msa.proj_drop.training and msa.proj_drop.p:
        # The toolkits draw this dropout window by window; one seed must give one result.
        out = layout.to_tokens(msa.proj_drop(msa.proj(out)))
    else:
        out = msa.proj(layout.to_tokens(out))
    tokens = tokens + block.attn.drop(out)
    return block.ffn(block.norm2(tokens), identity=tokens)
