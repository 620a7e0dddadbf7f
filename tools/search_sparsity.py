"""Searches the sparsity of each layer under a latency limit and writes the winner as an mm config.

Evaluates candidates with the config's own val data and evaluator; candidates whose latency, or
MACs, lie outside the limits cost no evaluation. Everything evaluated is in the storage: after a
kill the same command with --resume goes on, and the same command with one --study on any number
of machines makes them share the work.
"""
import argparse
import os
from pathlib import Path
from typing import List, Tuple

import optuna
from mmengine.config import Config
from mmengine.dist import is_main_process
from rich.console import Console
from rich.progress import (BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn,
                           TimeRemainingColumn)
from rich.table import Table

from sparsevit_mm.cli import (add_latency_arguments, add_runner_arguments, build_runner,
                              clear_errors, config_from, latency_setting)
from sparsevit_mm.config.swap import ensure_sparse
from sparsevit_mm.evaluation.intervals import difference
from sparsevit_mm.evaluation.scores.tables import comparison_table
from sparsevit_mm.models.selection.ranking import SCOPES
from sparsevit_mm.report.tradeoff import draw_search
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.pipeline import SearchPipeline
from sparsevit_mm.search.propose.sampler import SAMPLERS
from sparsevit_mm.search.request import POINTS, SearchRequest
from sparsevit_mm.search.splits import Evaluations

CALIBRATION = dict(trials=40, num_samples=200)  # unless told


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, best the one of the adaptation')
    parser.add_argument('checkpoint', help='checkpoint of the adapted model')
    goal = parser.add_argument_group('goal')
    goal.add_argument('--max-latency', metavar='MS',
                      help='milliseconds, or a share of the dense latency: 70%%; needed unless '
                      '--pareto or --calibrate')
    goal.add_argument('--min-latency', default='0', metavar='MS', help='likewise')
    goal.add_argument('--max-macs', type=float, default=float('inf'), metavar='G',
                      help='limit of the backbone\'s MACs, in 1e9')
    goal.add_argument('--pareto', action='store_true',
                      help='search the front of metric against latency')
    goal.add_argument('--points', metavar='P,P,...',
                      help='with --pareto: latencies that get a config, 30ms,35ms or 80%,60% of '
                      f'dense (default: {",".join(POINTS)})'.replace('%', '%%'))
    goal.add_argument('--calibrate', action='store_true',
                      help='how far from dense does each latency fall without any training? As '
                      '--pareto on a dense checkpoint, by default 40 trials of 200 images; swaps '
                      'a dense Swin of the config by itself')
    goal.add_argument('--importance', metavar='NAME', help='score that chooses the windows, see '
                      'check_selection.py; auto: the best of them on the N images of '
                      '--num-samples, or on 100 (default: the config\'s)')
    goal.add_argument('--metric', metavar='KEY', help='what to maximise (default: coco/bbox_mAP, '
                      'mIoU or NDS, by evaluator)')
    effort = parser.add_argument_group('effort')
    effort.add_argument('--trials', type=int, metavar='N',
                        help='candidates to evaluate in all (default: 200)')
    effort.add_argument('--num-samples', type=int, metavar='N',
                        help='evaluate on N images of val (default: all); the best are evaluated '
                        'on all at the end')
    effort.add_argument('--first-look', type=int, metavar='N',
                        help='look at each candidate on N images first, and evaluate only the '
                        'better ones')
    effort.add_argument('--finalists', type=int, default=3, metavar='N',
                        help='how many of the best are judged again at the end (default: 3)')
    effort.add_argument('--scopes', nargs='+', choices=SCOPES, default=[], metavar='SCOPE',
                        help='judge them in these scopes too (image, group: who competes for the '
                        'windows), and write the best')
    effort.add_argument('--references', action='store_true',
                        help='at the end evaluate uniform sparsity, each stage alone, and dense on '
                        'smaller images, for the report')
    effort.add_argument('--sampler', choices=SAMPLERS, default='nsga2')
    effort.add_argument('--latency-table', metavar='FILE',
                        help='take latencies from a table of measure_latency.py --table, and '
                        'measure only the best')
    effort.add_argument('--seed', type=int, default=0, help='of the search and of the N images')
    place = parser.add_argument_group('place')
    place.add_argument('--storage', metavar='URL', help='Optuna storage: sqlite:///FILE, '
                       'journal:FILE on a shared file system, postgresql://... (default: SQLite '
                       'in the work directory)')
    place.add_argument('--study', metavar='NAME',
                       help='join the search of this name, or begin it')
    place.add_argument('--resume', action='store_true', help='go on with the search begun there')
    place.add_argument('--out', type=Path, metavar='FILE',
                       help='the winning config (default: winner.py in the work directory)')
    place.add_argument('--overwrite', action='store_true', help='replace --out if it exists')
    add_runner_arguments(parser)
    add_latency_arguments(parser)
    args = parser.parse_args()
    args.pareto |= args.calibrate
    if args.max_latency is None and not args.pareto:
        parser.error('--max-latency is needed, or --pareto, or --calibrate')
    if args.points and not args.pareto:
        parser.error('--points goes with --pareto or --calibrate')
    return args


