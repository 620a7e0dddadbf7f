"""Half precision of a whole model at test time."""
from contextlib import contextmanager
from typing import Any, Iterator

import torch
from torch import Tensor, nn

from .interface import get_sparse_backbone


@contextmanager
def half_precision(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within the context the model's forward runs under autocast, as the toolkits run it. On the
    CPU only the sparse backbone's does, and its feature maps come out in fp32: mmcv's operators,
    NMS among them, take nothing else there.

    Args:
        model: With a sparse backbone, not wrapped.
        dtype: fp16 or bf16; with fp32 the model runs as it is.
    """
    if dtype == torch.float32:
        yield
        return
    device = next(model.parameters()).device.type
    module = get_sparse_backbone(model) if device == 'cpu' else model
    forward = torch.autocast(device, dtype)(module.forward)
    # mmengine's loops open an autocast of their own, off by default, around the whole model: only
    # one that is opened within it counts.
    module.forward = forward if module is model else lambda *args: _as_fp32(forward(*args))
    try:
        yield
    finally:
        del module.forward


def _as_fp32(features: Any) -> Any:
    """Feature maps, in whatever tuples they come."""
    if isinstance(features, Tensor):
        return features.float()
    return type(features)(map(_as_fp32, features))
