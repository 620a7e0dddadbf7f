"""Turn a backbone with removed heads and neurons into a smaller dense one."""
from itertools import chain
from typing import Dict, List, Mapping, NamedTuple, Optional

import torch
from torch import Tensor, nn

from .blocks import Part, UnitGroup, unit_groups

StateDict = Dict[str, Tensor]


class Compacted(NamedTuple):
    """Weights and widths of a smaller backbone.

    Attributes:
        state: State dict of the smaller backbone.
        block_heads, ffn_widths: Its arguments of these names, one entry per block.
    """
    state: StateDict
    block_heads: List[int]
    ffn_widths: List[int]


def compact(backbone: nn.Module, masks: Optional[Mapping[str, Tensor]] = None) -> Compacted:
    """Remove heads and neurons from the weights of a sparse backbone. The constant output of a
    removed unit (its value bias, or the activation of its bias) is folded into the bias of the
    layer after it.

    Args:
        backbone: Backbone in eval mode. It is not changed.
        masks: Bool masks of the units to keep, by the names of :func:`~.blocks.unit_groups`; groups
            without a mask keep all. By default a unit is removed if its output weights are all
            zero, or its input weights (for a head, the value weights); each group keeps at least
            one unit.

    Raises:
        ValueError: If no unit is to be removed; or, naming the group, if a mask matches no group,
            has the wrong length, keeps no unit, or excludes a unit that contributes to the output.
    """
    groups = unit_groups(backbone)
    if masks is None:
        masks = {name: ~without_effect(group) for name, group in groups.items()}
        for mask in masks.values():
            mask[0] |= not mask.any()
    _check(groups, masks)
    if all(mask.all() for mask in masks.values()):
        raise ValueError(f'no head or neuron of the {len(groups) // 2} blocks can be removed: the '
                         f'model was never trained with structured sparsity')
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    counts: Dict[str, List[int]] = dict(heads=[], neurons=[])
    for name, group in groups.items():
        mask = masks.get(name, torch.ones(group.number, dtype=torch.bool))
        counts[group.kind].append(int(mask.sum()))
        if not mask.all():
            _remove(state, group, mask.cpu())
    return Compacted(state, counts['heads'], counts['neurons'])


def cut(backbone: nn.Module) -> Compacted:
    """Keep only the weights of the heads and neurons that run at the `widths` of a sparse backbone.
    A backbone with these weights has the same output.

    Args:
        backbone: Sparse backbone. It is not changed.

    Raises:
        ValueError: If all heads and neurons run.
    """
    if backbone.widths.is_full:
        raise ValueError('all heads and neurons run: there is nothing to remove')
    numbers = [width for stage in backbone.unit_numbers() for width in stage]
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    for group, count in zip(unit_groups(backbone).values(), chain.from_iterable(numbers)):
        _take(state, group, torch.arange(group.number) < count)
    return Compacted(state, *map(list, zip(*numbers)))


def without_effect(group: UnitGroup) -> Tensor:
    """Return a (number,) bool mask, on the CPU, of the units whose output is constant or unused."""
    silent = _is_zero(group.output, group.number)[0]
    made = next(part for part in group.inputs if part.name.endswith('weight'))
    return silent | _is_zero(made, group.number)[-1]  # the last copy is the value


def _is_zero(part: Part, number: int) -> Tensor:
    """Return a (copies, number) bool mask of the units whose weights are all zero."""
    rows = part.parameter.detach().cpu().movedim(part.dim, 0)
    return ~rows.reshape(part.copies, number, -1).ne(0).any(-1)


def _check(groups: Mapping[str, UnitGroup], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if name not in groups:
            raise ValueError(f'there is no group {name} to mask; the groups are '
                             f'{", ".join(groups)}')
        group = groups[name]
        if mask.shape != (group.number, ):
            raise ValueError(f'{name}: the mask has {mask.numel()} units, but the group has '
                             f'{group.number}')
        if not mask.any():
            raise ValueError(f'{name}: the mask keeps none of {group.number} units, but at least '
                             f'one must remain')
        alive = ~mask.cpu() & ~without_effect(group)
        if alive.any():
            raise ValueError(f'{name}: {int(alive.sum())} of {int((~mask).sum())} masked units '
                             f'contribute to the output: masks and weights are from different '
                             f'trainings')


def _remove(state: StateDict, group: UnitGroup, mask: Tensor) -> None:
    bias = group.output.name[:-len('weight')] + 'bias'
    if bias in state:
        state[bias] += _constant(state, group, mask)
    _take(state, group, mask)


def _take(state: StateDict, group: UnitGroup, mask: Tensor) -> None:
    """Keep only the units of a mask."""
    for part in (group.output, *group.inputs):
        index = part.index(mask).to(state[part.name].device)
        state[part.name] = state[part.name].index_select(part.dim, index)


def _constant(state: StateDict, group: UnitGroup, mask: Tensor) -> Tensor:
    """Return the (C,) constant that removed units add to the output of the layer after them."""
    columns = group.output.index(~mask)
    taken = state[group.output.name].index_select(1, columns).double()
    made = [part for part in group.inputs if part.name.endswith('bias')]
    if not made:
        return torch.zeros_like(taken[:, 0]).to(state[group.output.name].dtype)
    values = state[made[0].name].chunk(made[0].copies)[-1]
    if group.kind == 'neurons':
        values = group.activation(values)
    return (taken @ values[columns].double()).to(state[group.output.name].dtype)
