"""Encoder layer of a plain ViT, and importance scores computed from its attention."""
from typing import Callable, Optional, Tuple

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN, MultiheadAttention
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...compat import autocast_dtype, is_hooked
from .. import chunks
from ..narrow import BlockWidth, feed_forward, give_first, project_heads, take_first
from .evolution import class_attention, received_attention, split_heads

Attention = Callable[[Tensor, Tensor, float], Tensor]
HIDDEN_BYTES = 4 * 2**20  # size of one chunk of the FFN's hidden layer on the CPU


class EncoderLayer(BaseModule):
    """Pre-norm attention and FFN, each with a residual connection.

    Parameters and results equal those of mmseg's ``TransformerEncoderLayer``; attention is computed
    by ``scaled_dot_product_attention``.

    Args:
        embed_dims: Number of channels C.
        num_heads: Number of attention heads.
        feedforward_channels: Hidden channels of the FFN.
        drop_rate: Dropout rate after the output projection and in the FFN.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Stochastic depth rate of the FFN only, as in mmseg.
        num_fcs: Number of linear layers in the FFN.
        qkv_bias: Whether the attention has biases, including its output projection.
        act_cfg, norm_cfg: mmcv layer configs.
        with_cp: Recompute activations in the backward pass to save memory.
        kept_heads: Number of heads to build, at most `num_heads`; all by default. Each keeps
            ``embed_dims / num_heads`` channels.
    """

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int,
                 drop_rate: float, attn_drop_rate: float, drop_path_rate: float, num_fcs: int,
                 qkv_bias: bool, act_cfg: dict, norm_cfg: dict, with_cp: bool,
                 kept_heads: Optional[int] = None):
        super().__init__()
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, embed_dims, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.attn = MultiheadAttention(
            embed_dims=embed_dims, num_heads=num_heads, attn_drop=attn_drop_rate,
            proj_drop=drop_rate, batch_first=True, bias=qkv_bias)
        if kept_heads not in (None, num_heads):
            remove_heads(self.attn.attn, kept_heads)
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, embed_dims, postfix=2)
        self.add_module(self.norm2_name, norm2)
        self.ffn = FFN(
            embed_dims=embed_dims, feedforward_channels=feedforward_channels, num_fcs=num_fcs,
            ffn_drop=drop_rate, act_cfg=act_cfg,
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate)
            if drop_path_rate > 0 else None)
        self.with_cp = with_cp

    @property
    def norm1(self) -> nn.Module:
        return getattr(self, self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        return getattr(self, self.norm2_name)

    @property
    def num_heads(self) -> int:
        return self.attn.attn.num_heads

    @property
    def num_neurons(self) -> int:
        return self.ffn.feedforward_channels

    def forward(self, x: Tensor, score: Optional[str] = None,
                width: Optional[BlockWidth] = None) -> Tuple[Tensor, Optional[Tensor]]:
        """Run the layer.

        Args:
            x: Tokens, (B, T, C).
            score: Attention score to return, a key of :data:`ATTENTION`; None for no score.
            width: Number of heads and neurons that run; None for all.

        Returns:
            Tokens, (B, T, C), and the score of each token, (B, T) fp32, summed over the heads that
            the output projection uses; None without `score`.
        """
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._run, x, score, width, use_reentrant=False)
        return self._run(x, score, width)

    def _run(self, x: Tensor, score: Optional[str],
             width: Optional[BlockWidth]) -> Tuple[Tensor, Optional[Tensor]]:
        msa = self.attn.attn
        heads = msa.num_heads if width is None else width.heads
        query, key, value = split_heads(project_heads(
            self.norm1(x), msa.in_proj_weight, msa.in_proj_bias, heads, msa.num_heads), heads)
        scores = None
        if score is not None:
            scores = ATTENTION[score](query.detach(), key.detach(), query.shape[-1]**-.5)
            scores = (scores * heads_taken(msa)[:heads, None]).sum(1)
        out = F.scaled_dot_product_attention(
            query, key, value, dropout_p=msa.dropout if msa.training else 0.)
        out = out.transpose(1, 2).flatten(2)
        out = msa.out_proj(out) if width is None else take_first(msa.out_proj, out)
        x = x + self.attn.dropout_layer(self.attn.proj_drop(out))
        return self._feed_forward(x, width), scores

    def _feed_forward(self, x: Tensor, width: Optional[BlockWidth]) -> Tensor:
        """Return x + FFN(norm2(x)). May modify x in place."""
        ffn = self.ffn
        if (not chunks.pays(x) or self.training or ffn.num_fcs != 2 or autocast_dtype('cpu')
                or is_hooked(ffn) or is_hooked(self.norm2)):
            if width is None:
                return ffn(self.norm2(x), identity=x)
            out = ffn.gamma2(feed_forward(ffn, self.norm2(x), width))
            return x + ffn.dropout_layer(out)
        (widen, activate, _), narrow = ffn.layers[0], ffn.layers[1]
        rows = x.flatten(0, 1)
        neurons = self.num_neurons if width is None else width.neurons
        size = HIDDEN_BYTES // (neurons * x.element_size())
        for span in chunks.spans(len(rows), size):
            part = rows[span]
            if width is None:
                out = narrow(chunks.activate_(activate, widen(self.norm2(part))))
            else:
                hidden = give_first(widen, self.norm2(part), neurons)
                out = take_first(narrow, chunks.activate_(activate, hidden))
            part += ffn.gamma2(out)
        return x


def remove_heads(attention: nn.MultiheadAttention, kept: int) -> None:
    """Rebuild an attention module with fewer heads of the same size and newly initialised
    parameters. Only :class:`EncoderLayer` can run the result; the module's own forward no longer
    works."""
    channels, inner = attention.embed_dim, attention.head_dim * kept
    with_bias = attention.in_proj_bias is not None
    attention.num_heads = kept
    attention.in_proj_weight = nn.Parameter(torch.empty(3 * inner, channels))
    nn.init.xavier_uniform_(attention.in_proj_weight)
    if with_bias:
        attention.in_proj_bias = nn.Parameter(torch.zeros(3 * inner))
    attention.out_proj = nn.Linear(inner, channels, bias=with_bias)


def heads_taken(attention: nn.MultiheadAttention) -> Tensor:
    """Return a (heads,) fp32 mask that is 0 for heads removed by structured sparse training (output
    projection all zero) and 1 otherwise. It makes the model select the same patches as a compacted
    model without these heads."""
    weight = attention.out_proj.weight.detach()
    return weight.unflatten(1, (attention.num_heads, -1)).ne(0).any(0).any(-1).float()


def _of_class(query: Tensor, key: Tensor, scale: float) -> Tensor:
    return class_attention(query[:, :, :1], key, scale)


ATTENTION = {'class_attention': _of_class, 'received': received_attention}
"""Scores that come from the attention of the layer before."""
