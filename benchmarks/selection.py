"""Which windows should compete with each other, and by which score? Compare the metric at equal
sparsity, and the latency, of several selections, on the miniature COCO with images of mixed shapes
(padded batches) or on the miniature nuScenes (six cameras).

For each seed, one dense model is trained and adapted, and every selection is evaluated with it on
the test split. Selections that share a budget or let padding compete are also evaluated with a
model adapted with them. Results are kept, so an interrupted run continues where it stopped.
"""
import argparse
import json
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from miniature import CONFIGS, Steps, generate_mini_coco, generate_mini_nuscenes
from mmengine.config import Config

from sparsevit_mm.cli import clear_errors
from sparsevit_mm.compat import timer
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import load_config, without_adaptation
from sparsevit_mm.evaluation.evaluator import Evaluator
from sparsevit_mm.evaluation.intervals import Resampled
from sparsevit_mm.evaluation.metrics import default_metric
from sparsevit_mm.files import replacing
from sparsevit_mm.models.selection.metadata import ToldBatch
from sparsevit_mm.models.selection.ranking import Selection

ROOT = Path(__file__).resolve().parents[1]
SPARSITIES = .3, .5, .7
MIXED = 'data/mini_coco_mixed'
BASE = 'image'  # the default, which the others are compared with

# Each maps names of selections to what differs from the default.
ALONE = {BASE: {}, 'image, l2': dict(importance='l2'), 'image, random': dict(importance='random')}
UNAWARE = {'image, padding competes': dict(padding_last=False)}
SHARED = {'group': dict(scope='group')}


class Input(NamedTuple):
    """Input for timing a backbone.

    Attributes:
        shape: (B, 3, H, W), or (B, V, 3, H, W) for frames of V views.
        sizes: Valid height and width of each image.
    """
    shape: Tuple[int, ...]
    sizes: Sequence[Tuple[int, int]]

    def told(self) -> ToldBatch:
        """Return the metadata that the model would pass to the backbone."""
        views = self.shape[1] if len(self.shape) == 5 else 1
        samples = [_Sample(list(self.sizes[i:i + views]) if views > 1 else self.sizes[i])
                   for i in range(0, len(self.sizes), views)]
        return ToldBatch(self.shape, samples)


class _Sample:
    """The part of a data sample that the backbone reads."""

    def __init__(self, img_shape):
        self.metainfo = dict(img_shape=img_shape)


class Task(NamedTuple):
    """Settings of a data set.

    Attributes:
        dense, adapt: Configs of the dense training and of the adaptation.
        options: Options of both, with ``__`` for the dot.
        backbone: Key of the backbone in the config, likewise.
        variants: Selections that are evaluated with the model adapted with the default.
        own: Those of them that also get a model adapted with them.
        narrow: Input for timing the backbone of `adapt`.
        full: Full-size config, and the input for timing its backbone.
    """
    dense: str
    adapt: str
    options: Dict
    backbone: str
    variants: Dict[str, Dict]
    own: Sequence[str]
    narrow: 'Input'
    full: Tuple[str, 'Input']


TASKS = {
    'coco': Task(
        'mask_rcnn_swin-narrow_mini_coco.py', 'mask_rcnn_sparsevit-narrow_mini_coco.py',
        {**{f'{split}_dataloader__dataset__data_root': f'{MIXED}/'
            for split in ('train', 'val', 'test')},
         **{f'{split}_evaluator__ann_file': f'{MIXED}/annotations/instances_{split}2017.json'
            for split in ('val', 'test')}},
        'model__backbone',
        {**UNAWARE, **ALONE, 'group': dict(scope='group', group_size='batch')},
        ['image, padding competes', 'group'],
        Input((8, 3, 192, 192), [(192, 96), (128, 192), (192, 160), (96, 192)] * 2),
        ('sparsevit/mask_rcnn_sparsevit.py', Input((2, 3, 672, 672), [(672, 504), (448, 672)]))),
    'nuscenes': Task(
        'bevdet_swin-narrow_mini_nuscenes.py', 'bevdet_sparsevit-narrow_mini_nuscenes.py',
        {},
        'model__img_backbone',
        {**ALONE, **SHARED},
        ['group'],
        Input((1, 6, 3, 64, 176), [(64, 176)] * 6),
        ('bevdet/bevdet_sparsevit_nuscenes.py', Input((1, 6, 3, 256, 704), [(256, 704)] * 6))),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=TASKS)
    parser.add_argument('--work-dir', type=Path, help='(default: work_dirs/selection/TASK)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--rounds', type=int, default=15, help='rounds of the timing')
    return parser.parse_args()


