"""Build the Runner of a config, or its sparse backbone alone."""
import re
from typing import Optional

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from mmengine.runner import Runner

from ..models import SparseBackbone
from ..models.checkpoints import read_checkpoint
from .reading import find_backbone, node_at


def build_runner(cfg: Config) -> Runner:
    """Build the Runner of a config. On CPU, distributed runs use gloo."""
    if cfg.get('launcher') == 'pytorch' and not torch.cuda.is_available():
        # mmengine 0.10 sets a CUDA device for any backend, and its default wrapper names one.
        if not dist.is_initialized():
            dist.init_process_group('gloo')
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def use_amp(cfg: Config) -> None:
    """Enable mixed precision as mmdet's ``--amp`` does.

    Raises:
        ValueError: If there is no CUDA device, which mmengine's AmpOptimWrapper requires.
    """
    if not torch.cuda.is_available():
        raise ValueError('mixed precision in training needs CUDA: mmengine\'s AmpOptimWrapper '
                         'does not support the CPU')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def build_backbone(cfg: Config, checkpoint: Optional[str] = None) -> SparseBackbone:
    """Build only the backbone of a config, with its weights in a checkpoint of the whole model, or
    random ones.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint does not fit; see also :func:`~.reading.find_backbone`.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    keys = find_backbone(cfg)
    backbone = MODELS.build({**node_at(cfg, keys), 'init_cfg': None})
    if checkpoint is not None:
        # Checkpoint keys never include a wrapper of the model, as for test-time augmentation.
        prefix = re.sub(r'^(module\.)+', '', '.'.join(map(str, keys[1:])) + '.')
        _load_part(backbone, checkpoint, prefix)
    return backbone


def _load_part(module: torch.nn.Module, path: str, prefix: str) -> None:
    """Load a module from the keys of a checkpoint that start with `prefix`."""
    checkpoint = read_checkpoint(path)
    state = {re.sub(r'^module\.', '', key): value
             for key, value in checkpoint.get('state_dict', checkpoint).items()}
    state = {key[len(prefix):]: v for key, v in state.items() if key.startswith(prefix)}
    if not state:
        raise ValueError(f'checkpoint {path} has no key that starts with {prefix}')
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f'checkpoint {path} does not fit: {error}') from None
