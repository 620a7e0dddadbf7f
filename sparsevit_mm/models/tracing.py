"""Whether the code runs to be recorded rather than to compute."""
import importlib

import torch


def is_tracing() -> bool:
    """True under torch.compile, torch.export and torch.jit.trace: then code must be functional
    and free of shapes that depend on data."""
    if torch.jit.is_tracing():
        return True
    if hasattr(torch, 'compiler') and hasattr(torch.compiler, 'is_compiling'):
        return torch.compiler.is_compiling()
    return importlib.import_module('torch._dynamo').is_compiling()  # torch 2.0


def constant_when_traced(function):
    """Marks a function that torch.compile runs once instead of tracing it."""
    if hasattr(torch, 'compiler') and hasattr(torch.compiler, 'assume_constant_result'):
        return torch.compiler.assume_constant_result(function)
    return importlib.import_module('torch._dynamo').assume_constant_result(function)  # torch 2.0
