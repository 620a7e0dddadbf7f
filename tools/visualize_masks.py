"""Draw the masks of sparse training: the density of each layer, or the heads and neurons of each
block, and how the masks changed during training."""
import argparse
from pathlib import Path

from arguments import make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint of a training with SparseTrainingHook or '
                        'StructuredSparseTrainingHook')
    parser.add_argument('--log', type=Path, metavar='FILE', help='scalars.json of the training '
                        '(default: the newest one in the folder of the checkpoint)')
    parser.add_argument('-o', '--out', type=Path, metavar='FILE', default=Path('masks.png'),
                        help='figure to write (default: masks.png)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors
    from sparsevit_mm.visualization.masks import draw_masks, find_log, read_history, read_masks
    with clear_errors(args.traceback):
        masks = read_masks(args.checkpoint)
        log = args.log or find_log(Path(args.checkpoint))
        history = read_history(log, masks.kind) if log else None
        draw_masks(args.out, masks, history, Path(args.checkpoint).name)
    exist = sum(int(mask.sum()) for mask in masks.now.values())
    total = sum(mask.numel() for mask in masks.now.values())
    new = sum(int((mask & ~masks.start[name]).sum()) for name, mask in masks.now.items())
    print(f'{exist} of {total} are active, {new / exist:.1%} of them new since the start; '
          f'{f"moves from {log}" if log else "no log was found"}')
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
