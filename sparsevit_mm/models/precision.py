"""Run a whole model in half precision at test time."""
from contextlib import contextmanager
from typing import Any, Iterator

import torch
from torch import Tensor, nn

from .interface import get_sparse_backbone


@contextmanager
def half_precision(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Context manager that runs the model's forward under autocast, as the toolkits do.

    On the CPU only the sparse backbone runs under autocast, and its feature maps are cast to fp32,
    because mmcv's operators, such as NMS, support no other dtype there.

    Args:
        model: Model with a sparse backbone, not wrapped.
        dtype: fp16 or bf16; fp32 leaves the model unchanged.
    """
    if dtype == torch.float32:
        yield
        return
    device = next(model.parameters()).device.type
    module = get_sparse_backbone(model) if device == 'cpu' else model
    forward = torch.autocast(device, dtype)(module.forward)
    # mmengine's loops run the model under an autocast that is disabled by default, so ours must be
    # opened inside it.
    module.forward = forward if module is model else lambda *args: _as_fp32(forward(*args))
    try:
        yield
    finally:
        del module.forward


def _as_fp32(features: Any) -> Any:
    """Cast a feature map, or nested sequences of them, to fp32."""
    if isinstance(features, Tensor):
        return features.float()
    return type(features)(map(_as_fp32, features))
