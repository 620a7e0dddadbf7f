"""From parsed arguments to what the package takes, and errors without a stack."""
import argparse
import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import torch
from mmengine.config import Config

from .config.data import input_shape
from .config.reading import open_config
from .cost.latency import LatencySetting


PACKAGE = Path(__file__).resolve().parent
OURS = 'tools', 'demo', 'generators', 'benchmarks'  # folders beside it


@contextmanager
def clear_errors(show_traceback: bool = False) -> Iterator[None]:
    """Ends the program with code 1 and one message where the input is at fault: where this package
    itself raised, or the demo beside it. Errors of other libraries, and those that nobody meant to
    raise, keep their traceback; all do with `show_traceback`."""
    try:
        yield
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        if show_traceback or not _is_meant(error):
            raise
        sys.exit(f'error: {error}')


def _is_meant(error: BaseException) -> bool:
    """Whether a ``raise`` of this package or of its tools made the error."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    file = Path(last.filename).resolve()
    ours = file.is_relative_to(PACKAGE) or file.parent.name in OURS
    return ours and (last.line or '').startswith('raise')


def config_from(args: argparse.Namespace) -> Config:
    """The config of the command line, with its options, work directory and launcher in place."""
    launcher = None
    if 'launcher' in args:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        launcher = args.launcher
    return open_config(args.config, args.cfg_options, args.work_dir, launcher)


def latency_setting(args: argparse.Namespace, cfg: Config) -> LatencySetting:
    """Raises ValueError where the pipeline gives no size and no ``--shape`` stands in."""
    shape = args.shape or input_shape(cfg)
    return LatencySetting(shape, args.batch_size, args.dtype, args.device or default_device(),
                          args.threads, args.execution, args.latency_of or 'backbone')


def default_device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'
