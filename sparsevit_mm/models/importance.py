"""How important a token is: the scores that windows are ranked by (SparseViT, section 3.1)."""
from typing import Callable, Dict, Optional

import torch
from torch import Tensor

from .chunks import map_rows

# A token score maps features (B, L, C) of any dtype to fp32 (B, L), at least 0. The score of a
# window is the L2 norm of its tokens' scores. The second argument, (B, L) fp32 in [0, 1] or None,
# is how much of each token lay within a box of the frame before; only BY_PRIOR heed it.
TokenScore = Callable[[Tensor, Optional[Tensor]], Tensor]

BOX_GAIN = 1.


def mean_magnitude(x: Tensor, prior: Optional[Tensor] = None) -> Tensor:
    """Mean absolute activation over channels: what the published code ranks by."""
    return map_rows(lambda rows: rows.float().abs().mean(-1), x, x.shape[-1])


def l2(x: Tensor, prior: Optional[Tensor] = None) -> Tensor:
    """L2 norm over channels, so that a window's score is the norm of all its values."""
    return map_rows(lambda rows: torch.linalg.vector_norm(rows.float(), dim=-1), x, x.shape[-1])


def uniform_noise(x: Tensor, prior: Optional[Tensor] = None) -> Tensor:
    """Scores that ignore the features: the ablation in which windows are kept at random."""
    return torch.rand(x.shape[:-1], dtype=torch.float32, device=x.device)


def boxed_magnitude(x: Tensor, prior: Optional[Tensor] = None) -> Tensor:
    """:func:`mean_magnitude`, doubled where a box was in the frame before; the same without one."""
    score = mean_magnitude(x)
    return score if prior is None else score * (1 + BOX_GAIN * prior)


TOKEN_SCORES: Dict[str, TokenScore] = {
    'magnitude': mean_magnitude,
    'l2': l2,
    'random': uniform_noise,
    'boxes': boxed_magnitude,
}
BY_PRIOR = frozenset({'boxes'})
