"""The order in which a block sees its tokens. Each layout makes a gather together with its
scatter, so that the two can't drift apart."""
from copy import copy
from typing import Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunks import spans
from .rows import put_rows, take_rows
from .windows import WindowPartition


class AllWindows:
    """A block that runs every window: its tokens are the map itself, (B, L, C), L = H * W.

    Padding exists in attention only, where it stands for the zeros that Swin pads with after the
    first LayerNorm.
    """

    def __init__(self, windows: WindowPartition):
        self.windows = windows
        self.masks = windows.masks
        self.mask_index = windows.mask_index
        self.images = None

    def take(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        """The map (B, L, C) -> its tokens, and what :meth:`put` needs."""
        return x, None

    def put(self, rest: Optional[Tensor], tokens: Tensor) -> Tensor:
        """The inverse of :meth:`take`."""
        return tokens

    def pad(self, normed: Tensor) -> Tensor:
        """(B, L, C) -> (B, L (+ 1), C): one row of zeros at the end if the map needs padding."""
        return normed if self.windows.padded is None else F.pad(normed, (0, 0, 0, 1))

    def to_windows(self, qkv: Tensor) -> Tensor:
        """(B, L (+ 1), 3C) in the map's order -> (B, nW, N, 3C) by window."""
        table = self.windows.table
        return qkv.index_select(1, table.reshape(-1)).reshape(-1, *table.shape, qkv.shape[-1])

    def to_tokens(self, x: Tensor) -> Tensor:
        """(B, nW, N, C) by window -> (B, L, C) in the map's order, padding left out."""
        return x.flatten(1, 2).index_select(1, self.windows.inverse)


class KeptWindows:
    """A block that runs the same number of windows K in each of G groups of n images, n being 1
    unless images share a budget: its tokens are those of the kept windows, (G, T, C), window by
    window. Below, an image is what a group is for n = 1.

    Without padding T = K * N. With it, padding is left out, and T is the most tokens that K
    windows of a group can hold: a static number, whichever windows they are. A group whose
    windows hold fewer runs its first token again in the places left over, and writes it back as
    often: the same value each time.

    Args:
        windows: The partition of an image.
        selected: (G, K) int64, the windows to run: window w of a group's image i is i * nW + w.
        group: n.
        interior: Whether all of them are known to be interior, so that none needs a mask.
        num_tokens: T, where the caller knows a lower bound.

    Attributes:
        images: (G, T) int64, which image of its group a token belongs to; None for n = 1.
    """

    def __init__(self, windows: WindowPartition, selected: Tensor, group: int = 1,
                 interior: bool = False, num_tokens: Optional[int] = None):
        G, K = selected.shape
        num_windows, N = windows.table.shape
        L = windows.height * windows.width
        self.windows = windows
        self.selected = selected
        self.group = group
        self.shape = G, K, N
        self.images = None
        if group > 1:
            self.images = (selected // num_windows).repeat_interleave(N, dim=1)
            selected = selected % num_windows
        self.masks = None if interior else windows.masks
        self.mask_index = None if self.masks is None else windows.mask_index[selected]
        tokens = windows.table[selected].flatten(1)
        self._slots = self._places = self.spare = None
        if windows.padded is not None and not interior:
            tokens = self._leave_padding_out(tokens, num_tokens or most_tokens(windows, K, group))
        first = group * torch.arange(G, device=tokens.device)[:, None]
        image = first if self.images is None else first + self.images
        self.rows = (tokens + L * image).flatten()

    def _leave_padding_out(self, tokens: Tensor, num_tokens: int) -> Tensor:
        """(G, K * N) tokens with padding -> (G, T) without; keeps the way there and back."""
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

    def take(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """The map (B, L, C) -> the tokens (G, T, C) of the kept windows, and the map."""
        tokens, rest = take_rows(x, self.rows)
        return tokens.reshape(self.shape[0], -1, x.shape[2]), rest

    def put(self, rest: Tensor, tokens: Tensor) -> Tensor:
        """The map with (G, T, C) tokens written back in place; other tokens stay."""
        return put_rows(rest, tokens.flatten(0, 1), self.rows, self.spare)

    def pad(self, normed: Tensor) -> Tensor:
        """(G, T, C) -> (G, T (+ 1), C): one row of zeros at the end if the map needs padding."""
        return normed if self._slots is None else F.pad(normed, (0, 0, 0, 1))

    def to_windows(self, qkv: Tensor) -> Tensor:
        """(G, T (+ 1), 3C) -> (G, K, N, 3C)."""
        if self._slots is not None:
            qkv = _select(qkv, self._slots)
        return qkv.reshape(*self.shape, -1)

    def to_tokens(self, x: Tensor) -> Tensor:
        """(G, K, N, C) -> (G, T, C)."""
        x = x.flatten(1, 2)
        return x if self._places is None else _select(x, self._places)

    def chunks(self, max_tokens: int) -> Iterator['KeptWindows']:
        """The same windows in parts of about `max_tokens`, as windows of one group; windows that
        share padding with others of their group stay together, as (g, K, N) windows of g groups."""
        G, K, N = self.shape
        if self._slots is not None:
            rows = self.rows.reshape(G, -1)
            for span in spans(G, max_tokens // rows.shape[1]):
                yield self._part(rows[span].flatten(), (span.stop - span.start, K, N),
                                 self._slots[span], self._places[span],
                                 None if self.masks is None else self.mask_index[span])
            return
        for span in spans(G * K, max_tokens // N):
            yield self._part(self.rows[span.start * N:span.stop * N],
                             (1, span.stop - span.start, N), None, None,
                             None if self.masks is None else self.mask_index.flatten()[None, span])

    def _part(self, rows, shape, slots, places, mask_index) -> 'KeptWindows':
        part = copy(self)
        part.rows, part.shape, part.mask_index = rows, shape, mask_index
        part._slots, part._places = slots, places
        return part


def most_tokens(windows: WindowPartition, num_kept: int, group: int = 1) -> int:
    """The most tokens, padding left out, that so many windows of a group of images can hold."""
    each, more = divmod(num_kept, group)
    bounds = windows.token_bounds
    return group * bounds[each] + (more and more * (bounds[each + 1] - bounds[each]))


def split(windows: WindowPartition, selected: Optional[Tensor], batch_size: int,
          max_part: int, group: int = 1) -> List[KeptWindows]:
    """The selected windows, or all of them, in parts of static size: in one where no more than
    `max_part` tokens run, else interior windows apart from all that may lie at the edge. At most
    as many windows as there are at the edge are kept there.
    """
    if selected is None:
        selected = torch.cat([windows.interior, windows.edge]).expand(batch_size, -1)
    (G, K), (num_windows, N) = selected.shape, windows.table.shape
    num_edge = group * len(windows.edge)
    if num_edge == 0:
        return [KeptWindows(windows, selected, group, interior=True)]
    if G * K * N <= max_part:  # two parts would cost more than masks for all
        return [KeptWindows(windows, selected, group)]
    at_edge = torch.isin(selected % num_windows, windows.edge)
    selected = selected.gather(1, at_edge.int().argsort(dim=1, stable=True))
    num_interior = max(K - num_edge, 0)
    interior, edge = selected.tensor_split([num_interior], dim=1)
    num_tokens = most_tokens(windows, K, group) - num_interior * N
    parts = [KeptWindows(windows, interior, group, interior=True)] if num_interior else []
    return parts + [KeptWindows(windows, edge, group, num_tokens=num_tokens)]


def _select(x: Tensor, index: Tensor) -> Tensor:
    """(B, S, C) and (B, T) int64 -> (B, T, C)."""
    B, S, C = x.shape
    index = index + S * torch.arange(B, device=index.device)[:, None]
    return x.reshape(B * S, C).index_select(0, index.flatten()).reshape(B, -1, C)
