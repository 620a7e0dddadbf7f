"""Searches the sparsity of each layer under a latency limit and writes the winner as an mm config.

Evaluates candidates with the config's own val data and evaluator; candidates whose latency, or
MACs, lie outside the limits cost no evaluation. Everything evaluated is in the storage: after a
kill the same command with --resume goes on.
"""
import argparse
from pathlib import Path

import optuna
from rich.console import Console
from rich.progress import (BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn,
                           TimeRemainingColumn)

from sparsevit_mm.cli import (add_latency_arguments, add_runner_arguments, build_runner,
                              clear_errors, config_from, latency_setting)
from sparsevit_mm.search.pipeline import SearchPipeline, SearchRequest
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.visualization.tradeoff import draw_search


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, best the one of the adaptation')
    parser.add_argument('checkpoint', help='checkpoint of the adapted model')
    parser.add_argument('--max-latency', required=True, metavar='MS',
                        help='milliseconds, or a share of the dense latency: 70%%')
    parser.add_argument('--min-latency', default='0', metavar='MS', help='likewise')
    parser.add_argument('--max-macs', type=float, default=float('inf'), metavar='G',
                        help='limit of the backbone\'s MACs, in 1e9')
    parser.add_argument('--trials', type=int, default=200, metavar='N',
                        help='candidates to evaluate in all (default: 200)')
    parser.add_argument('--num-samples', type=int, metavar='N',
                        help='evaluate on N images of val (default: all)')
    parser.add_argument('--metric', metavar='KEY', help='what to maximise (default: coco/bbox_mAP,'
                        ' mIoU or NDS, by evaluator)')
    parser.add_argument('--seed', type=int, default=0, help='of the search and of the N images')
    parser.add_argument('--storage', metavar='URL',
                        help='Optuna storage (default: SQLite in the work directory)')
    parser.add_argument('--resume', action='store_true', help='go on with the search begun there')
    parser.add_argument('--out', type=Path, metavar='FILE',
                        help='the winning config (default: winner.py in the work directory)')
    parser.add_argument('--overwrite', action='store_true', help='replace --out if it exists')
    add_runner_arguments(parser, launcher=False)
    add_latency_arguments(parser)
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> SearchPipeline:
    limits = Limits.parse(args.max_latency, args.min_latency, args.max_macs * 1e9)
    if args.trials < 1:
        raise ValueError(f'--trials {args.trials}: at least one is needed')
    cfg = config_from(args)
    work_dir = Path(cfg.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    request = SearchRequest(
        config=args.config,
        checkpoint=args.checkpoint,
        options=args.cfg_options,
        limits=limits,
        setting=latency_setting(args, cfg),
        rounds=args.rounds,
        num_trials=args.trials,
        num_samples=args.num_samples,
        metric=args.metric,
        seed=args.seed,
        storage=args.storage or f'sqlite:///{work_dir.resolve()}/search.db',
        resume=args.resume,
        out=args.out or work_dir / 'winner.py',
        overwrite=args.overwrite)
    return SearchPipeline(cfg, request, build_runner)


def main() -> None:
    args = parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with clear_errors():
        print('building the model, measuring and evaluating it dense ...', flush=True)
        pipeline = prepare(args)
        search = pipeline.search
        columns = (TextColumn('search'), BarColumn(), MofNCompleteColumn(),
                   TextColumn('{task.description}'), TimeElapsedColumn(), TextColumn('left'),
                   TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task('', total=args.trials, completed=search.num_evaluated)

            def report(_) -> None:
                best = search.best
                found = f'best {best.metric:.4f} at {best.latency:.1f} ms, ' if best else ''
                progress.update(task, completed=search.num_evaluated,
                                description=f'{found}{len(search.candidates)} seen')

            pipeline.run(report)
        draw_search(pipeline.work_dir / 'tradeoff.png', pipeline)
    best, metric = search.best, pipeline.problem.metric
    print(f'dense   {metric} {pipeline.dense_metrics[metric]:.4f}  {pipeline.dense_latency:.1f} ms')
    print(f'winner  {metric} {best.metric:.4f}  {best.latency:.1f} ms  {best.config}')
    print(f'config {pipeline.request.out}, candidates and figure in {pipeline.work_dir}')


if __name__ == '__main__':
    main()
