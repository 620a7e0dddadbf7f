"""Run the whole pipeline on generated images: dense training, adaptation, search under a latency
limit, and a comparison of the winner with dense and uniform sparsity on the test split, which the
search never saw.

Each step is the command a user would run, and is printed first. A step whose result exists is
skipped, so an interrupted demo continues where it stopped.
"""
import argparse
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

import generators
from rich.console import Console
from rich.table import Table

CONFIGS = Path(__file__).parent / 'configs'
TOOLS = Path(__file__).parents[1] / 'tools'
NUSCENES = 'NuScenes metric/pred_instances_3d_NuScenes'


def first_test_images(data: Path) -> List[Path]:
    images = sorted(data.glob('**/test*/**/*.[jp][pn]g'))
    return [path for path in images if 'gtFine' not in path.parts][:2]


class Task(NamedTuple):
    """Settings of one demo.

    Attributes:
        data, generate: Folder of the data set, and name of the function that generates it.
        dense, adapt: Configs of the dense training and of the adaptation.
        folder: Default work directory.
        metrics: Maps titles in the table to metric keys; the first is the objective.
        digits: Decimals of the metrics.
        trials: Number of candidates to evaluate.
        images: Batch size of the latency measurement.
        limit: Latency limit as a share of the dense latency: of the whole model if there are
            knobs, else of the backbone.
        knobs: Settings searched along with the ratios, in the format of ``--knob``.
        shown: Inputs for visualize_windows.py; the first two test images by default.
    """
    data: str
    generate: str
    dense: str
    adapt: str
    folder: str
    metrics: Dict[str, str]
    digits: int
    trials: int
    images: int = 8
    limit: str = '70%'
    knobs: Sequence[str] = ()
    shown: Sequence = ()


TASKS = {
    'detection': Task('data/mini_coco', 'generate_mini_coco', 'mask_rcnn_swin-narrow_mini_coco.py',
                      'mask_rcnn_sparsevit-narrow_mini_coco.py', 'work_dirs/demo',
                      {'box AP': 'coco/bbox_mAP', 'mask AP': 'coco/segm_mAP'}, 3, 40,
                      limit='85%', knobs=['model.test_cfg.rpn.max_per_img=32,16,8']),
    'segmentation': Task('data/mini_cityscapes', 'generate_mini_cityscapes',
                         'upernet_swin-narrow_mini_cityscapes.py',
                         'upernet_sparsevit-narrow_mini_cityscapes.py', 'work_dirs/demo_seg',
                         {'mIoU': 'mIoU', 'mAcc': 'mAcc'}, 2, 30),
    'vit': Task('data/mini_cityscapes', 'generate_mini_cityscapes',
                'upernet_vit-narrow_mini_cityscapes.py',
                'upernet_evovit-narrow_mini_cityscapes.py',
                'work_dirs/demo_vit', {'mIoU': 'mIoU', 'mAcc': 'mAcc'}, 2, 30),
    'detection3d': Task('data/mini_nuscenes', 'generate_mini_nuscenes',
                        'bevdet_swin-narrow_mini_nuscenes.py',
                        'bevdet_sparsevit-narrow_mini_nuscenes.py', 'work_dirs/demo_3d',
                        {'NDS': f'{NUSCENES}/NDS', 'mAP': f'{NUSCENES}/mAP'}, 3, 10, images=24,
                        limit='80%', shown=(0, 40))
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=TASKS, nargs='?', default='detection')
    parser.add_argument('--work-dir', type=Path,
                        help='default: work_dirs/demo, demo_seg, demo_vit or demo_3d')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of training, adaptation and search')
    parser.add_argument('--trials', type=int,
                        help='number of candidates to evaluate (default: 40, 30, 30 or 10)')
    parser.add_argument('--max-iters', type=int, nargs=2, metavar=('DENSE', 'ADAPT'),
                        help='iterations of a shorter training, to try the steps')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from steps import Steps

    from sparsevit_mm.cli import clear_errors
    from sparsevit_mm.config.data import input_shape
    from sparsevit_mm.config.reading import load_config
    from sparsevit_mm.cost.latency import LatencySetting
    task = TASKS[args.task]
    work_dir = args.work_dir or Path(task.folder)
    dense_iters, adapt_iters = args.max_iters or (None, None)
    adapt = CONFIGS / task.adapt
    with clear_errors():
        print(f'== generated images in {task.data}', flush=True)
        getattr(generators, task.generate)(task.data)
    steps = Steps(TOOLS, args.seed)
    dense = steps.train('dense training', CONFIGS / task.dense, work_dir / 'dense',
                        iters=dense_iters)
    adapted = steps.train('sparsity-aware adaptation', adapt, work_dir / 'adapted', dense,
                          adapt_iters)

    cfg = load_config(str(adapt))
    setting = LatencySetting(input_shape(cfg), batch_size=task.images,
                             of='model' if task.knobs else 'backbone')
    winner = work_dir / 'search' / 'winner.py'
    steps.run('search', winner, 'search_sparsity.py', adapt, adapted, '--work-dir',
              work_dir / 'search', '--max-latency', task.limit, '--trials',
              args.trials or task.trials, '--seed', args.seed, '--batch-size', setting.batch_size,
              '--rounds', 5, '--latency-of', setting.of,
              *(part for knob in task.knobs for part in ('--knob', knob)), '--resume')
    steps.run('test of the winner', None, 'test.py', winner, '--work-dir', work_dir / 'test')
    shown = task.shown or first_test_images(Path(task.data))
    steps.run('what is pruned', None, 'visualize_windows.py', winner, adapted, *shown, '--out',
              work_dir / 'windows', '--device', 'cpu')
    report(task, cfg, adapted, winner, setting, work_dir)


