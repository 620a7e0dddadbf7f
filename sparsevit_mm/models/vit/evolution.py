"""Slow-fast token evolution (Evo-ViT, section 3) as functions of tensors.

A sequence is (B, P + N, C): P prefix tokens, the class token or none, then N patches in grid order.
Selected patches take the blocks ("slow"), the others what a summary of them is worth ("fast"). No
sequence is ever sorted; indices are int64.
"""
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..selection.ranking import rank_windows


class Kept(NamedTuple):
    """Which patches run.

    Attributes:
        patches: (B, k) int64, the patches, highest importance first.
        rows: (B * (P + k),) int64, prefix and patches as rows of the flattened sequence.
    """
    patches: Tensor
    rows: Tensor


def class_attention(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """The class token's attention, before heads are brought together.

    Args:
        query: (B, heads, 1, d), of the class token.
        key: (B, heads, T, d), of all tokens that run.
        scale: Of the dot products.

    Returns:
        (B, heads, T) fp32, rows that sum to 1.
    """
    return _attention(query, key, scale)[:, :, 0]


def received_attention(query: Tensor, key: Tensor, scale: float,
                       bias: Optional[Tensor] = None) -> Tensor:
    """What each token receives, the mean over queries: for models without a class token.

    Args:
        query, key: (B, heads, T, d).
        scale: Of the dot products.
        bias: (1 or B, heads, T, T), added to them.

    Returns:
        (B, heads, T) fp32.
    """
    return _attention(query, key, scale, bias).mean(-2)


def _attention(query: Tensor, key: Tensor, scale: float,
               bias: Optional[Tensor] = None) -> Tensor:
    """(B, heads, Q, T) fp32, under autocast too, which would multiply in low precision."""
    with torch.autocast(query.device.type, enabled=False):
        logits = (query.float() * scale) @ key.float().transpose(-2, -1)
        return (logits if bias is None else logits + bias.detach().float()).softmax(-1)


def blend(importance: Optional[Tensor], new: Tensor, weight,
          kept: Optional[Tensor] = None) -> Tensor:
    """Global importance after a layer: (1 - weight) * importance + weight * new for the patches
    that ran, the others keep theirs; not normalised.

    Args:
        importance: (B, N) fp32; None before the first layer, whose values it takes as they are.
        new: (B, N), or (B, k) where only some ran.
        weight: A number, or a tensor of one.
        kept: (B, k) int64, those that ran.
    """
    if importance is None:
        return new
    if kept is None:
        return (1 - weight) * importance + weight * new
    old = importance.gather(1, kept)
    return importance.scatter(1, kept, (1 - weight) * old + weight * new)


def select(importance: Tensor, k: int, prefix: int) -> Kept:
    """The k patches of highest importance; ties go to the lower index.

    Args:
        importance: (B, N) fp32, at least 0.
        k: From 1 to N.
        prefix: Tokens before the patches, which always run.
    """
    batch, total = importance.shape
    patches = rank_windows(importance)[:, :k]
    rows = torch.arange(batch, device=patches.device)[:, None] * (prefix + total)
    rows = torch.cat([rows + i for i in range(prefix)] + [rows + prefix + patches], 1)
    return Kept(patches, rows.flatten())


def margin(importance: Tensor, k: int) -> float:
    """The smallest gap between the k-th patch of an image and the next, as a share of the
    former."""
    ranked = importance.sort(1, descending=True).values
    least = torch.finfo(ranked.dtype).tiny
    return ((ranked[:, k - 1] - ranked[:, k]) / ranked[:, k - 1].clamp(min=least)).min().item()


def gather(x: Tensor, kept: Kept) -> Tensor:
    """(B, P + N, C) -> (B, P + k, C), prefix first, then the patches in the order of `kept`."""
    return x.flatten(0, 1).index_select(0, kept.rows).unflatten(0, (x.shape[0], -1))


def scatter(x: Tensor, tokens: Tensor, kept: Kept) -> Tensor:
    """The inverse of :func:`gather`: a copy of x with these tokens in their places."""
    return x.flatten(0, 1).index_copy(0, kept.rows, tokens.flatten(0, 1)).view_as(x)


def representative(patches: Tensor, importance: Tensor, kept: Tensor) -> Tensor:
    """The summary of the patches that do not run: their mean, weighted by importance; their plain
    mean where they have none.

    Args:
        patches: (B, N, C).
        importance: (B, N) fp32, at least 0.
        kept: (B, k) int64, k < N.

    Returns:
        (B, 1, C), a convex combination.
    """
    weights = importance.scatter(1, kept, 0.)
    others = torch.ones_like(importance).scatter(1, kept, 0.)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, others)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.bmm(weights[:, None].to(patches.dtype), patches)


def update(x: Tensor, tokens: Tensor, kept: Kept,
           residual: Optional[Tensor] = None) -> Tensor:
    """The sequence after the blocks.

    Args:
        x: (B, P + N, C), before them.
        tokens: (B, P + k, C), those that ran, after them.
        kept: Which.
        residual: (B, 1, C), what the blocks added to the representative, which the others add;
            None leaves them as they are, bit by bit.
    """
    return scatter(x if residual is None else x + residual, tokens, kept)


def split_heads(qkv: Tensor, heads: int) -> Tuple[Tensor, Tensor, Tensor]:
    """(B, T, 3 * C) -> query, key and value, (B, heads, T, d) each."""
    batch, tokens, width = qkv.shape
    qkv = qkv.reshape(batch, tokens, 3, heads, width // (3 * heads))
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)
