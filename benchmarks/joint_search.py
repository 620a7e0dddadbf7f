"""Is a joint search over windows and widths better, at equal latency, than a search over windows
alone or over widths alone?

Runs on the miniature COCO. For each seed, one dense model is trained from scratch, and its heads
and neurons are ordered. From there, three models are adapted for equally many iterations: with
random window sparsities, with random widths, and with both. Each gets a Pareto search over what it
was adapted to, on the images of val. The winners are tested on the test images, without
fine-tuning, and their latencies are measured in turn. A limit that the fastest point of a search
does not meet with a margin is skipped for that search.

Finished results are kept in files and not computed again, so an interrupted run continues, and more
seeds can be added.
"""
import argparse
import json
from functools import partial
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import numpy as np
import torch
from jobs import Job, run_jobs
from miniature import CONFIGS, generate_mini_coco
from rich.console import Console
from rich.table import Table
from training import schedule, test, train

from sparsevit_mm.cli import clear_errors
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.data import input_shape
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencyMeter, LatencySetting
from sparsevit_mm.evaluation.intervals import Resampled
from sparsevit_mm.evaluation.unit_order import order_checkpoint
from sparsevit_mm.files import replacing
from sparsevit_mm.operating_point import PointSpace, operating_point, width_knobs
from sparsevit_mm.search import search
from sparsevit_mm.search.propose.space import fastest_points
from sparsevit_mm.sparsity import SparsityConfig
from sparsevit_mm.widths import StageWidths, width_name

DENSE = CONFIGS / 'mask_rcnn_swin-narrow_mini_coco.py'
ADAPT = CONFIGS / 'mask_rcnn_sparsevit-narrow_mini_coco.py'
BATCH = 8  # of the latency measurement
ROUNDS = 25  # of the final measurement of the winners
MARGIN = 1.15  # a limit must be at least this many times the latency of the fastest point
JOINT = 'joint'


class Kind(NamedTuple):
    """What the adaptation draws and the search chooses: windows, widths or both."""
    windows: bool
    widths: bool


KINDS = {'windows': Kind(True, False), 'widths': Kind(False, True), JOINT: Kind(True, True)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/joint_search'))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--iters', type=int, nargs=2, metavar=('DENSE', 'ADAPT'),
                        default=[600, 400])
    parser.add_argument('--shares', type=float, nargs='+', default=[1, .75, .5, .25],
                        help='shares of heads and neurons to choose from')
    parser.add_argument('--limits', nargs='+', default=['85%', '75%', '65%'],
                        help='latency limits as shares of the dense latency')
    parser.add_argument('--trials', type=int, default=60, help='number of candidates per search')
    parser.add_argument('--num-samples', type=int, metavar='N',
                        help='images of val that candidates are evaluated on (default: all)')
    parser.add_argument('--jobs', type=int, default=2, help='number of parallel processes')
    return parser.parse_args()


def adapt_options(kind: Kind, args: argparse.Namespace) -> Dict:
    options = schedule(args.iters[1])
    if not kind.windows:
        options['custom_hooks.0.choices'] = [0.]
    if kind.widths:
        options['custom_hooks.0.widths'] = dict(heads=args.shares, ffn=args.shares)
    return options


def setting() -> LatencySetting:
    return LatencySetting(input_shape(load_config(str(ADAPT))), BATCH, num_threads=1)


def find_front(kind: Kind, checkpoint: Path, folder: Path, seed: int,
               args: argparse.Namespace) -> None:
    """Run or resume a Pareto search, which writes the winners' configs to the folder."""
    fastest = folder / 'fastest.json'
    if not fastest.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fastest.write_text(json.dumps(ratio_of_fastest(kind, args.shares)))
    within = [limit for limit in args.limits
              if MARGIN * json.loads(fastest.read_text()) <= float(limit.rstrip('%')) / 100]
    if not within:
        raise ValueError(f'none of the limits {", ".join(args.limits)} can be reached, '
                         f'see {fastest}')
    search(ADAPT, str(checkpoint), pareto=True, points=within, setting=setting(),
           work_dir=folder, seed=seed, num_trials=args.trials, num_samples=args.num_samples,
           choices=None if kind.windows else [0.], finalists=2, rounds=5, resume=True,
           overwrite=True,
           widths=dict(heads=args.shares, ffn=args.shares) if kind.widths else {})


def ratio_of_fastest(kind: Kind, shares: List[float]) -> float:
    """Measure the latency of the fastest point of a search relative to dense."""
    backbone = build_backbone(load_config(str(ADAPT))).eval()
    narrow = width_knobs(dict(heads=shares, ffn=shares), backbone.all_units())
    space = PointSpace.beside(backbone.space if kind.windows else backbone.space.of([0.]),
                              narrow if kind.widths else [])
    dense, fastest = LatencyMeter(backbone, setting(), 9).measure(
        [SparsityConfig(0., backbone.depths), *fastest_points(space)])
    return fastest.ratio


