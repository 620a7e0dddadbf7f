"""Fit the heads of the learned score to a dense or adapted checkpoint: importance='learned' then
ranks windows by how much running them is worth to the model.

Runs the model dense on some images of its training data and fits one linear head per stage in
closed form: no training, and it takes minutes. Writes a new checkpoint that differs only in the
heads. If the config has a dense Swin, the sparse backbone replaces it automatically.
"""
import argparse
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

from rich.console import Console
from rich.progress import (BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn,
                           TimeRemainingColumn)
from rich.table import Table

from arguments import TARGETS, add_device, add_model_arguments, add_runner_arguments, make_parser

WORTH = dict(gradient='the gradient times the update', update='the update')


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument('--num-images', type=int, default=200, metavar='N',
                        help='number of training images; every fifth is held out to evaluate the '
                        'fit (default: 200)')
    parser.add_argument('--targets', choices=TARGETS,
                        help='gradient: how much the update of a token is worth to the loss; '
                        'update: its size, which needs no ground truth and may use the images of '
                        'val (default: gradient if the loss can be computed, else update)')
    parser.add_argument('--out', type=Path, metavar='FILE',
                        help='checkpoint to write (default: NAME_learned.pth in the work '
                        'directory)')
    parser.add_argument('--overwrite', action='store_true', help='replace --out if it exists')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed that selects the N images (default: 0)')
    add_device(parser)
    add_runner_arguments(parser, launcher=False)
    return parser.parse_args()


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that takes the number of finished batches and the total.

    The bar appears at the first call.
    """
    columns = (TextColumn('fit'), BarColumn(), MofNCompleteColumn(), TextColumn('batches'),
               TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task('')

    def tell(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield tell
    finally:
        if progress.live.is_started:
            progress.stop()


def show(fit) -> None:
    from sparsevit_mm.evaluation.scores.fit import StageFit
    print(f'fitted to {fit.fitted} images of {fit.split}; mean rank correlation with '
          f'{WORTH[fit.targets]} over the windows of an image, on {fit.held_out} held out images:')
    table = Table()
    for column in ('stage', *StageFit._fields):
        table.add_column(column, justify='right')
    for i, (images, *figures) in enumerate(fit.stages):
        table.add_row(f'{i}', f'{images}', *('-' if figure is None else f'{figure:.2f}'
                                             for figure in figures))
    Console().print(table)
    unfit = [str(i) for i, stage in enumerate(fit.stages) if not stage.images]
    if unfit:
        print(f'no image was usable for stage {", ".join(unfit)}, which ranks as variation does')


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors, config_from, default_device
    from sparsevit_mm.config.reading import find_backbone
    from sparsevit_mm.config.swap import ensure_sparse
    from sparsevit_mm.evaluation.scores.fit import fit_checkpoint
    args.device = args.device or default_device()
    with clear_errors(args.traceback):
        config = ensure_sparse(args.config, Path(args.work_dir or 'work_dirs'))
        if config != args.config:
            print(f'{config} replaces the dense Swin of {args.config} by the sparse backbone')
        args.config = config
        cfg = config_from(args)
        out = args.out or Path(cfg.work_dir) / f'{Path(args.checkpoint).stem}_learned.pth'
        with progress_bar() as on_batch:
            fit = fit_checkpoint(cfg, args.checkpoint, out, args.num_images, args.targets,
                                 args.device, args.seed, args.overwrite, on_batch=on_batch)
    show(fit)
    key = '.'.join(find_backbone(cfg))
    print(f'wrote {out}')
    print(f'to use it: python tools/test.py {config} {out} --sparsity 0.5 --cfg-options '
          f"{key}.importance=learned (or set importance='learned' in {key} of the config)")


if __name__ == '__main__':
    main()
