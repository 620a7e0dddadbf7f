"""Read checkpoints safely, and check whether they fit a model."""
import importlib
import pickle
import re
import warnings
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import digit_version
from torch import nn


_BACKBONE = re.compile(r'^(img_)?backbone\.')  # in a detector's checkpoint


def _public_history_method(owner, name: str):
    """Replacement for ``builtins.getattr`` while a checkpoint is unpickled. mmengine pickles
    methods of HistoryBuffer through it; any other access is refused."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed in a checkpoint')
    return getattr(owner, name)


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)``, the default since torch 2.6, read what mmengine 0.10
    saves along with the weights: the HistoryBuffer and numpy values of its message hub.

    Only classes that cannot run code are added to torch's allow-list. The check stays enabled.
    """
    if digit_version(torch.__version__) < digit_version('2.6.0'):
        return
    allowed = [HistoryBuffer, np.ndarray, np.dtype, (_public_history_method, 'builtins.getattr')]
    allowed += [type(np.dtype(kind)) for kind in ('f2', 'f4', 'f8', 'i4', 'i8', 'u1', 'b1')]
    core = importlib.import_module(
        'numpy._core.multiarray' if hasattr(np, '_core') and np.__version__ >= '2' else
        'numpy.core.multiarray')
    for package in ('numpy.core', 'numpy._core'):  # to read files of numpy 1 and 2
        allowed += [(getattr(core, name), f'{package}.multiarray.{name}')
                    for name in ('_reconstruct', 'scalar')]
    torch.serialization.add_safe_globals(allowed)


def read_checkpoint(path: str) -> dict:
    """Load a checkpoint onto the CPU.

    Raises:
        FileNotFoundError: If the file or URL does not exist or cannot be read.
        ValueError: If it is not a checkpoint, or contains classes that ``weights_only`` refuses.
    """
    if '://' not in path and not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        reason = (f'it holds {refused.group(1)}, a class that could run code when loaded'
                  if refused else str(error).splitlines()[-1])
        raise ValueError(f'checkpoint {path} is refused: {reason}') from None
    except OSError as error:  # includes URLError
        raise FileNotFoundError(f'checkpoint {path} cannot be read ({error}): use a local '
                                f'file') from None
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f'checkpoint {path} is corrupt: {error}') from None
    held = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(held, dict):
        raise ValueError(f'checkpoint {path} contains no state dict, but a {type(held).__name__}')
    return checkpoint


def check_init_cfg(init_cfg: Optional[dict], others: bool = False) -> None:
    """Check that the ``init_cfg`` of a backbone is supported.

    Args:
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=FILE_OR_URL)``, optionally with a
            `prefix`.
        others: Whether other types, which mmengine handles, are allowed too.

    Raises:
        ValueError: If it is not supported.
    """
    if init_cfg is None:
        return
    kind = init_cfg.get('type') if isinstance(init_cfg, dict) else None
    if kind not in ('Pretrained', 'Pretrained_Part'):
        if others:
            return
        raise ValueError(f'init_cfg {init_cfg} is not supported: use None or '
                         f'dict(type="Pretrained", checkpoint=FILE)')
    if not isinstance(init_cfg.get('checkpoint'), str):
        raise ValueError(f'init_cfg {init_cfg} has no checkpoint (a file or URL)')
    unknown = sorted(set(init_cfg) - {'type', 'checkpoint', 'prefix', 'map_location', '_scope_'})
    if unknown:
        raise ValueError(f'init_cfg {init_cfg}: unsupported keys {", ".join(unknown)}')


def with_pretrained(init_cfg: Optional[dict], pretrained: Optional[str]) -> Optional[dict]:
    """Return the `init_cfg` that the deprecated argument `pretrained` of a backbone stands for.

    Raises:
        ValueError: If both are given.
    """
    if pretrained is None:
        return init_cfg
    if init_cfg is not None:
        raise ValueError('pretrained and init_cfg are mutually exclusive')
    warnings.warn('pretrained is deprecated, use init_cfg=dict(type="Pretrained", checkpoint=...)',
                  DeprecationWarning, stacklevel=3)
    return dict(type='Pretrained', checkpoint=pretrained)


