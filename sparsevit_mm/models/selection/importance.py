"""Importance scores of tokens, by which windows are ranked.

A score maps features (B, H * W, C) of any dtype and a :class:`MapInfo` to fp32 (B, H * W), at
least 0. The importance of a window is the L2 norm of its tokens' scores.
"""
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..chunks import Part, map_rows, map_strips

EPS = 1e-6  # differences between tokens below this share of their norm are rounding errors


class MapInfo(NamedTuple):
    """Information that a score may use besides the features.

    Attributes:
        hw_shape: (H, W).
        sizes: (B, 2) int64, valid height and width in tokens; None if there is no padding.
        head: Head of the learned score, see :class:`~.head.ImportanceHead`.
        selector: Token selector, see :class:`~.selector.TokenSelector`.
    """
    hw_shape: Tuple[int, int]
    sizes: Optional[Tensor] = None
    head: Optional[nn.Module] = None
    selector: Optional[nn.Module] = None


TokenScore = Callable[[Tensor, Optional[MapInfo]], Tensor]


def mean_magnitude(x: Tensor, info: Optional[MapInfo] = None) -> Tensor:
    """Return the mean absolute activation over channels, which the published code ranks by."""
    return map_rows(lambda rows: rows.float().abs().mean(-1), x, x.shape[-1])


def l2(x: Tensor, info: Optional[MapInfo] = None) -> Tensor:
    """Return the L2 norm over channels, so that a window's score is the norm of all its values."""
    return map_rows(lambda rows: torch.linalg.vector_norm(rows.float(), dim=-1), x, x.shape[-1])


def uniform_noise(x: Tensor, info: Optional[MapInfo] = None) -> Tensor:
    """Return random scores, for the ablation that keeps windows at random."""
    return torch.rand(x.shape[:-1], dtype=torch.float32, device=x.device)


def variation(x: Tensor, info: MapInfo) -> Tensor:
    """Return the distance of a token from the mean of its 3x3 neighbourhood, after LayerNorm
    without affine.

    Blocks normalise their input, so the magnitude of a token says nothing about its update. Only
    neighbours within the valid area count, so that neither the border of the map nor that of the
    padding looks like variation.
    """
    valid = ValidArea(x, info)

    def step(rows: Tensor, part: Part) -> Tensor:
        rows = valid.normalise(rows, part)
        return distance(rows, valid.neighbour_mean(rows, part))

    return valid.only(map_strips(step, _to_map(x, info), halo=1)).flatten(1)


def distinct(x: Tensor, info: MapInfo) -> Tensor:
    """Return the distance of a token from the mean of its image, after LayerNorm without affine."""
    valid = ValidArea(x, info)
    mean = valid.mean(x)

    def step(rows: Tensor, part: Part) -> Tensor:
        return distance(valid.normalise(rows, part), mean[part[0]])

    return valid.only(map_strips(step, _to_map(x, info))).flatten(1)


def learned(x: Tensor, info: MapInfo) -> Tensor:
    """Return the score of a fitted or trained head, see :class:`~.head.ImportanceHead`."""
    valid = ValidArea(x, info)
    mean = valid.mean(x)

    def step(rows: Tensor, part: Part) -> Tensor:
        return info.head(rows, valid, part, mean[part[0]])

    return valid.only(map_strips(step, _to_map(x, info), halo=1)).flatten(1)


def selector(x: Tensor, info: MapInfo) -> Tensor:
    """Return the score of a token selector, see :class:`~.selector.TokenSelector`."""
    return info.selector(x)


def distance(tokens: Tensor, others: Tensor) -> Tensor:
    """Return the L2 distance of normalised tokens, or 0 if it is within rounding error."""
    norm = torch.linalg.vector_norm(tokens - others, dim=-1)
    return torch.where(norm < EPS * tokens.shape[-1]**.5, 0., norm)


class ValidArea:
    """Operations on the valid area of a map, which ignore padding.

    Args:
        x: (B, H * W, C).
        info: Size and valid area of the map.
    """

    def __init__(self, x: Tensor, info: MapInfo):
        self.shape = info.hw_shape
        self.mask: Optional[Tensor] = None  # (B, H, W, 1) bool
        self.weight: Optional[Tensor] = None  # (B, H, W, 1), 9 over the number of valid neighbours
        if info.sizes is None:
            return
        sides = [torch.arange(side, device=x.device)[None] for side in info.hw_shape]
        ends = [info.sizes[:, i:i + 1] for i in range(2)]
        rows, cols = (places < end for places, end in zip(sides, ends))
        self.mask = (rows[:, :, None] & cols[:, None])[..., None]
        # Valid neighbours along one axis, including the token: 3, 2 at an end, 1 if it is alone.
        counts = [((places + 1).clamp(max=end - 1) - (places - 1).clamp(min=0) + 1).clamp(min=1)
                  for places, end in zip(sides, ends)]
        self.weight = 9. / (counts[0][:, :, None] * counts[1][:, None])[..., None]

    def normalise(self, rows: Tensor, part: Part) -> Tensor:
        """Apply LayerNorm without affine to the rows of `part`, in fp32. Padding becomes 0."""
        rows = F.layer_norm(rows.float(), rows.shape[-1:])
        return rows if self.mask is None else rows * self.mask[part]

    def neighbour_mean(self, rows: Tensor, part: Part) -> Tensor:
        """Return the mean of the 3x3 neighbourhood. In the first and last row of a strip it lacks
        the neighbours outside the strip."""
        whole = self.weight is None  # no padding: only positions outside the map are excluded
        mean = F.avg_pool2d(rows.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=not whole)
        mean = mean.permute(0, 2, 3, 1)
        return mean if whole else mean * self.weight[part]

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of the normalised tokens of each image, (B, 1, 1, C) fp32."""
        x = x.reshape(x.shape[0], *self.shape, -1)
        total = map_strips(
            lambda rows, part: self.normalise(rows, part).sum(2), x).sum(1)[:, None, None]
        if self.mask is None:
            return total / (self.shape[0] * self.shape[1])
        return total / self.mask.sum((1, 2), keepdim=True).clamp(min=1)

    def only(self, scores: Tensor) -> Tensor:
        """Set the scores (B, H, W) of padding to 0."""
        return scores if self.mask is None else scores * self.mask[..., 0]


def _to_map(x: Tensor, info: MapInfo) -> Tensor:
    return x.reshape(x.shape[0], *info.hw_shape, -1)


TOKEN_SCORES: Dict[str, TokenScore] = {
    'magnitude': mean_magnitude,
    'l2': l2,
    'random': uniform_noise,
    'variation': variation,
    'distinct': distinct,
    'learned': learned,
    'selector': selector,
}
ATTENTION_SCORES = 'class_attention', 'received'
"""Scores that come from a ViT's attention, see :mod:`..vit.block`."""
SCORES = (*TOKEN_SCORES, *ATTENTION_SCORES)
LEARNED, SELECTOR = 'learned', 'selector'
TRAINED = {
    LEARNED: 'fit them with tools/fit_importance.py, or adapt the model under it',
    SELECTOR: 'train the model under it, with TokenSelectorHook',
}
"""Scores with weights of their own, and how to get these."""
PADDING_AWARE = 'variation', 'distinct', LEARNED  # scores that depend on other tokens
