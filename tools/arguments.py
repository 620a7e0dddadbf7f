"""Command-line options shared by the tools.

Parsers are built before any slow import, so that --help answers at once. The choices below are
copies; tests/tools/test_help.py compares them with the package.
"""
import argparse

DTYPES = 'fp32', 'fp16', 'bf16'
LATENCY_OF = 'backbone', 'model'
EXECUTIONS = 'eager', 'compiled', 'captured'
SCOPES = 'image', 'group'
SAMPLERS = 'nsga2', 'tpe', 'random', 'published'
POINTS = '90%', '80%', '70%', '60%', '50%'
TARGETS = 'gradient', 'update'
IMPORTANCES = 'l1', 'taylor'
SAMPLES, SPARSITIES = 100, (.5, .7)


class DictAction(argparse.Action):
    """mmengine's DictAction, imported when the option is used."""

    def __call__(self, parser, namespace, values, option_string=None):
        from mmengine.config import DictAction as MMEngineAction
        MMEngineAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def make_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--traceback', action='store_true',
                        help='show the traceback of an error in the input')
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='config file, or mmdet::path/in/the/toolkit.py')
    parser.add_argument('checkpoint', help='checkpoint file of the whole model')


def add_runner_arguments(parser: argparse.ArgumentParser, launcher: bool = True) -> None:
    """Add the options that work as in mmdet's train.py and test.py."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and results '
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
                        help='settings to merge into the config, such as '
                        'model.backbone.scope=group')


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--device', help='torch device (default: cuda if available, else cpu)')


def add_latency_arguments(parser: argparse.ArgumentParser,
                          of: str = 'backbone') -> None:
    """Add the options of the latency setting.

    Args:
        of: Default of --latency-of, as the help text states it.
    """
    group = parser.add_argument_group('latency setting')
    group.add_argument('--latency-of', choices=LATENCY_OF, help='what to time; the whole model '
                       f'runs on images of val, and loading them is not timed (default: {of})')
    group.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                       help='input in pixels (default: the size of the test pipeline)')
    group.add_argument('--batch-size', type=int, default=1, metavar='B')
    group.add_argument('--dtype', choices=DTYPES, default='fp32')
    add_device(group)
    group.add_argument('--execution', choices=EXECUTIONS, default='eager',
                       help='compiled: with torch.compile; captured: with CUDA graphs')
    group.add_argument('--threads', type=int, default=0, help='CPU threads (default: torch\'s)')
    group.add_argument('--rounds', type=int, default=15,
                       help='number of runs of each configuration')
