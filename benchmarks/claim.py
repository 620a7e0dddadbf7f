"""Test the published claim: at equal latency, is a sparse model at full resolution better than a
dense model on smaller images, or than a narrower model?

Runs on CamVid (real street scenes of 480x360, expected in data/camvid_cityscapes in the layout of
Cityscapes) or on the miniature COCO. For each seed, a dense model and two narrower ones are trained
from scratch. The dense model is adapted. For as many iterations, training continues without pruning
for the narrower models and for the dense one, at full size and at the image sizes that match the
requested latencies. Finally each model is fine-tuned as it will run, the adapted one at uniform and
at searched sparsities. Fine-tuning and tests use whole images.

Finished results are kept in files and not computed again, so an interrupted run continues, and more
seeds or latencies can be added.
"""
import argparse
import json
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from jobs import Job, run_jobs
from miniature import CONFIGS
from rich.console import Console
from rich.table import Table
from training import schedule, search, test, train

from sparsevit_mm.cli import clear_errors
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.data import input_shape
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencyMeter, LatencySetting
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.evaluation.intervals import Resampled
from sparsevit_mm.files import replacing
from sparsevit_mm.sparsity import SparsityConfig

WIDTHS = {0.75: 24, 0.6: 20}  # of the dense model's 32; widths of stages must suit their heads
Shape = Tuple[int, int]


class Task(NamedTuple):
    """Settings of a data set.

    Attributes:
        dense, adapt: Configs of the dense training and of the adaptation.
        iters: Iterations of training, adaptation and fine-tuning.
        limits: Latency limits as shares of the dense latency.
        batch: Batch size of the latency measurement.
        block: Number of consecutive images that a bootstrap resample draws together.
        shapes: Candidate sizes (H, W) of smaller images.
        heads: Maps channels of the stages to options that fit neck and heads to them.
        crop: Maps the (H, W) of images to options that train on crops of them; None if training
            uses whole images.
    """
    dense: Path
    adapt: Path
    iters: Tuple[int, int, int]
    limits: List[float]
    batch: int
    block: int
    shapes: List[Shape]
    heads: Callable[[List[int]], Dict]
    crop: Optional[Callable[[Shape], Dict]] = None


def crop_camvid(shape: Shape) -> Dict:
    crop = tuple(round(side / 24) * 16 for side in shape)  # two thirds, as in the config
    return {'train_dataloader.dataset.pipeline.2.ratio_range': (.5, 1.5),
            'train_dataloader.dataset.pipeline.3.crop_size': crop,
            'model.data_preprocessor.size': crop}


