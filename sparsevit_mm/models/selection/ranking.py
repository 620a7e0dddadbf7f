"""Select the windows that run: score, rank, select (SparseViT, section 3.1).

Windows compete within a group of images: a single image, as published, or several images that
share one budget of windows. A group of n images has n * nW windows, ordered by image, and one
ranking, of which each block runs the first n * k. Shapes depend on n and k only.
"""
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from ..windows import WindowPartition
from .importance import SCORES

SCOPES = ('image', 'group')
BATCH = 'batch'


@dataclass(frozen=True)
class Selection:
    """How windows are chosen.

    Attributes:
        importance: One of :data:`~.importance.SCORES`. Each backbone supports some of them.
        scope: 'image' runs k windows of each image, as published. 'group' runs the most important
            windows of a group of images, however they are distributed.
        group_size: Number of consecutive images of the batch per group, or 'batch' for all. None
            uses the number of views per frame of the detector. It has no effect with scope
            'image'.
        padding_last: Whether windows that consist of padding only rank behind all others.

    Raises:
        ValueError: If a value is invalid.
    """
    importance: str = 'variation'
    scope: str = 'image'
    group_size: Optional[Union[int, str]] = None
    padding_last: bool = True

    def __post_init__(self):
        if self.importance not in SCORES:
            raise ValueError(f'importance {self.importance!r} is not one of {sorted(SCORES)}')
        if self.scope not in SCOPES:
            raise ValueError(f'scope {self.scope!r} is not one of {", ".join(SCOPES)}')
        size = self.group_size
        if size not in (None, BATCH) and not (_is_int(size) and size > 0):
            raise ValueError(f'group_size {size!r} is neither a positive number of images nor '
                             f'{BATCH!r}')

    def alone(self) -> 'Selection':
        """Return the selection for a backbone without its detector: if the group size is unknown,
        the batch is the group."""
        if self.scope == 'group' and self.group_size is None:
            return replace(self, group_size=BATCH)
        return self

    def group_of(self, batch_size: int, told: Optional[int] = None) -> int:
        """Return the number of images that share a budget.

        Args:
            batch_size: Number of images of the batch.
            told: Views per frame in the input of the detector; None if unknown.

        Raises:
            ValueError: If the group size is unknown, or does not divide the batch size.
        """
        if self.scope == 'image':
            return 1
        size = self.group_size
        if size is None:
            size = told
        if size is None:
            raise ValueError(f"scope 'group' has no group size for a batch of {batch_size} images: "
                             f'the detector provides none, so set group_size in the config (a '
                             f'number of images, or {BATCH!r})')
        size = batch_size if size == BATCH else size
        if batch_size % size:
            raise ValueError(f'a batch of {batch_size} images is not a multiple of the group size, '
                             f'{size}')
        return size


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Batch(NamedTuple):
    """Information that the selection of a stage uses besides its features.

    Attributes:
        group: Number of images that share a budget; B is a multiple of it.
        sizes: (B, 2) int64, height and width in tokens of the valid area; None without padding.
    """
    group: int = 1
    sizes: Optional[Tensor] = None

    def merged(self, stride: int) -> 'Batch':
        """Return the values for the map after patch merging."""
        if self.sizes is None:
            return self
        return Batch(self.group, (self.sizes + stride - 1) // stride)


def window_energy(token_scores: Tensor, windows: WindowPartition) -> Tensor:
    """Compute the squared importance of each window.

    Args:
        token_scores: (B, L) fp32, L = height * width.
        windows: The partition. Padding counts as 0.

    Returns:
        (B, nW) fp32.
    """
    energy = F.pad(token_scores.square(), (0, 1))  # entry L is padding
    return energy[:, windows.table].sum(-1)


def score_windows(token_scores: Tensor, windows: WindowPartition) -> Tensor:
    """Compute the importance of each window, the L2 norm of its tokens' scores."""
    return window_energy(token_scores, windows).sqrt()


def window_shares(energy: Tensor, group: int = 1) -> Tensor:
    """Compute the share of each window in its group's squared importance, 1 on average.

    The shares are the gate through which the task trains a score. Windows compete, since the
    shares of a group have a fixed sum.

    Args:
        energy: (B, nW) fp32, see :func:`window_energy`.
        group: Number of images that share a budget.

    Returns:
        (B / group, group * nW) fp32.
    """
    energy = energy.reshape(-1, group * energy.shape[1])
    return energy / energy.mean(1, keepdim=True).clamp(min=torch.finfo(energy.dtype).tiny)


def valid_windows(windows: WindowPartition, sizes: Tensor) -> Tensor:
    """Return (B, nW) bool, whether windows contain a valid token, from valid sizes (B, 2)."""
    return (windows.first < sizes[:, None]).all(-1)


def rank_windows(scores: Tensor, valid: Optional[Tensor] = None, group: int = 1) -> Tensor:
    """Rank the windows of each group by descending score.

    Ties go to the lower index, so that the ranking of a group depends on that group only.

    Args:
        scores: (B, nW) fp32, at least 0.
        valid: (B, nW) bool, false for padding, which ranks last. None if all are valid.
        group: Number of images that share a budget, n.

    Returns:
        (B / n, n * nW) int64. Window w of image i of a group has the index i * nW + w.
    """
    if valid is not None:
        scores = torch.where(valid, scores, -1.)
    scores = scores.reshape(-1, group * scores.shape[1])
    return scores.argsort(dim=1, descending=True, stable=True)


def select_windows(ranking: Tensor, num_kept: int) -> Tensor:
    """Return the first `num_kept` windows of each group, (G, M) -> (G, num_kept) int64."""
    return ranking[:, :num_kept]