def adapted_models(task: Task, seed: int, folder: Path) -> Iterator[Tuple[str, Path]]:
    """Train, and yield the selection that each model was adapted with and its checkpoint."""
    steps = Steps(ROOT / 'tools', seed)
    dense = steps.train('dense training', CONFIGS / task.dense, folder / 'dense', **task.options)
    for name in (BASE, *task.own):
        options = {f'{task.backbone}__{key}': value
                   for key, value in task.variants[name].items()}
        under = name.replace(', ', '_').replace(' ', '_')
        yield name, steps.train(f'adaptation, {name}', CONFIGS / task.adapt,
                                folder / f'adapted_{under}', dense, **task.options, **options)


def evaluate(task: Task, checkpoint: Path, names: Sequence[str], work_dir: Path, seed: int,
             record: Dict, save) -> None:
    """Evaluate selections at all sparsities on the test split, except those already recorded."""
    todo = [(name, sparsity) for name in names for sparsity in SPARSITIES
            if f'{name} at {sparsity}' not in record]
    if 'dense' not in record and BASE in names:
        todo.insert(0, (BASE, 0))
    if not todo:
        return
    cfg = test_as_val(task)
    cfg.work_dir = str(work_dir)
    evaluator = Evaluator(cfg, str(checkpoint))
    objective = default_metric(cfg)
    resample = evaluator.main.resampler(objective)
    for name, sparsity in todo:
        torch.manual_seed(seed)  # for random selection
        metrics = evaluator.evaluate(sparsity, Selection(**task.variants[name]))
        key = f'{name} at {sparsity}' if sparsity else 'dense'
        record[key] = dict(metric=metrics.get(objective, 0.),
                           resampled=resample().to_json())
        print(f'{key}: {record[key]["metric"]:.4f}', flush=True)
        save()


def test_as_val(task: Task) -> Config:
    options = {key.replace('__', '.'): value for key, value in task.options.items()}
    cfg = load_config(str(CONFIGS / task.adapt), options)
    cfg.custom_hooks = without_adaptation(cfg.get('custom_hooks'))
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    return cfg


def latencies(cfg: Config, variants: Dict[str, Dict], given: Input,
              rounds: int) -> Dict[str, np.ndarray]:
    """Measure the milliseconds of the backbone with its metadata, for each variant and 'dense'.

    All run in turn, after one warm-up round.

    Returns:
        Arrays of shape (rounds, sparsities), by name; (rounds, 1) for 'dense'.
    """
    backbone = build_backbone(cfg).eval()
    backbone.told = given.told()
    images = torch.randn(given.shape, generator=torch.Generator().manual_seed(0)).flatten(0, -4)
    cases = [('dense', 0, Selection())] + [
        (name, s, Selection(**changes)) for name, changes in variants.items() for s in SPARSITIES]
    times: Dict[str, List[List[float]]] = {name: [] for name, *_ in cases}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name in times:
                times[name].append([])
            for name, sparsity, selection in cases:
                backbone.sparsity, backbone.selection = sparsity, selection
                start = timer()
                backbone(images)
                times[name][-1].append((timer() - start) * 1e3)
    return {name: np.array(t[1:]) for name, t in times.items()}


