"""Turn command-line arguments into configs and settings, and errors into short messages."""
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
OURS = 'tools', 'demo', 'generators', 'benchmarks'  # script folders beside the package


@contextmanager
def clear_errors(show_traceback: bool = False) -> Iterator[None]:
    """Exit with code 1 and a message instead of a traceback if the input is at fault.

    This applies to a ValueError, FileNotFoundError or FileExistsError raised by this package or
    the scripts beside it. Errors of other libraries and unexpected errors keep their traceback, as
    do all errors if `show_traceback` is true.
    """
    try:
        yield
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        if show_traceback or not _is_meant(error):
            raise
        sys.exit(f'error: {error}')


def _is_meant(error: BaseException) -> bool:
    """Whether a ``raise`` statement of this package or its scripts made the error."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    file = Path(last.filename).resolve()
    ours = file.is_relative_to(PACKAGE) or file.parent.name in OURS
    return ours and (last.line or '').startswith('raise')


def config_from(args: argparse.Namespace) -> Config:
    """Load the config named on the command line, and apply its options, work directory and
    launcher.
    """
    launcher = None
    if 'launcher' in args:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        launcher = args.launcher
    return open_config(args.config, args.cfg_options, args.work_dir, launcher)


def latency_setting(args: argparse.Namespace, cfg: Config) -> LatencySetting:
    """Return the latency setting given on the command line.

    Raises:
        ValueError: If the test pipeline has no fixed image size and ``--shape`` is not given.
    """
    shape = args.shape or input_shape(cfg)
    return LatencySetting(shape, args.batch_size, args.dtype, args.device or default_device(),
                          args.threads, args.execution, args.latency_of or 'backbone')


def default_device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'
