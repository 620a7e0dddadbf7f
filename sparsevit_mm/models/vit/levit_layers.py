"""Layers of LeViT (arXiv 2104.01136) with a class token, as used by Evo-ViT. Parameter names follow
the released code."""
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from .evolution import class_attention, received_attention


class LinearBN(nn.Sequential):
    """Linear layer without bias followed by batch norm over channels, (B, T, C) -> (B, T, D)."""

    def __init__(self, in_features: int, out_features: int, bn_weight: float = 1.):
        super().__init__()
        self.add_module('c', nn.Linear(in_features, out_features, bias=False))
        self.add_module('bn', nn.BatchNorm1d(out_features))
        nn.init.constant_(self.bn.weight, bn_weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        return self.bn(x.flatten(0, 1)).view_as(x)


class ConvBN(nn.Sequential):
    """3x3 convolution of stride 2 without bias, followed by batch norm."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.add_module('c', nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False))
        self.add_module('bn', nn.BatchNorm2d(out_channels))


class FeedForward(nn.Module):
    """FFN of LeViT, without its residual connection."""

    def __init__(self, embed_dims: int, hidden: int):
        super().__init__()
        self.m = nn.Sequential(
            LinearBN(embed_dims, hidden), nn.Hardswish(), LinearBN(hidden, embed_dims, 0.))

    def forward(self, x: Tensor) -> Tensor:
        return self.m(x)


class Biases(nn.Module):
    """Attention biases of a dense LeViT: one value per head for each absolute offset between query
    and key. Rows and columns of prefix tokens and of a representative are 0.

    Args:
        num_heads: Number of heads.
        grid: (H, W) of the keys.
        stride: Stride of the queries in the grid of the keys.
    """

    def __init__(self, num_heads: int, grid: Tuple[int, int], stride: int = 1):
        super().__init__()
        self.grid, self.stride = tuple(grid), stride
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, grid[0] * grid[1]))
        rows, cols = (torch.arange(side) for side in grid)
        dy = (rows[::stride, None] - rows[None]).abs()
        dx = (cols[::stride, None] - cols[None]).abs()
        index = dy[:, None, :, None] * grid[1] + dx[None, :, None, :]
        self.register_buffer('attention_bias_idxs', index.flatten(2).flatten(0, 1),
                             persistent=False)

    def forward(self, grid: Tuple[int, int], prefix: int, kept: Optional[Tensor],
                extra: int) -> Tensor:
        """Return the bias of the attention logits, (1 or B, heads, queries, keys).

        Args:
            grid: (H, W) of the map.
            prefix, extra: Number of tokens before and after the patches.
            kept: Patches that run, as queries and keys, (B, k); None for all.

        Raises:
            ValueError: If the size of the map differs from that of the biases.
        """
        if tuple(grid) != self.grid:
            raise ValueError(f'attention biases are for a map of {self.grid[0]}x{self.grid[1]}, '
                             f'but this one is {grid[0]}x{grid[1]}: set img_size to the input size')
        index = self.attention_bias_idxs[None]
        if kept is not None:
            index = index[0][kept[:, :, None], kept[:, None, :]]
        bias = self.attention_biases[:, index].transpose(0, 1)
        return F.pad(bias, (prefix, extra, prefix, extra))


class LeViTAttention(nn.Module):
    """Attention of LeViT, without its residual connection.

    Args:
        embed_dims: Number of input channels C.
        key_dims: Channels of a key, per head.
        num_heads: Number of heads.
        attn_ratio: Ratio of value channels to key channels.
        grid: (H, W) of the map.
        biases: Whether to use attention biases.
        out_dims: Number of output channels D; `embed_dims` by default.
        stride: Stride of the queries in the grid of the patches.
    """

    def __init__(self, embed_dims: int, key_dims: int, num_heads: int, attn_ratio: float,
                 grid: Tuple[int, int], biases: bool, out_dims: Optional[int] = None,
                 stride: int = 1):
        super().__init__()
        self.num_heads, self.key_dims, self.stride = num_heads, key_dims, stride
        self.value_dims = int(attn_ratio * key_dims)
        of_key = (1 if stride > 1 else 2) * key_dims
        kv = LinearBN(embed_dims, num_heads * (of_key + self.value_dims))
        if stride > 1:
            self.kv = kv
            self.q = nn.Sequential(nn.Identity(), LinearBN(embed_dims, num_heads * key_dims))
        else:
            self.qkv = kv
        self.proj = nn.Sequential(nn.Hardswish(), LinearBN(
            num_heads * self.value_dims, out_dims or embed_dims, 1. if stride > 1 else 0.))
        self.learn_tradeoff = nn.Parameter(torch.zeros(1))
        self.biases = Biases(num_heads, grid, stride) if biases else None

    @property
    def blend(self) -> Tensor:
        """Weight of this attention in the importance, in (0, 1)."""
        return self.learn_tradeoff.detach().float().sigmoid()

    def forward(self, x: Tensor, grid: Tuple[int, int], prefix: int, score: Optional[str] = None,
                kept: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
        """Compute the attention.

        Args:
            x: Prefix, patches and an optional representative, (B, T, C).
            grid: (H, W) of the map.
            prefix: Number of tokens before the patches.
            score: Attention score to return, 'class_attention' or 'received'; None for no score.
            kept: Patches that run, (B, k); None for all.

        Returns:
            Output, (B, T', D), with T' < T if the stride exceeds 1, and the score of each token,
            (B, T) fp32, averaged over heads; None without `score`.
        """
        batch, tokens, _ = x.shape
        if self.stride == 1:
            qkv = self.qkv(x).view(batch, tokens, self.num_heads, -1).transpose(1, 2)
            query, key, value = qkv.split([self.key_dims] * 2 + [self.value_dims], -1)
        else:
            key, value = self.kv(x).view(batch, tokens, self.num_heads, -1).transpose(1, 2).split(
                [self.key_dims, self.value_dims], -1)
            chosen = torch.cat([x[:, :prefix], take_every(x[:, prefix:], grid, self.stride)], 1)
            query = self.q(chosen).view(batch, -1, self.num_heads, self.key_dims).transpose(1, 2)
        bias = None
        if self.biases is not None:
            patches = (grid[0] * grid[1]) if kept is None else kept.shape[1]
            bias = self.biases(grid, prefix, kept, tokens - prefix - patches)
        scores = None
        if score is not None:
            scale = self.key_dims**-.5
            scores = (class_attention(query[:, :, :1].detach(), key.detach(), scale)
                    if score == 'class_attention' else
                    received_attention(query.detach(), key.detach(), scale, bias)).mean(1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2)), scores


class LeViTLayer(BaseModule):
    """Attention and FFN, each with a residual connection and stochastic depth."""

    def __init__(self, embed_dims: int, mlp_ratio: float, drop_path_rate: float = 0., **attention):
        super().__init__()
        self.m1 = _Inner(LeViTAttention(embed_dims, **attention))
        self.drop_path = DropPath(drop_path_rate)
        self.m2 = FeedForwardResidual(embed_dims, int(mlp_ratio * embed_dims), drop_path_rate)

    def forward(self, x: Tensor, *args) -> Tuple[Tensor, Optional[Tensor]]:
        """Run the layer. Arguments and results are those of :meth:`LeViTAttention.forward`."""
        out, scores = self.m1.m(x, *args)
        return self.m2(x + self.drop_path(out)), scores


class _Inner(nn.Module):
    """Wrapper that holds a module as `m`, like the residuals of the released code."""

    def __init__(self, m: nn.Module):
        super().__init__()
        self.m = m


class FeedForwardResidual(nn.Module):
    """FFN with a residual connection and stochastic depth: x + FFN(x)."""

    def __init__(self, embed_dims: int, hidden: int, drop_path_rate: float = 0.):
        super().__init__()
        self.m = FeedForward(embed_dims, hidden).m
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.m(x))


def take_every(patches: Tensor, grid: Tuple[int, int], stride: int) -> Tensor:
    """Return every `stride`-th row and column of (B, H * W, C) or (B, H * W)."""
    return patches.unflatten(1, tuple(grid))[:, ::stride, ::stride].flatten(1, 2)
