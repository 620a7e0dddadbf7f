"""Detect whether the code is being traced."""
import torch

from ..compat import is_compiling


def is_tracing() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace is tracing the code, which must then
    be functional and free of data-dependent shapes."""
    return torch.jit.is_tracing() or is_compiling()
