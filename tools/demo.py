"""The whole road on the miniature COCO: dense training, adaptation, search under a latency limit,
and the winner beside dense and uniform sparsity on images the search never saw.

Each step is the command a user would run; it is printed before it runs. A step whose result is
there already is skipped, so a killed demo goes on where it stopped.
"""
import argparse
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Optional

import mmcv
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from sparsevit_mm.cli import build_backbone, build_runner, clear_errors, test_shape
from sparsevit_mm.config import load_config
from sparsevit_mm.cost.latency import LatencyMeter, LatencySetting
from sparsevit_mm.datasets.mini_coco import generate_mini_coco
from sparsevit_mm.models import get_sparse_backbone
from sparsevit_mm.search.compare import compare_on_coco, least_uniform
from sparsevit_mm.sparsity import SparsityConfig
from sparsevit_mm.visualization.tradeoff import draw_tradeoff
from sparsevit_mm.visualization.windows import draw_kept_windows, record_windows

TOOLS = Path(__file__).parent
CONFIGS = TOOLS.parent / 'configs' / 'demo'
DENSE = CONFIGS / 'mask_rcnn_swin-narrow_mini_coco.py'
ADAPT = CONFIGS / 'mask_rcnn_sparsevit-narrow_mini_coco.py'
LIMIT = '70%'  # of the dense latency
BOX_AP = 'coco/bbox_mAP'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--seed', type=int, default=0, help='of training, adaptation and search')
    parser.add_argument('--trials', type=int, default=40, help='candidates to evaluate')
    parser.add_argument('--max-iters', type=int, nargs=2, metavar=('DENSE', 'ADAPT'),
                        help='shorter training, to try the steps out')
    return parser.parse_args()


def step(title: str, done: Optional[Path], tool: str, *arguments) -> None:
    """Runs a command line of tools/ unless its result is there."""
    if done and done.exists():
        print(f'\n== {title}: {done} is there')
        return
    command = [str(a) for a in (TOOLS / tool, *arguments)]
    print(f'\n== {title}\n$ python {" ".join(command)}', flush=True)
    start = time.time()
    subprocess.run([sys.executable, *command], check=True)
    print(f'== {title}: {time.time() - start:.0f} s', flush=True)


def train(title: str, config: Path, work_dir: Path, seed: int, iters, load_from=None) -> Path:
    cfg = load_config(str(config))
    iters = iters or cfg.train_cfg.max_iters
    options = [f'randomness.seed={seed}', f'train_cfg.max_iters={iters}',
               f'train_cfg.val_interval={iters}', f'default_hooks.checkpoint.interval={iters}']
    if load_from:
        options += [f'load_from={load_from}', f'custom_hooks.0.seed={seed}']
    checkpoint = work_dir / f'iter_{iters}.pth'
    step(title, checkpoint, 'train.py', config, '--work-dir', work_dir, '--cfg-options', *options)
    return checkpoint


def main() -> None:
    args = parse_args()
    work_dir = args.work_dir
    dense_iters, adapt_iters = args.max_iters or (None, None)
    with clear_errors():
        print('== miniature COCO in data/mini_coco', flush=True)
        generate_mini_coco('data/mini_coco')
    dense = train('dense training', DENSE, work_dir / 'dense', args.seed, dense_iters)
    adapted = train('sparsity-aware adaptation', ADAPT, work_dir / 'adapted', args.seed,
                    adapt_iters, dense)

    cfg = load_config(str(ADAPT))
    setting = LatencySetting(test_shape(cfg), batch_size=8)
    meter = LatencyMeter(build_backbone(cfg), setting, rounds=11)
    winner_config = work_dir / 'search' / 'winner.py'
    step('search', winner_config, 'search_sparsity.py', ADAPT, adapted, '--work-dir',
         work_dir / 'search', '--max-latency', LIMIT, '--trials', args.trials,
         '--seed', args.seed, '--batch-size', setting.batch_size, '--rounds', 7, '--resume')
    step('test of the winner', None, 'test.py', winner_config, '--work-dir', work_dir / 'test')
    report(cfg, adapted, winner_config, meter, work_dir)


def report(cfg: Config, checkpoint: Path, winner_config: Path, meter: LatencyMeter,
           work_dir: Path) -> None:
    print('\n== comparison on the test split, which the search never saw', flush=True)
    depths = meter.backbone.depths
    dense = SparsityConfig(0., depths)
    winner = SparsityConfig(load_config(str(winner_config)).model.backbone.sparsity, depths)
    ratio = meter.measure([dense, winner])[1].ratio
    uniform = least_uniform(meter, ratio, [i / 50 for i in range(2, 36)])
    cfg.work_dir = str(work_dir / 'comparison')
    rows = compare_on_coco(cfg, str(checkpoint),
                           {'dense': dense, 'uniform': uniform, 'winner': winner}, meter,
                           build_runner, work_dir)
    table = Table(title=f'Adapted model, test split; backbone at {meter.setting}',
                  title_justify='left')
    for column in ('', 'box AP', '95% interval', 'mask AP', 'latency', 'of dense', 'GMACs',
                   'sparsity by stage'):
        table.add_column(column)
    for row in rows:
        low, high = row.interval
        table.add_row(row.name, f'{row.metrics.get(BOX_AP, 0.):.3f}', f'{low:.3f} to {high:.3f}',
                      f'{row.metrics.get("coco/segm_mAP", 0.):.3f}',
                      f'{row.latency.median:.1f} ms', f'{row.latency.ratio:.2f}',
                      f'{row.macs / 1e9:.2f}', row.config.label)
    Console(width=120).print(table)
    low, high = rows[2].difference(rows[1])
    print(f'winner less uniform: {(rows[2].ap - rows[1].ap).mean():+.3f} box AP '
          f'(95% interval {low:+.3f} to {high:+.3f})')
    draw_tradeoff(work_dir / 'comparison.png', [],
                  {row.name: [(row.latency.median, row.metrics.get(BOX_AP, 0.))] for row in rows},
                  'box AP, test split', str(meter.setting))
    draw_windows(cfg, checkpoint, winner, work_dir / 'kept_windows.png')
    print(f'figures: {work_dir}/comparison.png, {work_dir}/search/tradeoff.png, '
          f'{work_dir}/kept_windows.png')


def draw_windows(cfg: Config, checkpoint: Path, sparsity: SparsityConfig, path: Path) -> None:
    """The windows that the first test image keeps."""
    model = init_detector(deepcopy(cfg), str(checkpoint), palette='random', device='cpu')
    backbone = get_sparse_backbone(model)
    backbone.sparsity = sparsity
    dataset = cfg.test_dataloader.dataset
    image = min(Path(dataset.data_root, dataset.data_prefix.img).glob('*.jpg'))
    with record_windows(backbone) as maps:
        inference_detector(model, str(image))
    draw_kept_windows(path, mmcv.imread(image, channel_order='rgb'), maps, backbone.patch_size,
                      f'{image.name}, sparsity {sparsity.label}')


if __name__ == '__main__':
    main()
