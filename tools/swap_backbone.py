"""Write a config that inherits from any OpenMMLab config with a Swin or ViT backbone and replaces
the backbone by its sparse counterpart."""
import argparse
from pathlib import Path

from arguments import make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file, or mmdet::path/in/the/toolkit.py')
    parser.add_argument('-o', '--out', type=Path, metavar='NEW.py',
                        help='config to write (default: NAME_sparse.py in the current folder)')
    parser.add_argument('--sparsity', help='0.6, or one ratio per stage, pair or block: '
                        '"[[.3,.3],[0,0],[.1,.1,.2,.2,.2,.2],[0,0]]" (default: dense)')
    parser.add_argument('--adapt', action='store_true',
                        help='add the hook of sparsity-aware adaptation, and train for a third of '
                        'the schedule at a tenth of the learning rate')
    parser.add_argument('--overwrite', action='store_true', help='replace NEW.py')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors
    from sparsevit_mm.config.reading import load_config
    from sparsevit_mm.config.swap import swap_backbone
    name = Path(args.config.replace('::', '/')).stem
    out = args.out or Path(f'{name}_sparse.py')
    with clear_errors(args.traceback):
        swaps = swap_backbone(args.config, out, args.sparsity, args.adapt, args.overwrite)
    for swap in swaps:
        print(f'{swap.dotted}: {swap.old_type} -> {swap.kind.name}')
    if len(swaps) > 1:
        print(f'{len(swaps)} backbones: SparsityAdaptationHook, the search and '
              f'get_sparse_backbone only support models with exactly one')
    print(f'wrote {out}')
    if args.adapt:
        given = load_config(str(out)).get('load_from')
        print('adaptation starts from the trained dense model: set load_from to its checkpoint, in '
              f'{out} or with train.py --cfg-options load_from=CHECKPOINT'
              + (f' (it is {given} now)' if given else ''))


if __name__ == '__main__':
    main()
