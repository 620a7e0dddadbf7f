"""Window partition of a feature map. It depends on sizes only."""
import math
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Iterator, List, Optional, Tuple

import torch
from torch import Tensor

from ..compat import assume_constant_result


@dataclass(frozen=True, eq=False)
class WindowPartition:
    """The windows of an H x W feature map, plain or cyclically shifted.

    The map is padded at the bottom and right to multiples of the window size, as in Swin.

    Attributes:
        height, width: Size of the feature map, in tokens.
        window_size: Side of a window, in tokens.
        shift: Cyclic shift, in tokens; 0 for the plain partition.
        table: (nW, N) int64, N = window_size**2. The index y * width + x of each token of each
            window; ``height * width`` for padding.
        inverse: (height * width,) int64. The position of each token of the map in the flattened
            (nW * N,) table, i.e. the inverse of the table without padding.
        padded: (nW, N) bool, true where a token is padding; None if the map needs no padding.
        masks: (M, N, N) float32, the distinct attention masks of the partition: 0 where two
            tokens may attend to each other, -100 where the shift brought them together from
            opposite sides of the map. None for the plain partition.
        mask_index: (nW,) int64, which of `masks` each window uses; None for the plain partition.
        interior: Indices, ascending, of the windows that contain neither padding nor tokens from
            opposite sides of the map. They need no mask.
        edge: Indices, ascending, of the other windows.
        first: (nW, 2) int64, the lowest row and the lowest column of the tokens of each window.
        token_bounds: nW + 1 ints. Entry k is the maximum number of tokens, without padding, that
            k windows can contain.
    """
    height: int
    width: int
    window_size: int
    shift: int
    table: Tensor
    inverse: Tensor
    padded: Optional[Tensor]
    masks: Optional[Tensor]
    mask_index: Optional[Tensor]
    interior: Tensor
    edge: Tensor
    first: Tensor
    token_bounds: Tuple[int, ...]

    @property
    def num_windows(self) -> int:
        return self.table.shape[0]


def num_windows(height: int, width: int, window_size: int) -> int:
    """Return the number of windows of an H x W map of tokens, including padding."""
    return math.ceil(height / window_size) * math.ceil(width / window_size)


@assume_constant_result
def partition(height: int, width: int, window_size: int, shift: int,
              device: torch.device) -> WindowPartition:
    """Return the partition of a map, cached by its arguments.

    It equals the padding, roll, partition and mask of ``ShiftWindowMSA`` in mmdet and mmseg.
    """
    made = _cached_partition(height, width, window_size, shift, device)
    for held in _holders:
        held.append(made)
    return made


_holders: List[List[WindowPartition]] = []


@contextmanager
def hold_partitions() -> Iterator[List[WindowPartition]]:
    """Context manager that collects the partitions requested inside it. They live as long as the
    list, even if the cache evicts them."""
    held: List[WindowPartition] = []
    _holders.append(held)
    try:
        yield held
    finally:
        _holders.pop()


@lru_cache(maxsize=256)
def _cached_partition(height: int, width: int, window_size: int, shift: int,
                      device: torch.device) -> WindowPartition:
    with torch.inference_mode(False), torch.no_grad():  # cached tensors are used in training too
        table, inverse, padded, masks, mask_index = _partition(height, width, window_size, shift)
        real = (table < height * width).sum(1)
        at_edge = real < window_size**2
        if mask_index is not None:
            at_edge |= mask_index > 0
        bounds = real.sort(descending=True).values.cumsum(0)
        places = torch.stack([table // width, table % width], -1)
        first = torch.where(table[..., None] < height * width, places, height * width).amin(1)
        tensors = (table, inverse, padded, masks, mask_index, (~at_edge).nonzero().flatten(),
                   at_edge.nonzero().flatten(), first)
        return WindowPartition(
            height, width, window_size, shift,
            *(t if t is None else t.to(device) for t in tensors),
            token_bounds=(0, *bounds.tolist()))


def _partition(height: int, width: int, window_size: int, shift: int):
    rows = _split_axis(height, window_size, shift)
    cols = _split_axis(width, window_size, shift)
    num_rows, num_cols, num_tokens = rows.shape[0], cols.shape[0], window_size**2

    y, x = rows[:, None, :, None], cols[None, :, None, :]
    outside = (y >= height) | (x >= width)
    table = torch.where(outside, height * width, y * width + x)
    table = table.reshape(num_rows * num_cols, num_tokens)
    padded = table == height * width

    inverse = torch.empty(height * width, dtype=torch.int64)
    inverse[table[~padded]] = torch.arange(table.numel()).reshape(table.shape)[~padded]

    masks = mask_index = None
    if shift:
        # Only the last row and the last column of windows contain tokens from opposite sides of
        # the map, so four masks suffice: interior, last column, last row, corner.
        last_row = torch.arange(num_rows) == num_rows - 1
        last_col = torch.arange(num_cols) == num_cols - 1
        mask_index = (2 * last_row[:, None] + 1 * last_col[None, :]).reshape(-1)
        side = torch.arange(window_size) >= window_size - shift  # beyond the wrap
        none = torch.zeros_like(side)
        masks = torch.stack([
            _mask(side if kind & 2 else none, side if kind & 1 else none) for kind in range(4)])
    return table, inverse, padded if padded.any() else None, masks, mask_index


def _split_axis(size: int, window_size: int, shift: int):
    """Return (windows, window_size) coordinates along one axis, padded and rolled by -shift."""
    padded = math.ceil(size / window_size) * window_size
    coords = (torch.arange(padded) + shift) % padded
    return coords.reshape(-1, window_size)


def _mask(row_side: Tensor, col_side: Tensor) -> Tensor:
    """Return an (N, N) mask with -100 between tokens on different sides of the wrap."""
    region = (2 * row_side[:, None] + 1 * col_side[None, :]).reshape(-1)
    return (region[:, None] != region[None, :]).float() * -100.
