"""Whether the code runs to be recorded rather than to compute."""
import torch

from ..compat import is_compiling


def is_tracing() -> bool:
    """True under torch.compile, torch.export and torch.jit.trace: then code must be functional
    and free of shapes that depend on data."""
    return torch.jit.is_tracing() or is_compiling()
