"""Heads and neurons in the order of their importance, so that the first are the best to keep."""
from typing import Mapping, Optional

import torch
from torch import Tensor, nn

from .blocks import Part, unit_groups
from .units import unit_norms


@torch.no_grad()
def order_units(backbone: nn.Module, importance: Optional[Mapping[str, Tensor]] = None) -> None:
    """Puts the heads and FFN neurons of each block of a sparse backbone in order, the most
    important first, in place. What the backbone gives at full width stays the same, up to the
    rounding of sums. Its state dict says from then on that they are in order.

    Args:
        backbone: With `attention_blocks`.
        importance: (number,) of units by the names of :func:`~.blocks.unit_groups`. Groups without
            one go by the L1 norm of their weights, as those of S2ViTE (SViTE, NeurIPS 2021) begin.
            Of equal ones the first stays first.

    Raises:
        ValueError: The backbone has no such blocks; an importance of another group or number, or
            one that is not finite. Names the group; nothing is changed then.
    """
    groups, orders = unit_groups(backbone), {}
    unknown = sorted(set(importance or {}) - set(groups))
    if unknown:
        raise ValueError(f'no block has the {unknown[0]}; there are {", ".join(groups)}')
    for name, group in groups.items():
        values = (importance or {}).get(name)
        if values is None:
            values = unit_norms(group.number, ((part.parameter, part.dim, part.copies)
                                               for part in group.weights))
        if values.shape != (group.number, ):
            raise ValueError(f'{name}: importance of {values.numel()} units, there are '
                             f'{group.number}')
        if not values.isfinite().all():
            raise ValueError(f'{name}: importance is not finite')
        orders[name] = values.argsort(descending=True, stable=True)
    for name, group in groups.items():
        for part in (group.output, *group.inputs):
            ordered = part.parameter.index_select(part.dim, _places(part, orders[name]))
            part.parameter.copy_(ordered)
    backbone.unit_order.set()


def _places(part: Part, order: Tensor) -> Tensor:
    """int64, where along `dim` what comes first, second, ... lies now."""
    order = order.to(part.parameter.device)
    size = part.parameter.shape[part.dim]
    places = torch.arange(size, device=order.device).reshape(part.copies, len(order), -1)
    return places[:, order].flatten()
