"""The published comparison in small, on CamVid: a sparse model at full size beside a dense one at a
smaller size of equal latency, all trained alike.

CamVid's images of 480x360 in the layout of Cityscapes are expected in data/camvid_cityscapes. One
dense model is trained from scratch at several scales. From it go on, for as many iterations, a
dense model, the adapted one, which is then searched, and a dense one at the size at which it takes
the latency of the searched configuration. Last, each is fine-tuned as it is to run: the adapted one
at two uniform sparsities and as searched. Steps that are done are skipped.
"""
import argparse
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import numpy as np
from miniature import CONFIGS, Steps
from rich.console import Console
from rich.table import Table

from sparsevit_mm.cli import clear_errors
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.data import input_shape
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencyMeter, LatencySetting
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.evaluation.compare import Compared, compare_on_test
from sparsevit_mm.report.tradeoff import draw_tradeoff
from sparsevit_mm.sparsity import SparsityConfig

ROOT = Path(__file__).resolve().parents[1]
DENSE = CONFIGS / 'upernet_swin-narrow_camvid.py'
ADAPT = CONFIGS / 'upernet_sparsevit-narrow_camvid.py'
FINETUNE = 400  # iterations
ROUNDS = 5  # of the final latencies, the models in turn


class Entry(NamedTuple):
    """One row: a checkpoint at a sparsity and an input size."""
    name: str
    checkpoint: Path
    config: SparsityConfig
    shape: Tuple[int, int]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/camvid'))
    parser.add_argument('--seed', type=int, default=0, help='of training, adaptation and search')
    parser.add_argument('--max-latency', default='65%', help='as in search_sparsity.py')
    parser.add_argument('--trials', type=int, default=40, help='candidates to evaluate')
    parser.add_argument('--uniform', type=float, nargs=2, default=[.3, .6])
    return parser.parse_args()


def size_options(shape: Tuple[int, int]) -> Dict:
    """Settings that make the config train and test at another size."""
    cfg = load_config(str(DENSE))
    full = input_shape(cfg)
    crop = tuple(round(side * new / old / 16) * 16
                 for side, new, old in zip(cfg.crop_size, shape, full))
    scale = shape[::-1]
    return dict(
        train_dataloader__dataset__pipeline__2__scale=scale,
        train_dataloader__dataset__pipeline__3__crop_size=crop,
        model__data_preprocessor__size=crop,
        val_dataloader__dataset__pipeline__1__scale=scale,
        test_dataloader__dataset__pipeline__1__scale=scale)


