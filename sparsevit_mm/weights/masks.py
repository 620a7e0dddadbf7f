"""The first mask of a layer, and masks that keep N of every M weights.

A mask is a bool tensor of its weight's shape: True where the weight exists.
"""
import re
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor


def initial_mask(shape: Sequence[int], density: float,
                 generator: Optional[torch.Generator] = None) -> Tensor:
    """A random mask of exactly round(density * size) weights, at least one, on the CPU.

    A count, not a draw per weight as in the published code, so that the density asked for is met.

    Args:
        shape: Of the weight.
        density: Its share that exists, in (0, 1].
        generator: On the CPU; torch's own by default.
    """
    size = torch.Size(shape).numel()
    count = min(size, max(1, int(density * size + .5)))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size, generator=generator)[:count]] = True
    return mask.view(*shape)


def parse_pattern(pattern: str) -> Tuple[int, int]:
    """(2, 4) of ``'2:4'``.

    Raises:
        ValueError: It is not of the form N:M with 0 < N < M.
    """
    found = re.fullmatch(r'(\d+):(\d+)', str(pattern))
    n, m = map(int, found.groups()) if found else (0, 0)
    if not 0 < n < m:
        raise ValueError(f"pattern is {pattern!r}: not of the form N:M with 0 < N < M, as '2:4'")
    return n, m


def grouped(x: Tensor, m: int, dim: int = 1) -> Tensor:
    """(groups, m): every m values of a tensor that follow each other along a dimension.

    Raises:
        ValueError: The dimension is no multiple of m.
    """
    if x.shape[dim] % m:
        raise ValueError(f'dimension {dim} of {tuple(x.shape)} is no multiple of {m}')
    return x.movedim(dim, -1).reshape(-1, m)


def ungrouped(groups: Tensor, shape: Sequence[int], dim: int = 1) -> Tensor:
    """The inverse of :func:`grouped`, for a tensor of this shape."""
    moved = torch.Size(shape[:dim]) + torch.Size(shape[dim + 1:]) + torch.Size(shape[dim:dim + 1])
    return groups.reshape(moved).movedim(-1, dim).contiguous()


def nm_mask(score: Tensor, n: int, m: int, dim: int = 1) -> Tensor:
    """Keeps the n highest of every m scores that follow each other; of equal ones the first.

    Along the input channels, which is dimension 1 of linear layers and convolutions, 2 of 4 is
    what sparse tensor cores run.

    Args:
        score: Of the weight's shape.
        n, m: 0 < n < m.
        dim: Along which the groups lie, a multiple of m long.

    Raises:
        ValueError: The dimension is no multiple of m.
    """
    return ungrouped(ranks(grouped(score, m, dim)) < n, score.shape, dim)


def ranks(scores: Tensor) -> Tensor:
    """(R, L) int64: place of each score in its row, highest first, of equal ones the first."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
