"""What the command lines share: mm's arguments, the runner they lead to, errors without a stack."""
import argparse
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

import torch
import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import to_2tuple

from .config.data import step_name
from .config.reading import find_backbone, load_config
from .cost.latency import DTYPES, LatencySetting
from .models import SparseBackbone
from .models.checkpoints import read_checkpoint
from .models.execution import EXECUTIONS


@contextmanager
def clear_errors() -> Iterator[None]:
    """Ends the program with code 1 and one message where the input is at fault."""
    try:
        yield
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        sys.exit(f'error: {error}')


def add_runner_arguments(parser: argparse.ArgumentParser, launcher: bool = True) -> None:
    """The options of mmdet's train.py and test.py that mean the same here."""
    parser.add_argument('--work-dir', help='where logs, checkpoints and results go '
                        '(default: work_dirs/NAME_OF_CONFIG)')
    add_config_options(parser)
    if not launcher:
        return
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='job launcher of a distributed run')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help=argparse.SUPPRESS)  # torch.distributed.launch passes it


def add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings merged into the config, model.backbone.scope=group say')


def add_latency_arguments(parser: argparse.ArgumentParser) -> None:
    """The setting in which latency is measured."""
    group = parser.add_argument_group('latency setting (backbone only)')
    group.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                       help='input in pixels (default: the size of the test pipeline)')
    group.add_argument('--batch-size', type=int, default=1, metavar='B')
    group.add_argument('--dtype', choices=DTYPES, default='fp32')
    group.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    group.add_argument('--execution', choices=EXECUTIONS, default='eager',
                       help='compiled: by torch.compile; captured: as CUDA graphs')
    group.add_argument('--threads', type=int, default=0, help='CPU threads (default: torch\'s)')
    group.add_argument('--rounds', type=int, default=15,
                       help='how often each configuration is run')


def latency_setting(args: argparse.Namespace, cfg: Config) -> LatencySetting:
    """Raises ValueError where the pipeline gives no size and no ``--shape`` stands in."""
    shape = args.shape or test_shape(cfg)
    return LatencySetting(shape, args.batch_size, args.dtype, args.device, args.threads,
                          args.execution)


def test_shape(cfg: Config):
    """(H, W) of the images that the test pipeline makes."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    dataset = loader.get('dataset', {})
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    for step in dataset.get('pipeline', []):
        if step_name(step) == 'Resize' and step.get('scale') is not None:
            width, height = scale = to_2tuple(step['scale'])
            if step.get('keep_ratio'):  # the larger side of `scale` then bounds the longer side
                width, height = max(scale), min(scale)
            return height, width
        if step_name(step) == 'ImageAugmentation':
            return tuple(step['size'])
    raise ValueError('the test pipeline has no Resize of fixed scale: give --shape H W')


def config_from(args: argparse.Namespace) -> Config:
    """The config of the command line, with its options, work directory and launcher in place."""
    cfg = load_config(args.config, args.cfg_options)
    if 'launcher' in args:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        cfg.launcher = args.launcher
    name = Path(args.config.replace('::', '/')).stem
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{name}'
    return cfg


def use_amp(cfg: Config) -> None:
    """Turns on mixed precision as mmdet's ``--amp`` does.

    Raises:
        ValueError: No accelerator: mmengine's AmpOptimWrapper can't do without.
    """
    if not torch.cuda.is_available():
        raise ValueError('mixed precision in training needs CUDA: mmengine\'s AmpOptimWrapper '
                         'refuses the CPU')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def build_backbone(cfg: Config, checkpoint: Optional[str] = None) -> SparseBackbone:
    """The backbone of a config alone, with the weights it has in a checkpoint of the whole model,
    or random ones.

    Raises:
        FileNotFoundError, ValueError: As find_backbone; no checkpoint, or one that does not fit.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    keys, node = find_backbone(cfg), cfg
    for key in keys:
        node = node[int(key)] if isinstance(node, (list, tuple)) else node[key]
    backbone = MODELS.build({**node, 'init_cfg': None})
    if checkpoint is not None:
        _load_part(backbone, checkpoint, '.'.join(map(str, keys[1:])) + '.')
    return backbone


def _load_part(module: torch.nn.Module, path: str, prefix: str) -> None:
    """Loads a module from a checkpoint in which its keys start with `prefix`."""
    checkpoint = read_checkpoint(path)
    state = {re.sub(r'^module\.', '', key): value
             for key, value in checkpoint.get('state_dict', checkpoint).items()}
    state = {key[len(prefix):]: v for key, v in state.items() if key.startswith(prefix)}
    if not state:
        raise ValueError(f'checkpoint {path} holds no key that starts with {prefix}')
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f'checkpoint {path} does not fit: {error}') from None


def build_runner(cfg: Config) -> Runner:
    """The Runner of a config; distributed on CPU too, through gloo."""
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
