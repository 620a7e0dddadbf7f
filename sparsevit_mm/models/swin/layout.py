"""Layouts: the order in which a block processes its tokens. Each layout defines a gather and its
inverse scatter in one place, so that they stay consistent."""
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .rows import put_rows, take_rows
from ..windows import WindowPartition


class AllWindows:
    """Layout of a block that runs every window. Its tokens are the whole map, (B, L, C) with
    L = H * W.

    Padding exists in attention only. It represents the zeros that Swin pads with after the first
    LayerNorm.
    """

    def __init__(self, windows: WindowPartition):
        self.windows = windows
        self.masks = windows.masks
        self.mask_index = windows.mask_index
        self.images = None

    def take(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        """Return the tokens of a map (B, L, C), and the state that :meth:`put` needs."""
        return x, None

    def put(self, rest: Optional[Tensor], tokens: Tensor) -> Tensor:
        """Write tokens back, the inverse of :meth:`take`."""
        return tokens

    def pad(self, normed: Tensor) -> Tensor:
        """Append one row of zeros, (B, L, C) -> (B, L + 1, C), if the map needs padding."""
        return normed if self.windows.padded is None else F.pad(normed, (0, 0, 0, 1))

    def to_windows(self, qkv: Tensor) -> Tensor:
        """Gather (B, L (+ 1), 3C) in map order to (B, nW, N, 3C) by window."""
        table = self.windows.table
        return qkv.index_select(1, table.reshape(-1)).reshape(-1, *table.shape, qkv.shape[-1])

    def to_tokens(self, x: Tensor) -> Tensor:
        """Reorder (B, nW, N, C) by window to (B, L, C) in map order, without padding."""
        return x.flatten(1, 2).index_select(1, self.windows.inverse)


class _Gathered:
    """Base class of layouts with tokens gathered window by window, (G, T, C), from G groups of K
    windows.

    Attributes:
        shape: (G, K, N).
        rows: (G * T,) int64, positions of the tokens in the map (B * L, C).
    """
    shape: Tuple[int, int, int]
    rows: Tensor
    # If padding is removed: indices to go to windows, (G, K * N), and back to tokens, (G, T).
    _slots: Optional[Tensor] = None
    _places: Optional[Tensor] = None

    def pad(self, normed: Tensor) -> Tensor:
        """Append one row of zeros, (G, T, C) -> (G, T + 1, C), if padding was removed."""
        return normed if self._slots is None else F.pad(normed, (0, 0, 0, 1))

    def to_windows(self, qkv: Tensor) -> Tensor:
        """Gather tokens (G, T (+ 1), 3C) to windows (G, K, N, 3C)."""
        if self._slots is not None:
            qkv = _select(qkv, self._slots)
        return qkv.reshape(*self.shape, -1)

    def to_tokens(self, x: Tensor) -> Tensor:
        """Reorder windows (G, K, N, C) to tokens (G, T, C), without padding."""
        x = x.flatten(1, 2)
        return x if self._places is None else _select(x, self._places)

    def window_mean(self, tokens: Tensor) -> Tensor:
        """Return (G, K, C), the mean over the tokens of each window; 0 if it is all padding."""
        by_window = self.to_windows(self.pad(tokens))
        if self._slots is None:
            return by_window.mean(2)
        number = (self._slots < tokens.shape[1]).reshape(self.shape).sum(2)
        return by_window.sum(2) / number.clamp(min=1)[..., None]

    def add_to_windows(self, tokens: Tensor, values: Tensor) -> Tensor:
        """Add values (G, K, C), one per window, to tokens (G, T, C)."""
        if self._places is None:
            return (tokens.reshape(*self.shape, -1) + values[:, :, None]).reshape(tokens.shape)
        return tokens + _select(values, self._places // self.shape[2])


class KeptWindows(_Gathered):
    """Layout of a block that runs K windows in each of G groups of n images; n is 1 unless images
    share a budget. Its tokens are those of the kept windows, (G, T, C), window by window.

    If the map needs no padding, T = K * N. Otherwise padding is removed, and T is the maximum
    number of tokens that K windows of a group can contain, which does not depend on the selection.
    A group with fewer tokens fills the spare slots with copies of its first token and writes the
    same value back several times.

    Args:
        windows: The partition of an image.
        selected: (G, K) int64, the windows to run. Window w of image i of a group has the index
            i * nW + w.
        group: Number of images per group, n.

    Attributes:
        images: (G, T) int64, the image within its group of each token; None for n = 1.
        spare: (G, T) bool, the spare slots; None if no padding is removed.
    """

    def __init__(self, windows: WindowPartition, selected: Tensor, group: int = 1):
        G, K = selected.shape
        num_windows, N = windows.table.shape
        L = windows.height * windows.width
        self.windows = windows
        self.group = group
        self.shape = G, K, N
        self.images = self.spare = None
        if group > 1:
            self.images = (selected // num_windows).repeat_interleave(N, dim=1)
            selected = selected % num_windows
        self.masks = windows.masks
        self.mask_index = None if self.masks is None else windows.mask_index[selected]
        tokens = windows.table[selected].flatten(1)
        if windows.padded is not None:
            tokens = self._leave_padding_out(tokens, most_tokens(windows, K, group))
        first = group * torch.arange(G, device=tokens.device)[:, None]
        image = first if self.images is None else first + self.images
        self.rows = (tokens + L * image).flatten()

    def _leave_padding_out(self, tokens: Tensor, num_tokens: int) -> Tensor:
        """Remove padding, (G, K * N) -> (G, T), and store the indices for both directions."""
        real = tokens < self.windows.height * self.windows.width
        slots = torch.where(real, real.cumsum(1) - 1, num_tokens)
        first = real.int().argmax(1, keepdim=True)
        order = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        places = first.repeat(1, num_tokens + 1).scatter(1, slots, order)[:, :-1]
        self.spare = torch.arange(num_tokens, device=tokens.device) >= real.sum(1, keepdim=True)
        self._slots, self._places = slots, places
        if self.images is not None:
            self.images = self.images.gather(1, places)
        return tokens.gather(1, places)

    def per_token(self, values: Tensor) -> Tensor:
        """Repeat (G, K) values, one per window, for each of its tokens, (G, T)."""
        values = values.repeat_interleave(self.shape[2], dim=1)
        return values if self._places is None else values.gather(1, self._places)

    def take(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the tokens (G, T, C) of the kept windows, and the map (B, L, C)."""
        tokens, rest = take_rows(x, self.rows)
        return tokens.reshape(self.shape[0], -1, x.shape[2]), rest

    def put(self, rest: Tensor, tokens: Tensor) -> Tensor:
        """Write tokens (G, T, C) back to the map in place. Other tokens stay the same."""
        return put_rows(rest, tokens.flatten(0, 1), self.rows, self.spare)


def most_tokens(windows: WindowPartition, num_kept: int, group: int = 1) -> int:
    """Return the maximum number of tokens in `num_kept` windows of a group, without padding."""
    each, more = divmod(num_kept, group)
    bounds = windows.token_bounds
    return group * bounds[each] + (more and more * (bounds[each + 1] - bounds[each]))


class WindowChunk(_Gathered):
    """Layout of some windows of some images, (1, T, C). Padding is removed, so T depends on the
    chosen windows, which graphs do not allow.

    Args:
        windows: The partition of an image.
        index: (M,) int64, the windows.
        images: (M,) int64, the image of each window in the batch.
        plain: Whether all windows are known to be interior, without padding or masks.
    """

    def __init__(self, windows: WindowPartition, index: Tensor, images: Tensor, plain: bool):
        L = windows.height * windows.width
        tokens = windows.table[index]
        self.shape = (1, *tokens.shape)
        self.mask_index = None
        if not plain and windows.masks is not None:
            self.mask_index = windows.mask_index[index]
        self.rows = (tokens + L * images[:, None]).flatten()
        if not plain and windows.padded is not None:
            real = tokens.flatten() < L
            places = real.nonzero().flatten()
            self.rows = self.rows[places]
            self._slots = torch.where(real, real.cumsum(0) - 1, len(places))[None]
            self._places = places[None]


class Part(NamedTuple):
    """Windows to be cut into chunks. See :class:`WindowChunk` for the fields."""
    index: Tensor
    images: Tensor
    plain: bool


def split(windows: WindowPartition, selected: Optional[Tensor], batch_size: int,
          max_tokens: int, group: int = 1) -> List[Part]:
    """Split the selected windows (see :class:`KeptWindows`; None for all) into interior and edge
    windows.

    They stay together if they have at most `max_tokens` tokens, since two parts would cost more
    than masks for all.
    """
    num_windows, N = windows.table.shape
    every = torch.arange(batch_size, device=windows.table.device)
    if selected is None:
        selected = torch.cat([windows.interior, windows.edge]).expand(batch_size, -1)
    first = every.reshape(len(selected), group)[:, :1]
    images = (selected // num_windows + first).flatten()
    index = selected.flatten() % num_windows
    if len(windows.edge) == 0:
        return [Part(index, images, True)]
    if len(index) * N <= max_tokens:
        return [Part(index, images, False)]
    at_edge = torch.isin(index, windows.edge)
    return [Part(index[which], images[which], plain)
            for which, plain in ((~at_edge, True), (at_edge, False)) if which.any()]


def _select(x: Tensor, index: Tensor) -> Tensor:
    """Index (B, S, C) by (B, T) int64 along dimension 1, to (B, T, C)."""
    B, S, C = x.shape
    index = index + S * torch.arange(B, device=index.device)[:, None]
    return x.reshape(B * S, C).index_select(0, index.flatten()).reshape(B, -1, C)
