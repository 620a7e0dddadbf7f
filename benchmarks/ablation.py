"""Ablation of the adaptation: effect of the score, of the update of skipped windows and of the
losses on the metric at several uniform sparsities.

For each seed, one dense model is trained from scratch. Each variant is adapted from it with the
score that it is then tested with, and the dense model is trained for as many more iterations.
Finished results are kept in files and not computed again.
"""
import argparse
import json
from functools import partial
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import numpy as np
import torch
from jobs import Job, run_jobs
from miniature import CONFIGS, generate_mini_cityscapes, generate_mini_coco
from rich.console import Console
from rich.table import Table
from training import schedule, test, train

from sparsevit_mm.cli import clear_errors
from sparsevit_mm.evaluation.intervals import Resampled

SPARSITIES = 0, .3, .5, .7
HOOK, BACKBONE = 'custom_hooks.0.', 'model.backbone.'
BASE = 'variation, linear'  # the setting of the configs, which the others are compared with
LONGER = 'dense, trained on'


class Task(NamedTuple):
    """Configs, and iterations of the dense training and of the adaptation."""
    dense: str
    adapt: str
    iters: Tuple[int, int]


TASKS = {
    'coco': Task('mask_rcnn_swin-narrow_mini_coco.py', 'mask_rcnn_sparsevit-narrow_mini_coco.py',
                 (600, 200)),
    'cityscapes': Task('upernet_swin-narrow_mini_cityscapes.py',
                       'upernet_sparsevit-narrow_mini_cityscapes.py', (400, 150)),
    'camvid': Task('upernet_swin-narrow_camvid.py', 'upernet_sparsevit-narrow_camvid.py',
                   (1000, 500)),
}


def variant(importance: str, skipped: str = 'linear', **hook: float) -> Dict:
    return {f'{BACKBONE}importance': importance, f'{BACKBONE}skipped': skipped,
            f'{HOOK}distillation': 0., f'{HOOK}dense_share': 0.,
            **{f'{HOOK}{key}': value for key, value in hook.items()}}


VARIANTS = {
    LONGER: {'custom_hooks': []},
    **{f'{name}, {skipped}': variant(name, skipped)
       for skipped in ('copy', 'linear')
       for name in ('magnitude', 'variation', 'learned', 'random')},
    'distinct, copy': variant('distinct', 'copy'),
    **{f'{BASE}, {title}': variant('variation', **hook) for title, hook in {
        'distillation .1': dict(distillation=.1, dense_share=0.),
        'dense share .2': dict(dense_share=.2),
        'distillation .3, dense share .2': dict(distillation=.3, dense_share=.2),
        'distillation 1, dense share .2': dict(distillation=1., dense_share=.2)}.items()},
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=TASKS)
    parser.add_argument('--work-dir', type=Path, help='(default: work_dirs/ablation/TASK)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument('--jobs', type=int, default=2, help='number of parallel processes')
    return parser.parse_args()


def file_of(folder: Path, name: str, suffix: str) -> Path:
    return folder / (name.replace(', ', '_').replace(' ', '_').replace('.', '') + suffix)


def make_jobs(task: Task, folder: Path, seed: int, names: List[str]) -> List[Job]:
    dense = folder / 'dense.pth'
    jobs = [Job(dense, partial(train, CONFIGS / task.dense, dense, seed,
                               options=schedule(task.iters[0])))]
    for name in names:
        checkpoint, result = (file_of(folder, name, suffix) for suffix in ('.pth', '.json'))
        options = {**schedule(task.iters[1]), **VARIANTS[name]}
        jobs.append(Job(checkpoint, partial(train, CONFIGS / task.adapt, checkpoint, seed, dense,
                                            options), [dense]))
        settings = {key: value for key, value in options.items() if key.startswith(BACKBONE)}
        cases = {str(s): (s, None) for s in (SPARSITIES if settings else SPARSITIES[:1])}
        jobs.append(Job(result, partial(test, CONFIGS / task.adapt, checkpoint, result, cases,
                                        settings, seed=seed), [checkpoint]))
    return jobs


def report(folder: Path, seeds: List[int], names: List[str]) -> None:
    """Print means over seeds, and the difference from BASE of the mean over the sparse
    configurations, with its confidence interval over images."""
    table = Table(title=f'{folder.name}, seeds {seeds}', title_justify='left')
    for column in ('', *map('{:.0%}'.format, SPARSITIES), f'mean of sparse, less "{BASE}" (95%)'):
        table.add_column(column)
    held = {name: [json.loads(file_of(folder / f'seed{seed}', name, '.json').read_text())
                   for seed in seeds] for name in names}

    def mean_of(name: str) -> Resampled:
        return Resampled.mean([Resampled.from_json(record[str(s)]['resampled'])
                               for record in held[name] for s in SPARSITIES[1:]])

    for name, records in held.items():
        cells = [f'{np.mean([record[case]["metric"] for record in records]):.4g}'
                 for case in records[0]]
        cells += [''] * (len(SPARSITIES) - len(cells))
        if len(records[0]) > 1 and name != BASE and BASE in held:
            cells.append((mean_of(name) - mean_of(BASE)).interval().text('+.3g'))
        table.add_row(name, *cells)
    Console(width=120).print(table)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    with clear_errors():
        if args.task == 'coco':
            generate_mini_coco('data/mini_coco')
        elif args.task == 'cityscapes':
            generate_mini_cityscapes('data/mini_cityscapes')
    folder = args.work_dir or Path('work_dirs/ablation') / args.task
    failed = run_jobs([job for seed in args.seeds for job in make_jobs(
        TASKS[args.task], folder / f'seed{seed}', seed, args.variants)], args.jobs)
    if failed:
        raise SystemExit(f'missing results: {", ".join(map(str, failed))}')
    report(folder, args.seeds, args.variants)


if __name__ == '__main__':
    main()
