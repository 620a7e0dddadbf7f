"""Is a search over windows and knobs better, at equal latency of the whole model, than a search
over windows alone?

Takes adapted detectors of the demo, one per seed, as made by `benchmarks/ablation.py coco` or `make
demo`. For each, runs Pareto searches with equally many candidates over windows alone, over windows
and the number of proposals, and over windows and the image size. The winners at each point are
measured in turn and tested on the test split. Interrupted searches continue.
"""
import argparse
import json
from pathlib import Path
from typing import Dict, List

import numpy as np
from miniature import CONFIGS, generate_mini_coco
from rich.console import Console
from rich.table import Table

from sparsevit_mm.cli import clear_errors
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.evaluation.compare import Comparison
from sparsevit_mm.evaluation.intervals import Resampled
from sparsevit_mm.files import replacing
from sparsevit_mm.operating_point import operating_point, point_from_json, point_to_json
from sparsevit_mm.search import search

CONFIG = CONFIGS / 'mask_rcnn_sparsevit-narrow_mini_coco.py'
PROPOSALS = 'model.test_cfg.rpn.max_per_img'
SPACES = {'windows': [], 'windows and proposals': [f'{PROPOSALS}=32,16,8'],
          'windows and image size': ['image_scale=1,.834,.667']}  # 192, 160 and 128 pixels
POINTS = ['90%', '85%']
# Values of mmdet's Mask R-CNN, which the demo's config changes.
STOCK = {'model.test_cfg.rpn.nms_pre': 1000, PROPOSALS: 1000,
         'model.test_cfg.rcnn.max_per_img': 100}
GRID = [(sparsity, number) for number in (1000, 300, 100, 32, 16) for sparsity in (0., .6)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoints', nargs='+', type=Path,
                        help='adapted checkpoints, one per seed')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/knobs'))
    parser.add_argument('--trials', type=int, default=40, help='number of candidates per search')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--points', nargs='+', default=POINTS)
    parser.add_argument('--grid', action='store_true', help='do not search: test dense and 60%% '
                        'with 16 to 1000 proposals; 1000 is the setting of mmdet')
    return parser.parse_args()


def find(checkpoint: Path, folder: Path, seed: int, args: argparse.Namespace) -> Dict[str, Dict]:
    """Search every space and return the winners as JSON records, keyed by space and point."""
    cfg = load_config(str(CONFIG))
    size = cfg.val_dataloader.dataset.pipeline[1].scale
    setting = LatencySetting(size, args.batch_size, num_threads=1, of='model')
    winners = {}
    for name, knobs in SPACES.items():
        work_dir = folder / name.replace(' ', '_')
        found = search(CONFIG, str(checkpoint), pareto=True, points=args.points, knobs=knobs,
                       work_dir=work_dir, setting=setting, num_trials=args.trials, seed=seed,
                       rounds=5, finalists=1, resume=True, overwrite=True)
        for finalist in found.summary.finalists:
            winners[f'{name}, {finalist.name}'] = point_to_json(finalist.candidate.config)
            print(f'seed {seed}: {name}, {finalist.name}: {finalist.label}', flush=True)
    return winners


def test(checkpoint: Path, winners: Dict[str, Dict], folder: Path,
         args: argparse.Namespace) -> Dict:
    """Evaluate dense and the winners on the test split.

    Returns:
        Metric, resamples, ratio to the dense latency and label, by name.
    """
    cfg = load_config(str(CONFIG))
    cfg.work_dir = str(folder / 'test')
    size = cfg.val_dataloader.dataset.pipeline[1].scale
    scales = sorted({float(w['knobs']['image_scale']) for w in winners.values()
                     if 'image_scale' in w.get('knobs', {})})
    comparison = Comparison(cfg, str(checkpoint),
                            LatencySetting(size, args.batch_size, num_threads=1, of='model'), 15,
                            [PROPOSALS], scales)
    space = comparison.meter.backbone.space
    points = {'dense': space.config(0.), **{
        name: point_from_json(record, space.depths) for name, record in winners.items()}}
    return {row.name: dict(metric=row.resampled.estimate, resampled=row.resampled.to_json(),
                           ratio=row.latency.ratio, label=row.config.label)
            for row in comparison.run(points)}


def grid(checkpoint: Path, folder: Path, args: argparse.Namespace) -> None:
    """Print metric and latency for combinations of sparsity and number of proposals."""
    cfg = load_config(str(CONFIG), STOCK)
    cfg.work_dir = str(folder / 'grid')
    size = cfg.val_dataloader.dataset.pipeline[1].scale
    comparison = Comparison(cfg, str(checkpoint), LatencySetting(
        size, args.batch_size, num_threads=1, of='model'), 7, [PROPOSALS])
    space = comparison.meter.backbone.space
    rows = comparison.run({f'{sparsity:.0%}, {number}': operating_point(
        space.config(sparsity), {PROPOSALS: number}) for sparsity, number in GRID})
    table = Table(title='test images; latency of the whole model', title_justify='left')
    for column in ('sparsity, proposals', 'box AP', '95%', 'of the first'):
        table.add_column(column)
    for row in rows:
        table.add_row(row.name, f'{row.resampled.estimate:.3f}', row.interval.ends('.3f'),
                      f'{row.latency.ratio:.2f}')
    Console(width=100).print(table)


def show(seeds: List[Dict], points: List[str]) -> None:
    table = Table(title_justify='left', title=(
        f'{len(seeds)} seeds; box AP of test, latency of the whole model over dense'))
    for column in ('', 'box AP', 'of dense', 'less windows alone (95%)'):
        table.add_column(column)

    def mean(name: str) -> Resampled:
        return Resampled.mean([Resampled.from_json(seed[name]['resampled']) for seed in seeds])

    names = [f'{space}, {point}' for point in points for space in SPACES]
    for name in ('dense', *(name for name in names if name in seeds[0])):
        space, _, point = name.rpartition(', ')
        ratios = ' '.join(f'{seed[name]["ratio"]:.2f}' for seed in seeds)
        gain = '' if space in ('', 'windows') else (
            mean(name) - mean(f'windows, {point}')).interval().text('+.3f')
        table.add_row(name, f'{np.mean([seed[name]["metric"] for seed in seeds]):.3f}', ratios,
                      gain)
    Console(width=120).print(table)


def main() -> None:
    args = parse_args()
    results = []
    with clear_errors():
        generate_mini_coco('data/mini_coco')
        for seed, checkpoint in enumerate(args.checkpoints):
            folder = args.work_dir / f'seed{seed}'
            if args.grid:
                grid(checkpoint, folder, args)
                continue
            record = folder / 'test.json'
            if not record.exists():
                tested = test(checkpoint, find(checkpoint, folder, seed, args), folder, args)
                with replacing(record) as partial:
                    partial.write_text(json.dumps(tested))
            results.append(json.loads(record.read_text()))
    if results:
        show(results, args.points)


if __name__ == '__main__':
    main()
