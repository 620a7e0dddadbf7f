"""Score -> rank -> select: which windows run (SparseViT, section 3.1). Pure tensor functions."""
from typing import Callable, Dict

import torch
from torch import Tensor

from .chunks import map_rows
from .windows import WindowPartition

# A token score maps features (B, L, C) of any dtype to fp32 (B, L), at least 0. The score of a
# window is the L2 norm of its tokens' scores.
TokenScore = Callable[[Tensor], Tensor]


def mean_magnitude(x: Tensor) -> Tensor:
    """Mean absolute activation over channels: what the published code ranks by."""
    return map_rows(lambda rows: rows.float().abs().mean(-1), x, x.shape[-1])


def l2(x: Tensor) -> Tensor:
    """L2 norm over channels, so that a window's score is the norm of all its values."""
    return map_rows(lambda rows: torch.linalg.vector_norm(rows.float(), dim=-1), x, x.shape[-1])


def uniform_noise(x: Tensor) -> Tensor:
    """Scores that ignore the features: the ablation in which windows are kept at random."""
    return torch.rand(x.shape[:-1], dtype=torch.float32, device=x.device)


TOKEN_SCORES: Dict[str, TokenScore] = {
    'magnitude': mean_magnitude,
    'l2': l2,
    'random': uniform_noise,
}


@torch.no_grad()
def score_windows(token_scores: Tensor, windows: WindowPartition) -> Tensor:
    """Importance of each window.

    Args:
        token_scores: (B, L) fp32, L = height * width.
        windows: The partition; padding counts as 0.

    Returns:
        (B, nW) fp32.
    """
    energy = torch.nn.functional.pad(token_scores.square(), (0, 1))  # entry L is padding
    return energy[:, windows.table].sum(-1).sqrt()


def rank_windows(scores: Tensor) -> Tensor:
    """Window indices from the most to the least important, (B, nW) -> (B, nW) int64.

    Ties go to the lower index, so that the ranking of an image depends on that image alone.
    """
    return scores.argsort(dim=1, descending=True, stable=True)


def select_windows(ranking: Tensor, num_kept: int) -> Tensor:
    """The first `num_kept` windows of each image, (B, nW) -> (B, num_kept) int64."""
    return ranking[:, :num_kept]
