"""Write the report of a search, finished or not: WORK_DIR/report.html, a self-contained page, and
its figures as PNG in WORK_DIR/report."""
import argparse
from pathlib import Path

from arguments import make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('work_dir', type=Path, help='work directory of search_sparsity.py')
    parser.add_argument('--storage', metavar='URL', help='Optuna storage of the search, if it was '
                        'moved or needs a password')
    parser.add_argument('--images', type=int, default=2, metavar='N',
                        help='show kept windows of the winner on N images (default: 2)')
    parser.add_argument('--device',
                        help='torch device for these (default: cuda if available, else cpu)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    import optuna

    from sparsevit_mm.cli import clear_errors, default_device
    from sparsevit_mm.report.report import write_report
    from sparsevit_mm.report.source import read_search
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    args.device = args.device or default_device()
    with clear_errors(args.traceback):
        print(write_report(read_search(args.work_dir, args.storage), args.images, args.device))


if __name__ == '__main__':
    main()