TASKS = {
    'camvid': Task(
        CONFIGS / 'upernet_swin-narrow_camvid.py', CONFIGS / 'upernet_sparsevit-narrow_camvid.py',
        (1000, 500, 300), [.7, .5], 1, 5,
        [(width * 3 // 4, width) for width in range(288, 480, 16)],
        lambda channels: {'model.decode_head.in_channels': channels,
                          'model.auxiliary_head.in_channels': channels[2]}, crop_camvid),
    'coco': Task(
        CONFIGS / 'mask_rcnn_swin-narrow_mini_coco.py',
        CONFIGS / 'mask_rcnn_sparsevit-narrow_mini_coco.py',
        (600, 200, 100), [.75, .65], 8, 1, [(side, side) for side in range(112, 192, 16)],
        lambda channels: {'model.neck.in_channels': channels,
                          'model.data_preprocessor.pad_size_divisor': 16}),
}


class Row(NamedTuple):
    """One model of the comparison.

    Attributes:
        name: Name of its files.
        start: Model that its training starts from: 'dense', 'adapted' or 'narrow{width}'.
        shape: (H, W) of its images.
        width: Channels of the first stage.
        sparsity: Sparsity configuration; for a searched one, the latency limit.
        limit: Latency limit as a share of the dense latency; None for the dense and the narrower
            models.
    """
    name: str
    start: str
    shape: Shape
    width: int = 32
    sparsity: object = 0.
    limit: Optional[float] = None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=TASKS)
    parser.add_argument('--work-dir', type=Path, help='(default: work_dirs/claim/TASK)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--limits', type=float, nargs='+',
                        help='latency limits as shares of the dense latency (default: of the task)')
    parser.add_argument('--iters', type=int, nargs=3, metavar=('DENSE', 'ADAPT', 'FINETUNE'),
                        help='iterations (default: of the task)')
    parser.add_argument('--trials', type=int, default=30, help='number of candidates per search')
    parser.add_argument('--jobs', type=int, default=2, help='number of parallel processes')
    parser.add_argument('--pretrained', type=Path, metavar='FILE',
                        help='backbone of pretrain.py that the dense models start from')
    return parser.parse_args()


def full_shape(task: Task) -> Shape:
    return input_shape(load_config(str(task.adapt)))


def width_options(task: Task, width: int) -> Dict:
    return {'model.backbone.embed_dims': width, **task.heads([width * 2**i for i in range(4)])}


def size_options(task: Task, shape: Shape, whole: bool) -> Dict:
    """Return options to train and test at another image size; training is on crops unless `whole`.
    """
    train_step, val_step, test_step = (
        f'{split}_dataloader.dataset.pipeline' for split in ('train', 'val', 'test'))
    options = {f'{train_step}.2.scale': shape[::-1], f'{val_step}.1.scale': shape[::-1],
               f'{test_step}.1.scale': shape[::-1]}
    if task.crop is None:
        return options
    options.update(task.crop(shape))
    if whole:
        options.update({f'{train_step}.2.ratio_range': (1., 1.),
                        f'{train_step}.3.crop_size': shape, 'model.data_preprocessor.size': shape})
    return options


def backbone_of(task: Task, width: int = 32):
    return build_backbone(load_config(str(task.adapt), width_options(task, width))).eval()


def measure(task: Task, path: Path, limits: List[float]) -> None:
    """Measure latencies and write, for each limit, the image size that comes closest and the lowest
    uniform sparsity that is not slower than it; also the latencies of the narrower models.

    All models run in turn; latencies are medians over rounds of the ratio to the dense model.
    """
    full, backbone = full_shape(task), backbone_of(task)
    dense = SparsityConfig(0., backbone.depths)
    uniform = [SparsityConfig(i / 50, backbone.depths) for i in range(4, 46, 2)]
    narrow = {width: LatencyMeter(backbone_of(task, width), LatencySetting(full, task.batch), 1)
              for width in WIDTHS.values()}
    small = {shape: LatencyMeter(backbone, LatencySetting(shape, task.batch), 1)
             for shape in task.shapes}
    meter = LatencyMeter(backbone, LatencySetting(full, task.batch), 1)
    rounds = []
    for _ in range(9):
        first, *others = (found.median for found in meter.measure([dense, *uniform]))
        others += [m.measure([dense])[0].median for m in (*small.values(), *narrow.values())]
        rounds.append(np.array(others) / first)
    ratios = np.median(rounds, axis=0)
    of_uniform, of_small = ratios[:len(uniform)], ratios[len(uniform):-len(narrow)]
    found = {'dense': 1., 'narrow': {str(w): r for w, r in zip(narrow, ratios[-len(narrow):])}}
    for limit in limits:
        size = int(np.argmin(np.abs(of_small - limit)))
        under = [i for i, ratio in enumerate(of_uniform) if ratio <= of_small[size]]
        found[str(limit)] = dict(
            uniform=uniform[min(under)].mean, uniform_ratio=of_uniform[min(under)],
            shape=task.shapes[size], shape_ratio=of_small[size])
    with replacing(path) as partial_file:
        partial_file.write_text(json.dumps(found, indent=1))


def rows(task: Task, found: Dict, limits: List[float]) -> List[Row]:
    full = full_shape(task)
    made = [Row('dense', 'dense', full)]
    made += [Row(f'width_{share:g}', f'narrow{width}', full, width, limit=None)
             for share, width in WIDTHS.items()]
    for limit in limits:
        at = found[str(limit)]
        made += [Row(f'small_{limit:g}', 'dense', tuple(at['shape']), limit=limit),
                 Row(f'uniform_{limit:g}', 'adapted', full, sparsity=at['uniform'], limit=limit),
                 Row(f'searched_{limit:g}', 'adapted', full, sparsity=limit, limit=limit)]
    return made


def searched(path: Path) -> List:
    """Return the sparsity in a winner's config."""
    return load_config(str(path)).model.backbone.sparsity


def make_jobs(args: argparse.Namespace, seed: int, found: Dict) -> List[Job]:
    task, folder = TASKS[args.task], args.work_dir / f'seed{seed}'
    dense_iters, adapt_iters, finetune_iters = args.iters or task.iters
    jobs = []

    def training(name: str, config: Path, start: Optional[Path], *options: Dict,
                 needs=()) -> Path:
        checkpoint = folder / f'{name}.pth'
        merged = {key: value for part in options for key, value in part.items()}
        jobs.append(Job(checkpoint, partial(train, config, checkpoint, seed, start, merged),
                        [*([start] if start else []), *needs]))
        return checkpoint

    def testing(name: str, checkpoint: Path, row: Row, sparsity, *needs: Path) -> None:
        result = folder / f'{name}.json'
        options = {**width_options(task, row.width), **size_options(task, row.shape, True)}

        def run() -> None:
            config = searched(sparsity) if isinstance(sparsity, Path) else sparsity
            test(task.adapt, checkpoint, result, {'test': (config, None)}, options,
                 block=task.block)

        jobs.append(Job(result, run, [checkpoint, *needs]))

    pretrained = {}
    if args.pretrained:
        pretrained = {'model.backbone.init_cfg': dict(
            type='Pretrained', checkpoint=str(args.pretrained))}
    starts = {'dense': training('base', task.dense, None, schedule(dense_iters), pretrained)}
    for width in WIDTHS.values():
        if not args.pretrained:  # there are no pretrained weights for narrower models
            starts[f'narrow{width}'] = training(
                f'narrow{width}', task.dense, None, schedule(dense_iters),
                width_options(task, width))
    starts['adapted'] = training('adapted', task.adapt, starts['dense'], schedule(adapt_iters))
    for row in rows(task, found, args.limits):
        if row.start not in starts:
            continue
        options = [width_options(task, row.width), {'custom_hooks': []}]
        start, sparsity, needs = starts[row.start], row.sparsity, []
        if row.start != 'adapted':
            start = training(f'{row.name}_longer', task.adapt, start, schedule(adapt_iters),
                             size_options(task, row.shape, False), *options)
        elif row.name.startswith('searched'):
            sparsity = folder / f'search_{row.limit:g}' / 'winner.py'
            jobs.append(Job(sparsity, partial(search, task.adapt, start, sparsity,
                                              found[str(row.limit)]['shape_ratio'],
                                              args.trials, seed, task.batch),
                            [start]))
            needs = [sparsity]
        testing(f'{row.name}_before', start, row, sparsity, *needs)
        jobs.append(finetuning(task, folder, row, start, sparsity, seed, finetune_iters, options,
                               needs))
        testing(row.name, jobs[-1].done, row, sparsity, *needs)
    testing('adapted_dense', starts['adapted'], Row('', '', full_shape(task)), 0.)
    return jobs


def finetuning(task: Task, folder: Path, row: Row, start: Path, sparsity, seed: int, iters: int,
               options: List[Dict], needs: List[Path]) -> Job:
    """Return the job that fine-tunes on whole images with the row's size and sparsity."""
    checkpoint = folder / f'{row.name}.pth'

    def run() -> None:
        config = searched(sparsity) if isinstance(sparsity, Path) else sparsity
        merged = {**schedule(iters), **size_options(task, row.shape, True),
                  'model.backbone.sparsity': config}
        for part in options:
            merged.update(part)
        train(task.adapt, checkpoint, seed, start, merged)

    return Job(checkpoint, run, [start, *needs])


def report(args: argparse.Namespace, found: Dict) -> None:
    """Print means over seeds, and the gain of the searched model at the same latency with its
    confidence interval over blocks of frames."""
    def read(name: str) -> Optional[List[Dict]]:
        paths = [args.work_dir / f'seed{seed}' / f'{name}.json' for seed in args.seeds]
        held = [json.loads(path.read_text())['test'] for path in paths if path.exists()]
        return held if len(held) == len(paths) else None

    task = TASKS[args.task]
    table = Table(title=f'{args.task}, seeds {args.seeds}', title_justify='left')
    for column in ('model', 'of dense latency', 'GMACs', 'before fine-tuning', 'after', 'seeds',
                   'searched less this (95%)'):
        table.add_column(column)
    for row in rows(task, found, args.limits):
        after, before = read(row.name), read(f'{row.name}_before')
        if after is None:
            continue
        at = found.get(str(row.limit), {})
        ratio = {'small': at.get('shape_ratio'), 'uniform': at.get('uniform_ratio'),
                 'width': found['narrow'].get(str(row.width)), 'dense': 1.}.get(
                     row.name.split('_')[0])
        cells = [row.name, f'at most {row.limit}' if ratio is None else f'{ratio:.2f}']
        backbone = backbone_of(task, row.width)
        macs = '' if row.name.startswith('searched') else (
            f'{backbone_macs(backbone, row.shape, 1, row.sparsity) / 1e9:.2f}')
        points = [held['metric'] for held in after]
        cells += [macs, f'{np.mean([held["metric"] for held in before]):.4g}' if before else '',
                  f'{np.mean(points):.4g}', f'{min(points):.4g} to {max(points):.4g}']
        limits = [row.limit] if row.limit else args.limits
        differences = []
        for limit in limits:
            best = read(f'searched_{limit:g}')
            if best and not row.name.startswith('searched'):
                less = Resampled.mean([
                    Resampled.from_json(b['resampled']) - Resampled.from_json(a['resampled'])
                    for a, b in zip(after, best)])
                differences.append(f'{limit:g}: {less.interval().text("+.3g")}')
        table.add_row(*cells, '\n'.join(differences))
    Console(width=140).print(table)
    adapted = read('adapted_dense')
    if adapted:
        print(f'the adapted model run dense, before fine-tuning: '
              f'{np.mean([held["metric"] for held in adapted]):.4g}')


def main() -> None:
    args = parse_args()
    args.limits = args.limits or TASKS[args.task].limits
    args.work_dir = args.work_dir or Path('work_dirs/claim') / args.task
    torch.set_num_threads(1)
    with clear_errors():
        latencies = args.work_dir / 'latencies.json'
        if not latencies.exists():
            latencies.parent.mkdir(parents=True, exist_ok=True)
            measure(TASKS[args.task], latencies, args.limits)
        found = json.loads(latencies.read_text())
    failed = run_jobs([job for seed in args.seeds for job in make_jobs(args, seed, found)],
                      args.jobs)
    report(args, found)
    if failed:
        raise SystemExit(f'missing results: {", ".join(map(str, failed))}')


if __name__ == '__main__':
    main()
