"""Where the package leans on parts of libraries that they do not document. Each is named here, with
the versions it was seen to work with; tests/test_compat.py fails by that name if one goes."""
import importlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, Optional, Tuple

import torch
from mmengine.config import Config
from torch import Tensor, nn


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the context an attribute of a class or module is another."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


# mmengine 0.10.7

def is_lazy_config(path: str) -> bool:
    """Whether a config file is one of new style, which imports what it is based on."""
    return Config._is_lazy_import(path)


def base_files(path: str) -> Iterator[str]:
    """The files that a config file of old style names as its bases."""
    for base in Config._get_base_files(path):
        yield Config._get_cfg_path(base, str(Path(path).absolute()))[0]


def val_loop_is(runner, loop) -> ContextManager:
    """Within the context a Runner's val loop is another: hooks ask the runner for it."""
    return replaced(runner, '_val_loop', loop)


def is_resuming(runner) -> bool:
    """Whether a Runner goes on with a training, rather than loads weights."""
    return runner._resume


def run_forward(model: nn.Module, data: Dict, mode: str):
    """A BaseModel's forward on preprocessed data, a dict or a tuple."""
    return model._run_forward(data, mode=mode)


def accumulative_counts(optim_wrapper) -> int:
    """Batches whose gradients an OptimWrapper adds up for a step."""
    return optim_wrapper._accumulative_counts


# Optuna 5.0.0. Beside these, NestedSampler overrides two methods of NSGAIISampler and calls one.

GA_METHODS = 'get_population', 'get_parent_population', 'select_parent'


def trial_id(trial) -> int:
    """A Trial's key in its storage."""
    return trial._trial_id


def lock_file(lock) -> str:
    """Path of the file that a JournalFileOpenLock makes."""
    return lock._lock_file


# torch 2.0.1 to 2.13.0

def timer() -> float:
    """Seconds, after waiting for the accelerator if there is one."""
    return importlib.import_module('torch.utils.benchmark.utils.timer').timer()


def torch_threads(number: int) -> ContextManager:
    """Within the context torch uses so many CPU threads."""
    common = importlib.import_module('torch.utils.benchmark.utils.common')
    return common.set_torch_threads(number)


def is_hooked(module: nn.Module) -> bool:
    """Whether a module, or a module within it, has forward hooks."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def forward_pre_hooks(module: nn.Module) -> Tuple[Callable, ...]:
    return tuple(module._forward_pre_hooks.values())


def gelu_(x: Tensor, approximate: str) -> Tensor:
    """GELU in place."""
    return torch._C._nn.gelu_(x, approximate=approximate)


def autocast_dtype(device_type: str) -> Optional[torch.dtype]:
    """The dtype of autocast, None where it is off."""
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4
        enabled = torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if enabled else None
    if device_type == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def is_compiling() -> bool:
    """Whether torch.compile or torch.export traces this."""
    if hasattr(torch, 'compiler') and hasattr(torch.compiler, 'is_compiling'):
        return torch.compiler.is_compiling()
    return importlib.import_module('torch._dynamo').is_compiling()  # torch 2.0


def assume_constant_result(function: Callable) -> Callable:
    """Marks a function that torch.compile runs once instead of tracing it."""
    if hasattr(torch, 'compiler') and hasattr(torch.compiler, 'assume_constant_result'):
        return torch.compiler.assume_constant_result(function)
    return importlib.import_module('torch._dynamo').assume_constant_result(function)  # torch 2.0
