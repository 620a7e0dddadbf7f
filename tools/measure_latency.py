"""Measures the backbone of a config: MACs, latency, and the ratio to dense. With --table, measures
a table instead that predicts every configuration in this setting."""
import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from arguments import add_config_options, add_latency_arguments, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--sparsity', nargs='+', metavar='S',
                        help='configurations to set beside dense, each as in test.py '
                        '(default: the config\'s own, and 0.3, 0.6, 0.8)')
    parser.add_argument('--count-padding', action='store_true',
                        help='count MACs as published: padded tokens too')
    group = parser.add_argument_group('latency table')
    group.add_argument('--table', type=Path, metavar='FILE',
                       help='measure a table that predicts every configuration, and write it here')
    group.add_argument('--budget', type=float, default=120., metavar='SECONDS',
                       help='time to measure the table in (default: 120)')
    group.add_argument('--seed', type=int, default=0, help='of the configurations measured for it')
    group.add_argument('--overwrite', action='store_true', help='replace FILE if it exists')
    add_config_options(parser)
    add_latency_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors
    from sparsevit_mm.config.reading import load_config
    with clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        if args.table is None:
            compare(args, cfg)
        else:
            measure_table(args, cfg)


def compare(args: argparse.Namespace, cfg) -> None:
    """A few configurations beside dense."""
    from sparsevit_mm.cli import latency_setting
    from sparsevit_mm.config.building import build_backbone
    from sparsevit_mm.cost.latency import LatencyMeter
    from sparsevit_mm.cost.macs import backbone_macs
    backbone = build_backbone(cfg)
    own = [] if backbone.sparsity.is_dense else [backbone.sparsity]
    configs = [backbone.space.config(s) for s in args.sparsity or own + [.3, .6, .8]]
    setting = latency_setting(args, cfg)
    meter = LatencyMeter(backbone, setting, args.rounds)
    configs.insert(0, backbone.space.config(0.))
    table = Table(title=f'Backbone latency: {setting}', title_justify='left')
    for column in ('sparsity', 'MACs', 'median', 'quartiles', 'of dense'):
        table.add_column(column, justify='left' if column == 'sparsity' else 'right')
    for config, latency in zip(configs, meter.measure(configs)):
        macs = backbone_macs(backbone, setting.shape, setting.batch_size, config,
                             args.count_padding)
        table.add_row(config.label, f'{macs / 1e9:.2f} G',
                      f'{latency.median:.1f} ms', f'{latency.low:.1f} to {latency.high:.1f}',
                      f'{latency.ratio:.3f}')
    Console().print(table)


def measure_table(args: argparse.Namespace, cfg) -> None:
    """Every configuration, predicted."""
    from sparsevit_mm.cli import latency_setting
    from sparsevit_mm.config.building import build_backbone
    from sparsevit_mm.cost.table import LatencyTable
    if args.table.is_dir():
        raise ValueError(f'--table {args.table} is a folder')
    if args.table.exists() and not args.overwrite:
        raise FileExistsError(f'{args.table} is there already: --overwrite, or another --table')
    if not args.table.parent.is_dir():
        raise FileNotFoundError(f'--table {args.table}: no folder {args.table.parent}')
    setting = latency_setting(args, cfg)
    columns = (TextColumn('latency table'), BarColumn(), TextColumn('{task.description}'),
               TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task('', total=args.budget)

        def report(spent: float, measured: int) -> None:
            progress.update(task, completed=spent, description=f'{measured} configurations')

        table = LatencyTable.measure(build_backbone(cfg), setting, args.budget, args.seed, report)
    table.save(args.table)
    print_table(table, str(setting))
    print(f'table {args.table}')


def print_table(table, setting: str) -> None:
    """What a stage costs with all its blocks at one ratio, and what to trust of it."""
    depths = table.space.depths
    grid = Table(title=f'Backbone latency with one stage pruned, in ms: {setting}',
                 title_justify='left')
    for column in ('ratio', *(f'stage {s}' for s in range(len(depths)))):
        grid.add_column(column, justify='right')
    for ratio in table.choices:
        alone = ([ratio if t == s else 0. for t in range(len(depths))] for s in range(len(depths)))
        grid.add_row(f'{ratio:g}', *(f'{table.predict(config):.2f}' for config in alone))
    Console().print(grid)
    for s, groups in enumerate(table.plateaus()):
        shared = [' '.join(f'{r:g}' for r in group) for group in groups if len(group) > 1]
        print(f'plateaus of stage {s}: {"; ".join(shared) or "none"}')
    print(f'dense {table.dense:.2f} ms')
    print(f'check {table.check}')


if __name__ == '__main__':
    main()
