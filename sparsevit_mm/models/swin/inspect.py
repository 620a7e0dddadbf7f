"""Inspect which windows a Swin runs, and the margin of that choice."""
from functools import partial
from typing import List, Optional

import torch
from torch import Tensor, nn

from ..selection.importance import TOKEN_SCORES
from ..selection.ranking import score_windows
from ..windows import WindowPartition


def record_windows(backbone: nn.Module, maps: List[List[Tensor]]) -> list:
    """Register hooks that append a (B, H, W) bool map of the tokens that each block runs to the
    list of its stage in `maps`. Return the handles."""
    return [
        block.register_forward_pre_hook(lambda _, args, into=into: into.append(_ran(*args)))
        for into, stage in zip(maps, backbone.stages) for block in stage.blocks
    ]


def _ran(x: Tensor, windows: WindowPartition, selected: Optional[Tensor] = None,
         group: int = 1, *_) -> Tensor:
    ran = x.new_full((len(x), windows.num_windows), selected is None, dtype=torch.bool)
    if selected is not None:
        ran.reshape(-1, group * windows.num_windows).scatter_(1, selected, True)
    tokens = ran.repeat_interleave(windows.table.shape[1], dim=1).index_select(1, windows.inverse)
    return tokens.reshape(-1, windows.height, windows.width).cpu()


def smallest_margin(backbone: nn.Module, image: Tensor) -> float:
    """Return the smallest relative gap between the scores of the last kept window and the first
    skipped one, over all blocks and images (or groups that share a budget).

    It is infinite if no window is skipped. All blocks of a stage use the scores of the input of
    its first block that prunes.
    """
    gaps, token_scores = [float('inf')], {}

    def watch(stage: nn.Module, block: nn.Module, args: tuple) -> None:
        if len(args) < 3:
            return
        x, windows, selected, *_ = args
        if stage not in token_scores:
            info = stage.map_info((windows.height, windows.width))
            token_scores[stage] = TOKEN_SCORES[backbone.selection.importance](x, info)
        scores = score_windows(token_scores[stage], windows)
        scores = scores.reshape(len(selected), -1).sort(descending=True).values
        last, k = scores[:, selected.shape[1] - 1], selected.shape[1]
        least = torch.finfo(last.dtype).tiny  # scores may all be 0
        gaps.append(((last - scores[:, k]) / last.clamp(min=least)).min().item())

    handles = [block.register_forward_pre_hook(partial(watch, stage))
               for stage in backbone.stages for block in stage.blocks]
    try:
        with torch.no_grad():
            backbone(image)
    finally:
        for handle in handles:
            handle.remove()
    return min(gaps)
