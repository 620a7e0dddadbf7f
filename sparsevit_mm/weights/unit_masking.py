"""The heads and neurons of a model in training that exist, and what keeps the others out."""
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
    """Masks of the units whose weights have the largest L1 norm, on the CPU.

    Args:
        groups: By name.
        densities: By kind, 'heads' and 'neurons'.
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
    """Which heads and neurons exist. A unit that does not has output weights of zero and keeps its
    input weights: it adds nothing to the model, and its output weights have a gradient by which it
    may come back.

    Args:
        groups: By name.
        masks: A bool tensor (number,) for each. They go to the weights' device.
    """

    def __init__(self, groups: Groups, masks: Masks):
        self.groups = dict(groups)
        self.masks = {name: masks[name].to(group.output.parameter.device)
                      for name, group in groups.items()}
        self._changed()

    def _changed(self) -> None:
        """What follows from the masks alone: places are found once, since a GPU has to be waited
        for."""
        weights, masks = {}, {}
        self.left_out: List[Tuple[Part, Tensor]] = []  # parts of inputs, places of units not there
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
        """Share of the 'heads' or 'neurons' that exist; 1 if there are none to mask."""
        masks = [self.masks[name] for name, group in self.groups.items() if group.kind == kind]
        return (sum(int(mask.sum()) for mask in masks) / sum(map(len, masks))) if masks else 1.

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Around a step of the optimizer: units that do not exist keep their weights, of inputs
        whatever they are, which weight decay would wear away, of outputs zero."""
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
        """To whatever the optimizer keeps for each value of a unit's weights."""
        self.outputs.apply_to_moments(optimizer)
        for part, index in self.left_out:
            for moment in optimizer.state.get(part.parameter, {}).values():
                if torch.is_tensor(moment) and moment.shape == part.parameter.shape:
                    moment.index_fill_(part.dim, index, 0.)

    def apply_to_copy(self, model: nn.Module) -> None:
        """To the output weights of another model with these names."""
        self.outputs.apply_to_copy(model)

    def outside(self) -> Dict[str, int]:
        """How many output weights of units that do not exist are not zero, where there are some."""
        found = self.outputs.outside()
        return {name: found[group.output.name] for name, group in self.groups.items()
                if group.output.name in found}

    def growth(self) -> Dict[str, Tensor]:
        """L1 norm of the gradients of each unit's weights, of groups that have a gradient. Of a
        unit that does not exist that is the gradient of its output weights."""
        return {name: unit_norms(group.number, (
            (part.parameter.grad, part.dim, part.copies) for part in group.weights
            if part.parameter.grad is not None))
            for name, group in self.groups.items() if group.output.parameter.grad is not None}

    def norms(self, name: str) -> Tensor:
        """(number,), the importance of neurons."""
        group = self.groups[name]
        return unit_norms(group.number, ((part.parameter.detach(), part.dim, part.copies)
                                         for part in group.weights))

    def drop_and_grow(self, importance: Mapping[str, Tensor], growth: Mapping[str, Tensor],
                      fraction: float) -> int:
        """Updates the masks of the groups that have both, and a gradient; weights stay as they are.

        Returns:
            Number of units that exist now and did not before.
        """
        moved = 0
        for name in importance.keys() & growth.keys():
            if not growth[name].any():
                continue  # the block did not run: nothing says what others would be worth
            before = self.masks[name]
            self.masks[name] = drop_and_grow_units(importance[name], growth[name], before,
                                                   fraction)
            moved += int((self.masks[name] & ~before).sum())
        self._changed()
        return moved
