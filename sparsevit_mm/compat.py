"""Undocumented parts of libraries that the package relies on, each with the versions that it was
tested with. If one disappears, a test in tests/test_compat.py that is named after it fails.
"""
import importlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, Optional, Tuple

import torch
from mmengine.config import Config
from torch import Tensor, nn


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of an object within the context."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


# mmengine 0.10.7

def is_lazy_config(path: str) -> bool:
    """Whether a config file is new-style, which imports its bases."""
    return Config._is_lazy_import(path)


def base_files(path: str) -> Iterator[str]:
    """Yield the paths of the base files that an old-style config file names."""
    for base in Config._get_base_files(path):
        yield Config._get_cfg_path(base, str(Path(path).absolute()))[0]


def val_loop_is(runner, loop) -> ContextManager:
    """Replace the val loop of a Runner, where hooks look it up, within the context."""
    return replaced(runner, '_val_loop', loop)


def is_resuming(runner) -> bool:
    """Whether a Runner resumes training rather than only loading weights."""
    return runner._resume


def run_forward(model: nn.Module, data: Dict, mode: str):
    """Run the forward of a BaseModel on preprocessed data, a dict or a tuple."""
    return model._run_forward(data, mode=mode)


def accumulative_counts(optim_wrapper) -> int:
    """Return the number of batches whose gradients an OptimWrapper accumulates per step."""
    return optim_wrapper._accumulative_counts


# Optuna 5.0.0. NestedSampler overrides the first two of these methods of NSGAIISampler, and calls
# the third.

GA_METHODS = 'get_population', 'get_parent_population', 'select_parent'


def trial_id(trial) -> int:
    """Return the key of a Trial in its storage."""
    return trial._trial_id


def lock_file(lock) -> str:
    """Return the path of the file that a JournalFileOpenLock creates."""
    return lock._lock_file


# torch 2.0.1 to 2.13.0

def timer() -> float:
    """Return the time in seconds, after synchronizing with the accelerator if there is one."""
    return importlib.import_module('torch.utils.benchmark.utils.timer').timer()


def torch_threads(number: int) -> ContextManager:
    """Set the number of CPU threads of torch within the context."""
    common = importlib.import_module('torch.utils.benchmark.utils.common')
    return common.set_torch_threads(number)


def is_hooked(module: nn.Module) -> bool:
    """Whether a module or any of its submodules has forward or forward pre-hooks."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def forward_pre_hooks(module: nn.Module) -> Tuple[Callable, ...]:
    return tuple(module._forward_pre_hooks.values())


def gelu_(x: Tensor, approximate: str) -> Tensor:
    """Apply GELU in place."""
    return torch._C._nn.gelu_(x, approximate=approximate)


def autocast_dtype(device_type: str) -> Optional[torch.dtype]:
    """Return the dtype of autocast, or None if it is off."""
    if hasattr(torch, 'get_autocast_dtype'):  # since torch 2.4
        enabled = torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if enabled else None
    if device_type == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def is_compiling() -> bool:
    """Whether torch.compile or torch.export is tracing the code."""
    if hasattr(torch, 'compiler') and hasattr(torch.compiler, 'is_compiling'):
        return torch.compiler.is_compiling()
    return importlib.import_module('torch._dynamo').is_compiling()  # torch 2.0


def assume_constant_result(function: Callable) -> Callable:
    """Mark a function whose result torch.compile treats as a constant: it runs once and is not
    traced.
    """
    if hasattr(torch, 'compiler') and hasattr(torch.compiler, 'assume_constant_result'):
        return torch.compiler.assume_constant_result(function)
    return importlib.import_module('torch._dynamo').assume_constant_result(function)  # torch 2.0
