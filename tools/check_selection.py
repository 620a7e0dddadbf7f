"""Which score should choose my windows or tokens? Evaluate a checkpoint with every score that it
supports, and with a random choice, on some images of val at two sparsities, and measure how well
each score agrees with what running a window or token contributes.
"""
import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from arguments import SAMPLES, SPARSITIES, add_model_arguments, add_runner_arguments, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument('--num-samples', type=int, metavar='N',
                        help=f'use N images of val (default: {SAMPLES}, or all if there are fewer)')
    parser.add_argument('--sparsity', nargs='+', metavar='S', default=list(SPARSITIES),
                        help='configurations to evaluate, each in the format of test.py (default: '
                        f'{" ".join(map(str, SPARSITIES))})')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of the N images and of the random scores (default: 0)')
    parser.add_argument('--out', type=Path, metavar='FILE',
                        help='JSON file for the results, or a folder for selection.json '
                        '(default: the work directory)')
    add_runner_arguments(parser, launcher=False)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors, config_from
    from sparsevit_mm.evaluation.scores.check import check_selection
    from sparsevit_mm.evaluation.scores.tables import comparison_table, notes, stage_table
    from sparsevit_mm.files import replacing
    with clear_errors(args.traceback):
        cfg = config_from(args)
        out = args.out or Path(cfg.work_dir)
        out = out if out.suffix == '.json' else out / 'selection.json'
        report = check_selection(cfg, args.checkpoint, args.sparsity, args.num_samples,
                                 args.seed,
                                 lambda label: print(f'evaluating {label} ...', flush=True))
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            partial.write_text(json.dumps(report.to_json(), indent=2) + '\n', encoding='utf-8')
    # Do not wrap tables in a file.
    console = Console(width=None if sys.stdout.isatty() else 500)
    console.print(stage_table(report.stages, report.labelled))
    for note in notes(report.stages, report.labelled):
        print(note)
    comparison = report.comparison
    console.print(comparison_table(
        comparison, f'{Path(args.config).stem}, {comparison.num_images} images of val'))
    print(out)
    print(report.sentence)


if __name__ == '__main__':
    main()
