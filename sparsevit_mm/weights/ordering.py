"""Sort heads and neurons by importance, so that a narrower model keeps the first ones."""
from typing import Mapping, Optional

import torch
from torch import Tensor, nn

from .blocks import Part, unit_groups
from .units import unit_norms


@torch.no_grad()
def order_units(backbone: nn.Module, importance: Optional[Mapping[str, Tensor]] = None) -> None:
    """Sort the heads and FFN neurons of each block of a sparse backbone by importance, highest
    first, in place. The output at full width stays the same, up to the rounding of sums. The state
    dict records that the units are sorted.

    Args:
        backbone: Sparse backbone with `attention_blocks`.
        importance: (number,) importance of the units, by the names of
            :func:`~.blocks.unit_groups`. Groups without one are sorted by the L1 norm of their
            weights, like the initial choice of S2ViTE (SViTE, NeurIPS 2021). Ties keep their order.

    Raises:
        ValueError: If the backbone has no such blocks, or an importance names an unknown group, has
            the wrong length or is not finite. The message names the group; nothing is changed.
    """
    groups, orders = unit_groups(backbone), {}
    unknown = sorted(set(importance or {}) - set(groups))
    if unknown:
        raise ValueError(f'there is no group {unknown[0]} to sort; the groups are '
                         f'{", ".join(groups)}')
    for name, group in groups.items():
        values = (importance or {}).get(name)
        if values is None:
            values = unit_norms(group.number, ((part.parameter, part.dim, part.copies)
                                               for part in group.weights))
        if values.shape != (group.number, ):
            raise ValueError(f'{name}: importance has {values.numel()} values for '
                             f'{group.number} units')
        if not values.isfinite().all():
            raise ValueError(f'{name}: importance is not finite')
        orders[name] = values.argsort(descending=True, stable=True)
    for name, group in groups.items():
        for part in (group.output, *group.inputs):
            ordered = part.parameter.index_select(part.dim, _places(part, orders[name]))
            part.parameter.copy_(ordered)
    backbone.unit_order.set()


def _places(part: Part, order: Tensor) -> Tensor:
    """Return the int64 indices along `dim` that reorder a part."""
    order = order.to(part.parameter.device)
    size = part.parameter.shape[part.dim]
    places = torch.arange(size, device=order.device).reshape(part.copies, len(order), -1)
    return places[:, order].flatten()
