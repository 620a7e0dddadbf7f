"""BEV pooling that sums the features of all points in a cell, without storing features per
point."""
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class PoolTable(NamedTuple):
    """Points that each cell sums, sorted by cell. Depends on the geometry only.

    Attributes:
        points: (P,) int64, index of the point in the flattened (B, V, D, h, w).
        pixels: (P,) int64, index of the point's pixel in the flattened (B, V, h, w).
        offsets: (cells + 1,) int64, start of each cell in `points` and `pixels`.
    """
    points: Tensor
    pixels: Tensor
    offsets: Tensor


def make_table(cells: Tensor, num_cells: int) -> PoolTable:
    """Sort points by cell and drop those outside the grid.

    Args:
        cells: Cell of each point, (B, V, D, h, w) int64; -1 for points outside.
        num_cells: Number of cells of all samples together.
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
    """Sum-pool the outer product of depth and context (Lift-Splat-Shoot, section 3).

    Always runs in fp32, and is deterministic because each cell sums its points in a fixed order.
    Time and memory are linear in the number of points.

    Args:
        depth: Probability of each depth bin, (B, V, D, h, w).
        context: Context features, (B, V, h, w, C).
        table: Table from :func:`make_table`.

    Returns:
        (cells, C) float32; zero for cells without points.
    """
    with torch.autocast(depth.device.type, enabled=False):
        weights = depth.float().flatten().index_select(0, table.points)
        rows = context.float().flatten(0, 3)
        return F.embedding_bag(table.pixels, rows, table.offsets, mode='sum',
                               per_sample_weights=weights, include_last_offset=True)
