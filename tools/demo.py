"""The whole road on generated images: dense training, adaptation, search under a latency limit, and
the winner beside dense and uniform sparsity on images the search never saw.

Each step is the command a user would run; it is printed before it runs. A step whose result is
there already is skipped, so a killed demo goes on where it stopped.
"""
import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from sparsevit_mm.cli import build_backbone, build_runner, clear_errors, test_shape
from sparsevit_mm.config import load_config
from sparsevit_mm.cost.latency import LatencyMeter, LatencySetting
from sparsevit_mm.datasets import generate_mini_cityscapes, generate_mini_coco
from sparsevit_mm.search.compare import Compared, compare_on_test, least_uniform
from sparsevit_mm.search.pipeline import default_metric
from sparsevit_mm.sparsity import SparsityConfig
from sparsevit_mm.visualization.tradeoff import draw_tradeoff

TOOLS = Path(__file__).parent
CONFIGS = TOOLS.parent / 'configs' / 'demo'
LIMIT = '70%'  # of the dense latency


class Task(NamedTuple):
    """What differs between the demos.

    Attributes:
        data, generate: Folder of the data set, and what makes it.
        dense, adapt: Configs.
        folder: Default work directory.
        metrics: Title in the table -> key; the first is the objective.
        digits: Of the metrics, behind the point.
    """
    data: str
    generate: Callable
    dense: str
    adapt: str
    folder: str
    metrics: Dict[str, str]
    digits: int


TASKS = {
    'detection': Task('data/mini_coco', generate_mini_coco, 'mask_rcnn_swin-narrow_mini_coco.py',
                      'mask_rcnn_sparsevit-narrow_mini_coco.py', 'work_dirs/demo',
                      {'box AP': 'coco/bbox_mAP', 'mask AP': 'coco/segm_mAP'}, 3),
    'segmentation': Task('data/mini_cityscapes', generate_mini_cityscapes,
                         'upernet_swin-narrow_mini_cityscapes.py',
                         'upernet_sparsevit-narrow_mini_cityscapes.py', 'work_dirs/demo_seg',
                         {'mIoU': 'mIoU', 'mAcc': 'mAcc'}, 2)
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=TASKS, nargs='?', default='detection')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/demo, or demo_seg')
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
    task = TASKS[args.task]
    work_dir = args.work_dir or Path(task.folder)
    dense_iters, adapt_iters = args.max_iters or (None, None)
    adapt = CONFIGS / task.adapt
    with clear_errors():
        print(f'== generated images in {task.data}', flush=True)
        task.generate(task.data)
    dense = train('dense training', CONFIGS / task.dense, work_dir / 'dense', args.seed,
                  dense_iters)
    adapted = train('sparsity-aware adaptation', adapt, work_dir / 'adapted', args.seed,
                    adapt_iters, dense)

    cfg = load_config(str(adapt))
    setting = LatencySetting(test_shape(cfg), batch_size=8)
    meter = LatencyMeter(build_backbone(cfg), setting, rounds=11)
    winner = work_dir / 'search' / 'winner.py'
    step('search', winner, 'search_sparsity.py', adapt, adapted, '--work-dir',
         work_dir / 'search', '--max-latency', LIMIT, '--trials', args.trials,
         '--seed', args.seed, '--batch-size', setting.batch_size, '--rounds', 7, '--resume')
    step('test of the winner', None, 'test.py', winner, '--work-dir', work_dir / 'test')
    images = sorted(Path(task.data).glob('**/test*/**/*.[jp][pn]g'))
    images = [path for path in images if 'gtFine' not in path.parts][:2]
    step('what is pruned', None, 'visualize_windows.py', winner, adapted, *images, '--out',
         work_dir / 'windows', '--device', 'cpu')
    report(task, cfg, adapted, winner, meter, work_dir)


def report(task: Task, cfg: Config, checkpoint: Path, winner_config: Path, meter: LatencyMeter,
           work_dir: Path) -> None:
    print('\n== comparison on the test split, which the search never saw', flush=True)
    depths = meter.backbone.depths
    dense = SparsityConfig(0., depths)
    winner = SparsityConfig(load_config(str(winner_config)).model.backbone.sparsity, depths)
    ratio = meter.measure([dense, winner])[1].ratio
    uniform = least_uniform(meter, ratio, [i / 50 for i in range(2, 36)])
    cfg.work_dir = str(work_dir / 'comparison')
    rows = compare_on_test(cfg, str(checkpoint),
                           {'dense': dense, 'uniform': uniform, 'winner': winner}, meter,
                           build_runner)
    show(task, rows, f'Adapted model, test split; backbone at {meter.setting}')
    metric = default_metric(cfg)
    draw_tradeoff(work_dir / 'comparison.png', [],
                  {row.name: [(row.latency.median, row.metrics.get(metric, 0.))] for row in rows},
                  f'{next(iter(task.metrics))}, test split', str(meter.setting))
    print(f'figures: {work_dir}/comparison.png, {work_dir}/search/tradeoff.png, '
          f'{work_dir}/windows')


def show(task: Task, rows: List[Compared], title: str) -> None:
    table = Table(title=title, title_justify='left')
    objective, *others = task.metrics
    for column in ('', objective, '95% interval', *others, 'latency', 'of dense', 'GMACs',
                   'sparsity by stage'):
        table.add_column(column)
    for row in rows:
        figures = [f'{row.metrics.get(key, 0.):.{task.digits}f}' for key in task.metrics.values()]
        low, high = row.interval
        figures.insert(1, f'{low:.{task.digits}f} to {high:.{task.digits}f}')
        table.add_row(row.name, *figures, f'{row.latency.median:.1f} ms',
                      f'{row.latency.ratio:.2f}', f'{row.macs / 1e9:.2f}', row.config.label)
    Console(width=120).print(table)
    mean, low, high = rows[2].difference(rows[1])
    print(f'winner less uniform: {mean:+.{task.digits}f} {objective} '
          f'(95% interval {low:+.{task.digits}f} to {high:+.{task.digits}f})')


if __name__ == '__main__':
    main()