def points_of(folder: Path, limits: List[str]) -> Dict[str, SparsityConfig]:
    """Read the winners of a search, by limit, without the limits that it could not reach."""
    found = {}
    for limit in limits:
        winner = folder / f'winner_{limit.replace("%", "pct")}.py'
        if not winner.exists():
            continue
        backbone = load_config(str(winner)).model.backbone
        widths = StageWidths.of(backbone.get('widths'), len(backbone.depths))
        found[limit] = operating_point(SparsityConfig(backbone.sparsity, backbone.depths), {
            width_name(kind, stage): share for kind, shares in widths.to_dict().items()
            for stage, share in enumerate(shares)})
    return found


def test_winners(checkpoint: Path, result: Path, folder: Path, seed: int,
                 limits: List[str]) -> None:
    cases = {limit: (point, None) for limit, point in points_of(folder, limits).items()}
    test(ADAPT, checkpoint, result, {'dense': (0., None), **cases}, seed=seed)


def measure(folder: Path, result: Path, limits: List[str]) -> None:
    """Measure all winners in turn and write their latencies relative to dense."""
    points = {f'{kind} {limit}': point for kind in KINDS
              for limit, point in points_of(folder / kind, limits).items()}
    meter = LatencyMeter(build_backbone(load_config(str(ADAPT))).eval(), setting(), ROUNDS)
    _, *found = meter.measure([SparsityConfig(0., meter.backbone.depths), *points.values()])
    with replacing(result) as partial_file:
        partial_file.write_text(json.dumps(
            {name: dict(ratio=one.ratio, point=point.label)
             for (name, point), one in zip(points.items(), found)}, indent=1))


def make_jobs(args: argparse.Namespace, seed: int) -> List[Job]:
    folder = args.work_dir / f'seed{seed}'
    dense, ordered = folder / 'dense.pth', folder / 'ordered.pth'
    jobs = [Job(dense, partial(train, DENSE, dense, seed, options=schedule(args.iters[0]))),
            Job(ordered, lambda: order_checkpoint(load_config(str(ADAPT)), str(dense), ordered,
                                                  'taylor', seed=seed), [dense])]
    fronts = []
    for name, kind in KINDS.items():
        adapted, result = folder / f'{name}.pth', folder / f'{name}.json'
        front = folder / name / 'front.json'
        jobs += [
            Job(adapted, partial(train, ADAPT, adapted, seed, ordered, adapt_options(kind, args)),
                [ordered]),
            Job(front, partial(find_front, kind, adapted, front.parent, seed, args), [adapted]),
            Job(result, partial(test_winners, adapted, result, front.parent, seed, args.limits),
                [front])]
        fronts.append(front)
    latencies = folder / 'latencies.json'
    jobs.append(Job(latencies, partial(measure, folder, latencies, args.limits), fronts))
    return jobs


def report(args: argparse.Namespace) -> None:
    """Print means over seeds, and the gain of the joint search with its interval over images."""
    def read(name: str) -> List[Dict]:
        return [json.loads((args.work_dir / f'seed{seed}' / f'{name}.json').read_text())
                for seed in args.seeds]

    def reached(kind: str, limit: str) -> bool:
        return all(limit in held for held in results[kind])

    def mean_of(kind: str, limit: str) -> Resampled:
        return Resampled.mean([Resampled.from_json(held[limit]['resampled'])
                               for held in results[kind]])

    results, latencies = {kind: read(kind) for kind in KINDS}, read('latencies')
    table = Table(title=f'miniature COCO, seeds {args.seeds}', title_justify='left')
    for column in ('limit', 'searched', 'of dense latency', 'test', 'joint less this (95%)',
                   'found with the first seed'):
        table.add_column(column)
    for limit in ('dense', *args.limits):
        for kind in KINDS:
            if not reached(kind, limit):
                table.add_row(limit, kind, 'not reached')
                continue
            measured: Optional[List[Dict]] = None if limit == 'dense' else [
                held[f'{kind} {limit}'] for held in latencies]
            less = '' if kind == JOINT or not reached(JOINT, limit) else (
                mean_of(JOINT, limit) - mean_of(kind, limit)).interval().text('+.3g')
            table.add_row(
                limit, kind, f'{np.mean([m["ratio"] for m in measured]):.3f}' if measured else '1',
                f'{mean_of(kind, limit).estimate:.4g}', less,
                measured[0]['point'] if measured else '')
    Console(width=160).print(table)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    with clear_errors():
        generate_mini_coco('data/mini_coco')
    failed = run_jobs([job for seed in args.seeds for job in make_jobs(args, seed)], args.jobs)
    if failed:
        raise SystemExit(f'missing results: {", ".join(map(str, failed))}')
    report(args)


if __name__ == '__main__':
    main()
