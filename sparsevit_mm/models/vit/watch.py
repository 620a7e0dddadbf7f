"""What scores say of the patches of a ViT, and what these are worth."""
from dataclasses import replace
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..selection.importance import SELECTOR, TOKEN_SCORES, MapInfo
from ..selection.worth import Pass, Seen
from .block import ATTENTION


class PatchWatch:
    """Watches dense passes of an EvolvingBackbone: the patches before each group of layers that
    has a selection of its own, and what that group adds to them. Attention scores are those that
    the layers before have left; the first layer has none.

    Args:
        backbone: The backbone; this becomes its `_watcher`.
        scores: Names.
    """

    def __init__(self, backbone: nn.Module, scores: Sequence[str]):
        self.backbone, self.scores = backbone, scores
        self.groups: List[Tuple[int, Dict[str, Tensor], Pass]] = []
        self._before: Optional[List[Optional[Tensor]]] = None  # while importance is looked at
        self._attention: Dict[str, List[Optional[Tensor]]] = {}
        backbone._watcher = self

    def run(self, forward: Callable, x: Tensor):
        """A forward pass: first without gradients for the importance under each attention score,
        then as it is."""
        self.groups.clear()
        if not self.backbone.sparsity.is_dense:
            return forward(x)
        own, last = self.backbone._selection, self.backbone._last_choice
        self._attention = {}
        try:
            for name in filter(ATTENTION.__contains__, self.scores):
                self._before = []
                self.backbone._selection = replace(own, importance=name)
                self.backbone._last_choice = sum(self.backbone.depths)  # so that all are computed
                with torch.no_grad():
                    forward(x)
                self._attention[name] = self._before
        finally:
            self._before = None
            self.backbone._selection, self.backbone._last_choice = own, last
        return forward(x)

    def begin(self, x: Tensor, importance: Optional[Tensor], grid: Tuple[int, int],
              stage: int) -> Tensor:
        """Takes in what a group is given: the whole sequence (B, P + N, C) and the importance
        (B, N) so far. Returns the sequence to go on with, which has a gradient where others
        have."""
        if not self.backbone.sparsity.is_dense:
            return x
        if self._before is not None:
            self._before.append(importance)
            return x
        patches = x[:, self.backbone.prefix:].detach()
        info = MapInfo(tuple(grid), selector=getattr(self.backbone, 'selector', None))
        scores = {}
        for name in self.scores:
            if name == SELECTOR and self.groups:  # it scores the embedding, once
                scores[name] = self.groups[0][1][name]
                continue
            score = (self._attention[name][len(self.groups)] if name in ATTENTION
                     else TOKEN_SCORES[name](patches, info))
            if score is not None:
                scores[name] = score
        self.groups.append((stage, scores, Pass(patches, info)))
        if torch.is_grad_enabled() and not x.requires_grad:
            return x.detach().requires_grad_()  # weights before may be frozen
        return x

    def add(self, before: Tensor, after: Tensor) -> None:
        """Takes in a layer's sequence, before and after it."""
        if self._before is None and self.groups:
            self.groups[-1][2].add(before, after)

    def take(self) -> List[Seen]:
        """One for each group."""
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
