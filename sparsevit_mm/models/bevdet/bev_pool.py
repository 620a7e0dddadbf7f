"""Sums the features of all points of a cell, without ever holding a feature for each point."""
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class PoolTable(NamedTuple):
    """Which points each cell sums, in cell order; depends on geometry alone.

    Attributes:
        points: (P,) int64, index of the point in (B, V, D, h, w) flattened.
        pixels: (P,) int64, index of the pixel it stands on in (B, V, h, w) flattened.
        offsets: (cells + 1,) int64, where the points of each cell begin in the two above.
    """
    points: Tensor
    pixels: Tensor
    offsets: Tensor


def make_table(cells: Tensor, num_cells: int) -> PoolTable:
    """Sorts points by cell; those outside are dropped.

    Args:
        cells: (B, V, D, h, w) int64, cell of each point, -1 outside.
        num_cells: Of all samples together.
    """
    depths, pixels = cells.shape[2], cells.shape[3] * cells.shape[4]
    cells = cells.flatten()
    points = (cells >= 0).nonzero().flatten()
    cells, order = cells[points].sort(stable=True)
    points = points[order]
    counts = torch.bincount(cells, minlength=num_cells)
    offsets = F.pad(counts.cumsum(0), (1, 0))
    view = points.div(depths * pixels, rounding_mode='floor')
    return PoolTable(points, view * pixels + points % pixels, offsets)


def bev_pool(depth: Tensor, context: Tensor, table: PoolTable) -> Tensor:
    """Sum pooling of the outer product of depth and context (Lift-Splat-Shoot, section 3).

    Always in fp32 and deterministic: each cell sums its points in one order. Time and memory are
    linear in the points.

    Args:
        depth: (B, V, D, h, w), probability of each depth bin.
        context: (B, V, h, w, C).
        table: From :func:`make_table`.

    Returns:
        (cells, C) float32; zero where no point falls.
    """
    with torch.autocast(depth.device.type, enabled=False):
        weights = depth.float().flatten().index_select(0, table.points)
        rows = context.float().flatten(0, 3)
        return F.embedding_bag(table.pixels, rows, table.offsets, mode='sum',
                               per_sample_weights=weights, include_last_offset=True)
