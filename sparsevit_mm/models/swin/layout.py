"""The order in which a block sees its tokens. Each layout makes a gather together with its
scatter, so that the two can't drift apart."""
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .rows import put_rows, take_rows
from ..windows import WindowPartition


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


class _Gathered:
    """Tokens that were gathered window by window, (G, T, C), in groups of K windows.

    Attributes:
        shape: G, K, N.
        rows: (G * T,) int64, where the tokens lie in the map (B * L, C).
    """
    shape: Tuple[int, int, int]
    rows: Tensor
    # Where padding was left out, the way to windows, (G, K * N), and back, (G, T).
    _slots: Optional[Tensor] = None
    _places: Optional[Tensor] = None

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

    def window_mean(self, tokens: Tensor) -> Tensor:
        """(G, T, C) -> (G, K, C), the mean over each window's tokens; 0 where all is padding."""
        by_window = self.to_windows(self.pad(tokens))
        if self._slots is None:
            return by_window.mean(2)
        number = (self._slots < tokens.shape[1]).reshape(self.shape).sum(2)
        return by_window.sum(2) / number.clamp(min=1)[..., None]

    def add_to_windows(self, tokens: Tensor, values: Tensor) -> Tensor:
        """(G, T, C) tokens with (G, K, C) values, one for each window, added."""
        if self._places is None:
            return (tokens.reshape(*self.shape, -1) + values[:, :, None]).reshape(tokens.shape)
        return tokens + _select(values, self._places // self.shape[2])


class KeptWindows(_Gathered):
    """A block that runs the same number of windows K in each of G groups of n images, n being 1
    unless images share a budget: its tokens are those of the kept windows, (G, T, C), window by
    window.

    Without padding T = K * N. With it, padding is left out, and T is the most tokens that K
    windows of a group can hold: a static number, whichever windows they are. A group whose
    windows hold fewer runs its first token again in the places left over, and writes it back as
    often: the same value each time.

    Args:
        windows: The partition of an image.
        selected: (G, K) int64, the windows to run: window w of a group's image i is i * nW + w.
        group: n.

    Attributes:
        images: (G, T) int64, which image of its group a token belongs to; None for n = 1.
        spare: (G, T) bool, the places left over; None where no padding was left out.
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

    def per_token(self, values: Tensor) -> Tensor:
        """(G, K), one value for each window -> (G, T), the same for each of its tokens."""
        values = values.repeat_interleave(self.shape[2], dim=1)
        return values if self._places is None else values.gather(1, self._places)

    def take(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """The map (B, L, C) -> the tokens (G, T, C) of the kept windows, and the map."""
        tokens, rest = take_rows(x, self.rows)
        return tokens.reshape(self.shape[0], -1, x.shape[2]), rest

    def put(self, rest: Tensor, tokens: Tensor) -> Tensor:
        """The map with (G, T, C) tokens written back in place; other tokens stay."""
        return put_rows(rest, tokens.flatten(0, 1), self.rows, self.spare)


def most_tokens(windows: WindowPartition, num_kept: int, group: int = 1) -> int:
    """The most tokens, padding left out, that so many windows of a group of images can hold."""
    each, more = divmod(num_kept, group)
    bounds = windows.token_bounds
    return group * bounds[each] + (more and more * (bounds[each + 1] - bounds[each]))


class WindowChunk(_Gathered):
    """Some windows of some images, (1, T, C). Padding is left out, so that T follows from which
    windows they are: for work outside of graphs.

    Args:
        windows: The partition of an image.
        index: (M,) int64, the windows.
        images: (M,) int64, the image of the batch that each is of.
        plain: Whether all are known to be interior: none holds padding or needs a mask.
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
    """Windows to be cut into chunks: the first two and the last are those of WindowChunk."""
    index: Tensor
    images: Tensor
    plain: bool


def split(windows: WindowPartition, selected: Optional[Tensor], batch_size: int,
          max_tokens: int, group: int = 1) -> List[Part]:
    """The selected windows (see :class:`KeptWindows`), or all of them, interior ones apart from
    those at the edge; together where no more than `max_tokens` tokens run, since two parts would
    cost more than masks for all.
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
    """(B, S, C) and (B, T) int64 -> (B, T, C)."""
    B, S, C = x.shape
    index = index + S * torch.arange(B, device=index.device)[:, None]
    return x.reshape(B * S, C).index_select(0, index.flatten()).reshape(B, -1, C)
