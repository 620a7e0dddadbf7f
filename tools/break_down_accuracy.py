"""Show where sparsity costs accuracy: compare a checkpoint dense and sparse, by class and by object
size, and report the share of the area of each that the sparse backbone ran.

Uses the config's own data and evaluator, which must be CocoMetric or IoUMetric.
"""
import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from arguments import add_model_arguments, add_runner_arguments, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument('--sparsity', nargs='+', metavar='S',
                        help='configurations to compare with dense, each in the format of test.py '
                        '(default: that of the config)')
    parser.add_argument('--split', choices=('test', 'val'), default='test',
                        help='val: the images that a search evaluates on')
    parser.add_argument('--num-samples', type=int, metavar='N', help='use only N images')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed that selects the N images (default: 0)')
    add_runner_arguments(parser, launcher=False)
    return parser.parse_args()


def prepare(args: argparse.Namespace):
    """Check the input and return the config and the configurations to compare with dense."""
    from sparsevit_mm.cli import config_from
    from sparsevit_mm.config.building import build_backbone
    from sparsevit_mm.config.data import check_data
    from sparsevit_mm.config.labels import check_labels
    from sparsevit_mm.evaluation.subset import restrict_to_subset
    from sparsevit_mm.visualization.breakdown import scored_by
    cfg = config_from(args)
    check_data(cfg, args.split)
    check_labels(cfg, args.split)
    scored_by(cfg, args.split)
    backbone = build_backbone(cfg)
    if args.sparsity is None and backbone.sparsity.is_dense:
        raise ValueError(f'{args.config} is dense: give --sparsity')
    configs = [backbone.space.config(s) for s in args.sparsity or [backbone.sparsity]]
    if args.num_samples is not None:
        restrict_to_subset(cfg, args.split, args.num_samples, args.seed, cfg.work_dir)
    return cfg, list(dict.fromkeys(configs))


def to_table(breakdown, title: str) -> Table:
    """Format a breakdown; each sparse figure shows its difference from dense in brackets."""
    table = Table(title=title, title_justify='left', box=SIMPLE_HEAD, pad_edge=False)
    table.add_column('', no_wrap=True)
    table.add_column(breakdown.rows[0].unit, justify='right')
    for name in breakdown.metrics:
        for label in breakdown.labels:
            table.add_column(f'{name}\n{label}', justify='right')
    for label in breakdown.labels[1:]:
        table.add_column(f'share run\n{label}', justify='right')
    for previous, row in zip([breakdown.rows[0], *breakdown.rows], breakdown.rows):
        if row.group != previous.group:
            table.add_section()
        count = f'{row.count:,}' if row.unit == breakdown.rows[0].unit else (
            f'{row.count:,} {row.unit}')
        cells = []
        for name in breakdown.metrics:
            dense, *sparse = row.figures[name]
            digits = 2 if '%' in name else 3
            cells.append('' if dense is None else f'{dense:.{digits}f}')
            for value in sparse:
                change = '' if value is None or dense is None else (
                    f' ({value - dense:+.{digits}f})')
                cells.append('' if value is None else f'{value:.{digits}f}{change}')
        cells += ['' if share is None else f'{share:.1%}' for share in row.shares[1:]]
        table.add_row(row.name, count, *cells)
    return table


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors
    from sparsevit_mm.visualization.breakdown import break_down
    from sparsevit_mm.visualization.breakdown_figure import draw_breakdown, write_breakdown
    with clear_errors(args.traceback):
        cfg, configs = prepare(args)
        breakdown = break_down(cfg, args.checkpoint, configs, args.split,
                               lambda label: print(f'evaluating {label} ...', flush=True))
    title = f'{Path(args.config).stem}, {breakdown.rows[-1].count} images of {args.split}'
    work_dir = Path(cfg.work_dir)
    write_breakdown(work_dir / 'breakdown.csv', breakdown)
    draw_breakdown(work_dir / 'breakdown.png', breakdown, title)
    width = None if sys.stdout.isatty() else 500  # do not wrap the table in a file
    Console(width=width).print(to_table(breakdown, title))
    print(f'{work_dir}/breakdown.csv, {work_dir}/breakdown.png')


if __name__ == '__main__':
    main()
