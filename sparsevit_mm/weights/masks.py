"""Initial random masks, and masks that keep N of every M weights.

A mask is a bool tensor of its weight's shape: True where the weight is kept.
"""
import re
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor


def initial_mask(shape: Sequence[int], density: float,
                 generator: Optional[torch.Generator] = None) -> Tensor:
    """Draw a random mask of exactly round(density * size) weights, at least one, on the CPU.

    The published code draws each weight independently; a fixed count meets the density exactly.

    Args:
        shape: Shape of the weight.
        density: Share of weights to keep, in (0, 1].
        generator: CPU generator; torch's default one if None.
    """
    size = torch.Size(shape).numel()
    count = min(size, max(1, int(density * size + .5)))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size, generator=generator)[:count]] = True
    return mask.view(*shape)


def parse_pattern(pattern: str) -> Tuple[int, int]:
    """Parse a pattern such as ``'2:4'`` into (2, 4).

    Raises:
        ValueError: If it is not of the form N:M with 0 < N < M.
    """
    found = re.fullmatch(r'(\d+):(\d+)', str(pattern))
    n, m = map(int, found.groups()) if found else (0, 0)
    if not 0 < n < m:
        raise ValueError(f"pattern is {pattern!r}: not of the form N:M with 0 < N < M, such as "
                         f"'2:4'")
    return n, m


def grouped(x: Tensor, m: int, dim: int = 1) -> Tensor:
    """Reshape a tensor to (groups, m), with m consecutive values along `dim` in each group.

    Raises:
        ValueError: If the size of the dimension is not a multiple of m.
    """
    if x.shape[dim] % m:
        raise ValueError(f'dimension {dim} of {tuple(x.shape)} is not a multiple of {m}')
    return x.movedim(dim, -1).reshape(-1, m)


def ungrouped(groups: Tensor, shape: Sequence[int], dim: int = 1) -> Tensor:
    """Invert :func:`grouped`, for a tensor of this shape."""
    moved = torch.Size(shape[:dim]) + torch.Size(shape[dim + 1:]) + torch.Size(shape[dim:dim + 1])
    return groups.reshape(moved).movedim(-1, dim).contiguous()


def nm_mask(score: Tensor, n: int, m: int, dim: int = 1) -> Tensor:
    """Keep the n highest of every m consecutive scores; ties go to the first.

    2:4 along the input channels (dimension 1 of linear layers and convolutions) is the pattern that
    sparse tensor cores support.

    Args:
        score: Scores, of the weight's shape.
        n, m: Kept weights and group size, 0 < n < m.
        dim: Dimension along which the groups lie.

    Raises:
        ValueError: If the size of the dimension is not a multiple of m.
    """
    return ungrouped(ranks(grouped(score, m, dim)) < n, score.shape, dim)


def ranks(scores: Tensor) -> Tensor:
    """Rank (R, L) scores within their row, as int64: 0 for the highest; ties in index order."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
