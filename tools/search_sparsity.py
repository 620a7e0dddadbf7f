"""Search the sparsity of each layer under a latency limit and write the winner as a config.

Candidates are evaluated with the config's own val data and evaluator; a candidate outside the
limits on latency and MACs is not evaluated. All evaluations are kept in the storage: to continue an
interrupted search, repeat the command with --resume; to share the work between machines, run the
same command with the same --study on each.
"""
import argparse
import os
from pathlib import Path

from arguments import (DTYPES, POINTS, SAMPLERS, SCOPES, add_latency_arguments,
                       add_runner_arguments, make_parser)


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file, preferably that of the adaptation')
    parser.add_argument('checkpoint', help='checkpoint of the adapted model')
    goal = parser.add_argument_group('goal')
    goal.add_argument('--max-latency', metavar='MS',
                      help='limit in milliseconds, or as a share of the dense latency: 70%%; '
                      'required unless --pareto or --calibrate')
    goal.add_argument('--min-latency', default='0', metavar='MS',
                      help='lower limit in the same format (default: 0)')
    goal.add_argument('--max-macs', type=float, default=float('inf'), metavar='G',
                      help='limit of the backbone\'s MACs, in 1e9')
    goal.add_argument('--pareto', action='store_true',
                      help='search the Pareto front of metric and latency')
    goal.add_argument('--points', metavar='P,P,...',
                      help='with --pareto: latencies to write configs for, 30ms,35ms or 80%,60% '
                      f'of dense (default: {",".join(POINTS)})'.replace('%', '%%'))
    goal.add_argument('--calibrate', action='store_true',
                      help='show how much each latency costs in the metric without any training: '
                      'like --pareto, on a dense checkpoint, by default with 40 trials of 200 '
                      'images; a dense Swin in the config is replaced automatically')
    goal.add_argument('--importance', metavar='NAME', help='score that selects the windows, see '
                      'check_selection.py; auto: the best score on the N images of '
                      '--num-samples, or on 100 (default: that of the config)')
    goal.add_argument('--metric', metavar='KEY', help='metric to maximise (default: '
                      'coco/bbox_mAP, mIoU or NDS, depending on the evaluator)')
    goal.add_argument('--knob', action='append', default=[], dest='knobs',
                      metavar='NAME=VALUE,VALUE', help='also search a setting of the test config: '
                      'model.test_cfg.rpn.max_per_img=1000,500,300; or the image size, as a '
                      'factor of the sides: image_scale=1,.875,.75; may be repeated')
    goal.add_argument('--choices', type=float, nargs='+', metavar='RATIO',
                      help='ratios to choose from (default: 0, 0.1, ... 0.8); 0 searches only '
                      '--knob and --widths')
    goal.add_argument('--widths', nargs='+', default=[], metavar='KIND=SHARE,SHARE',
                      help='also search the share of heads and of FFN neurons that run in each '
                      'stage, with a checkpoint of order_units.py: heads=1,.75,.5 ffn=1,.75,.5')
    goal.add_argument('--eval-dtype', choices=DTYPES, metavar='DTYPE',
                      help='evaluate in fp32, fp16 or bf16; on the CPU, only the backbone '
                      '(default: as --dtype)')
    effort = parser.add_argument_group('effort')
    effort.add_argument('--trials', type=int, metavar='N', dest='num_trials',
                        help='total number of candidates to evaluate (default: 200)')
    effort.add_argument('--num-samples', type=int, metavar='N',
                        help='evaluate on N images of val (default: all); the best candidates are '
                        'evaluated on all images at the end')
    effort.add_argument('--first-look', type=int, metavar='N',
                        help='evaluate each candidate on N images first, and fully evaluate only '
                        'the better ones')
    effort.add_argument('--evaluation-timeout', type=float, metavar='SECONDS',
                        help='record a candidate that takes longer as failed, and exit, because '
                        'this worker may hang (default: no limit)')
    effort.add_argument('--finalists', type=int, default=3, metavar='N',
                        help='number of best candidates to evaluate again at the end, per point '
                        'with --pareto (default: 3)')
    effort.add_argument('--scopes', nargs='+', choices=SCOPES, default=[], metavar='SCOPE',
                        help='also evaluate them in these scopes (image, group: which windows '
                        'compete), and write the best')
    effort.add_argument('--references', action='store_true',
                        help='at the end, evaluate uniform sparsity, each stage pruned alone, and '
                        'dense on smaller images, for the report')
    effort.add_argument('--sampler', choices=SAMPLERS, default='nsga2')
    effort.add_argument('--latency-table', metavar='FILE', dest='table',
                        help='take latencies from a table of measure_latency.py --table, and '
                        'measure only the best candidates')
    effort.add_argument('--seed', type=int, default=0,
                        help='seed of the search and of the N images')
    place = parser.add_argument_group('place')
    place.add_argument('--storage', metavar='URL', help='Optuna storage: sqlite:///FILE, '
                       'journal:FILE on a shared file system, postgresql://... (default: SQLite '
                       'in the work directory)')
    place.add_argument('--study', metavar='NAME',
                       help='name of the search to join or create')
    place.add_argument('--resume', action='store_true',
                       help='continue the search in the storage')
    place.add_argument('--out', type=Path, metavar='FILE',
                       help='config of the winner (default: winner.py in the work directory)')
    place.add_argument('--overwrite', action='store_true', help='replace --out if it exists')
    add_runner_arguments(parser)
    add_latency_arguments(parser, 'model where a latency is in ms, backbone where all are shares '
                          'of dense')
    args = parser.parse_args()
    args.pareto |= args.calibrate
    if args.max_latency is None and not args.pareto:
        parser.error('--max-latency, --pareto or --calibrate is required')
    if args.points and not args.pareto:
        parser.error('--points requires --pareto or --calibrate')
    return args


PASSED_ON = ('min_latency', 'knobs', 'choices', 'widths', 'eval_dtype', 'latency_of', 'pareto',
             'calibrate', 'work_dir', 'importance', 'metric', 'num_trials', 'num_samples',
             'first_look', 'finalists', 'evaluation_timeout', 'scopes', 'references', 'sampler',
             'table', 'seed', 'storage', 'study', 'resume', 'out', 'overwrite', 'launcher',
             'rounds')


def main() -> None:
    args = parse_args()
    import optuna

    from sparsevit_mm.cli import clear_errors, latency_setting
    from sparsevit_mm.config.reading import load_config
    from sparsevit_mm.report.console import SearchConsole, show_search
    from sparsevit_mm.report.tradeoff import draw_search
    from sparsevit_mm.search import search
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with clear_errors(args.traceback):
        cfg = load_config(args.config, args.cfg_options)
        result = search(
            args.config, args.checkpoint, args.max_latency, max_macs=args.max_macs * 1e9,
            points=args.points.split(',') if args.points else POINTS, options=args.cfg_options,
            setting=latency_setting(args, cfg), watch=SearchConsole(),
            **{name: getattr(args, name) for name in PASSED_ON})
    if result is None:  # only rank 0 has a result
        return
    draw_search(result.work_dir / 'tradeoff.png', result)
    show_search(result)
    print('configs: ' + ', '.join(map(str, result.configs.values())))
    print(f'candidates and figure: {result.work_dir}; for the report: python '
          f'tools/search_report.py {result.work_dir}')


if __name__ == '__main__':
    main()
