"""Measures the backbone of a config: MACs, latency, and the ratio to dense."""
import argparse

from rich.console import Console
from rich.table import Table

from sparsevit_mm.cli import (add_latency_arguments, build_backbone, clear_errors,
                              latency_setting)
from sparsevit_mm.config import load_config
from sparsevit_mm.cost.latency import LatencyMeter
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.sparsity import SparsityConfig


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--sparsity', nargs='+', metavar='S',
                        help='configurations to set beside dense, each as in test.py '
                        '(default: the config\'s own, and 0.3, 0.6, 0.8)')
    parser.add_argument('--count-padding', action='store_true',
                        help='count MACs as published: padded tokens too')
    add_latency_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with clear_errors():
        cfg = load_config(args.config)
        backbone = build_backbone(cfg)
        own = [] if backbone.sparsity.is_dense else [backbone.sparsity]
        configs = [SparsityConfig(s, backbone.depths) for s in args.sparsity or own + [.3, .6, .8]]
        setting = latency_setting(args, cfg)
        meter = LatencyMeter(backbone, setting, args.rounds)
    configs.insert(0, SparsityConfig(0., backbone.depths))
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


if __name__ == '__main__':
    main()