def equal_size(backbone, meter: LatencyMeter, winner: SparsityConfig) -> Tuple[int, int]:
    """The size at which the dense backbone takes nearest to the winner's latency, 4:3."""
    dense = SparsityConfig(0., backbone.depths)
    shapes = [(width * 3 // 4, width) for width in range(288, 480, 16)]
    ratios: List[List[float]] = []
    for _ in range(ROUNDS):
        full, sparse = (latency.median for latency in meter.measure([dense, winner]))
        small = [LatencyMeter(backbone, LatencySetting(shape), 1).measure([dense])[0].median
                 for shape in shapes]
        ratios.append(np.array([sparse, *small]) / full)
    sparse, *small = np.median(ratios, axis=0)
    return shapes[int(np.argmin(np.abs(np.array(small) - sparse)))]


def latencies(backbone, entries: List[Entry]) -> np.ndarray:
    """Milliseconds, one row for each round, the entries in turn."""
    meters = [LatencyMeter(backbone, LatencySetting(entry.shape), 3) for entry in entries]
    return np.array([[meter.measure([entry.config])[0].median
                      for meter, entry in zip(meters, entries)] for _ in range(ROUNDS)])


def finetune(steps: Steps, entry: Entry, work_dir: Path) -> Entry:
    """The entry, trained on as it is to run."""
    checkpoint = steps.train(
        f'fine-tuning, {entry.name}', ADAPT, work_dir / f'final_{entry.name}', entry.checkpoint,
        FINETUNE, custom_hooks='[]',
        model__backbone__sparsity=str(entry.config).replace(' ', ''),
        param_scheduler__1__end=FINETUNE, param_scheduler__1__T_max=FINETUNE - 50,
        **size_options(entry.shape))
    return entry._replace(checkpoint=checkpoint)


def evaluate(entry: Entry, work_dir: Path) -> Compared:
    options = {key.replace('__', '.'): value for key, value in size_options(entry.shape).items()}
    cfg = load_config(str(ADAPT), options)
    cfg.work_dir = str(work_dir / 'comparison')
    meter = LatencyMeter(build_backbone(cfg), LatencySetting(entry.shape), 1)
    return compare_on_test(cfg, str(entry.checkpoint), {entry.name: entry.config}, meter)[0]


def main() -> None:
    args = parse_args()
    work_dir = args.work_dir
    with clear_errors():
        cfg = load_config(str(ADAPT))
        full = input_shape(cfg)
        backbone = build_backbone(cfg)
    steps = Steps(ROOT / 'tools', args.seed)
    base = steps.train('dense training', DENSE, work_dir / 'dense')
    adapted = steps.train('adaptation', ADAPT, work_dir / 'adapted', base)
    winner_config = work_dir / 'search' / 'winner.py'
    steps.run('search', winner_config, 'search_sparsity.py', ADAPT, adapted, '--work-dir',
              work_dir / 'search', '--max-latency', args.max_latency, '--trials', args.trials,
              '--seed', args.seed, '--rounds', 7, '--resume')
    winner = SparsityConfig(load_config(str(winner_config)).model.backbone.sparsity,
                            backbone.depths)
    chosen = work_dir / 'equal_size.txt'
    if not chosen.exists():
        shape = equal_size(backbone, LatencyMeter(backbone, LatencySetting(full), 3), winner)
        chosen.write_text('{} {}'.format(*shape))
    shape = tuple(map(int, chosen.read_text().split()))
    longer = steps.train('dense, as long', ADAPT, work_dir / 'dense_more', base, custom_hooks='[]')
    small = steps.train(f'dense at {shape[1]}x{shape[0]}', ADAPT, work_dir / 'dense_small', base,
                        custom_hooks='[]', **size_options(shape))

    dense, *uniform = (SparsityConfig(r, backbone.depths) for r in (0., *args.uniform))
    entries = [
        finetune(steps, entry, work_dir) for entry in (
            Entry('dense', longer, dense, full),
            *(Entry(f'uniform_{config.mean:g}', adapted, config, full) for config in uniform),
            Entry('searched', adapted, winner, full),
            Entry(f'dense_{shape[1]}x{shape[0]}', small, dense, shape))
    ]
    entries += [Entry(f'adapted, at {config.label}', adapted, config, full)
                for config in (dense, *uniform, winner)]
    rows = [evaluate(entry, work_dir) for entry in entries]
    report(entries, rows, latencies(backbone, entries), backbone, work_dir)


def report(entries: List[Entry], rows: List[Compared], times: np.ndarray, backbone,
           work_dir: Path) -> None:
    ratios = times / times[:, :1]
    table = Table(title='CamVid, 51 test images; latency of the backbone, batch 1, fp32',
                  title_justify='left')
    for column in ('', 'mIoU', f'95% over {rows[0].interval.unit}', 'latency', 'of dense', 'GMACs',
                   'sparsity'):
        table.add_column(column)
    for i, (entry, row) in enumerate(zip(entries, rows)):
        spread = np.percentile(ratios[:, i], (25, 75))
        macs = backbone_macs(backbone, entry.shape, 1, entry.config)
        table.add_row(entry.name, f'{row.metrics["mIoU"]:.2f}', row.interval.ends(".1f"),
                      f'{np.median(times[:, i]):.1f} ms',
                      f'{np.median(ratios[:, i]):.2f} ({spread[0]:.2f} to {spread[1]:.2f})',
                      f'{macs / 1e9:.2f}', entry.config.label)
    Console(width=130).print(table)
    for other in (0, 2, 4):
        less = rows[3].difference(rows[other])
        print(f'{entries[3].name} less {entries[other].name}: mIoU {less.text("+.2f")}, 95% over '
              f'{less.unit}')
    points = [(np.median(times[:, i]), row.metrics['mIoU']) for i, row in enumerate(rows)]
    marked = {entry.name: [point] for entry, point in zip(entries[:5], points)}
    marked['adapted, not fine-tuned'] = points[5:]
    draw_tradeoff(work_dir / 'comparison.png', [], marked, 'mIoU, 51 test images',
                  'batch 1, fp32')
    print(f'figure: {work_dir}/comparison.png')


if __name__ == '__main__':
    main()
