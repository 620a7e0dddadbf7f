"""Order the attention heads and FFN neurons of a trained model by importance, so that it can be
adapted, searched and run with only the first of them (--widths of search_sparsity.py). The outputs
of the model do not change."""
import argparse
from pathlib import Path

from arguments import IMPORTANCES, add_config_options, add_device, add_model_arguments, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument('-o', '--out', type=Path, metavar='NEW.pth',
                        help='checkpoint to write (default: NAME_ordered.pth in the current '
                        'folder)')
    parser.add_argument('--importance', choices=IMPORTANCES, default='l1',
                        help='l1: L1 norm of the weights; taylor: for heads, the estimated change '
                        'in loss without them, on training images; for neurons, as l1 '
                        '(default: l1)')
    parser.add_argument('--num-images', type=int, default=64, metavar='N',
                        help='number of training images for taylor (default: 64)')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed that selects the N images (default: 0)')
    parser.add_argument('--overwrite', action='store_true', help='replace NEW.pth if it exists')
    add_device(parser)
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors, default_device
    from sparsevit_mm.config.reading import load_config
    from sparsevit_mm.evaluation.unit_order import order_checkpoint
    out = args.out or Path(f'{Path(args.checkpoint).stem}_ordered.pth')
    with clear_errors(args.traceback):
        order_checkpoint(load_config(args.config, args.cfg_options), args.checkpoint, out,
                         args.importance, args.num_images, args.device or default_device(),
                         args.seed, args.overwrite)
    print(f'wrote {out}: heads and neurons ordered by {args.importance}')
    print('adapt it with SparsityAdaptationHook(widths=dict(heads=[1, .75, .5], '
          'ffn=[1, .75, .5])), then search with --widths heads=1,.75,.5 ffn=1,.75,.5')


if __name__ == '__main__':
    main()
