"""The order in which a block sees its tokens. Each layout makes a gather together with its
scatter, so that the two can't drift apart."""
from typing import Optional

import torch
from torch import Tensor

from .windows import WindowPartition


class AllWindows:
    """A block that runs every window: its tokens are the map itself, (B, L, C), L = H * W.

    Padding exists in attention only, where it stands for the zeros that Swin pads with after the
    first LayerNorm: their query, key and value are the bias of that linear layer.
    """

    def __init__(self, windows: WindowPartition):
        self.windows = windows
        self.masks = windows.masks
        self.mask_index = windows.mask_index

    def to_windows(self, qkv: Tensor, bias: Optional[Tensor]) -> Tensor:
        """(B, L, 3C) in the map's order -> (B, nW, N, 3C) by window."""
        if self.windows.padded is not None:
            B, _, C3 = qkv.shape
            pad = qkv.new_zeros(C3) if bias is None else bias.to(qkv.dtype)
            qkv = torch.cat([qkv, pad.expand(B, 1, C3)], dim=1)
        B, L, C3 = qkv.shape
        table = self.windows.table
        return qkv.index_select(1, table.reshape(-1)).reshape(B, *table.shape, C3)

    def to_tokens(self, x: Tensor) -> Tensor:
        """(B, nW, N, C) by window -> (B, L, C) in the map's order, padding left out."""
        return x.flatten(1, 2).index_select(1, self.windows.inverse)


class KeptWindows:
    """A block that runs the same number of windows K in each image: its tokens are those of the
    kept windows, (B, K * N, C), gathered from and written back to a stream (see
    :func:`to_stream`).

    Args:
        windows: The partition.
        selected: (B, K) int64, the windows to run in each image.
    """

    def __init__(self, windows: WindowPartition, selected: Tensor):
        B, K = selected.shape
        L = windows.height * windows.width
        tokens = windows.table[selected]  # (B, K, N)
        rows = tokens + L * torch.arange(B, device=selected.device)[:, None, None]
        self.windows = windows
        self.selected = selected
        self.padded = None
        if windows.padded is not None:
            self.padded = windows.padded[selected].reshape(B, -1, 1)
            rows = rows.masked_fill(tokens == L, B * L)  # the stream's last row
        self.rows = rows.reshape(-1)
        self.shape = tuple(tokens.shape)
        self.masks = windows.masks
        self.mask_index = None if windows.mask_index is None else windows.mask_index[selected]

    def gather(self, stream: Tensor) -> Tensor:
        """The tokens of the kept windows, (B * L (+ 1), C) -> (B, K * N, C)."""
        B, K, N = self.shape
        return stream.index_select(0, self.rows).reshape(B, K * N, -1)

    def scatter_(self, stream: Tensor, tokens: Tensor) -> None:
        """Writes (B, K * N, C) tokens back in place; every other row of the stream stays."""
        stream.index_copy_(0, self.rows, tokens.flatten(0, 1))

    def to_windows(self, qkv: Tensor, bias: Optional[Tensor]) -> Tensor:
        """(B, K * N, 3C) -> (B, K, N, 3C), the bias in place of padding (see AllWindows)."""
        if self.padded is not None:
            pad = qkv.new_zeros(()) if bias is None else bias.to(qkv.dtype)
            qkv = torch.where(self.padded, pad, qkv)
        return qkv.reshape(*self.shape, -1)

    def to_tokens(self, x: Tensor) -> Tensor:
        """(B, K, N, C) -> (B, K * N, C)."""
        return x.flatten(1, 2)


def to_stream(x: Tensor, windows: WindowPartition) -> Tensor:
    """A copy of (B, L, C) as the rows (B * L, C) that pruned blocks change in place.

    One more row stands at the end if the map needs padding: all padded tokens read and write it.
    """
    rows = x.flatten(0, 1)
    if windows.padded is None:
        return rows.clone(memory_format=torch.contiguous_format)
    return torch.nn.functional.pad(rows, (0, 0, 0, 1))


def from_stream(stream: Tensor, batch_size: int, windows: WindowPartition) -> Tensor:
    """The inverse of :func:`to_stream`: (B * L (+ 1), C) -> (B, L, C)."""
    L = windows.height * windows.width
    return stream[:batch_size * L].reshape(batch_size, L, -1)