def report(task: Task, cfg, checkpoint: Path, winner_config: Path, setting,
           work_dir: Path) -> None:
    from sparsevit_mm.config.reading import load_config
    from sparsevit_mm.evaluation.compare import Comparison, least_uniform
    from sparsevit_mm.evaluation.metrics import default_metric
    from sparsevit_mm.report.tradeoff import draw_tradeoff
    print('\n== comparison on the test split, which the search never saw', flush=True)
    knobs = [knob.partition('=')[0] for knob in task.knobs]
    cfg.work_dir = str(work_dir / 'comparison')
    comparison = Comparison(cfg, str(checkpoint), setting, knobs=knobs)
    meter = comparison.meter
    dense = meter.backbone.space.config(0.)
    winner = point_in(load_config(str(winner_config)), meter.backbone.space, knobs)
    ratio = meter.measure([dense, winner])[1].ratio
    uniform = least_uniform(meter, ratio, [i / 50 for i in range(2, 36)])
    rows = comparison.run({'dense': dense, 'uniform': uniform, 'winner': winner})
    show(task, rows, f'Adapted model, test split; {setting}')
    metric = default_metric(cfg)
    draw_tradeoff(work_dir / 'comparison.png', [],
                  {row.name: [(row.latency.median, row.metrics.get(metric, 0.))] for row in rows},
                  f'{next(iter(task.metrics))}, test split', str(setting))
    print(f'figures: {work_dir}/comparison.png, {work_dir}/search/tradeoff.png, '
          f'{work_dir}/windows')


def point_in(cfg, space, knobs: Sequence[str]):
    """Return the operating point set in the config of a search's winner."""
    from sparsevit_mm.config.reading import find_backbone, node_at
    from sparsevit_mm.operating_point import operating_point
    sparsity = node_at(cfg, find_backbone(cfg))['sparsity']
    return operating_point(space.config(sparsity),
                           {name: node_at(cfg, name.split('.')) for name in knobs})


def show(task: Task, rows: List, title: str) -> None:
    table = Table(title=title, title_justify='left')
    objective, *others = task.metrics
    for column in ('', objective, f'95% over {rows[0].interval.unit}', *others, 'latency',
                   'of dense', 'GMACs', 'sparsity by stage'):
        table.add_column(column)
    for row in rows:
        figures = [f'{row.metrics.get(key, 0.):.{task.digits}f}' for key in task.metrics.values()]
        figures.insert(1, row.interval.ends(f'.{task.digits}f'))
        table.add_row(row.name, *figures, f'{row.latency.median:.1f} ms',
                      f'{row.latency.ratio:.2f}', f'{row.macs / 1e9:.2f}', row.config.label)
    Console(width=120).print(table)
    less = rows[2].difference(rows[1])
    print(f'winner less uniform: {objective} {less.text(f"+.{task.digits}f")}, 95% over '
          f'{less.unit}')


if __name__ == '__main__':
    main()
