"""Whether the heads and neurons of a backbone stand in the order of their importance: it travels in
the state dict."""
from typing import Mapping

import torch
from torch import nn

TOOL = 'tools/order_units.py CONFIG CHECKPOINT'
KEY = 'by_importance'


class UnitOrder(nn.Module):
    """Set by :func:`~sparsevit_mm.weights.order_units`. The state dict holds it only where it is
    so: dense checkpoints load strictly."""

    def __init__(self):
        super().__init__()
        self.register_buffer('by_importance', torch.zeros((), dtype=torch.bool), persistent=False)

    def __bool__(self) -> bool:
        return bool(self.by_importance)

    def set(self) -> None:
        self.by_importance.fill_(True)

    def require(self, what: str) -> None:
        """Raises ValueError, which begins with `what`, unless the units are in order."""
        if not self:
            _refuse(what)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self:
            destination[f'{prefix}{KEY}'] = self.by_importance.detach().clone()

    def _load_from_state_dict(self, state_dict, prefix, *_):
        held = state_dict.get(f'{prefix}{KEY}')
        self.by_importance.fill_(held is not None and bool(held))


def require_order(state_dict: Mapping, what: str) -> None:
    """As :meth:`UnitOrder.require`, of weights that no model has loaded yet."""
    if not any(key.endswith(f'unit_order.{KEY}') for key in state_dict):
        _refuse(what)


def _refuse(what: str) -> None:
    raise ValueError(f'{what}: the heads and neurons of the checkpoint are in no order, so that '
                     f'the first are not the most important ones; order them once: '
                     f'python {TOOL} -o NEW.pth')
