"""Recording of importance scores of a ViT's patches, and of the updates and gains they predict."""
from dataclasses import replace
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..selection.importance import SELECTOR, TOKEN_SCORES, MapInfo
from ..selection.worth import Pass, Seen
from .block import ATTENTION


class PatchWatch:
    """Recorder of dense passes of an EvolvingBackbone. For each group of layers that shares a
    selection, it records the scores of the patches at its input and what the group adds to them.
    Attention scores come from earlier layers, so the first layer has none.

    Args:
        backbone: Backbone to watch; its `_watcher` is set to this object.
        scores: Names of the scores to record.
    """

    def __init__(self, backbone: nn.Module, scores: Sequence[str]):
        self.backbone, self.scores = backbone, scores
        self.groups: List[Tuple[int, Dict[str, Tensor], Pass]] = []
        self._before: Optional[List[Optional[Tensor]]] = None  # while recording attention
        self._attention: Dict[str, List[Optional[Tensor]]] = {}
        backbone._watcher = self

    def run(self, forward: Callable, x: Tensor):
        """Run a forward pass. A dense one is preceded by one pass without gradients for each
        attention score, which records the importance."""
        self.groups.clear()
        if not self.backbone.sparsity.is_dense:
            return forward(x)
        own, last = self.backbone._selection, self.backbone._last_choice
        self._attention = {}
        try:
            for name in filter(ATTENTION.__contains__, self.scores):
                self._before = []
                self.backbone._selection = replace(own, importance=name)
                self.backbone._last_choice = sum(self.backbone.depths)  # all layers return scores
                with torch.no_grad():
                    forward(x)
                self._attention[name] = self._before
        finally:
            self._before = None
            self.backbone._selection, self.backbone._last_choice = own, last
        return forward(x)

    def begin(self, x: Tensor, importance: Optional[Tensor], grid: Tuple[int, int],
              stage: int) -> Tensor:
        """Record the input of a group: the whole sequence (B, P + N, C) and the importance (B, N)
        so far. Return the sequence to continue with, which requires a gradient if gradients are
        enabled."""
        if not self.backbone.sparsity.is_dense:
            return x
        if self._before is not None:
            self._before.append(importance)
            return x
        patches = x[:, self.backbone.prefix:].detach()
        info = MapInfo(tuple(grid), selector=getattr(self.backbone, 'selector', None))
        scores = {}
        for name in self.scores:
            if name == SELECTOR and self.groups:  # scores the embedding only
                scores[name] = self.groups[0][1][name]
                continue
            score = (self._attention[name][len(self.groups)] if name in ATTENTION
                     else TOKEN_SCORES[name](patches, info))
            if score is not None:
                scores[name] = score
        self.groups.append((stage, scores, Pass(patches, info)))
        if torch.is_grad_enabled() and not x.requires_grad:
            return x.detach().requires_grad_()  # earlier weights may be frozen
        return x

    def add(self, before: Tensor, after: Tensor) -> None:
        """Record the sequence before and after a layer."""
        if self._before is None and self.groups:
            self.groups[-1][2].add(before, after)

    def take(self) -> List[Seen]:
        """Return one record per group, and clear them."""
        first, seen = self.backbone.prefix, []
        for stage, scores, passed in self.groups:
            scores = {name: score.cpu() for name, score in scores.items()}
            update, gain = (None if worth is None else worth[:, first:].cpu()
                            for worth in (passed.update, passed.gain))
            seen.append(Seen(stage, scores, torch.ones(update.shape, dtype=torch.bool), update,
                             gain))
        self.groups.clear()
        return seen

    def close(self) -> None:
        self.backbone._watcher = None
