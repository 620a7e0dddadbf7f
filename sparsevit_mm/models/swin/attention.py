"""Window attention, and the module tree with its parameters."""
from typing import Optional

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import build_dropout
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..narrow import project_heads, take_first


class WindowMSA(BaseModule):
    """Multi-head self-attention within windows, with relative position bias.

    State dict and result equal those of ``WindowMSA`` in mmdet and mmseg. Linear layers act on
    tokens and :meth:`attend` on windows, so that the caller decides which tokens to gather and
    when.

    Args:
        embed_dims: Channels C.
        num_heads: Attention heads.
        window_size: Side of a window, in tokens.
        qkv_bias: Whether query, key and value have a bias.
        qk_scale: Override of the scale ``head_dim ** -0.5``.
        attn_drop_rate: Dropout rate of attention weights.
        proj_drop_rate: Dropout rate of the output.
        triton: Whether inference on CUDA may use :mod:`.kernels.triton_attention`.
        head_dims: Channels of a head; ``embed_dims // num_heads`` by default. If heads were
            removed, the others keep their channels, and attention has fewer than C.
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 window_size: int,
                 qkv_bias: bool = True,
                 qk_scale: Optional[float] = None,
                 attn_drop_rate: float = 0.,
                 proj_drop_rate: float = 0.,
                 triton: bool = False,
                 head_dims: Optional[int] = None):
        super().__init__()
        self.num_heads = num_heads
        self.triton = triton
        head_dims = head_dims or embed_dims // num_heads
        inner_dims = num_heads * head_dims
        # scaled_dot_product_attention already divides by sqrt(head_dims).
        self.extra_scale = qk_scale * head_dims**0.5 if qk_scale else 1.

        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1)**2, num_heads))
        self.register_buffer('relative_position_index', _relative_position_index(window_size))
        self.qkv = nn.Linear(embed_dims, inner_dims * 3, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(inner_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def bias(self, masks: Optional[Tensor] = None, heads: Optional[int] = None) -> Tensor:
        """Return the bias of the attention logits: relative position bias plus attention masks.

        It is never cached: weights may change in place without notice, e.g. by EMAHook.

        Args:
            masks: (M, N, N), see :class:`~..windows.WindowPartition`. Without masks M is 1.
            heads: Number of heads, from the first on; None for all.

        Returns:
            (M, heads, N, N).
        """
        index = self.relative_position_index
        bias = self.bias_table(heads)[index.reshape(-1)]
        bias = bias.reshape(*index.shape, -1).permute(2, 0, 1).contiguous()[None]
        return bias if masks is None else bias + masks.to(bias.dtype)[:, None]

    def bias_table(self, heads: Optional[int] = None) -> Tensor:
        """Return the (rows, heads) bias table of the first `heads` heads; None for all."""
        table = self.relative_position_bias_table
        return table if heads is None else table[:, :heads]

    def project(self, x: Tensor, heads: Optional[int] = None) -> Tensor:
        """Compute query, key and value of the first `heads` heads (None for all), (..., channels)
        -> (..., 3C)."""
        if heads is None:
            return self.qkv(x)
        return project_heads(x, self.qkv.weight, self.qkv.bias, heads, self.num_heads)

    def merge(self, x: Tensor, heads: Optional[int] = None) -> Tensor:
        """Apply the output projection to the first `heads` heads (None for all), (..., C)
        -> (..., channels)."""
        return self.proj(x) if heads is None else take_first(self.proj, x)

    def attend(self, qkv: Tensor, bias: Tensor, mask_index: Optional[Tensor]) -> Tensor:
        """Compute attention among the tokens of each window.

        Args:
            qkv: (B, K, N, 3C), query, key and value of N tokens in K windows of B images; C is
                the number of heads times the channels of a head.
            bias: (M, heads, N, N), see :meth:`bias`. It determines the number of heads.
            mask_index: (B, K) or (K,) int64, which bias each window uses; None if M is 1.

        Returns:
            (B, K, N, C).
        """
        B, K, N, C3 = qkv.shape
        q, k, v = qkv.reshape(B * K, N, 3, bias.shape[1], -1).permute(2, 0, 3, 1, 4)
        if self.extra_scale != 1.:
            q = q * self.extra_scale
        bias = bias.to(q.dtype)
        if mask_index is not None:
            bias = bias.index_select(0, mask_index.expand(B, K).reshape(-1))
        dropout = self.attn_drop.p if self.attn_drop.training else 0.
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return out.transpose(1, 2).reshape(B, K, N, C3 // 3)


def _relative_position_index(window_size: int) -> Tensor:
    """Return (N, N) int64 rows of the bias table for query token i and key token j:
    ``(2 * window_size - 1) * (yi - yj + window_size - 1) + (xi - xj + window_size - 1)``."""
    side = torch.arange(window_size)
    y, x = (t.reshape(-1) for t in torch.meshgrid(side, side, indexing='ij'))
    dy = y[:, None] - y[None, :] + window_size - 1
    dx = x[:, None] - x[None, :] + window_size - 1
    return dy * (2 * window_size - 1) + dx


class ShiftWindowMSA(BaseModule):
    """Container of `w_msa` and the DropPath after it, named as in the toolkits.

    Args:
        drop_path_rate: Probability that the attention of a block is skipped for an image in
            training.
        **kwargs: See :class:`WindowMSA`.
    """

    def __init__(self, drop_path_rate: float = 0., **kwargs):
        super().__init__()
        self.w_msa = WindowMSA(**kwargs)
        self.drop = build_dropout(dict(type='DropPath', drop_prob=drop_path_rate))