def report(task: Task, records: Dict[str, Dict]) -> None:
    """Print the table of metrics. For each sparsity: the mean over seeds, its difference from the
    default with a 95% interval over images, and the range of this difference over seeds."""
    dense = np.mean([record[BASE]['dense']['metric'] for record in records.values()])
    heads = [f'{s:.0%} | less `{BASE}` (95%) | seeds' for s in SPARSITIES]
    print(f'\nSeeds {", ".join(records)}; dense {dense:.3f}\n\n| selection | adapted under | '
          f'{" | ".join(heads)} |\n{"|---" * (2 + 3 * len(heads))}|')
    for under, name in rows(task):
        cells = [name, 'the same' if under == name != BASE else under]
        for sparsity in SPARSITIES:
            own, base = ([r[a][f'{n} at {sparsity}'] for r in records.values()]
                         for a, n in ((under, name), (BASE, BASE)))
            points, bases = (np.array([r['metric'] for r in of]) for of in (own, base))
            cells.append(f'{points.mean():.3f}')
            if (under, name) == (BASE, BASE):
                cells += ['', '']
                continue
            over = Resampled.mean([_resampled(o) - _resampled(b) for o, b in zip(own, base)])
            less = points - bases
            cells += [f'{less.mean():+.3f} ({over.interval().ends("+.3f")})',
                      f'{less.min():+.3f} to {less.max():+.3f}']
        print(f'| {" | ".join(cells)} |')


def _resampled(record: Dict) -> Resampled:
    return Resampled.from_json(record['resampled'])


def report_latency(title: str, given: Input, times: Dict[str, np.ndarray]) -> None:
    """Print the table of latencies relative to dense."""
    shape = 'x'.join(map(str, given.shape))
    print(f'\n{title}, {shape}: dense {np.median(times["dense"]):.0f} ms; latency of dense\n')
    print(f'| selection | {" | ".join(f"{s:.0%}" for s in SPARSITIES)} |')
    print('|---' * (len(SPARSITIES) + 1) + '|')
    for name in times:
        if name != 'dense':
            cells = (of_dense(times, name, sparsity) for sparsity in SPARSITIES)
            print(f'| {name} | {" | ".join(cells)} |')


def of_dense(times: Dict[str, np.ndarray], name: str, sparsity: float) -> str:
    """Format the median and quartiles of the ratio to dense within a round."""
    ratio = times[name][:, SPARSITIES.index(sparsity)] / times['dense'][:, 0]
    low, middle, high = np.percentile(ratio, (25, 50, 75))
    return f'{middle:.2f} ({low:.2f} to {high:.2f})'


def rows(task: Task) -> Iterator[Tuple[str, str]]:
    """Yield pairs of selections: the one a model was adapted with, and the one to evaluate."""
    yield from ((BASE, name) for name in task.variants)
    yield from ((name, name) for name in task.own)


def main() -> None:
    args = parse_args()
    task = TASKS[args.task]
    work_dir = args.work_dir or Path('work_dirs/selection') / args.task
    with clear_errors():
        if args.task == 'coco':
            generate_mini_coco(MIXED, mixed_shapes=True)
        else:
            generate_mini_nuscenes()
    records: Dict[str, Dict] = {}
    for seed in args.seeds:
        folder = work_dir / f'seed{seed}'
        path = folder / 'results.json'
        records[str(seed)] = record = json.loads(path.read_text()) if path.exists() else {}

        def save() -> None:
            with replacing(path) as partial:
                partial.write_text(json.dumps(record))

        for under, checkpoint in adapted_models(task, seed, folder):
            names = list(task.variants) if under == BASE else [under]
            evaluate(task, checkpoint, names, folder / 'test', seed,
                     record.setdefault(under, {}), save)
    report(task, records)
    for name, cfg, given in ((task.adapt, test_as_val(task), task.narrow), (
            task.full[0], load_config(str(ROOT / 'configs' / task.full[0])), task.full[1])):
        report_latency(name, given, latencies(cfg, task.variants, given, args.rounds))


if __name__ == '__main__':
    main()
