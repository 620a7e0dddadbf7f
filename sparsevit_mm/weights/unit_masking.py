"""Masks of the heads and neurons of a model in training."""
from contextlib import contextmanager
from typing import Dict, Iterator, List, Mapping, Tuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..widths import unit_count
from .blocks import Part, UnitGroup
from .layers import LayerWeight
from .masking import Masking, Masks, WeightMasks
from .units import drop_and_grow_units, unit_norms

Groups = Mapping[str, UnitGroup]


def first_units(groups: Groups, densities: Mapping[str, float]) -> Masks:
    """Return masks, on the CPU, that keep the units with the largest L1 norm of their weights.

    Args:
        groups: Unit groups by name.
        densities: Share of units to keep by kind, 'heads' and 'neurons'.
    """
    masks = {}
    for name, group in groups.items():
        norms = unit_norms(group.number, ((part.parameter.detach(), part.dim, part.copies)
                                          for part in group.weights)).cpu()
        count = unit_count(group.number, densities[group.kind])
        order = norms.argsort(descending=True, stable=True)
        masks[name] = torch.zeros(group.number, dtype=torch.bool)
        masks[name][order[:count]] = True
    return masks


class UnitMasks(Masking):
    """Masks of heads and neurons. A masked unit has zero output weights and keeps its input weights
    frozen: it does not contribute to the model, but the gradient of its output weights lets it grow
    back.

    Args:
        groups: Unit groups by name.
        masks: (number,) bool masks by name. They are moved to the weights' devices.
    """

    def __init__(self, groups: Groups, masks: Masks):
        self.groups = dict(groups)
        self.masks = {name: masks[name].to(group.output.parameter.device)
                      for name, group in groups.items()}
        self._changed()

    def _changed(self) -> None:
        """Compute what depends on the masks alone, once per update: finding indices synchronizes
        with the GPU."""
        weights, masks = {}, {}
        self.left_out: List[Tuple[Part, Tensor]] = []  # input parts, indices of masked units
        for name, group in self.groups.items():
            part = group.output
            weights[part.name] = LayerWeight(part.parameter, 1)
            columns = self.masks[name].repeat_interleave(part.parameter.shape[1] // group.number)
            masks[part.name] = columns.expand_as(part.parameter).contiguous()
            out = ~self.masks[name]
            if out.any():
                self.left_out += [(made, made.index(out)) for made in group.inputs]
        self.outputs = WeightMasks(weights, masks)

    def share(self, kind: str) -> float:
        """Return the share of unmasked 'heads' or 'neurons'; 1 if no group has this kind."""
        masks = [self.masks[name] for name, group in self.groups.items() if group.kind == kind]
        return (sum(int(mask.sum()) for mask in masks) / sum(map(len, masks))) if masks else 1.

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Context of an optimizer step: masked units keep their input weights, which weight decay
        would shrink, and output weights of zero."""
        with torch.no_grad():
            kept: List[Tuple[Part, Tensor, Tensor]] = [
                (part, index, part.parameter.index_select(part.dim, index))
                for part, index in self.left_out]
        with self.outputs.stepping():
            yield
        with torch.no_grad():
            for part, index, values in kept:
                part.parameter.index_copy_(part.dim, index, values)

    def apply_to_weights(self) -> None:
        self.outputs.apply_to_weights()

    @torch.no_grad()
    def apply_to_moments(self, optimizer: Optimizer) -> None:
        """Zero the entries of masked units in optimizer state tensors of a weight's shape."""
        self.outputs.apply_to_moments(optimizer)
        for part, index in self.left_out:
            for moment in optimizer.state.get(part.parameter, {}).values():
                if torch.is_tensor(moment) and moment.shape == part.parameter.shape:
                    moment.index_fill_(part.dim, index, 0.)

    def apply_to_copy(self, model: nn.Module) -> None:
        """Mask the output weights of the same names in another model."""
        self.outputs.apply_to_copy(model)

    def outside(self) -> Dict[str, int]:
        """Count the nonzero output weights of masked units, by group, for groups that have any."""
        found = self.outputs.outside()
        return {name: found[group.output.name] for name, group in self.groups.items()
                if group.output.name in found}

    def growth(self) -> Dict[str, Tensor]:
        """Return the L1 norm of the gradients of each unit's weights, for groups with a gradient.
        For a masked unit only its output weights have a nonzero gradient."""
        return {name: unit_norms(group.number, (
            (part.parameter.grad, part.dim, part.copies) for part in group.weights
            if part.parameter.grad is not None))
            for name, group in self.groups.items() if group.output.parameter.grad is not None}

    def norms(self, name: str) -> Tensor:
        """Return the (number,) L1 norms of a group's units: the importance of neurons."""
        group = self.groups[name]
        return unit_norms(group.number, ((part.parameter.detach(), part.dim, part.copies)
                                         for part in group.weights))

    def drop_and_grow(self, importance: Mapping[str, Tensor], growth: Mapping[str, Tensor],
                      fraction: float) -> int:
        """Update the masks of the groups with an importance and a nonzero growth. Weights are not
        changed.

        Args:
            importance: (number,) importance of the units, by group.
            growth: (number,) growth scores of the units, by group, see :meth:`growth`.
            fraction: Share of each mask to drop, in [0, 1].

        Returns:
            Number of units that entered a mask.
        """
        moved = 0
        for name in importance.keys() & growth.keys():
            if not growth[name].any():
                continue  # the block did not run, so there is nothing to grow by
            before = self.masks[name]
            self.masks[name] = drop_and_grow_units(importance[name], growth[name], before,
                                                   fraction)
            moved += int((self.masks[name] & ~before).sum())
        self._changed()
        return moved