def read_pretrained(source: str, prefix: Optional[str] = None) -> Dict[str, torch.Tensor]:
    """Load pretrained weights of a backbone.

    Args:
        source: File or URL. The weights may be at the top level or under `state_dict` or `model`.
        prefix: Prefix of the keys to take, which is removed. By default ``backbone.`` or
            ``img_backbone.`` if any key has it, else all keys are taken.

    Raises:
        FileNotFoundError: If `source` cannot be read. The message says how to give a local file.
        ValueError: If it is not a checkpoint, or no key has the prefix.
    """
    try:
        checkpoint = read_checkpoint(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'cannot load pretrained weights: {error}. Use a local file: '
            f'init_cfg=dict(type="Pretrained", checkpoint="/path/to/file.pth"), on the command '
            f'line --cfg-options model.backbone.init_cfg.checkpoint=/path/to/file') from error
    state = checkpoint.get('state_dict', checkpoint.get('model', checkpoint))
    state = {re.sub(r'^module\.', '', k): v for k, v in state.items()}
    if prefix:
        start = prefix.rstrip('.') + '.'
        own = {k[len(start):]: v for k, v in state.items() if k.startswith(start)}
        if not own:
            raise ValueError(f'{source} has no keys with the prefix {prefix!r}; its first keys: '
                             f'{", ".join(list(state)[:3])}')
        return own
    own = {_BACKBONE.sub('', k): v for k, v in state.items() if _BACKBONE.match(k)}
    return own or state


def fingerprint(module: nn.Module, size: int = 16) -> List[float]:
    """Return the mean absolute values of up to `size` parameters, spread over the module.

    This tells the weights of two trainings apart, regardless of device and dtype.
    """
    parameters = [p for p in module.parameters() if p.numel() > 1]
    chosen = parameters[::-(-len(parameters) // size) or 1]
    return [float(p.detach().float().abs().mean()) for p in chosen]


def same_weights(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two fingerprints stem from the same weights, up to the rounding of a cast to bf16."""
    return len(one) == len(other) and np.allclose(one, other, rtol=2e-3, atol=1e-6)


# Keys that adaptation adds: heads of trained scores, the update of skipped windows, the score of
# the adaptation, whether units are ordered. Dense checkpoints lack them, and the backbone checks
# them itself when it loads a state dict.
OF_ADAPTATION = re.compile(
    r'(^|\.)(stages\.\d+\.(importance\.weight|blocks\.\d+\.bypass\.\w+)|'
    r'selector\.weight|adapted_to\.importance|unit_order\.by_importance)$')


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers such as DDP or test-time augmentation, into which mmengine
    loads a checkpoint."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def rename(backbone: nn.Module, state: Dict[str, torch.Tensor], prefix: str) -> None:
    """Rename the keys of a backbone in a state dict to the backbone's own names.

    Args:
        backbone: A module with an `own_names` method.
        state: State dict of the whole model, changed in place.
        prefix: Prefix of the backbone's keys, including the dot.
    """
    theirs = {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)}
    ours = backbone.own_names(theirs)
    if ours is not theirs:
        for key in theirs:
            del state[prefix + key]
        state.update({prefix + key: value for key, value in ours.items()})


def check_fits(model: nn.Module, path: str) -> None:
    """Check that a checkpoint file holds exactly the parameters and buffers of a model. Keys that
    adaptation adds are optional.

    mmengine itself loads a checkpoint that does not fit without raising an error.

    Raises:
        FileNotFoundError: See :func:`read_checkpoint`.
        ValueError: See :func:`read_checkpoint`; also if the file does not fit. The message lists
            missing and unexpected keys, and keys with another shape.
    """
    model, checkpoint = unwrapped(model), read_checkpoint(path)
    state: Dict[str, torch.Tensor] = checkpoint.get('state_dict', checkpoint)
    state = {re.sub(r'^module\.', '', k): v for k, v in state.items()}
    for name, module in model.named_modules():
        if hasattr(module, 'own_names'):
            rename(module, state, f'{name}.' if name else '')
    current = model.state_dict()
    problems = {
        'missing': sorted(k for k in current.keys() - state.keys() if not OF_ADAPTATION.search(k)),
        'unexpected': sorted(
            k for k in state.keys() - current.keys() if not OF_ADAPTATION.search(k)),
        'of another shape': [
            f'{k}: {tuple(state[k].shape)} in the file, {tuple(v.shape)} in the model'
            for k, v in current.items() if k in state and state[k].shape != v.shape
        ],
    }
    if any(problems.values()):
        raise ValueError(f'checkpoint {path} does not fit {type(model).__name__}:' +
                         ''.join(f'\n  {what}: {", ".join(keys)}'
                                 for what, keys in problems.items() if keys))
