"""Head importance, collected during training."""
from functools import partial
from typing import Dict, List, Mapping

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..weights.blocks import UnitGroup
from ..weights.units import head_importance


class HeadWatch:
    """Accumulates :func:`~sparsevit_mm.weights.head_importance` over the images of all forward and
    backward passes between :meth:`watch` and :meth:`end`.

    Args:
        groups: Unit groups by name; those of kind 'heads' are watched.
    """

    def __init__(self, groups: Mapping[str, UnitGroup]):
        self.groups = {name: group for name, group in groups.items() if group.kind == 'heads'}
        self.handles: List = []
        self._restart()

    def _restart(self) -> None:
        self.sums: Dict[str, Tensor] = {}
        self.images: Dict[str, int] = {}

    def watch(self) -> None:
        """Register hooks on the layers until :meth:`end`; inference is faster without hooks."""
        if not self.handles:
            self.handles = [group.layer.register_forward_pre_hook(partial(self._enter, name))
                            for name, group in self.groups.items()]

    def _enter(self, name: str, layer: nn.Module, args: tuple) -> None:
        outputs, = args
        if torch.is_grad_enabled() and outputs.requires_grad:
            # With activation checkpointing this runs twice; only one of the two gets a gradient.
            kept = outputs.detach()
            outputs.register_hook(lambda gradient: self._add(name, kept, gradient))

    def _add(self, name: str, outputs: Tensor, gradient: Tensor) -> None:
        shape = len(outputs), -1, self.groups[name].number, (
            outputs.shape[-1] // self.groups[name].number)
        images = head_importance(outputs.reshape(shape), gradient.detach().reshape(shape))
        self.sums[name] = self.sums.get(name, 0) + images * len(outputs)
        self.images[name] = self.images.get(name, 0) + len(outputs)

    def importance(self) -> Dict[str, Tensor]:
        """Return the (heads,) mean importance over the images of all ranks, for each group that
        received a gradient. Must be called on all ranks."""
        means = {}
        for name, group in self.groups.items():
            total = torch.zeros(group.number + 1, device=group.layer.weight.device)
            if name in self.sums:
                total[:-1], total[-1] = self.sums[name], self.images[name]
            all_reduce(total)
            if total[-1]:
                means[name] = total[:-1] / total[-1]
        return means

    def end(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self._restart()
