"""Flag in the state dict for whether the heads and neurons of a backbone are sorted by
importance."""
from typing import Mapping

import torch
from torch import nn

TOOL = 'tools/order_units.py CONFIG CHECKPOINT'
KEY = 'by_importance'


class UnitOrder(nn.Module):
    """Flag for whether units are sorted, set by :func:`~sparsevit_mm.weights.order_units`.

    The state dict contains it only if it is true, so that dense checkpoints load strictly.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer('by_importance', torch.zeros((), dtype=torch.bool), persistent=False)

    def __bool__(self) -> bool:
        return bool(self.by_importance)

    def set(self) -> None:
        self.by_importance.fill_(True)

    def require(self, what: str) -> None:
        """Check that the units are sorted.

        Raises:
            ValueError: If they are not. The message begins with `what`.
        """
        if not self:
            _refuse(what)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self:
            destination[f'{prefix}{KEY}'] = self.by_importance.detach().clone()

    def _load_from_state_dict(self, state_dict, prefix, *_):
        held = state_dict.get(f'{prefix}{KEY}')
        self.by_importance.fill_(held is not None and bool(held))


def require_order(state_dict: Mapping, what: str) -> None:
    """Check a state dict that is not loaded yet, see :meth:`UnitOrder.require`."""
    if not any(key.endswith(f'unit_order.{KEY}') for key in state_dict):
        _refuse(what)


def _refuse(what: str) -> None:
    raise ValueError(f'{what}: the heads and neurons of the checkpoint are not sorted by '
                     f'importance, so the first are not the most important ones; sort them once: '
                     f'python {TOOL} -o NEW.pth')