def prepare(args: argparse.Namespace) -> Tuple[Config, SearchRequest]:
    trials, num_samples = args.trials, args.num_samples
    if args.calibrate:
        trials = CALIBRATION['trials'] if trials is None else trials
        num_samples = CALIBRATION['num_samples'] if num_samples is None else num_samples
        args.config = ensure_sparse(args.config, Path(args.work_dir or 'work_dirs'))
    limits = Limits.parse(args.max_latency, args.min_latency, args.max_macs * 1e9)
    cfg = config_from(args)
    work_dir = Path(cfg.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    request = SearchRequest(
        config=args.config,
        checkpoint=args.checkpoint,
        options=args.cfg_options,
        limits=limits,
        setting=latency_setting(args, cfg),
        out=args.out or work_dir / 'winner.py',
        overwrite=args.overwrite,
        rounds=args.rounds,
        num_trials=200 if trials is None else trials,
        num_samples=num_samples,
        first_look=args.first_look,
        metric=args.metric,
        seed=args.seed,
        sampler=args.sampler,
        table=args.latency_table,
        storage=args.storage or f'sqlite:///{work_dir.resolve()}/search.db',
        study=args.study,
        resume=args.resume,
        pareto=args.pareto,
        points=args.points.split(',') if args.points else list(POINTS),
        finalists=args.finalists,
        references=args.references,
        scopes=args.scopes,
        importance=args.importance)
    return cfg, request


def search(pipeline: SearchPipeline) -> None:
    """Runs the search under a progress bar."""
    found, total = pipeline.search, pipeline.request.num_trials
    columns = (TextColumn('search'), BarColumn(), MofNCompleteColumn(),
               TextColumn('{task.description}'), TimeElapsedColumn(), TextColumn('left'),
               TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task('', total=total, completed=found.num_evaluated)

        def report(_) -> None:
            best = found.best
            text = f'best {best.metric:.4f} at {best.latency:.1f} ms, ' if best else ''
            progress.update(task, completed=found.num_evaluated,
                            description=f'{text}{len(found.candidates)} seen')

        pipeline.run(report, lambda worker: progress.update(
            task, description=f'worker {worker} judges the best again'))


def show_scores(pipeline: SearchPipeline) -> None:
    """What --importance auto chose by."""
    check = pipeline.score_check
    if check is not None:
        Console(width=140).print(
            comparison_table(check, f'scores on {check.num_images} images of val'))
        print(check.sentence, flush=True)


def show(pipeline: SearchPipeline) -> None:
    metric, dense = pipeline.search.problem.metric, pipeline.dense

    def on_all(full) -> str:
        return f'{pipeline.search.problem.objective(full):.4f}' if full else ''

    table = Table(title=f'{metric}, backbone at {pipeline.request.setting}', title_justify='left')
    for column in ('', metric.rsplit('/', 1)[-1], 'less dense (95%)', 'latency', 'of dense',
                   'on all of val', 'sparsity'):
        table.add_column(column)
    table.add_row('dense', f'{dense.metric:.4f}', '', f'{dense.latency:.1f} ms', '1.00',
                  on_all(pipeline.dense_full), '0')
    for finalist in pipeline.finalists:
        candidate = finalist.candidate
        table.add_row(finalist.name, f'{candidate.metric:.4f}', *_loss(candidate, dense),
                      f'{finalist.measured:.1f} ms', f'{finalist.measured / dense.latency:.2f}',
                      on_all(finalist.full), finalist.label)
    Console(width=140).print(table)
    if pipeline.searching:
        print(f'{pipeline.evaluating / pipeline.searching:.1%} of the {pipeline.searching:.0f} s '
              f'of the search went into evaluations')


def _loss(candidate, dense) -> List[str]:
    if candidate.resampled is None or dense.resampled is None:
        return [f'{candidate.metric - dense.metric:+.4f}']
    _, low, high = difference(candidate.resampled, dense.resampled)
    return [f'{candidate.metric - dense.metric:+.4f} ({low:+.4f} to {high:+.4f})']


def main() -> None:
    args = parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with clear_errors():
        cfg, request = prepare(args)
        if os.environ.get('RANK', '0') == '0':  # the process group is yet to come
            print('building the model, measuring and evaluating it dense ...', flush=True)
        evaluations = Evaluations(cfg, request, build_runner)
        with evaluations.evaluator as evaluator:
            evaluator.serve()  # on all ranks but the first, until that one is through
            if not is_main_process():
                return
            with SearchPipeline(cfg, request, evaluations, lambda label: print(
                    f'evaluating {label} ...', flush=True)) as pipeline:
                show_scores(pipeline)
                search(pipeline)
        draw_search(pipeline.work_dir / 'tradeoff.png', pipeline)
        show(pipeline)
    print('configs ' + ', '.join(map(str, pipeline.request.winners().values())))
    print(f'candidates and figure in {pipeline.work_dir}; the report: python '
          f'tools/search_report.py {pipeline.work_dir}')


if __name__ == '__main__':
    main()
