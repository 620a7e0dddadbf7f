"""Slow-fast token evolution (Evo-ViT, section 3) as pure tensor functions.

A sequence is (B, P + N, C): P prefix tokens (class and distillation token, if any), then N patches
in grid order. Selected patches run through the blocks ("slow"); the others receive the update of a
summary token, their representative ("fast"). Sequences are never reordered; indices are int64.
"""
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..selection.ranking import rank_windows


class Kept(NamedTuple):
    """Patches that run.

    Attributes:
        patches: (B, k) int64, patch indices in descending order of importance.
        rows: (B * (P + k),) int64, prefix and patches as rows of the flattened sequence.
    """
    patches: Tensor
    rows: Tensor


def class_attention(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Compute the attention of the class token, per head.

    Args:
        query: Query of the class token, (B, heads, 1, d).
        key: Keys of all tokens that run, (B, heads, T, d).
        scale: Factor of the dot products.

    Returns:
        (B, heads, T) fp32; each row sums to 1.
    """
    return _attention(query, key, scale)[:, :, 0]


def received_attention(query: Tensor, key: Tensor, scale: float,
                       bias: Optional[Tensor] = None) -> Tensor:
    """Compute the attention that each token receives, averaged over queries. For models without a
    class token.

    Args:
        query: (B, heads, Q, d).
        key: (B, heads, T, d).
        scale: Factor of the dot products.
        bias: Bias added to the scaled dot products, (1 or B, heads, Q, T).

    Returns:
        (B, heads, T) fp32.
    """
    return _attention(query, key, scale, bias).mean(-2)


def _attention(query: Tensor, key: Tensor, scale: float,
               bias: Optional[Tensor] = None) -> Tensor:
    """Return attention weights, (B, heads, Q, T), computed in fp32 even under autocast."""
    with torch.autocast(query.device.type, enabled=False):
        logits = (query.float() * scale) @ key.float().transpose(-2, -1)
        return (logits if bias is None else logits + bias.detach().float()).softmax(-1)


def blend(importance: Optional[Tensor], new: Tensor, weight,
          kept: Optional[Tensor] = None) -> Tensor:
    """Return the global importance after a layer: (1 - weight) * importance + weight * new for the
    patches that ran, unchanged for the others, not normalised.

    Args:
        importance: (B, N) fp32; None before the first layer, in which case `new` is returned.
        new: Scores of this layer, (B, N), or (B, k) if only some patches ran.
        weight: A number or a one-element tensor.
        kept: Patches that ran, (B, k) int64; None for all.
    """
    if importance is None:
        return new
    if kept is None:
        return (1 - weight) * importance + weight * new
    old = importance.gather(1, kept)
    return importance.scatter(1, kept, (1 - weight) * old + weight * new)


def select(importance: Tensor, k: int, prefix: int) -> Kept:
    """Select the k patches of highest importance; ties go to the lower index.

    Args:
        importance: (B, N) fp32, at least 0.
        k: Number of patches, from 1 to N.
        prefix: Number of tokens before the patches; they always run.
    """
    batch, total = importance.shape
    patches = rank_windows(importance)[:, :k]
    rows = torch.arange(batch, device=patches.device)[:, None] * (prefix + total)
    rows = torch.cat([rows + i for i in range(prefix)] + [rows + prefix + patches], 1)
    return Kept(patches, rows.flatten())


def margin(importance: Tensor, k: int) -> float:
    """Return the smallest relative gap between the importance of an image's k-th patch and the
    next, as a fraction of the former."""
    ranked = importance.sort(1, descending=True).values
    least = torch.finfo(ranked.dtype).tiny
    return ((ranked[:, k - 1] - ranked[:, k]) / ranked[:, k - 1].clamp(min=least)).min().item()


def gather(x: Tensor, kept: Kept) -> Tensor:
    """Gather the tokens that run, (B, P + N, C) -> (B, P + k, C): the prefix, then the patches in
    the order of `kept`."""
    return x.flatten(0, 1).index_select(0, kept.rows).unflatten(0, (x.shape[0], -1))


def scatter(x: Tensor, tokens: Tensor, kept: Kept) -> Tensor:
    """Return a copy of x with `tokens` written back to their positions; the inverse of
    :func:`gather`."""
    return x.flatten(0, 1).index_copy(0, kept.rows, tokens.flatten(0, 1)).view_as(x)


def representative(patches: Tensor, importance: Tensor, kept: Tensor) -> Tensor:
    """Summarise the patches that do not run by their importance-weighted mean, or by their plain
    mean if their importance is all zero.

    Args:
        patches: (B, N, C).
        importance: (B, N) fp32, at least 0.
        kept: Patches that run, (B, k) int64, k < N.

    Returns:
        (B, 1, C), a convex combination of these patches.
    """
    weights = importance.scatter(1, kept, 0.)
    others = torch.ones_like(importance).scatter(1, kept, 0.)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, others)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.bmm(weights[:, None].to(patches.dtype), patches)


def update(x: Tensor, tokens: Tensor, kept: Kept,
           residual: Optional[Tensor] = None) -> Tensor:
    """Return the whole sequence after the blocks, (B, P + N, C).

    Args:
        x: Sequence before the blocks, (B, P + N, C).
        tokens: Tokens that ran, after the blocks, (B, P + k, C).
        kept: Patches that ran.
        residual: Update of the representative, (B, 1, C), added to the patches that did not run;
            None keeps these bit-identical.
    """
    return scatter(x if residual is None else x + residual, tokens, kept)


def split_heads(qkv: Tensor, heads: int) -> Tuple[Tensor, Tensor, Tensor]:
    """Split (B, T, 3 * C) into query, key and value, each (B, heads, T, d)."""
    batch, tokens, width = qkv.shape
    qkv = qkv.reshape(batch, tokens, 3, heads, width // (3 * heads))
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)
