"""Swin block in plain PyTorch. It supports training, all devices, compilation and export."""
from typing import Optional, Union

import torch
import torch.utils.checkpoint as cp
from torch import Tensor, nn

from ...narrow import BlockWidth, feed_forward
from ...selection.head import gate_update
from ...tracing import is_tracing
from ..attention import WindowMSA
from ..layout import AllWindows, KeptWindows
from ...windows import WindowPartition
from . import triton_attention


def run_block(block: nn.Module, x: Tensor, windows: WindowPartition,
              selected: Optional[Tensor], group: int, gate: Optional[Tensor] = None,
              width: Optional[BlockWidth] = None) -> Tensor:
    """See :func:`~sparsevit_mm.models.swin.kernels.run_block`."""
    layout = (AllWindows(windows) if selected is None
              else KeptWindows(windows, selected, group))
    tokens, rest = layout.take(x)
    if block.with_cp and tokens.requires_grad:
        after = cp.checkpoint(_run_tokens, block, tokens, layout, width, use_reentrant=False)
    else:
        after = _run_tokens(block, tokens, layout, width)
    if gate is not None:
        skipped = tokens.detach()
        if block.bypass is not None:
            skipped = skipped + block.bypass(skipped, layout)
        after = gate_update(skipped, after, layout.per_token(gate))
    return layout.put(rest, after)


def _attend(msa: WindowMSA, qkv: Tensor, layout: Union[AllWindows, KeptWindows],
            heads: Optional[int]) -> Tensor:
    """Compute window attention, (G, K, N, 3C) -> (G, K, N, C)."""
    head_dim = qkv.shape[3] // (3 * (heads or msa.num_heads))
    if (msa.triton and not torch.is_grad_enabled() and not is_tracing()
            and not (msa.attn_drop.training and msa.attn_drop.p)
            and triton_attention.is_available(qkv.device)
            and triton_attention.supports(qkv.shape[2], head_dim, qkv.dtype)):
        return triton_attention.window_attention(
            qkv, msa.bias_table(heads), layout.windows.window_size,
            layout.windows.shift, layout.mask_index, msa.extra_scale * head_dim**-.5)
    return msa.attend(qkv, msa.bias(layout.masks, heads), layout.mask_index)


def _run_tokens(block: nn.Module, tokens: Tensor,
                layout: Union[AllWindows, KeptWindows],
                width: Optional[BlockWidth]) -> Tensor:
    """Apply the block to tokens, (G, T, C) -> (G, T, C)."""
    msa, heads = block.attn.w_msa, width and width.heads
    qkv = layout.to_windows(msa.project(layout.pad(block.norm1(tokens)), heads))
    out = _attend(msa, qkv, layout, heads)
    if msa.proj_drop.training and msa.proj_drop.p:
        # The toolkits draw this dropout on windows. The same seed must give the same result.
        out = layout.to_tokens(msa.proj_drop(msa.merge(out, heads)))
    else:
        out = msa.merge(layout.to_tokens(out), heads)
    ffn = block.ffn
    if layout.images is None:
        tokens = tokens + block.attn.drop(out)
        if width is None:
            return ffn(block.norm2(tokens), identity=tokens)
        out = ffn.gamma2(feed_forward(ffn, block.norm2(tokens), width))
        return tokens + ffn.dropout_layer(out)
    tokens = tokens + _drop_images(block.attn.drop, out, layout)
    out = ffn.gamma2(feed_forward(ffn, block.norm2(tokens), width))
    return tokens + _drop_images(ffn.dropout_layer, out, layout)


def _drop_images(drop: nn.Module, tokens: Tensor, layout: KeptWindows) -> Tensor:
    """Apply DropPath, drawn per image, to the tokens of groups (G, T, C)."""
    if not drop.training:
        return tokens
    factors = drop(tokens.new_ones(len(tokens), layout.group, 1).flatten(0, 1))
    return tokens * factors.reshape(len(tokens), -1).gather(1, layout.images)[..., None]
