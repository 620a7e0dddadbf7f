"""Measure the latency of a config's backbone or whole model, its ratio to dense, and the backbone's
MACs. With --table, measure a latency table instead, which predicts every configuration in this
setting."""
import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from arguments import add_config_options, add_latency_arguments, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--checkpoint', metavar='FILE',
                        help='checkpoint of the whole model (default: random weights)')
    parser.add_argument('--sparsity', nargs='+', metavar='S',
                        help='configurations to compare with dense, each in the format of test.py '
                        '(default: that of the config, and 0.3, 0.6, 0.8)')
    parser.add_argument('--count-padding', action='store_true',
                        help='also count the MACs of padded tokens, as published')
    group = parser.add_argument_group('latency table')
    group.add_argument('--table', type=Path, metavar='FILE',
                       help='measure a table that predicts every configuration, and write it to '
                       'FILE')
    group.add_argument('--budget', type=float, default=120., metavar='SECONDS',
                       help='time for measuring the table (default: 120)')
    group.add_argument('--seed', type=int, default=0,
                       help='seed of the configurations measured for the table')
    group.add_argument('--overwrite', action='store_true', help='replace FILE if it exists')
    add_config_options(parser)
    add_latency_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors
    from sparsevit_mm.config.reading import load_config
    with clear_errors(args.traceback):
        cfg = load_config(args.config, args.cfg_options)
        if args.table is None:
            compare(args, cfg)
        else:
            measure_table(args, cfg)


def compare(args: argparse.Namespace, cfg) -> None:
    """Measure a few configurations and dense, and print the table."""
    from sparsevit_mm.cli import latency_setting
    from sparsevit_mm.cost.latency import LatencyMeter
    from sparsevit_mm.cost.macs import backbone_macs
    setting = latency_setting(args, cfg)
    meter, backbone = make_meter(args, cfg, setting)
    own = [] if backbone.sparsity.is_dense else [backbone.sparsity]
    configs = [backbone.space.config(s) for s in args.sparsity or own + [.3, .6, .8]]
    configs.insert(0, backbone.space.config(0.))
    latencies = meter.measure(configs)
    columns = ['sparsity', 'MACs', 'median', 'quartiles', 'of dense']
    rows = []
    for config, latency in zip(configs, latencies):
        macs = backbone_macs(backbone, setting.shape, setting.batch_size, config,
                             args.count_padding)
        rows.append([config.label, f'{macs / 1e9:.2f} G', f'{latency.median:.1f} ms',
                     f'{latency.low:.1f} to {latency.high:.1f}', f'{latency.ratio:.3f}'])
    if setting.of == 'model':
        alone = LatencyMeter(backbone, replace(setting, of='backbone'), args.rounds)
        columns += ['backbone', 'its share']
        for row, latency, own in zip(rows, latencies, alone.measure(configs)):
            row += [f'{own.median:.1f} ms', f'{own.median / latency.median:.0%}']
    table = Table(title=f'Latency: {setting}', title_justify='left')
    for column in columns:
        table.add_column(column, justify='left' if column == 'sparsity' else 'right')
    for row in rows:
        table.add_row(*row)
    Console(width=140 if setting.of == 'model' else None).print(table)
    if setting.of == 'model' and args.checkpoint is None:
        print('random weights: the latency of heads and post-processing depends on the '
              'predictions; use --checkpoint FILE to measure the trained model')


def make_meter(args: argparse.Namespace, cfg, setting):
    """Build the latency meter and the backbone whose sparsity it sets."""
    from sparsevit_mm.config.building import build_backbone
    from sparsevit_mm.cost.latency import LatencyMeter
    if setting.of == 'backbone':
        backbone = build_backbone(cfg, args.checkpoint)
        return LatencyMeter(backbone, setting, args.rounds), backbone
    from mmengine.registry import DATASETS, FUNCTIONS

    from sparsevit_mm.config.data import check_data
    from sparsevit_mm.cost.whole_model import ModelMeter, spread_batches
    from sparsevit_mm.evaluation.loading import load_model, prepare
    from sparsevit_mm.models import get_sparse_backbone
    prepare(cfg, setting.device)
    check_data(cfg, 'val')
    model, _ = load_model(cfg, args.checkpoint, setting.device)
    loader = cfg.val_dataloader
    collate = FUNCTIONS.get(loader.get('collate_fn', dict(type='pseudo_collate'))['type'])
    batches = spread_batches(DATASETS.build(loader.dataset), collate, setting.batch_size)
    return ModelMeter(model, batches, setting, args.rounds), get_sparse_backbone(model)


def measure_table(args: argparse.Namespace, cfg) -> None:
    """Measure, save and print a latency table."""
    from sparsevit_mm.cli import latency_setting
    from sparsevit_mm.cost.table import LatencyTable
    if args.table.is_dir():
        raise ValueError(f'--table {args.table} is a folder')
    if args.table.exists() and not args.overwrite:
        raise FileExistsError(f'{args.table} already exists: use --overwrite or another --table')
    if not args.table.parent.is_dir():
        raise FileNotFoundError(f'--table {args.table}: folder {args.table.parent} does not exist')
    setting = latency_setting(args, cfg)
    columns = (TextColumn('latency table'), BarColumn(), TextColumn('{task.description}'),
               TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task('', total=args.budget)

        def report(spent: float, measured: int) -> None:
            progress.update(task, completed=spent, description=f'{measured} configurations')

        meter, backbone = make_meter(args, cfg, setting)
        table = LatencyTable.measure(backbone, setting, args.budget, args.seed, report, meter)
    table.save(args.table)
    print_table(table, str(setting))
    print(f'table {args.table}')


def print_table(table, setting: str) -> None:
    """Print the latency with one stage pruned at each ratio, the plateaus and the check."""
    depths = table.space.depths
    grid = Table(title=f'Latency with one stage pruned, in ms: {setting}',
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
