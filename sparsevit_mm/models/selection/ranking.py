"""Score -> rank -> select: which windows run (SparseViT, section 3.1), and who competes with whom.

Windows compete within a group of images: an image by itself, as published, or several that share
one budget of windows. A group of n images has n * nW windows, image by image, and one ranking, of
which each block takes the first n * k. Shapes depend on n and k alone.
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
    """How windows are chosen. Raises ValueError on a bad value.

    Attributes:
        importance: One of :data:`~.importance.SCORES`; backbones take some of them.
        scope: 'image': k windows of each image, as published. 'group': the best windows of a
            group, wherever they are.
        group_size: Images of a group, consecutive in the batch, or 'batch' for all of it. None
            takes what the detector tells, the views of a frame. Of no effect with scope 'image'.
        padding_last: Whether windows that lie wholly in padding rank behind all others.
    """
    importance: str = 'variation'
    scope: str = 'image'
    group_size: Optional[Union[int, str]] = None
    padding_last: bool = True

    def __post_init__(self):
        if self.importance not in SCORES:
            raise ValueError(f'importance {self.importance!r} is none of {sorted(SCORES)}')
        if self.scope not in SCOPES:
            raise ValueError(f'scope {self.scope!r} is none of {", ".join(SCOPES)}')
        size = self.group_size
        if size not in (None, BATCH) and not (_is_int(size) and size > 0):
            raise ValueError(f'group_size {size!r} is neither a positive number of images nor '
                             f'{BATCH!r}')

    def alone(self) -> 'Selection':
        """The same for a backbone outside its detector: where nobody gives a group size, the batch
        is the group."""
        if self.scope == 'group' and self.group_size is None:
            return replace(self, group_size=BATCH)
        return self

    def group_of(self, batch_size: int, told: Optional[int] = None) -> int:
        """Images that share a budget.

        Args:
            batch_size: Images of the batch.
            told: Views of a frame, by the detector; None if it tells none.

        Raises:
            ValueError: Nobody gives a group size, or the batch is no multiple of it.
        """
        if self.scope == 'image':
            return 1
        size = self.group_size
        if size is None:
            size = told
        if size is None:
            raise ValueError(f"scope 'group' has no group size for a batch of {batch_size} images: "
                             f'the detector gives none, so the config needs group_size (a number '
                             f'of images, or {BATCH!r})')
        size = batch_size if size == BATCH else size
        if batch_size % size:
            raise ValueError(f'a batch of {batch_size} images is no multiple of the group size, '
                             f'{size}')
        return size


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Batch(NamedTuple):
    """What a stage's selection heeds beside its features.

    Attributes:
        group: Images that share a budget; B is a multiple of it.
        sizes: (B, 2) int64, height and width in tokens of what is no padding; None if nothing is.
    """
    group: int = 1
    sizes: Optional[Tensor] = None

    def merged(self, stride: int) -> 'Batch':
        """The same for the map after patch merging."""
        if self.sizes is None:
            return self
        return Batch(self.group, (self.sizes + stride - 1) // stride)


def window_energy(token_scores: Tensor, windows: WindowPartition) -> Tensor:
    """Importance of each window, squared.

    Args:
        token_scores: (B, L) fp32, L = height * width.
        windows: The partition; padding counts as 0.

    Returns:
        (B, nW) fp32.
    """
    energy = F.pad(token_scores.square(), (0, 1))  # entry L is padding
    return energy[:, windows.table].sum(-1)


def score_windows(token_scores: Tensor, windows: WindowPartition) -> Tensor:
    """Importance of each window, the L2 norm of its tokens' scores; see :func:`window_energy`."""
    return window_energy(token_scores, windows).sqrt()


def window_shares(energy: Tensor, group: int = 1) -> Tensor:
    """What each window has of its group's importance, 1 on average: the gate through which the
    task trains a score. Windows compete, since the shares of a group have a fixed sum.

    Args:
        energy: (B, nW) fp32, see :func:`window_energy`.
        group: Images that share a budget.

    Returns:
        (B / group, group * nW) fp32.
    """
    energy = energy.reshape(-1, group * energy.shape[1])
    return energy / energy.mean(1, keepdim=True).clamp(min=torch.finfo(energy.dtype).tiny)


def valid_windows(windows: WindowPartition, sizes: Tensor) -> Tensor:
    """(B, 2) valid height and width in tokens -> (B, nW) bool: which windows hold a valid one."""
    return (windows.first < sizes[:, None]).all(-1)


def rank_windows(scores: Tensor, valid: Optional[Tensor] = None, group: int = 1) -> Tensor:
    """Windows of each group from the first to be run to the last.

    Ties go to the lower index, so that the ranking of a group depends on that group alone.

    Args:
        scores: (B, nW) fp32, at least 0.
        valid: (B, nW) bool: the others are padding, and rank behind all of these. None: all are.
        group: n images that share a budget.

    Returns:
        (B / n, n * nW) int64: window w of the group's image i is i * nW + w.
    """
    if valid is not None:
        scores = torch.where(valid, scores, -1.)
    scores = scores.reshape(-1, group * scores.shape[1])
    return scores.argsort(dim=1, descending=True, stable=True)


def select_windows(ranking: Tensor, num_kept: int) -> Tensor:
    """The first `num_kept` windows of each group: (G, M) -> (G, num_kept) int64."""
    return ranking[:, :num_kept]
